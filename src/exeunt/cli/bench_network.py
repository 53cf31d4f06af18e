"""`exeunt bench RUN` of one network: time against multiply-adds, and accuracy against time beside the original model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import typer

from exeunt._text import counted

if TYPE_CHECKING:
    from exeunt.cli.timed_network import TimedNetwork
    from exeunt.engine.executor import Executor
    from exeunt.engine.plan import Plan
    from exeunt.timing.bench import ExitMix, TimedAlternative, TimedBudget

_OWN = "the run's policy"
_SHARES = (20, 40, 60, 80, 100)  # budgets, in % of the full cost


def bench_network(
    timed: TimedNetwork, sizes: Sequence[int], *, profile: bool, repeats: int, max_seconds: float
) -> None:
    """Time the network in stages and by its plan against itself original, print tables, and draw into RUN/figures."""
    mixes = _mixes(timed)  # what cannot be read is found before minutes of measuring
    if profile:
        _measure(timed, repeats=repeats, max_seconds=max_seconds)
    plan = timed.plan
    budgets = _time_budgets(timed, plan, mixes, sizes, repeats=repeats, max_seconds=max_seconds)
    typer.echo(f"{timed.name}, original model = 100%\n{_table(budgets)}")
    if plan is None:
        typer.echo(
            f"there is no plan for this machine yet: exeunt bench {quote(str(timed.run.path))} --profile makes one"
        )
    elif any(mix.policy.cascade for mix in mixes):
        typer.echo("the run's policy runs exits of its own, without the plan: both columns are of that")
    alone = _time_original(timed, sizes, repeats=repeats, max_seconds=max_seconds)
    for one in alone:
        typer.echo(
            f"{one.name}, batch {one.batch_size}: {one.accuracy:.2%} right in {one.share.percent} of the time"
        )
    for figure in _draw(timed, budgets, alone):
        typer.echo(f"written to {figure}")


def _measure(timed: TimedNetwork, *, repeats: int, max_seconds: float) -> None:
    """Measure the executor, plan, and keep both in the run folder."""
    from exeunt.timing.planner import profile_and_plan

    _say(f"measuring {timed.name}, segment by segment")
    measured, plan = profile_and_plan(
        timed.open,
        timed.batch(8),
        repeats=repeats,
        max_seconds=max_seconds,
        progress=_say,
    )
    timed.run.save_profile(measured)
    timed.run.save_plan(plan)
    sizes = ", ".join(map(str, plan.piece))
    typer.echo(
        f"plan: {counted(len(plan.segments), 'segment')} of {counted(timed.run.cost.n_exits, 'exit')}, "
        f"rows per call {sizes}"
    )


def _mixes(timed: TimedNetwork) -> list[ExitMix]:
    """Return where the recorded test inputs answer under policies for several budgets, the run's own last.

    Their costs are multiply-adds, and shares are of the network without heads.
    """
    from exeunt.evaluation import evaluate
    from exeunt.policies.eero import eero
    from exeunt.timing.bench import ExitMix

    run, whole = timed.run, timed.original_macs()
    fit, calibrate, test = (run.trace(part) for part in ("fit", "calibrate", "test"))
    shares = [share for share in _SHARES if share / 100 * fit.cost.full > 1.05 * fit.cost.first]
    policies = {f"{share}%": eero(fit, calibrate, budget=f"{share}%") for share in shares}
    if run.has_policy:
        own = run.policy
        cost = run.recorded("test").along(own.cascade).cost
        policies[_OWN] = replace(own, cost=cost, distribution=None, certificate=None)
    mixes = []
    for name, policy in policies.items():
        exits = policy.route(test)
        left = float(policy.cost.cumulative[exits].mean() / whole)
        right = evaluate(policy, run.replayed(policy, "test")).accuracy
        mixes.append(ExitMix(policy, exits, left, name, float(right or 0.0), on_line=name != _OWN))
    return mixes


def _time_budgets(
    timed: TimedNetwork, plan: Plan | None, mixes: Sequence[ExitMix], sizes: Sequence[int], **limits: Any
) -> list[TimedBudget]:
    """Time the mixes in stages and by the plan, if there is one, at each batch size."""
    from exeunt.timing.bench import time_budgets

    ways: dict[str, tuple[Executor, Plan | None]] = {"staged": (timed.open(), None)}
    if plan is not None:
        ways["planned"] = (timed.open(plan.segments), plan)
    options: Any = {"batch_sizes": sizes, "progress": _say, **limits}
    whole, some = ([mix for mix in mixes if bool(mix.policy.cascade) is of_some] for of_some in (False, True))
    original = timed.original()
    budgets = time_budgets(original, ways, whole, timed.batch, **options)
    for mix in some:  # a policy of some exits runs these alone, and without a plan, which is for all
        alone = (timed.open_of(mix.policy), None)
        budgets += time_budgets(original, dict.fromkeys(ways, alone), [mix], timed.batch, **options)
    return sorted(budgets, key=lambda one: one.batch_size)


def _time_original(timed: TimedNetwork, sizes: Sequence[int], **limits: Any) -> list[TimedAlternative]:
    """Time the network original, and the same at the other precisions that there are, each on inputs of its own."""
    from exeunt.cli.timed_network import TimedNetwork
    from exeunt.making.precision_run import other_precisions
    from exeunt.timing.bench import Alternative, time_alternatives

    def original(name: str, network: TimedNetwork) -> Alternative:
        call, inputs = network.original(), {size: network.batch(size) for size in sizes}
        accuracy = 1 - float(network.run.trace("test").risk[-1])
        return Alternative(name, accuracy, lambda _, size: call(inputs[size]))

    ways = [original("original model", timed)]
    for precision, run in other_precisions(timed.run).items():
        ways.append(original(f"original model at {precision}", TimedNetwork.of(run, None, timed.trusted)))
    if len(ways) == 1:  # alone it is the 100%, however long it takes
        limits = {"repeats": 1, "max_seconds": 0.0}
    return time_alternatives(ways, dict.fromkeys(sizes), **limits)


def _table(budgets: Sequence[TimedBudget]) -> str:
    """Return a line per batch size and budget, ways side by side."""
    from exeunt._text import text_table

    ways = list(dict.fromkeys(one.way for one in budgets))
    header = ["batch", "budget", "accuracy", "original, ms per input", "multiply-adds left"]
    header += [f"time left, {way}" for way in ways] + [f"efficiency, {way}" for way in ways]
    per_way = [[one for one in budgets if one.way == way] for way in ways]
    return text_table(
        header,
        [
            [str(same[0].batch_size), same[0].name, f"{same[0].accuracy:.2%}", str(same[0].original_ms),
             f"{same[0].macs_share:.1%}",
             *(one.share.percent for one in same), *(f"{one.efficiency:.2f}" for one in same)]
            for same in zip(*per_way, strict=True)
        ],
    )  # fmt: skip


def _draw(timed: TimedNetwork, budgets: Sequence[TimedBudget], alone: list[TimedAlternative]) -> list[Path]:
    from exeunt.plots import save_figure
    from exeunt.plots.frontiers import accuracy_against_time, time_against_macs
    from exeunt.plots.style import figure_of

    way, folder = budgets[-1].way, timed.run.folder("figures")
    shown = [one for one in budgets if one.way == way]
    macs = time_against_macs(shown, title=f"Time against multiply-adds: {timed.name}, {way}")
    accuracy = accuracy_against_time([*alone, *shown])
    return [
        *save_figure(figure_of(macs), folder / f"time_against_macs-{timed.name}"),
        *save_figure(figure_of(accuracy), folder / f"accuracy_against_time-{timed.name}"),
    ]


def _say(text: str) -> None:
    typer.echo(text, err=True)
