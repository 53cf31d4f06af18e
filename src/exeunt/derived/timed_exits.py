"""What a run's exits take on this machine, and which of them pay for their time under a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from exeunt.errors import InputError
from exeunt.policies.worthwhile_exits import worthwhile_exits
from exeunt.run.chain_opening import open_member
from exeunt.run.executors import chosen_executor, default_executor, open_executor
from exeunt.run.preparation import InputPreparation
from exeunt.timing.alternatives import whole_network
from exeunt.timing.millisecond_costs import self_consistent_cost, stage_and_head_cost
from exeunt.trace import ExitTrace, Members

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exeunt._arrays import Integers
    from exeunt.costs import CostModel
    from exeunt.engine.executor import Executor
    from exeunt.policy import Policy
    from exeunt.run.folder import RunFolder
    from exeunt.trace import StoredTrace
    from exeunt.trace.links import Link

    _Recorded: TypeAlias = ExitTrace | Members | StoredTrace

__all__ = ["TimedExits", "choose_by_time"]


@dataclass(frozen=True)
class TimedExits:
    """Exits that pay for their time: `links`, and the milliseconds `cost` of answering at each of them.

    Shares of the cost are of the whole network uncut; of a chain, of the member that takes longest.
    """

    links: tuple[Link, ...]
    cost: CostModel

    @overload
    def trace(self, recorded: ExitTrace | Members) -> ExitTrace: ...

    @overload
    def trace(self, recorded: StoredTrace) -> StoredTrace: ...

    @overload
    def trace(self, recorded: _Recorded) -> ExitTrace | StoredTrace: ...

    def trace(self, recorded: _Recorded) -> ExitTrace | StoredTrace:
        """Return what these exits said, of all that was recorded, at their costs."""
        return recorded.along(self.links).with_cost(self.cost)

    def rule(self, rule: Callable[..., Policy]) -> Callable[..., Policy]:
        """Return the rule whose policies run these exits."""

        def make(fit: ExitTrace, calibrate: ExitTrace, **options: Any) -> Policy:
            return replace(rule(fit, calibrate, **options), chain=self.links)

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
    of the size that will be used, as the run's executor takes them. Members of a chain are timed each alone; then what
    was chosen is timed at that mix of rows that reaches each stage.

    Raises InfeasibleBudget for less than the first answer takes, InputError for a network of one exit, an executor
    that cannot run it, or a network that runs whole.
    """
    if run.cost.n_exits == 1:
        raise InputError(f"{run.path} has one exit: all inputs take the same, there is nothing to choose")
    name = chosen_executor(run, executor)
    for one in [open_member(run, entry) for entry in run.chain] or [run]:
        if one.runs_whole:
            raise InputError(
                f"{one.path} runs whole, so that all its exits take the same time and none can be chosen by it: give a "
                f"budget of MACs. {one.runs_whole}"
            )
    timed, whole = _timed(run, name, inputs, trusted, say)
    ordered = sorted(budgets, key=timed.budget)
    budget, least = ordered[len(ordered) // 2], timed.budget(ordered[0])
    links = worthwhile_exits(timed, timed.budget(budget), least=least, seed=seed)
    say("exits that pay for their time: " + "; ".join(_named(link, timed) for link in links))
    opened = open_executor(replace(run, links=links), name, trusted=trusted)
    fit, calibrate = (run.recorded(part).along(links) for part in ("fit", "calibrate"))

    def choose(cost: CostModel) -> Policy:
        return rule(fit.with_cost(cost), calibrate.with_cost(cost), budget=budget)

    def route(policy: Policy) -> Integers:
        return policy.route(calibrate.with_cost(policy.cost))

    return TimedExits(links, self_consistent_cost(opened, inputs, choose, route, whole=whole))


def _timed(
    run: RunFolder, executor: str, inputs: Any, trusted: str | None, say: Callable[[str], None]
) -> tuple[ExitTrace | Members, Callable[[Any], Any]]:
    """Return the fit part at what stages and heads take, and what runs the whole; of a chain the slowest member."""
    recorded = run.recorded("fit")
    if isinstance(recorded, ExitTrace):
        cost, whole = _stage_cost(run, executor, inputs, trusted, say)
        return recorded.with_cost(cost), whole_network(whole)
    members, wholes = {}, {}
    for entry in run.chain:
        member = open_member(run, entry)
        prepare = InputPreparation(member)
        cost, whole = _stage_cost(member, default_executor(member), prepare(inputs), trusted, say)
        members[entry.name] = recorded[entry.name].with_cost(cost)
        wholes[entry.name] = whole_network(whole, prepare)
    timed = Members(members)
    return timed, wholes[max(members, key=lambda name: members[name].cost.reference)]


def _stage_cost(
    run: RunFolder, executor: str, inputs: Any, trusted: str | None, say: Callable[[str], None]
) -> tuple[CostModel, Executor]:
    """Time one network's stages and heads on a batch of its inputs; also return its executor of one segment."""
    say(f"timing every stage and head of {run.path} ({executor})")
    last = run.cost.n_exits - 1
    finest = open_executor(run, executor, trusted=trusted)
    whole = open_executor(run, executor, trusted=trusted, segments=((0, last),))
    return stage_and_head_cost(finest, whole, inputs), whole


def _named(link: Link, timed: ExitTrace | Members) -> str:
    name = f"{link.member} " if isinstance(timed, Members) else ""
    return f"{name}{', '.join(map(str, link.exits))}"
