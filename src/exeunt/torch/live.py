"""What a cut must hand on: the values made before it and used after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, fx

from exeunt.torch.graph import Folded, NotCuttable
from exeunt.torch.stage import StateTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exeunt.torch.graph import ModelGraph

__all__ = ["described", "state_nodes"]


def state_nodes(graph: ModelGraph, name: str, feature: fx.Node) -> list[fx.Node]:
    """Return the values to hand on after module `name`: its output `feature`, then what else is still needed.

    Raises NotCuttable when one of them is no tensor.
    """
    end = graph.spans[name].last
    live = [n for n in graph.nodes[: end + 1] if n.op != "get_attr" and graph.crosses(n, end)]
    kept = [n for n in live if n not in graph.values and not graph.recomputable(n)]
    for node in kept:
        if not isinstance(node.meta.get("val"), Tensor):
            raise NotCuttable(
                f"no cut after {name!r}: {node.name!r} is a number read from the data, no tensor"
            )
    return [feature, *(node for node in kept if node is not feature)]


def described(
    graph: ModelGraph, nodes: Sequence[fx.Node], names: Sequence[str], at: str
) -> list[StateTensor]:
    """Describe the values handed on after module `at`.

    Raises Folded when one of them mixes its rows with another axis, NotCuttable when none has rows.
    """
    kinds = []
    for node, name in zip(nodes, names, strict=True):
        value = node.meta["val"]
        try:
            batch_dim = graph.batch_dim(node)
        except Folded as error:
            raise Folded(f"no cut after {at!r}: {error}, so rows could not be dropped there") from None
        shape = tuple(None if i == batch_dim else int(size) for i, size in enumerate(value.shape))
        kinds.append(StateTensor(name, batch_dim, shape, value.dtype))
    if all(tensor.batch_dim is None for tensor in kinds):
        raise NotCuttable(f"no cut after {at!r}: nothing that is handed on there has rows")
    return kinds
