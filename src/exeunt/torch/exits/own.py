"""Networks that bring their own exits: their forward returns the logits of all, in a list, tuple or mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from exeunt._support.arrays import Floats
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError, NotExportable
from exeunt.torch.batches import rows_of
from exeunt.torch.calls import ExitLogits, Inputs, evaluating
from exeunt.torch.cutting.cut_points import try_graph
from exeunt.torch.cutting.graph import ModelGraph
from exeunt.torch.exits import multiply_adds, placement
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.exits.placement import check_kind, mask_scale_of
from exeunt.torch.named_inputs import read_example

OWN = "own"
"""The value of `exits`, and of `head`, for such networks."""


class _OwnExits(nn.Module):
    """A network with m exits of its own; returns `ExitLogits`. Arguments are the network's.

    `exits`: modules that the logits of all but the last pass through unchanged, so that they have names.
    """

    def __init__(self, network: nn.Module, n_exits: int) -> None:
        super().__init__()
        self.network = network
        self.exits = nn.ModuleList(_Passed() for _ in range(n_exits - 1)).train(network.training)
        self.training = network.training
        self.config = getattr(network, "config", None)

    def forward(self, *args: Any, **kwargs: Any) -> ExitLogits:
        *earlier, last = _values(self.network(*args, **kwargs))
        if len(earlier) != len(self.exits):
            raise InputError(
                f"the network returns {len(earlier) + 1} outputs in {'training' if self.training else 'eval'} mode "
                f"and {len(self.exits) + 1} in the other: it must return the logits of every exit in both"
            )
        passed = zip(self.exits, earlier, strict=True)
        return ExitLogits(last, tuple(module(logits) for module, logits in passed))


class _Passed(nn.Module):
    """The identity, as an operation that a graph keeps."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.clone()


class OwnExitNetwork(EarlyExitNetwork):
    """A network with m exits of its own. Made by `attach`.

    `backbone`: the network as it was given, in a form that returns `ExitLogits`. `points`: where the exits before the
    last one are. The `heads` hand their logits on.
    """

    @property
    def learning_heads(self) -> list[nn.Module]:
        """None: the network itself learns."""
        return []

    def config(self) -> dict[str, Any]:
        """Return the keyword arguments with which `attach` rebuilds this network, JSON-able."""
        return {"exits": self.exit_names, "head": OWN, "n_classes": self.n_classes, **self._further}

    def _about_heads(self) -> str:
        return "the exits are the network's own: nothing is added to it"


def open_own_exits(
    model: nn.Module,
    example: Inputs,
    exits: int | Sequence[str],
    *,
    n_classes: int | None,
    masks: bool = False,
) -> tuple[OwnExitNetwork, ModelGraph | NotExportable]:
    """Return a network whose exits are those that a model brings, and its graph, or why there is none.

    `exits`: `OWN`, or the names that the exits had when the network was saved. `n_classes`: what the width of the
    logits must be, None for any. `masks`: they are of masks, (n, k, h, w).
    Raises InputError for a model that fails on the example, for an output that is no list, tuple or mapping of logits
    (n, k) of two exits or more, and for an exit that needs nothing beyond what the exit before it needs.
    """
    if isinstance(model, _OwnExits):
        model = model.network
    with evaluating(model):
        logits = _checked_logits(multiply_adds.output_of(model, example), rows_of(example), masks=masks)
    for logit in logits:
        check_kind(logit, example, masks=masks)
    sizes = {tuple(logit.shape[2:]) for logit in logits}
    if len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise InputError(
            f"the network's exits return masks of several sizes ({shown}): scale all to one size"
        )
    width = logits[0].shape[1]
    placement.check_width(width, n_classes)
    wrapped = _OwnExits(model, len(logits))
    names = [f"exits.{i}" for i in range(len(logits) - 1)]
    if exits not in (OWN, names):
        raise InputError(
            f"exits must be {OWN!r}, or the {len(names)} names {', '.join(names)}, got {exits!r}"
        )
    batch = read_example(wrapped, example)
    graph = try_graph(wrapped, batch.at_least_two())
    full = multiply_adds.count_macs(wrapped, example)
    if isinstance(graph, NotExportable):
        costs = CostModel(full * np.arange(1, len(logits) + 1)).run_whole(str(graph)).cumulative
        heads = None
    else:
        costs = np.array([*multiply_adds.graph_macs(graph, batch.at_least_two(), names), full])
        heads = multiply_adds.own_head_macs(graph, batch.at_least_two())
        _check_increasing(costs)
    points = [
        placement.ExitPoint(name, float(cost), tuple(logits[0].shape[1:]))
        for name, cost in zip(names, costs, strict=False)
    ]
    network = OwnExitNetwork(
        wrapped,
        [nn.Identity() for _ in names],
        points,
        cost=CostModel(costs, source=multiply_adds.count_source(batch.n_tokens), heads=heads),
        backbone_macs=full,
        options=None,
        n_classes=width,
        masks=masks,
        mask_scale=mask_scale_of((logits[0].shape[2], logits[0].shape[3]), example) if masks else 1,
    )
    return network, graph


def _check_increasing(costs: Floats) -> None:
    """Raise InputError unless each exit costs more than the exit before it. `costs` (m,): multiply-adds up to each."""
    if len(late := np.flatnonzero(np.diff(costs, prepend=0.0) <= 0)):
        exit_ = int(late[0])
        why = (
            f"what output {exit_ - 1} needs computes it, too" if exit_ else "nothing of any cost computes it"
        )
        raise InputError(
            f"output {exit_} of the network is no exit of its own: {why} (multiply-adds up to each: "
            f"{', '.join(f'{cost:.4g}' for cost in costs)}). Return the logits in the order in which inputs shall "
            "leave, each from layers of its own, and not parts of one tensor"
        )


def refuse_unasked(output: Any) -> None:
    """Raise InputError for the output of a network that brings its own exits, if those were not asked for."""
    if getattr(output, "logits", None) is not None or not isinstance(output, (Mapping, list, tuple)):
        return
    shapes = [tensor.shape for tensor in _values(output) if isinstance(tensor, Tensor)]
    alike = shapes.count(shapes[0]) if shapes and len(shapes[0]) == 2 else 0
    if alike > 1:
        raise InputError(
            f"the network returns {alike} outputs of shape {tuple(shapes[0])}, as one with exits of its own "
            f"does: say exits={OWN!r}, or let it return the logits of its last exit alone"
        )


def _values(output: Any) -> list[Any]:
    """Return the parts of a list, tuple or mapping. Raises InputError for anything else."""
    if isinstance(output, Mapping):
        return list(output.values())
    if isinstance(output, (list, tuple)):
        return list(output)
    raise InputError(
        f"exits={OWN!r} is for a network that returns a list, tuple or mapping with the logits of each exit, and this "
        f"one returns {type(output).__name__}: give exits a number, or names of modules"
    )


def _checked_logits(output: Any, n: int, *, masks: bool) -> list[Tensor]:
    """Return the logits (n, k) of all exits, or of masks. Raises InputError if an output is something else."""
    axes, shape = (4, "classes, height, width") if masks else (2, "classes")
    logits = _values(output)
    keys = list(output) if isinstance(output, Mapping) else range(len(logits))
    for key, logit in zip(keys, logits, strict=True):
        is_tensor = isinstance(logit, Tensor)
        if not (is_tensor and logit.ndim == axes and len(logit) == n and logit.is_floating_point()):
            description = (
                f"{logit.dtype} of shape {tuple(logit.shape)}" if is_tensor else type(logit).__name__
            )
            raise InputError(
                f"output {key!r} of the network is {description}, on a batch of {n}: with exits={OWN!r} every output "
                f"must be the logits of an exit, ({n}, {shape})"
            )
    if len(logits) < 2:
        raise InputError(
            f"exits={OWN!r} is for a network that returns two outputs or more, and this one returns {len(logits)}: "
            "give exits a number, or names of modules"
        )
    widths = [logit.shape[1] for logit in logits]
    if len(set(widths)) > 1:
        raise InputError(
            f"the network's exits answer with different numbers of classes: {widths}; all must be equal"
        )
    return logits
