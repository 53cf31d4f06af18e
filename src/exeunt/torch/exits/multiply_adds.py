"""What a pass costs up to each module, in multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from exeunt.errors import ExeuntError, InputError, one_line
from exeunt.torch.calls import Inputs, as_call, evaluating, modules_named, on_return
from exeunt.torch.cutting.graph import ModelGraph
from exeunt.torch.named_inputs import ExampleBatch, read_example

_FLOPS_PER_MAC = 2


def output_of(model: nn.Module, example: Inputs) -> Any:
    """Return what a model returns. Raises InputError with the reason if it fails on the example."""
    args, kwargs = as_call(example)
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except ExeuntError:
        raise
    except Exception as error:  # code of the user's may raise anything
        shapes = ", ".join(str(tuple(x.shape)) for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        raise InputError(f"the network fails on a batch of shape {shapes}: {one_line(error)}") from error


def count_macs(model: nn.Module, example: Inputs) -> float:
    """Return the model's multiply-adds per input, averaged over `example` (a batch of any size).

    As usual, matrix products, convolutions and attention count; additions, activations and normalisations do not. The
    model is run in eval mode, on tensors without data if its code allows that.
    """
    return float(macs_up_to(model, example, [])[-1])


def cumulative_macs(model: nn.Module, example: Inputs, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the multiply-adds per input from the start of a pass to each named module's last return, (len(names),).

    `count_macs` returns those of the whole pass.

    Raises InputError for a name that the model does not have, and for a module that does not run.
    """
    return macs_up_to(model, example, names)[:-1]


def graph_macs(graph: ModelGraph, example: ExampleBatch, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the multiply-adds per input up to each named module's last operation in a model's graph, (len(names),).

    Operations run in the order of `graph.nodes`, which may differ from that of the model's code.
    """
    own = _node_macs(graph, example)
    up_to = np.cumsum([own.get(node, 0.0) for node in graph.nodes])
    return up_to[[graph.spans[name].last for name in names]]


def own_head_macs(graph: ModelGraph, example: ExampleBatch) -> list[float]:
    """Return the multiply-adds per input that each of a model's own exits needs and no later one; 0 for the last."""
    own, heads = _node_macs(graph, example), []
    for place, exit_ in enumerate(graph.exits[:-1], start=1):
        alone = graph.needed([exit_]) - graph.needed(graph.exits[place:])
        heads.append(float(sum(own.get(node, 0.0) for node in alone)))
    return [*heads, 0.0]


def _node_macs(graph: ModelGraph, example: ExampleBatch) -> dict[fx.Node, float]:
    """Return the multiply-adds per input of each operation."""
    counter, own, before = FlopCounterMode(display=False), dict[fx.Node, float](), 0

    def count(node: fx.Node, _value: Any) -> None:
        nonlocal before
        after = counter.get_total_flops()
        own[node], before = (after - before) / (_FLOPS_PER_MAC * example.n), after

    with _plain_attention(), counter:
        graph.run(example, count)
    return own


def count_source(n_tokens: int | None) -> str:
    """Return how costs were obtained, for a CostModel. `n_tokens`: length of the texts; None for other inputs."""
    return "flop counter" if n_tokens is None else f"flop counter, texts of {n_tokens} tokens"


def macs_up_to(model: nn.Module, example: Inputs, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the multiply-adds per input at each module's last return, and of the whole pass."""
    modules = modules_named(model, names)
    batch = read_example(model, example)
    weights = (*model.named_parameters(), *model.named_buffers())
    with evaluating(model), torch.no_grad():
        try:
            shapes = replace(batch, tensors=tuple(tensor.to("meta") for tensor in batch.tensors))
            flops = _count(model, modules, shapes, {name: tensor.to("meta") for name, tensor in weights})
        except (RuntimeError, NotImplementedError):  # the model's code depends on values
            flops = _count(model, modules, batch, {})
    if absent := [name for name in names if name not in flops]:
        raise InputError(f"module {absent[0]!r} did not run on the example: name one that does")
    return np.array([*(flops[name] for name in names), flops[""]]) / (_FLOPS_PER_MAC * batch.n)


def _count(
    model: nn.Module, modules: Mapping[str, nn.Module], example: ExampleBatch, weights: dict[str, Tensor]
) -> dict[str, int]:
    """Return the floating-point operations up to each module's last return, and of the whole pass under "".

    `weights`: replace the model's parameters and buffers of these names.
    """
    counter = FlopCounterMode(display=False)
    flops: dict[str, int] = {}
    with _plain_attention(), counter:
        with on_return(modules, lambda name, _output: flops.__setitem__(name, counter.get_total_flops())):
            torch.func.functional_call(model, weights, *as_call(example.inputs))
        flops[""] = counter.get_total_flops()
    return flops


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Compute attention by matrix products: the counter does not see the fused kernels of the CPU."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
