"""Loading a run to serve it: its engine, the policies that requests choose from, how long calls take, accuracies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor
from exeunt.errors import InputError
from exeunt.evaluation.replay import evaluate
from exeunt.live.live_cascade import LiveCascade
from exeunt.live.live_run import check_models
from exeunt.live.models_file import read_models
from exeunt.policy import Policy
from exeunt.runs.executors import chosen_executor
from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import SharedExecutor, open_shared
from exeunt.runs.saved_policies import name_at, named_by_budget
from exeunt.serve.engine_thread import EngineThread
from exeunt.serve.input_reader import InputReader, Rows
from exeunt.serve.latency_controller import Controller, OperatingPoint
from exeunt.serve.live_engine import LiveEngine, LiveTicket
from exeunt.serve.prediction import Answer, answers_of
from exeunt.serve.settings import Settings
from exeunt.serve.spending import check_limits
from exeunt.trace import ExitTrace

_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run that is loaded and warmed up.

    `policies`: by name, ascending in budget. `accuracy`: of each, estimated from the traces on fit; None without
    labels. `lost_at`: by policy and exit of the run, the accuracy that rows lose which must be answered there although
    the policy would go on, estimated likewise; empty without labels. `shared`: the executor, and which of its and of
    the run's exits the policies use. `seconds`: duration of a call of each segment with all heads (s,), by its number
    of rows. `class_names`, `exit_names`: of all exits of the run, those of a cascade's models in a row. `warning`: see
    `SavedPolicies.evaluation_warning`.

    It does not depend on files any more: the path of the run may lead to another one by now.
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
    warning: str = ""
    warms: ClassVar[bool] = True

    def started(self, patience_s: float = 0.0) -> EngineThread | LiveEngine:
        """Return what answers rows, in its own thread or in the event loop. `patience_s`: see `EngineThread`."""
        engine, expected_s = self.engine, cache(self.expected_s)
        return EngineThread(engine, patience_s=patience_s, seconds=lambda n: expected_s(engine.active, n))

    @property
    def unit(self) -> str:
        """Unit of the costs."""
        return next(iter(self.policies.values())).cost.unit

    def places(self, policy: str) -> list[int]:
        """Return the places of a policy's exits among those of the run."""
        return [self.shared.places[exit_] for exit_ in self.shared.exits[policy]]

    def answers(self, rows: Rows, parts: Iterable[tuple[Integers, Any]]) -> list[Answer]:
        """Return the answers to the rows of a request. `parts`: places of rows, and their ticket."""
        masks = self.reader.gives_masks
        return answers_of(rows, parts, self.class_names, self.shared.places, masks=masks)

    def at(self, budget: float | str) -> str:
        """Return the name of the policy with the largest budget that is not above this one.

        Raises InfeasibleBudget below the smallest, InputError for what is no budget.
        """
        return name_at(self.policies, budget)

    # -- what the controller needs ----------------------------------------------------------------------

    @cached_property
    def call_seconds(self) -> Floats:
        """Seconds of a call of each segment whatever its rows, and of each row in it (2, s)."""
        few, many = min(self.seconds), max(self.seconds)
        per_row = np.maximum(self.seconds[many] - self.seconds[few], 1e-9) / max(many - few, 1)
        return np.stack([np.maximum(self.seconds[few] - few * per_row, 0.0), per_row])

    @cached_property
    def row_seconds(self) -> dict[str, float]:
        """Seconds that a row takes on average, by policy."""
        return {name: float(self.call_seconds[1] @ self.reach(name)) for name in self.policies}

    def expected_s(self, policy: str, n: int) -> float:
        """Return how long n rows that run together take on average."""
        rows = n * self.reach(policy)
        return float(np.minimum(rows, 1.0) @ self.call_seconds[0] + rows @ self.call_seconds[1])

    def reach(self, policy: str) -> Floats:
        """Return the share of inputs that reach each segment (s,), as calibrated; 0 for those that are skipped."""
        chosen, exits = self.policies[policy], np.array(self.shared.exits[policy])
        shares = chosen.planned_shares
        if chosen.looks_once:  # all reach the gate, and then one segment each
            return np.array([1.0, *shares])
        segments = self.shared.executor.segments
        reach = np.zeros(len(segments))
        for k in self.engine.segments_run(policy):
            reach[k] = sum(shares[exits >= segments[k][0]])
        return reach

    def controller(self, settings: Settings) -> Controller | None:
        """Return the controller that keeps the latency target of the settings; None if they have none.

        Raises as `Controller` does, and InputError if the traces on fit have no labels to estimate accuracies from.
        """
        if settings.slo_s is None:
            return None
        points = []
        for name, policy in self.policies.items():
            if (accuracy := self.accuracy[name]) is None:
                raise InputError(
                    f"the traces of {self.run.path} on fit have no labels, from which a controller estimates what a "
                    "smaller budget costs: serve it without --slo-ms"
                )
            pass_s = float(self.call_seconds[0] @ (self.reach(name) > 0))
            points.append(OperatingPoint(name, policy.budget, accuracy, self.row_seconds[name], pass_s))
        return Controller(
            points,
            slo_s=settings.slo_s,
            quantile=settings.slo_quantile,
            min_accuracy=settings.min_accuracy,
        )


@dataclass(frozen=True, eq=False)
class LoadedLive(LoadedRun):
    """A run of live models, which are neither warmed up nor timed: that would be paid for."""

    engine: LiveEngine  # type: ignore[assignment]
    warms: ClassVar[bool] = False

    def answers(self, rows: Rows, parts: Iterable[tuple[Integers, LiveTicket]]) -> list[Answer]:
        """Return the answers to the rows of a request; where models answer in text, it is in place of a class."""
        parts = list(parts)
        answers = super().answers(rows, parts)
        for places, ticket in () if self.class_names else parts:
            for place, text in zip(places.tolist(), ticket.texts, strict=True):
                answers[place].class_name, answers[place].label = text, -1
        return answers

    def started(self, _: float = 0.0) -> LiveEngine:
        """Return what answers rows."""
        return self.engine

    @cached_property
    def row_seconds(self) -> dict[str, float]:
        """Not measured."""
        return {}

    def controller(self, settings: Settings) -> None:
        """Raise InputError for a latency target."""
        if settings.slo_s is not None:
            raise InputError(
                "live models are not timed, so the server cannot keep a latency target: leave out --slo-ms"
            )


def load_run(settings: Settings) -> LoadedRun:
    """Load the run folder, run every stage at the sizes that its plan names, and time it.

    Raises what opening raises (see `exeunt.load`), InputError if there are no policies, or none for the
    budgets of the settings.
    """
    run = RunFolder.open(settings.run)
    opened = run.kind.action("serve", open_network)
    if opened is open_network:
        chosen_executor(run)  # raises: some runs cannot be served, with or without a policy
    policies = named_by_budget(run.policies)
    if settings.budget is not None:
        name_at(policies, settings.budget)
    for tier, budget in settings.tiers.items():
        try:
            name_at(policies, budget)
        except InputError as error:  # noqa: PERF203 - the first one is raised
            raise InputError(f"--tier {tier}={budget}: {error}") from error
    check_limits(settings, next(iter(policies.values())).cost)
    reader = InputReader(
        run, max_rows=settings.max_rows, max_pixels=settings.max_pixels, max_chars=settings.max_chars
    )
    kind, parts = opened(run, policies, reader, settings)
    fit = run.recorded("fit")
    fitted = {name: policy.priced(fit) for name, policy in policies.items()}
    traces = {name: trace for name, trace in fitted.items() if trace.has_loss}
    last = f"{run.cascade[-1].name}: last exit" if run.cascade else "last exit"
    shared: SharedExecutor = parts["shared"]
    loaded: LoadedRun = kind(
        **parts,
        run=run,
        class_names=run.manifest["class_names"],
        exit_names=[*run.manifest["network"]["exits"], last][: run.cost.n_exits],
        policies=policies,
        accuracy=dict.fromkeys(policies)
        | {name: evaluate(policies[name], trace).accuracy for name, trace in traces.items()},
        lost_at={
            (name, shared.places[exit_]): lost
            for name, trace in traces.items()
            for exit_, lost in zip(shared.exits[name], lost_by_stopping(policies[name], trace), strict=True)
        },
        reader=reader,
        warning=run.evaluation_warning,
    )
    return loaded


def open_network(
    run: RunFolder, policies: Mapping[str, Policy], reader: InputReader, settings: Settings
) -> tuple[type[LoadedRun], dict[str, Any]]:
    """Open and time a network or a cascade of networks; return what a LoadedRun has of it."""
    if settings.models is not None:
        raise InputError(
            f"--models: such options are for runs of services and functions, and {run.path} computes its answers here: "
            "leave them out"
        )
    shared = open_shared(
        run, policies, executor=settings.executor, threads=settings.threads, trusted=settings.trusted
    )
    executor, plan = shared.executor, shared.plan
    pieces = (64,) * len(executor.segments) if plan is None else plan.piece
    sizes = sorted({1, *pieces, *(() if plan is None else plan.sizes)})
    seconds = {rows: _call_seconds(executor, reader.example(rows)) for rows in sizes}
    engine = Engine(
        executor,
        policies,
        plan,
        exits=shared.exits,
        # Rows at later segments run first. If they waited for larger batches, later arrivals would overtake them.
        min_batch=(1,) * len(executor.segments),
        max_rows=reader.max_rows,
        probabilities=run.masks,  # which keeps masks
        when_full=settings.when_full,
        seconds=tuple(float(seconds[piece][k]) for k, piece in enumerate(pieces)),
        single_row_seconds=tuple(seconds[1].tolist()),
    )
    *_, engine.active = policies
    return LoadedRun, {"shared": shared, "engine": engine, "seconds": seconds}


def open_live(
    run: RunFolder, policies: Mapping[str, Policy], reader: InputReader, settings: Settings
) -> tuple[type[LoadedRun], dict[str, Any]]:
    """Open live models, as `open_network` does a network. Raises InputError without their file or a limit of money."""
    if settings.models is None or settings.max_spend is None:
        raise InputError(
            f"{run.path} asks services or functions: name their file with --models models.yaml, and what all answers "
            "may cost with --max-spend, such as '20 usd/day'"
        )
    models, places = read_models(settings.models), [entry.name for entry in run.cascade]
    check_models(run, models)
    names = run.manifest["class_names"] or None
    cascades = {name: LiveCascade(models, policy, classes=names) for name, policy in policies.items()}
    exits = {name: [places.index(model) for model in policy.models] for name, policy in policies.items()}
    shared = SharedExecutor(None, policies, exits, tuple(range(len(places))), None)  # type: ignore[arg-type]
    return LoadedLive, {
        "shared": shared,
        "engine": LiveEngine(cascades, places, reader.max_rows),
        "seconds": {1: np.zeros(len(places))},
    }


def lost_by_stopping(policy: Policy, trace: ExitTrace) -> list[float]:
    """Return by exit how much less accurate it is than the policy, for the inputs that would go on after it.

    It is 0 where none would. `trace`: with labels or losses.
    """
    exits, quality = policy.route(trace), policy.answer.on(trace).quality
    reached = np.take_along_axis(quality, exits[:, None], axis=1)[:, 0]
    going_on = [exits > exit_ for exit_ in range(trace.n_exits)]
    return [
        float(reached[on].mean() - quality[on, exit_].mean()) if on.any() else 0.0
        for exit_, on in enumerate(going_on)
    ]


def _call_seconds(executor: Executor, inputs: Any) -> Floats:
    """Run all segments with all their heads a few times, and return the least seconds of each (s,)."""
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
