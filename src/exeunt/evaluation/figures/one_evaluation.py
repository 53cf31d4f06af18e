"""Figures of one evaluation: shares of inputs (Figures 4 and 6) and risk (Figure 7) by exit, and all into a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._support.arrays import Floats
from exeunt._support.files import make_folder
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.evaluation.figures import style
from exeunt.evaluation.figures.curves import accuracy_against_budget, cost_against_budget
from exeunt.evaluation.figures.drift import draw_watch
from exeunt.evaluation.frontiers import frontier
from exeunt.evaluation.replay import Result, evaluate, score_exits
from exeunt.guarantees.confidence_intervals import wilson_interval
from exeunt.policy import Policy
from exeunt.rules.baselines import msdnet
from exeunt.rules.catalogue import PRESETS, eero
from exeunt.rules.common_threshold import common_threshold
from exeunt.trace import ExitTrace, concatenate
from exeunt.watch import Watch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_evaluation(
    policy: Policy,
    fit: ExitTrace,
    calibrate: ExitTrace,
    test: ExitTrace,
    out_dir: str | Path,
    *,
    splits: int = 10,
    n_budgets: int = 13,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write every figure of an evaluation as PNG and SVG to `out_dir` (made if missing); return the paths.

    The policy itself is measured on `test`, and watched there in a random order. Two figures compare its rule with two
    others over budgets. They split the union of the three traces again `splits` times, in the same shares, and fit,
    calibrate and test every policy anew; they are left out unless all three traces are labelled. `progress(name)`:
    called before each step.

    Raises InputError if a trace comes from another network than the policy.
    """
    folder = Path(out_dir)
    make_folder(folder)
    written: list[Path] = []

    def draw(name: str, make: Callable[[], Axes | Figure]) -> None:
        progress(name)
        written.extend(style.save_figure(make(), folder / name))

    # A learned score was fitted on one of the parts that are split again here, so the rule must learn it anew.
    score = policy.score.name if policy.score.name in test.scores else None
    compared = _compared(policy, seed=seed, score=score)
    result = evaluate(policy, test)
    draw("rates_and_shares", lambda: rates_and_shares(policy, result))
    if policy.watched is not None:
        watch = Watch(policy)
        watch.replay(test, seed=seed)
        draw("watch", lambda: draw_watch(watch))
    if test.has_loss:
        draw("risk_per_exit", lambda: risk_per_exit(test))
    every_input = concatenate([fit, calibrate, test])
    if not every_input.has_loss:
        return written
    progress("comparing policies")
    curve = frontier(
        compared,
        every_input,
        np.linspace(every_input.cost.first, every_input.cost.full, n_budgets).tolist(),
        splits=splits,
        seed=seed,
        fit=fit.n / every_input.n,
        calibrate=calibrate.n / every_input.n,
        test=test.n / every_input.n,
    )
    draw("accuracy_against_budget", lambda: accuracy_against_budget(curve, every_input, results=[result]))
    draw("cost_against_budget", lambda: cost_against_budget(curve))
    return written


def rates_and_shares(policy: Policy, result: Result, *, ax: Axes | None = None) -> Axes:
    """Draw, per exit, the planned share of inputs that answer there and the share that did (Figures 4, 6).

    The shares have 95% Wilson intervals.

    Raises InputError if policy and result differ in the number of exits.
    """
    m = policy.n_exits
    if len(result.shares) != m:
        raise InputError(f"the policy has {counted(m, 'exit')} but the result has {len(result.shares)}")
    with style.drawing(ax, width_in=6.6, height_in=3.4) as axes:
        place, width = np.arange(m), 0.4
        axes.bar(
            place - width / 2,
            policy.rates,
            width,
            label="planned",
            facecolor="white",
            edgecolor=style.COLOURS["grey"],
            hatch="////",
            linewidth=0.9,
        )
        axes.bar(
            place + width / 2,
            result.shares,
            width,
            yerr=_wilson_lengths(result.shares, result.n),
            ecolor="#444444",
            error_kw={"elinewidth": 0.9},
            facecolor=style.COLOURS["blue"],
            label="answered, 95% interval",
        )
        style.label_exits(axes, m)
        axes.set_ylabel(f"share of {counted(result.n, 'input')} (%)")
        style.percent_ticks(axes.yaxis)
        full = policy.cost.full
        within = "" if policy.limit is None else f"budget {policy.limit / full:.1%}, "
        axes.set_title(
            f"{policy.name}: {within}mean cost {result.cost / full:.1%} of {policy.cost.show(full)}",
            pad=22,
        )
        style.legend_above(axes)
    return axes


def risk_per_exit(trace: ExitTrace, *, ax: Axes | None = None) -> Axes:
    """Draw the error rate, or mean loss, of each exit over all inputs, with 95% intervals (Figure 7).

    An exit with a higher one than some exit before it is marked: there, depth does harm (overthinking).
    """
    with style.drawing(ax, width_in=6.6, height_in=3.6) as axes:
        risk, place = trace.risk, np.arange(trace.n_exits)
        every = [score_exits(trace, np.full(trace.n, exit_)) for exit_ in place]
        ends = 1 - np.array([result.accuracy_interval for result in every])
        lengths = np.clip([risk - ends[:, 1], ends[:, 0] - risk], 0.0, None)  # rounding may make one negative
        measure = "error rate" if trace.measure == "accuracy" else "mean loss"
        low, high = float((risk - lengths[0]).min()), float((risk + lengths[1]).max())
        worse = risk > np.minimum.accumulate(risk)
        bars = axes.errorbar(
            place,
            risk,
            yerr=lengths,
            color=style.COLOURS["blue"],
            marker="o",
            linewidth=1.2,
            elinewidth=1.2,
            capsize=2.5,
            label=f"{measure}, 95% interval",
        )
        handles: list[Any] = [bars]
        if worse.any():
            handles += axes.plot(
                place[worse],
                risk[worse],
                linestyle="none",
                marker="s",
                markersize=5.5,
                zorder=3,
                color=style.COLOURS["vermillion"],
                label="worse than an earlier exit",
            )
        style.label_exits(axes, trace.n_exits)
        # The axis begins at 0 unless all exits lie so far above it that they could not be told apart.
        bottom = 0.0 if low < high / 2 else low - 0.1 * (high - low)
        axes.set_ylim(bottom, min(1.0, high + 0.06 * (high - low)))
        axes.set_ylabel(style.shares_of(measure))
        style.percent_ticks(axes.yaxis)
        axes.set_title(f"Risk of each exit alone ({counted(trace.n, 'input')})", pad=22)
        style.legend_above(axes, handles)
    return axes


def _wilson_lengths(shares: Floats, n: int) -> Floats:
    """Return the lengths of the 95% Wilson intervals below and above shares (m,) of n inputs, (2, m)."""
    counts = np.rint(shares * n).astype(int).tolist()
    low, high = np.array([wilson_interval(count, n) for count in counts]).T
    lengths: Floats = np.clip([shares - low, high - shares], 0.0, None)  # rounding may make one negative
    return lengths


def _compared(policy: Policy, **common: Any) -> dict[str, Callable[..., Policy]]:
    """Return the rule of a policy, or EERO for one without a rule, and two of the literature to compare with."""
    rules: dict[str, Callable[..., Policy]] = {"EERO": eero}
    if policy.name in PRESETS:
        rules = {policy.name: partial(PRESETS[policy.name], answer=policy.answer.name)}
    rules["EERO, marginal (the paper)"] = partial(eero, calibration="marginal")
    if policy.name == "common_threshold":
        rules["geometric (MSDNet)"] = msdnet
    else:
        rules["one common threshold"] = common_threshold
    return {name: partial(rule, **common) for name, rule in rules.items()}
