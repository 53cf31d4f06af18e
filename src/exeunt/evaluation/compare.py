"""`exeunt.compare`: every policy on the same recorded outputs, over repeated disjoint splits."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

from exeunt._support.arrays import check_delta
from exeunt._support.limits import usable_cores
from exeunt._support.text import counted
from exeunt.costs.budget_text import budget_list
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.evaluation.cache import SplitCache
from exeunt.evaluation.comparison import Comparison
from exeunt.evaluation.one_split import Settings
from exeunt.evaluation.processes import measure_in_processes
from exeunt.evaluation.results import SplitRecord, TraceResult, usual_splits
from exeunt.rules.by_name import ROUTERS, rule_for
from exeunt.rules.cascade import warn_of_classes
from exeunt.rules.catalogue import CERTIFYING, PRESETS, WITH_A_GATE
from exeunt.runs.file_digests import TRACED
from exeunt.runs.folder import RunFolder
from exeunt.score.confidence import BEFORE_EXITS
from exeunt.trace import CascadeTrace, ExitTrace, concatenate
from exeunt.trace.cascade_trace import is_bounded, single_exits

_Trace: TypeAlias = "ExitTrace | CascadeTrace | str | Path"
_Traces: TypeAlias = "_Trace | Mapping[str, _Trace] | Iterable[str | Path]"
Measure: TypeAlias = Callable[[Sequence[tuple[SplitCache, int]]], Iterator[None]]
"""Measures every (cache, split), writes it to the cache, and yields once for each that is done."""

_LEAST_FIT = 3  # the folds of a cross-validation


def compare(
    traces: _Traces,
    *,
    agreement: bool = False,
    budgets: str | Iterable[float | str] = "20%:95%:5%",
    policies: Iterable[str] | None = None,
    splits: int | None = None,
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
    """Compare policies on traces; every one is fitted, calibrated and tested on the same splits.

    Without labels, or with `agreement`, answers are measured by their agreement with the last exit, of a cascade with
    that of the most expensive model.
    `traces`: one, several by name, or paths (a trace's Parquet file, an .npz of arrays, a run folder). On a
    `CascadeTrace` every policy is that of a cascade (see `cascade`), compared with each exit of each model alone.
    `budgets`: "20%:95%:5%", "30%, 4ms", or a list; those below a trace's first exit are left out on that trace.
    `policies`: names of `exeunt.rules.catalogue.PRESETS`, and on traces of models "router" and "cascade_router"; by
    default all, routers if there are features, and those that certify a budget of their own accord only where the most
    that an input can cost is known; the first is the reference. With `delta`
    each is made with its certificate. Policies of your own are compared by `exeunt.frontier`. `splits`: by default
    `usual_splits` of the largest trace, 50 or fewer.
    `workers`: number of processes, by default one per core; 0 computes in this one. `cache`: a folder that keeps
    results, so that an interrupted run resumes (see `exeunt.evaluation.cache`); None keeps nothing.
    `progress(done, all)` is called after each split. `measure`: measures the splits in place of processes of this
    machine, see `exeunt.jobs.cluster.jobs`.

    Raises InputError for unknown policies, or settings that make no sense, InfeasibleBudget
    where no budget is left.
    """
    named = _named_traces(traces, agreement)
    if policies is None:
        routers = ROUTERS if all(map(_has_features, named.values())) else ()
        bounded = all(map(is_bounded, named.values()))
        gates = WITH_A_GATE if all(map(_has_gate, named.values())) else ()
        policies = (*(name for name in PRESETS if bounded or name not in CERTIFYING), *gates, *routers)
    names = (policies,) if isinstance(policies, str) else tuple(policies)
    for name in names:
        for trace in named.values():
            rule_for(trace, name)
    if not names or len(set(names)) < len(names):
        raise InputError(f"policies must be at least one, each named once, got {', '.join(names) or 'none'}")
    if splits is None:
        splits = usual_splits(max(trace.n for trace in named.values()))
    if splits < 1 or (workers is not None and workers < 0):
        raise InputError(f"compare needs at least 1 split and 0 workers, got {splits} and {workers}")
    if delta is not None:
        check_delta(delta)
    listed_budgets = budget_list(budgets)
    amounts = {name: _amounts(trace, name, listed_budgets) for name, trace in named.items()}
    for name, trace in named.items():
        _check_enough(name, trace, trace.split(fit=fit, calibrate=calibrate, test=test, seed=seed)[0].n)
    if measure is None:
        measure = partial(measure_in_processes, n=usable_cores() if workers is None else workers)
    with nullcontext(cache) if cache is not None else tempfile.TemporaryDirectory() as folder:
        caches = [
            SplitCache.create(
                Path(folder), trace, Settings(names, amounts[name], seed, fit, calibrate, test, delta)
            )
            for name, trace in named.items()
        ]
        records = _records(caches, splits, measure, progress or (lambda _done, _all: None))
    results = tuple(
        TraceResult.of(
            name,
            trace,
            records[cache],
            policies=names,
            amounts=amounts[name],
            left_out=sum(_amount(trace, budget) is None for budget in listed_budgets),
        )
        for (name, trace), cache in zip(named.items(), caches, strict=True)
    )
    return Comparison(results, seed=seed, delta=delta, reference=names[0])


def _check_enough(name: str, trace: ExitTrace | CascadeTrace, n_fit: int) -> None:
    """Raise InputError for a trace of too few inputs, `n_fit` of which would be those to fit on.

    Warns of models whose classes do not fit.
    """
    if isinstance(trace, CascadeTrace):
        warn_of_classes(trace)
    if n_fit < _LEAST_FIT:
        raise InputError(
            f"{name!r} has {counted(trace.n, 'input')}, too few to divide: {n_fit} would be left to fit policies "
            f"on, and some need {_LEAST_FIT}"
        )


def _records(
    caches: Iterable[SplitCache], splits: int, measure: Measure, progress: Callable[[int, int], None]
) -> dict[SplitCache, list[SplitRecord]]:
    """Return the records of all splits, measuring those that are not in the cache yet."""
    wanted = [(cache, split) for cache in caches for split in range(splits)]
    cached = {job: job[0].read(job[1]) for job in wanted}
    missing = [job for job in wanted if cached[job] is None]
    progress(len(wanted) - len(missing), len(wanted))
    for done, _ in enumerate(measure(missing), len(wanted) - len(missing) + 1):
        progress(done, len(wanted))
    records: dict[SplitCache, list[SplitRecord]] = {}
    for cache, split in wanted:
        record = cached[cache, split] or cache.read(split)
        if record is None:
            raise RuntimeError(f"split {split} vanished from {cache.folder} while it was in use: run again")
        records.setdefault(cache, []).append(record)
    return records


def _amounts(trace: ExitTrace | CascadeTrace, name: str, budgets: Sequence[float | str]) -> tuple[float, ...]:
    """Return the budgets that some policy can meet, in the unit of the costs, from low to high."""
    cost = single_exits(trace).cost
    amounts = {amount for budget in budgets if (amount := _amount(trace, budget)) is not None}
    listed = ", ".join(budget if isinstance(budget, str) else f"{budget:g}" for budget in budgets) or "none"
    bare = [budget for budget in budgets if not isinstance(budget, str)]
    hint = ""
    if bare:  # most likely meant as a share: 0.5 and 50 are both a half
        share = 100 * bare[0] if bare[0] <= 1 else bare[0]
        hint = f"; a share of the full cost is written with %, such as {share:g}%"
    if not amounts:
        part, full_cost = "exit", "the full cost"
        if isinstance(trace, CascadeTrace):
            part, full_cost = "model", f"the cost of {trace.most_expensive} alone"
        least = math.ceil(1000 * cost.share(cost.first) * (1 - 1e-12)) / 10
        raise InfeasibleBudget(
            f"no budget of {listed} can be met on {name!r}: its cheapest {part} costs {cost.show(cost.first)}, so ask "
            f"for at least {least:g}% of {full_cost}{hint}"
            + (f" ({cost.source})" if cost.saves_nothing else ""),
            smallest_budget=cost.first,
        )
    if len(bare) == len(budgets) and min(bare) > cost.full:
        raise InputError(
            f"every budget of {listed} is more than the full cost of {name!r}, {cost.show(cost.full)}{hint}"
        )
    return tuple(sorted(amounts))


def _amount(trace: ExitTrace | CascadeTrace, budget: float | str) -> float | None:
    """Return a budget in the unit of the costs, or None if it is below the cost of the first exit."""
    with suppress(InfeasibleBudget):
        return single_exits(trace).cost.budget(budget)
    return None


def _has_gate(trace: ExitTrace | CascadeTrace) -> bool:
    return isinstance(trace, ExitTrace) and BEFORE_EXITS in trace.features


def _has_features(trace: ExitTrace | CascadeTrace) -> bool:
    """Return whether routers can look at the inputs of several models."""
    return isinstance(trace, CascadeTrace) and trace.answering is not trace


def _named_traces(traces: _Traces, agreement: bool) -> dict[str, ExitTrace | CascadeTrace]:
    """Return traces by name, measured by `agreement` or if unlabelled; a path is named for its file or folder.

    Raises InputError for none, or for two of one name.
    """
    pairs: list[tuple[str, _Trace]]
    if isinstance(traces, ExitTrace | CascadeTrace):
        pairs = [("trace", traces)]
    elif isinstance(traces, Mapping):
        pairs = [(str(name), trace) for name, trace in traces.items()]
    else:
        paths = [traces] if isinstance(traces, str | Path) else list(traces)
        if any(isinstance(path, ExitTrace | CascadeTrace) for path in paths):
            raise InputError("several traces need a name each: give a mapping such as {'resnet': trace, ...}")
        resolved = [Path(path).resolve() for path in paths]
        pairs = [
            (place.name if place.is_dir() else place.stem, path)
            for place, path in zip(resolved, paths, strict=True)
        ]
    opened: dict[str, ExitTrace | CascadeTrace] = {}
    for name, trace in pairs:
        if name in opened:
            raise InputError(f"two traces are named {name!r}: give a mapping with a name for each")
        opened[name] = trace if isinstance(trace, ExitTrace | CascadeTrace) else open_trace(trace)
        if agreement or not opened[name].has_loss:
            opened[name] = opened[name].with_reference()
    if not opened:
        raise InputError("there is no trace to compare policies on")
    return opened


def open_trace(path: str | Path) -> ExitTrace | CascadeTrace:
    """Read a trace: a Parquet file of `ExitTrace.save`, an .npz of arrays, or a run folder.

    The trace of a run folder holds its fit, calibrate and test inputs; the network was trained on none of them. Raises
    InputError for a file that is something else.
    """
    file = Path(path)
    if file.is_dir():
        run = RunFolder.open(file)
        return run.by_model(concatenate([run.trace(part) for part in TRACED]))
    if file.suffix == ".npz":
        return ExitTrace.from_archive(file)
    return ExitTrace.load(file)
