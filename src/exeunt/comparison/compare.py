"""`exeunt.compare`: every policy on the same recorded outputs, over repeated disjoint splits."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypeAlias

from exeunt._arrays import check_between
from exeunt._limits import usable_cores
from exeunt._text import counted
from exeunt.budget_text import budget_list
from exeunt.comparison.cache import SplitCache
from exeunt.comparison.comparison import Comparison
from exeunt.comparison.one_split import Settings, SplitRecord
from exeunt.comparison.processes import measure_in_processes
from exeunt.comparison.result import TraceResult
from exeunt.costs import CostModel
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.policies.catalogue import PRESETS, preset
from exeunt.run.folder import TRACED, RunFolder
from exeunt.trace import CascadeTrace, ExitTrace, concatenate
from exeunt.trace.cascade_trace import single_exits

_Trace: TypeAlias = "ExitTrace | CascadeTrace | str | Path"
Measure: TypeAlias = Callable[[Sequence[tuple[SplitCache, int]]], Iterator[None]]
"""Measures every (cache, split), and yields once for each that is done."""
_Traces: TypeAlias = "_Trace | Mapping[str, _Trace] | Iterable[str | Path]"

__all__ = ["compare", "named_traces", "open_trace"]


_LEAST_FIT = 3  # the folds of a cross-validation


def compare(
    traces: _Traces,
    *,
    budgets: str | Iterable[float | str] = "20%:95%:5%",
    policies: Iterable[str] | None = None,
    splits: int = 50,
    seed: int = 0,
    fit: float = 0.3,
    calibrate: float = 0.2,
    test: float = 0.5,
    delta: float | None = None,
    workers: int | None = None,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    measure: Measure | None = None,
) -> Comparison:
    """Compare policies on labelled traces; every one is fitted, calibrated and tested on the same splits.

    `traces`: one, several by name, or paths (a trace's Parquet file, an .npz of arrays, a run folder). Of `CascadeTrace`,
    every policy is that of a cascade (see `cascade`), and what a user would take instead is each exit of each model alone.
    `budgets`: "20%:95%:5%", "30%, 4ms", or a list; those below a trace's first exit are left out on that trace.
    `policies`: names of `exeunt.policies.catalogue.PRESETS`, all by default; the first is the reference. With `delta`
    each is made with its certificate. Policies of your own are compared by `exeunt.frontier`.
    `workers`: processes, by default one per core; 0 computes in this one. `cache`: a folder that keeps
    results, so that an interrupted run resumes (see `exeunt.comparison.cache`); None keeps nothing.
    `progress(done, all)` is called after each split. `measure`: what measures splits in place of processes here, see
    `exeunt.cluster.comparison`.

    Raises InputError for unlabelled traces, unknown policies, or settings that make no sense, InfeasibleBudget
    where no budget is left.
    """
    found = named_traces(traces)
    names = _policies(policies)
    if splits < 1 or (workers is not None and workers < 0):
        raise InputError(f"compare needs at least 1 split and 0 workers, got {splits} and {workers}")
    if delta is not None:
        check_between(delta, "delta", 0.0, 1.0)
    asked = budget_list(budgets)
    amounts = {name: _amounts(trace, name, asked) for name, trace in found.items()}
    settings = {name: Settings(names, amounts[name], seed, fit, calibrate, test, delta) for name in found}
    for name, trace in found.items():
        parts = trace.split(fit=fit, calibrate=calibrate, test=test, seed=seed)
        if parts[0].n < _LEAST_FIT:
            raise InputError(
                f"{name!r} has {counted(trace.n, 'input')}, too few to divide: {parts[0].n} would be left to fit "
                f"policies on, and some need {_LEAST_FIT}"
            )
    with nullcontext(cache) if cache is not None else tempfile.TemporaryDirectory() as folder:
        caches = {
            name: SplitCache.create(Path(folder), trace, settings[name]) for name, trace in found.items()
        }
        records = _records(caches.values(), splits, measure or _in_processes(workers), progress)
    results = [
        TraceResult.of(name, trace, amounts[name], _n_below(trace, asked), records[caches[name]])
        for name, trace in found.items()
    ]
    return Comparison(names, tuple(results), splits=splits, seed=seed, delta=delta, reference=names[0])


def _records(
    caches: Iterable[SplitCache],
    splits: int,
    measure: Measure,
    progress: Callable[[int, int], None] | None,
) -> dict[SplitCache, list[SplitRecord]]:
    """Return the records of all splits, measuring those that are not in the cache yet."""
    wanted = [(cache, split) for cache in caches for split in range(splits)]
    missing = [(cache, split) for cache, split in wanted if cache.read(split) is None]
    report = progress or (lambda _done, _all: None)
    done = len(wanted) - len(missing)
    report(done, len(wanted))
    for _ in measure(missing):
        done += 1
        report(done, len(wanted))
    return {cache: [_measured(cache, split) for split in range(splits)] for cache in caches}


def _in_processes(workers: int | None) -> Measure:
    return partial(measure_in_processes, n=usable_cores() if workers is None else workers)


def _measured(cache: SplitCache, split: int) -> SplitRecord:
    record = cache.read(split)
    if record is None:
        raise RuntimeError(f"split {split} vanished from {cache.folder} while it was in use: run again")
    return record


def _policies(given: Iterable[str] | None) -> tuple[str, ...]:
    names = tuple(PRESETS) if given is None else (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        preset(name)
    if not names or len(set(names)) < len(names):
        raise InputError(f"policies must be at least one, each named once, got {', '.join(names) or 'none'}")
    return names


def _amounts(trace: ExitTrace | CascadeTrace, name: str, asked: Sequence[float | str]) -> tuple[float, ...]:
    """Return the budgets that some policy can meet, in the unit of the costs, from low to high."""
    cost = single_exits(trace).cost
    amounts = {amount for budget in asked if (amount := _amount(cost, budget)) is not None}
    listed = ", ".join(budget if isinstance(budget, str) else f"{budget:g}" for budget in asked) or "none"
    bare = [budget for budget in asked if not isinstance(budget, str)]
    hint = f"; a share of the full cost is written with %, such as {_as_share(bare[0])}" if bare else ""
    if not amounts:
        one, whole = "exit", "the full cost"
        if isinstance(trace, CascadeTrace):
            one, whole = "model", f"the cost of {trace.most_expensive} alone"
        least = math.ceil(1000 * cost.share(cost.first) * (1 - 1e-12)) / 10
        raise InfeasibleBudget(
            f"no budget of {listed} can be met on {name!r}: its cheapest {one} costs {cost.show(cost.first)}, so ask "
            f"for at least {least:g}% of {whole}{hint}" + (f" ({cost.source})" if cost.saves_nothing else ""),
            smallest_budget=cost.first,
        )
    if len(bare) == len(asked) and min(bare) > cost.full:
        raise InputError(
            f"every budget of {listed} is more than the full cost of {name!r}, {cost.show(cost.full)}{hint}"
        )
    return tuple(sorted(amounts))


def _as_share(number: float) -> str:
    """Write what a bare number most likely means: 0.5 and 50 are both a half."""
    return f"{100 * number if number <= 1 else number:g}%"


def _n_below(trace: ExitTrace | CascadeTrace, asked: Sequence[float | str]) -> int:
    """Return how many budgets lie below the first exit's cost."""
    return sum(_amount(single_exits(trace).cost, budget) is None for budget in asked)


def _amount(cost: CostModel, budget: float | str) -> float | None:
    """Return a budget in the unit of the costs, or None if it is below the first exit's."""
    try:
        return cost.budget(budget)
    except InfeasibleBudget:
        return None


def named_traces(
    traces: _Traces,
) -> dict[str, ExitTrace | CascadeTrace]:
    """Return labelled traces by name; a path is named for its file or folder.

    Raises InputError for none, for an unlabelled one, or for two of one name.
    """
    found: dict[str, ExitTrace | CascadeTrace] = {}
    for name, value in _pairs(traces):
        if name in found:
            raise InputError(f"two traces are named {name!r}: give a mapping with a name for each")
        trace = value if isinstance(value, ExitTrace | CascadeTrace) else open_trace(value)
        if trace.label is None:
            raise InputError(
                f"the trace {name!r} has no labels: policies are compared by accuracy, which needs them"
            )
        found[name] = trace
    if not found:
        raise InputError("there is no trace to compare policies on")
    return found


def _pairs(
    traces: _Traces,
) -> list[tuple[str, _Trace]]:
    """Return traces or their paths by name."""
    if isinstance(traces, ExitTrace | CascadeTrace):
        return [("trace", traces)]
    if isinstance(traces, Mapping):
        return [(str(name), value) for name, value in traces.items()]
    paths = [traces] if isinstance(traces, str | Path) else list(traces)
    if any(isinstance(path, ExitTrace | CascadeTrace) for path in paths):
        raise InputError("several traces need a name each: give a mapping, such as {'resnet': trace, ...}")
    return [(_name(Path(path)), path) for path in paths]


def _name(path: Path) -> str:
    whole = path.resolve()
    return whole.name if whole.is_dir() else whole.stem


def open_trace(path: str | Path) -> ExitTrace | CascadeTrace:
    """Read a trace: a Parquet file of `ExitTrace.save`, an .npz of arrays, or a run folder.

    Of a run folder it is all that was recorded: fit, calibrate and test inputs, none of which the network has
    learned from. Raises InputError for a file that is something else.
    """
    file = Path(path)
    if file.is_dir():
        run = RunFolder.open(file)
        return run.by_model(concatenate([run.trace(part) for part in TRACED]))
    if file.suffix == ".npz":
        return ExitTrace.from_archive(file)
    return ExitTrace.load(file)
