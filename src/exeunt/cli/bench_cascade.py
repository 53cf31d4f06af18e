"""`exeunt bench CASCADE`: is the cascade worth it? Its accuracy against time, with each model alone beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from exeunt.run.file_digests import TRACED
from exeunt.run.folder import RunFolder
from exeunt.trace import ExitTrace, concatenate

if TYPE_CHECKING:
    from exeunt.cli.timed_network import TimedNetwork
    from exeunt.timing.bench import Alternative, TimedAlternative

_OWN = "the run's policy"
_SHARES = (20, 30, 40, 50, 70)  # budgets, in % of the most expensive model alone


def bench_cascade(timed: TimedNetwork, sizes: Sequence[int], *, repeats: int, max_seconds: float) -> None:
    """Time the cascade's policies and each model alone, print a table, and draw it into RUN/figures."""
    from exeunt.plots import save_figure
    from exeunt.plots.frontiers import accuracy_against_time
    from exeunt.plots.style import figure_of
    from exeunt.timing.bench import time_alternatives

    run = timed.run
    ways = [*_alone(run, timed.trusted), *_policies(timed)]
    found = time_alternatives(
        ways, {size: timed.batch(size) for size in sizes},
        repeats=repeats, max_seconds=max_seconds, progress=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    typer.echo(f"{ways[0].name} = 100%\n{_table(found)}")
    axes = accuracy_against_time(found)
    for figure in save_figure(figure_of(axes), run.folder("figures") / "accuracy_against_time"):
        typer.echo(f"written to {figure}")


def _alone(run: RunFolder, trusted: str | None) -> list[Alternative]:
    """Return every model alone and original, the most expensive first, then the same networks at other precisions."""
    from exeunt.making.precision_run import other_precisions
    from exeunt.run.executors import default_executor, open_executor
    from exeunt.run.inputs import InputPreparation
    from exeunt.timing.bench import Alternative, whole_network

    recorded: Any = run.recorded("test")  # whose inputs need not be those of the models' own test parts

    def alone(name: str, model: RunFolder, trace: ExitTrace) -> Alternative:
        segments = None if model.runs_whole else ((0, model.cost.n_exits - 1),)
        executor = open_executor(model, default_executor(model), trusted=trusted, segments=segments)
        answer = whole_network(executor, InputPreparation(model))
        return Alternative(f"{name} alone", 1 - float(trace.risk[-1]), lambda inputs, _: answer(inputs))

    models = {entry.name: run.open_model(entry.name) for entry in run.cascade}
    ordered = sorted(models, key=lambda name: -models[name].cost.full)
    ways = [alone(name, models[name], recorded[name]) for name in ordered]
    asked = {model.path for model in models.values()}
    for name in ordered:
        for precision, other in other_precisions(models[name]).items():
            if other.path not in asked:
                trace = concatenate([other.trace(part) for part in TRACED])
                same = trace.take(np.isin(trace.id, recorded[name].id))
                ways.append(alone(f"{name}, {precision},", other, same))
    return ways


def _policies(timed: TimedNetwork) -> Iterator[Alternative]:
    """Yield policies for several budgets, and the run's own last, each on the exits that it runs."""
    import exeunt as ex
    from exeunt.timing.bench import ExitMix, policy_alternative
    from exeunt.trace import CascadeTrace

    run = timed.run
    fit, calibrate = (
        CascadeTrace.of(run.trace(part), [one.step for one in run.cascade]) for part in ("fit", "calibrate")
    )
    least = fit.alone.cost.first / fit[fit.most_expensive].cost.full
    policies = {
        f"cascade, {share}%": ex.cascade(fit, calibrate, budget=f"{share}%")
        for share in _SHARES
        if share / 100 > 1.05 * least
    }
    if run.has_policy:
        policies[_OWN] = run.policy
    for name, policy in policies.items():
        trace = run.replayed(policy, "test")
        exits = policy.route(trace)
        accuracy = ex.evaluate(policy, trace).accuracy
        left = float(trace.cost.cumulative[exits].mean() / trace.cost.full)
        mix = ExitMix(policy, exits, left, name, float(accuracy or 0.0), on_line=name != _OWN)
        yield policy_alternative(timed.open_of(policy), mix)


def _table(found: Sequence[TimedAlternative]) -> str:
    from exeunt._text import text_table

    return text_table(
        ["batch", "way", "accuracy", "ms per input", "of the first"],
        [
            [str(one.batch_size), one.name, f"{one.accuracy:.2%}", str(one.ms), one.share.percent]
            for one in found
        ],
    )  # fmt: skip
