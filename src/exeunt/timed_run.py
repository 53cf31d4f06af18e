"""What a run's exits take on this machine, and which of them pay for their time under a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, overload

from exeunt._arrays import Integers
from exeunt.costs import CostModel
from exeunt.engine.executor import Executor
from exeunt.errors import InputError
from exeunt.policies.useful_exits import worthwhile_exits
from exeunt.policy import Policy
from exeunt.run.executors import chosen_executor, default_executor, open_executor
from exeunt.run.folder import RunFolder
from exeunt.run.inputs import InputPreparation
from exeunt.timing.bench import whole_network
from exeunt.timing.millisecond_costs import self_consistent_cost, stage_and_head_cost
from exeunt.trace import CascadeTrace, ExitTrace, StoredTrace
from exeunt.trace.cascade_step import CascadeStep

_Recorded: TypeAlias = ExitTrace | CascadeTrace | StoredTrace

__all__ = ["TimedExits", "choose_by_time"]


@dataclass(frozen=True)
class TimedExits:
    """Exits that pay for their time: `steps`, and the milliseconds `cost` of answering at each of them.

    Shares of the cost are of the whole network original; of a cascade, of the model that takes longest.
    """

    steps: tuple[CascadeStep, ...]
    cost: CostModel

    @overload
    def trace(self, recorded: ExitTrace | CascadeTrace) -> ExitTrace: ...

    @overload
    def trace(self, recorded: StoredTrace) -> StoredTrace: ...

    @overload
    def trace(self, recorded: _Recorded) -> ExitTrace | StoredTrace: ...

    def trace(self, recorded: _Recorded) -> ExitTrace | StoredTrace:
        """Return what these exits said, of all that was recorded, at their costs."""
        return recorded.along(self.steps).with_cost(self.cost)

    def rule(self, rule: Callable[..., Policy]) -> Callable[..., Policy]:
        """Return the rule whose policies run these exits."""

        def make(fit: ExitTrace, calibrate: ExitTrace, **options: Any) -> Policy:
            return replace(rule(fit, calibrate, **options), cascade=self.steps)

        return make


def choose_by_time(
    run: RunFolder,
    rule: Callable[..., Policy],
    budgets: Sequence[str | float],
    inputs: Any,
    *,
    executor: str | None = None,
    trusted: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> TimedExits:
    """Time every stage and head of a run, choose the exits that answer best within a mean time, and time those.

    `rule`: makes the policy. `budgets`: one or more, in milliseconds per input or as shares of the whole, in any order.
    The exits answer best within the middle one, and the first of them takes no more than the least. `inputs`: a batch
    of the size that will be used, as the run's executor takes them. Models of a cascade are timed each alone; then what
    was chosen is timed at that mix of rows that reaches each stage.

    Raises InfeasibleBudget for less than the first answer takes, InputError for a network of one exit, an executor
    that cannot run it, or a network that runs whole.
    """
    if run.cost.n_exits == 1:
        raise InputError(f"{run.path} has one exit: all inputs take the same, there is nothing to choose")
    name = chosen_executor(run, executor)
    for one in [run.open_model(entry.name) for entry in run.cascade] or [run]:
        if one.runs_whole:
            raise InputError(
                f"{one.path} runs whole, so that all its exits take the same time and none can be chosen by it: give a "
                f"budget of MACs. {one.runs_whole}"
            )
    timed, whole = _timed(run, name, inputs, trusted, say)
    ordered = sorted(budgets, key=timed.budget)
    budget, least = ordered[len(ordered) // 2], timed.budget(ordered[0])
    steps = worthwhile_exits(timed, timed.budget(budget), least=least, seed=seed)
    say("exits that pay for their time: " + "; ".join(_named(step, timed) for step in steps))
    opened = open_executor(replace(run, steps=steps), name, trusted=trusted)
    fit, calibrate = (run.recorded(part).along(steps) for part in ("fit", "calibrate"))

    def choose(cost: CostModel) -> Policy:
        return rule(fit.with_cost(cost), calibrate.with_cost(cost), budget=budget)

    def route(policy: Policy) -> Integers:
        return policy.route(calibrate.with_cost(policy.cost))

    return TimedExits(steps, self_consistent_cost(opened, inputs, choose, route, whole=whole))


def _timed(
    run: RunFolder, executor: str, inputs: Any, trusted: str | None, say: Callable[[str], None]
) -> tuple[ExitTrace | CascadeTrace, Callable[[Any], Any]]:
    """Return the fit part at what stages and heads take, and what runs the whole; of a cascade the slowest model."""
    recorded = run.recorded("fit")
    if isinstance(recorded, ExitTrace):
        cost, whole = _stage_cost(run, executor, inputs, trusted, say)
        return recorded.with_cost(cost), whole_network(whole)
    models, wholes = {}, {}
    for entry in run.cascade:
        model = run.open_model(entry.name)
        prepare = InputPreparation(model)
        cost, whole = _stage_cost(model, default_executor(model), prepare(inputs), trusted, say)
        models[entry.name] = recorded[entry.name].with_cost(cost)
        wholes[entry.name] = whole_network(whole, prepare)
    timed = CascadeTrace(models)
    return timed, wholes[max(models, key=lambda name: models[name].cost.reference)]


def _stage_cost(
    run: RunFolder, executor: str, inputs: Any, trusted: str | None, say: Callable[[str], None]
) -> tuple[CostModel, Executor]:
    """Time one network's stages and heads on a batch of its inputs; also return its executor of one segment."""
    say(f"timing every stage and head of {run.path} ({executor})")
    last = run.cost.n_exits - 1
    finest = open_executor(run, executor, trusted=trusted)
    whole = open_executor(run, executor, trusted=trusted, segments=((0, last),))
    return stage_and_head_cost(finest, whole, inputs), whole


def _named(step: CascadeStep, timed: ExitTrace | CascadeTrace) -> str:
    name = f"{step.model} " if isinstance(timed, CascadeTrace) else ""
    return f"{name}{', '.join(map(str, step.exits))}"
