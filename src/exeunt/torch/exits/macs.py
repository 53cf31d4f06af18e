"""What a forward pass costs up to each exit: multiply-adds, counted, or milliseconds, timed."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from exeunt.errors import InputError
from exeunt.torch.cutting.example import evaluating, on_return, read_example

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from exeunt.torch.cutting.example import ExampleBatch
    from exeunt.torch.taps import Inputs

__all__ = ["Milliseconds", "count_macs", "cumulative_macs", "measure_milliseconds"]

FLOPS_PER_MAC = 2


def count_macs(model: nn.Module, example: Inputs) -> float:
    """Return the model's multiply-adds per input, averaged over `example` (a batch of any size).

    As is usual, matrix products, convolutions and attention count, and additions, activations and normalisations do
    not. The model is run in eval mode, on tensors without data if its code allows that.
    """
    return float(_macs(model, example, [])[-1])


def cumulative_macs(model: nn.Module, example: Inputs, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the multiply-adds per input from the start of a pass to each named module's last return, (len(names),).

    `count_macs` returns those of the whole pass.

    Raises InputError for a name the model does not have, or a module that did not run.
    """
    return _macs(model, example, names)[:-1]


def _macs(model: nn.Module, example: Inputs, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the multiply-adds per input at each module's last return, and of the whole pass."""
    modules = _named(model, names)
    read = read_example(model, example)
    with evaluating(model), torch.no_grad():
        try:
            flops = _count(model, modules, read, on_shapes=True)
        except (RuntimeError, NotImplementedError):  # the model's code depends on values
            flops = _count(model, modules, read, on_shapes=False)
    absent = [name for name in names if name not in flops]
    if absent:
        raise InputError(f"module {absent[0]!r} did not run on the example: name one that does")
    return np.array([*(flops[name] for name in names), flops[""]]) / (FLOPS_PER_MAC * read.n)


@dataclass(frozen=True)
class Milliseconds:
    """Time per input, in milliseconds, from the start of the forward to each exit, the whole model last.

    `median`, `low`, `high` (m,): over the repeated runs; `low` and `high` are the 10 % and 90 % quantiles.
    """

    median: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    repeats: int


def measure_milliseconds(
    model: nn.Module | Sequence[Callable[[], Any]],
    example: Inputs | None = None,
    names: Sequence[str] = (),
    *,
    repeats: int = 20,
    warmup: int = 3,
    n: int | None = None,
) -> Milliseconds:
    """Time a model up to each named module and to its end, or callables, each as it is.

    A model is run whole, with a clock read at each module's return, so that all exits of one run share its
    noise. Callables (one per exit, each doing all the work up to it) are run in turn, `repeats` rounds of
    all of them, so that drift falls on all alike; give `n`, the inputs that each call handles (default 1).
    `warmup`: rounds that are not counted. Heads cost time too, and are part of neither unless they run.

    Raises InputError for unknown names, a model without an example, or fewer than one repeat.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}")
    if not isinstance(model, nn.Module):
        return _summary([_time_each(model) for _ in range(warmup + repeats)][warmup:], n or 1)
    if example is None:
        raise InputError("timing a model needs an example: a batch of its inputs")
    read = read_example(model, example)
    modules = _named(model, names)
    with evaluating(model), torch.no_grad():
        runs = [_time_run(model, modules, read) for _ in range(warmup + repeats)][warmup:]
    absent = [name for name in names if name not in runs[0]]
    if absent:
        raise InputError(f"module {absent[0]!r} did not run on the example: name one that does")
    return _summary([[run[name] for name in (*names, "")] for run in runs], read.n)


def _summary(seconds: Sequence[Sequence[float]], n: int) -> Milliseconds:
    table = np.asarray(seconds, dtype=np.float64) * 1e3 / n
    low, median, high = np.quantile(table, [0.1, 0.5, 0.9], axis=0)
    return Milliseconds(median, low, high, len(table))


def _time_each(calls: Sequence[Callable[[], Any]]) -> list[float]:
    seconds = []
    for call in calls:
        start = _now()
        call()
        seconds.append(_now() - start)
    return seconds


def _time_run(model: nn.Module, modules: Mapping[str, nn.Module], example: ExampleBatch) -> dict[str, float]:
    device = example.tensors[0].device
    times: dict[str, float] = {}
    start = _now(device)
    with on_return(modules, lambda name, _output: times.__setitem__(name, _now(device) - start)):
        _run(model, example)
    times[""] = _now(device) - start
    return times


def _now(device: torch.device | None = None) -> float:
    """Read the clock once all work handed to the accelerator is done."""
    if torch.cuda.is_available() and (device is None or device.type == "cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _named(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    known = dict(model.named_modules())
    unknown = [name for name in names if not name or name not in known]
    if unknown:
        listed = ", ".join(list(known)[1:21])
        raise InputError(f"the model has no module {unknown[0]!r}; its first modules are: {listed}")
    return {name: known[name] for name in names}


def _run(model: nn.Module, example: ExampleBatch, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Run the model on the example; `tensors` replace its parameters and buffers of these names."""
    keywords = dict(zip(example.names, example.tensors, strict=True)) if example.by_keyword else {}
    args = () if example.by_keyword else example.tensors
    if tensors is None:
        model(*args, **keywords)
    else:
        torch.func.functional_call(model, dict(tensors), args, keywords)


def _count(
    model: nn.Module, modules: Mapping[str, nn.Module], example: ExampleBatch, *, on_shapes: bool
) -> dict[str, int]:
    """Return the floating-point operations up to each module's last return, and of the whole pass under ""."""
    tensors = None
    if on_shapes:
        tensors = {k: v.to("meta") for k, v in (*model.named_parameters(), *model.named_buffers())}
        example = replace(example, tensors=tuple(t.to("meta") for t in example.tensors))
    counter = FlopCounterMode(display=False)
    flops: dict[str, int] = {}
    with _plain_attention(), counter:
        with on_return(modules, lambda name, _output: flops.__setitem__(name, counter.get_total_flops())):
            _run(model, example, tensors)
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
