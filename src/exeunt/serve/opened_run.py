"""Opening a run to serve it: its engine, the policies that requests choose among, and how its inputs are read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._arrays import Floats
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor
from exeunt.errors import InputError
from exeunt.evaluation import evaluate
from exeunt.policy import Policy, PolicySet
from exeunt.run.folder import RunFolder
from exeunt.run.saved_policies import name_at, named_by_budget
from exeunt.run.shared_executor import SharedExecutor, open_shared
from exeunt.serve.input_reading import InputReader
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from exeunt.serve.settings import Settings

__all__ = ["OpenedRun", "lost_by_stopping", "open_run"]

_ROUNDS = 3
_FEW = 1


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run that is loaded and warm, before it is served.

    `policies`: by name, ascending in budget. `accuracy`: of each, estimated from the traces on fit; None without
    labels. `lost_at`: by policy and exit of the run, how much less often an input is answered rightly that must be
    answered there though the policy would go on, estimated likewise; nothing without labels. `shared`: the executor,
    and which exits of it and of the run they use. `seconds`: of a call of each segment with all heads (s,), by its
    number of rows. `class_names`, `exit_names`: of all exits of the run, those of a cascade's models in a row.

    It depends on no file any more: the path of the run may lead to another one by now.
    """

    run: RunFolder
    class_names: list[str]
    exit_names: list[str]
    policies: Mapping[str, Policy]
    accuracy: Mapping[str, float | None]
    lost_at: Mapping[tuple[str, int], float]
    reader: InputReader
    shared: SharedExecutor
    engine: Engine
    seconds: Mapping[int, Floats]

    @property
    def unit(self) -> str:
        """Unit of the costs."""
        return next(iter(self.policies.values())).cost.unit

    def places(self, policy: str) -> list[int]:
        """Return where the exits of a policy are among those of the run."""
        return _places(self.shared, policy)

    def reach(self, policy: str) -> Floats:
        """Return the share of inputs that reach each segment (s,), as calibrated; 0 for those that are skipped."""
        chosen, exits, executor = self.policies[policy], self.shared.exits[policy], self.shared.executor
        counts = chosen.rates if chosen.counts is None else chosen.counts / chosen.counts.sum()
        reach = np.zeros(len(executor.segments))
        for start, end in pairwise([*(sorted(executor.restarts) or [0]), len(reach)]):
            used = [k for k in range(start, end) if _exits_in(executor.segments[k], exits)]
            for k in range(start, max(used, default=start - 1) + 1):
                reach[k] = sum(
                    counts[own] for own, exit_ in enumerate(exits) if exit_ >= executor.segments[k][0]
                )
        return reach

    def at(self, budget: float | str) -> str:
        """Return the name of the policy of the largest budget that is not above this one.

        Raises InfeasibleBudget below the smallest, InputError for what is no budget.
        """
        return name_at(self.policies, budget)


def open_run(settings: Settings) -> OpenedRun:
    """Open the run folder, run every stage at the sizes that its plan names, and time it.

    Raises what opening raises (see `exeunt.run.load`), InputError if there are no policies, or none for the
    budgets of the settings.
    """
    run = RunFolder.open(settings.run)
    policies = named_by_budget(_policies(run, settings))
    if settings.budget is not None:
        name_at(policies, settings.budget)
    for tier, budget in settings.tiers.items():
        _check_tier(policies, tier, budget)
    reader = InputReader(
        run, max_rows=settings.max_rows, max_pixels=settings.max_pixels, max_chars=settings.max_chars
    )
    shared = open_shared(
        run, policies, executor=settings.executor, threads=settings.threads, trusted=settings.trusted
    )
    plan = shared.plan
    pieces = (64,) * len(shared.executor.segments) if plan is None else plan.piece
    sizes = sorted({_FEW, *pieces, *(() if plan is None else plan.sizes)})
    seconds = {rows: warmed_up(shared.executor, reader.example(rows)) for rows in sizes}
    engine = Engine(
        shared.executor,
        policies,
        plan,
        exits=shared.exits,
        # What came furthest is run first. Rows that wait for company are overtaken by all that comes after them.
        min_batch=(1,) * len(shared.executor.segments),
        max_rows=reader.max_rows,
        when_full=settings.when_full,
        seconds=tuple(float(seconds[piece][k]) for k, piece in enumerate(pieces)),
        single_row_seconds=tuple(seconds[_FEW].tolist()),
    )
    *_, engine.active = policies
    traces = _fit_traces(run, policies)
    accuracy = {name: evaluate(policies[name], trace).accuracy for name, trace in traces.items()}
    lost_at = {
        (name, place): lost
        for name, trace in traces.items()
        for place, lost in zip(_places(shared, name), lost_by_stopping(policies[name], trace), strict=True)
    }
    return OpenedRun(
        run,
        run.manifest["class_names"],
        _exit_names(run),
        policies,
        dict.fromkeys(policies) | accuracy,
        lost_at,
        reader,
        shared,
        engine,
        seconds,
    )


def lost_by_stopping(policy: Policy, trace: ExitTrace) -> list[float]:
    """Return by exit how much less accurate its answers are than the policy's, for the inputs that would go on.

    It is 0 where none would. `trace`: with labels.
    """
    exits, said = policy.route(trace), policy.answer.on(trace).correct
    right = np.take_along_axis(said, exits[:, None], axis=1)[:, 0]
    going_on = [exits > exit_ for exit_ in range(trace.n_exits)]
    return [
        float(right[on].mean() - said[on, exit_].mean()) if on.any() else 0.0
        for exit_, on in enumerate(going_on)
    ]


def _exit_names(run: RunFolder) -> list[str]:
    last = f"{run.cascade[-1].name}: last exit" if run.cascade else "last exit"
    return [*run.manifest["network"]["exits"], last][: run.cost.n_exits]


def _places(shared: SharedExecutor, policy: str) -> list[int]:
    return [shared.places[exit_] for exit_ in shared.exits[policy]]


def warmed_up(executor: Executor, inputs: Any) -> Floats:
    """Run all segments with all their heads a few times, and return the seconds of each (s,)."""
    rounds = []
    for _ in range(_ROUNDS):
        taken = []
        state, _ = executor.start(inputs)
        for segment, (first, last) in enumerate(executor.segments):
            begun = time.perf_counter()
            _, state = executor.run(segment, state, range(first, last + 1))
            executor.wait()
            taken.append(time.perf_counter() - begun)
        rounds.append(taken)
    return np.asarray(rounds).min(axis=0)  # type: ignore[no-any-return]


def _policies(run: RunFolder, settings: Settings) -> Iterable[Policy]:
    if (file := settings.policies) is not None:
        if not file.is_file():
            raise InputError(
                f"there is no file {file}: policies are what `exeunt calibrate --budgets` writes"
            )
        policies = PolicySet.load(file)
        for policy in policies:
            run.check_policy(policy, str(file))
        return policies
    return run.policy_set if run.has_policy_set else [run.policy]


def _check_tier(policies: Mapping[str, Policy], name: str, budget: str) -> None:
    try:
        name_at(policies, budget)
    except InputError as error:
        raise InputError(f"--tier {name}={budget}: {error}") from error


def _exits_in(segment: tuple[int, int], exits: Iterable[int]) -> bool:
    return any(segment[0] <= exit_ <= segment[1] for exit_ in exits)


def _fit_traces(run: RunFolder, policies: Mapping[str, Policy]) -> dict[str, ExitTrace]:
    """Return what the exits of each policy said of the inputs that it was fitted on; nothing if they have no labels."""
    fit = run.recorded("fit")
    traces = {name: fit.along(policy.cascade).with_cost(policy.cost) for name, policy in policies.items()}
    return {name: trace for name, trace in traces.items() if trace.label is not None}
