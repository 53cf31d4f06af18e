"""`exeunt bench RUN --profile`: how far time falls with the multiply-adds on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exeunt._words import counted
from exeunt.cli.arguments import ExecutorName, RunPath, TrustedModel
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exeunt._arrays import Integers
    from exeunt.cli.timed_network import TimedNetwork
    from exeunt.engine.executor import Executor
    from exeunt.engine.plan import Plan
    from exeunt.policy import Policy
    from exeunt.run.folder import RunFolder
    from exeunt.timing.bench import ExitMix, TimedBudget

_SHARES = (20, 40, 60, 80, 100)  # budgets, in % of the full cost


def bench(
    path: RunPath,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="First measure every segment at several batch sizes, plan how to run them fastest on this machine, "
            "and keep profile and plan in the run. `exeunt predict` then uses the plan.",
        ),
    ] = False,
    executor: ExecutorName = None,
    batch_size: Annotated[
        str, typer.Option(help="Inputs per batch, one or more numbers separated by commas.")
    ] = "1,64,256",
    repeats: Annotated[
        int, typer.Option(help="Rounds; each times everything once, in a different order.", min=1, max=10_000)
    ] = 9,
    max_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds for the profile, and for each batch size. At least three rounds are timed.",
            min=0,
            max=604_800,
        ),
    ] = 60.0,
    trusted: TrustedModel = None,
) -> None:
    """Time the network of a run on this machine: uncut, in stages, and by its plan, at several budgets.

    Prints the shares of multiply-adds and of time that are left, and draws one against the other into RUN/figures. Of a
    chain it draws accuracy against time, with each member alone beside it.
    Other work on the machine disturbs the times; their spread is shown.
    """
    from exeunt._files import check_writable
    from exeunt.cli.bench_chain import bench_chain
    from exeunt.cli.timed_network import TimedNetwork
    from exeunt.run.folder import RunFolder
    from exeunt.timing.bench import time_budgets

    sizes = _sizes(batch_size)
    run = RunFolder.open(path)
    if run.cost.n_exits == 1:
        raise InputError(f"{path} has one exit: all inputs take the same, there is nothing to compare")
    timed = TimedNetwork.of(run, executor, trusted)
    check_writable(run.path / "figures", f"cannot keep what is measured in {path}")
    if run.chain:
        if profile:
            raise InputError("--profile is for one network: profile the members of a chain, each alone")
        bench_chain(timed, sizes, repeats=repeats, max_seconds=max_seconds)
        return
    routed = _routed(run)  # what cannot be read is found before minutes of measuring
    if profile:
        _measure(timed, repeats=repeats, max_seconds=max_seconds)
    plan = timed.plan
    ways: dict[str, tuple[Executor, Plan | None]] = {"staged": (timed.open(), None)}
    if plan is not None:
        ways["planned"] = (timed.open(plan.segments), plan)
    mixes, uncut = _mixes(timed, routed), timed.uncut()
    whole, some = ([mix for mix in mixes if bool(mix.policy.chain) is of_some] for of_some in (False, True))
    options: Any = {
        "batch_sizes": sizes, "repeats": repeats, "max_seconds": max_seconds, "progress": _say,
    }  # fmt: skip
    budgets = time_budgets(uncut, ways, whole, timed.batch, **options)
    for mix in some:  # a policy of some exits runs these alone, and without a plan, which is for all
        alone = (timed.open_of(mix.policy), None)
        budgets += time_budgets(uncut, dict.fromkeys(ways, alone), [mix], timed.batch, **options)
    budgets.sort(key=lambda one: one.batch_size)
    typer.echo(f"{timed.name}, uncut network = 100%\n{_table(budgets)}")
    if some and plan is not None:
        typer.echo("the run's policy runs exits of its own, without the plan: both columns are of that")
    if plan is None:
        typer.echo(f"there is no plan for this machine yet: exeunt bench {path} --profile makes one")
    for figure in _draw(timed, budgets):
        typer.echo(f"written to {figure}")


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputError(f"batch sizes must be whole numbers of at least 1, such as 1,64,256, got {text!r}")
    return sorted(set(sizes))


def _measure(timed: TimedNetwork, *, repeats: int, max_seconds: float) -> None:
    """Measure the executor, plan, and keep both in the run folder."""
    from exeunt.timing.planner import profile_and_plan

    _say(f"measuring {timed.name}, segment by segment")
    measured, plan = profile_and_plan(
        timed.open,
        timed.batch(8),
        whole=timed.uncut(),
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


def _routed(run: RunFolder) -> list[tuple[str, Policy, Integers]]:
    """Return policies for several budgets, the run's own last: name, policy, where the recorded test inputs answer.

    Their costs are multiply-adds.
    """
    from exeunt.policies.by_allocation import eero

    fit, calibrate, test = (run.trace(part) for part in ("fit", "calibrate", "test"))
    shares = [share for share in _SHARES if share / 100 * fit.cost.full > 1.05 * fit.cost.first]
    policies = {f"{share}%": eero(fit, calibrate, budget=f"{share}%") for share in shares}
    if run.has_policy:
        own = run.policy
        cost = run.recorded("test").along(own.chain).cost
        policies["the run's policy"] = replace(own, cost=cost, law=None, certificate=None)
    return [(name, policy, policy.route(test)) for name, policy in policies.items()]


def _mixes(timed: TimedNetwork, routed: Sequence[tuple[str, Policy, Integers]]) -> list[ExitMix]:
    """Return the same with the share of multiply-adds that is left of the network without heads."""
    from exeunt.timing.bench import ExitMix

    whole = timed.uncut_macs()
    return [
        ExitMix(policy, exits, float(policy.cost.cumulative[exits].mean() / whole), budget)
        for budget, policy, exits in routed
    ]


def _table(budgets: Sequence[TimedBudget]) -> str:
    """Return a line per batch size and budget, ways side by side."""
    from exeunt.text_tables import text_table

    ways = list(dict.fromkeys(one.way for one in budgets))
    header = ["batch", "budget", "uncut, ms per input", "multiply-adds left"]
    header += [f"time left, {way}" for way in ways] + [f"efficiency, {way}" for way in ways]
    per_way = [[one for one in budgets if one.way == way] for way in ways]
    return text_table(
        header,
        [
            [str(same[0].batch_size), same[0].budget, str(same[0].uncut_ms), f"{same[0].macs_share:.1%}",
             *(_percent(one) for one in same), *(f"{one.efficiency:.2f}" for one in same)]
            for same in zip(*per_way, strict=True)
        ],
    )  # fmt: skip


def _percent(one: TimedBudget) -> str:
    share = one.time_share
    return f"{share.median:.1%} ({share.low:.0%} to {share.high:.0%})"


def _draw(timed: TimedNetwork, budgets: Sequence[TimedBudget]) -> list[Path]:
    from exeunt.plots import save_figure
    from exeunt.plots.frontiers import time_against_macs
    from exeunt.plots.style import figure_of

    way = budgets[-1].way
    axes = time_against_macs(
        [one for one in budgets if one.way == way], title=f"Time against multiply-adds: {timed.name}, {way}"
    )
    folder = timed.run.folder("figures")
    return save_figure(figure_of(axes), folder / f"time_against_macs-{timed.name}")


def _say(text: str) -> None:
    typer.echo(text, err=True)
