"""Drawing all figures of one evaluation into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._files import make_folder
from exeunt.baselines import msdnet, predictive_exit
from exeunt.costs import CostModel
from exeunt.evaluation import evaluate
from exeunt.frontiers import frontier
from exeunt.plots.exits import rates_and_shares, rates_for_budgets, risk_per_exit
from exeunt.plots.frontiers import accuracy_against_budget, spent_against_allowed
from exeunt.plots.head_pairs import head_pairs, pair_frontiers
from exeunt.plots.image_sheet import image_sheet, pick_inputs, sheet_rows
from exeunt.plots.style import figure_of, save_figure
from exeunt.policies.catalogue import PRESETS
from exeunt.policies.common_threshold import common_threshold
from exeunt.policies.eero import eero
from exeunt.policy import Policy
from exeunt.trace import ExitTrace, concatenate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compared_presets", "draw_evaluation", "evenly_spaced_budgets"]


def compared_presets(*, seed: int = 0, score: str | None = None) -> dict[str, Callable[..., Policy]]:
    """Return the policies that Figures 2 and 3 compare, by their names in the legend, the reference first.

    Both EEROs have the same rates (`spend="exactly"`, as in the published tables) and differ only in calibration.
    """
    common: dict[str, Any] = {"seed": seed, "score": score}
    return {
        "EERO, sequential": partial(eero, **common),
        "EERO, marginal (the paper)": partial(eero, calibration="marginal", **common),
        "geometric": partial(msdnet, **common),
        "Gaussian, σ = 0.5": partial(predictive_exit, sigma=0.5, **common),
        "Gaussian, σ = 2": partial(predictive_exit, sigma=2.0, **common),
        "one common threshold": partial(common_threshold, **common),
    }


def evenly_spaced_budgets(cost: CostModel, n_budgets: int = 13) -> list[float]:
    """Return budgets from the first exit's cost to the last exit's, in the unit of `cost`."""
    return [float(amount) for amount in np.linspace(cost.first, cost.full, n_budgets)]


def draw_evaluation(
    policy: Policy,
    fit: ExitTrace,
    calibrate: ExitTrace,
    test: ExitTrace,
    out_dir: str | Path,
    *,
    image: Callable[[int], Any] | None = None,
    class_names: Sequence[str] | None = None,
    splits: int = 10,
    n_budgets: int = 13,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write every figure of an evaluation as PNG and SVG to `out_dir` (made if missing); return the paths.

    The policy itself is measured on `test`. Figures that compare policies over budgets, its own rule among them, split
    the union of the three traces again `splits` times, in the same shares, since every policy must be fitted,
    calibrated and tested anew; they are left out unless all three traces are labelled. `image(i)`: the image of input i
    of `test`, for the sheet.
    `progress(name)`: called before each step.

    Raises InputError if a trace comes from another network than the policy.
    """
    folder = Path(out_dir)
    make_folder(folder)
    written: list[Path] = []

    def draw(name: str, make: Callable[[], Figure]) -> None:
        if progress is not None:
            progress(name)
        written.extend(save_figure(make(), folder / name))

    # The compared policies use the policy's score if the traces hold it. A learned score was fitted on one of the
    # parts, which are split again here.
    score = policy.score.name
    common: dict[str, Any] = {"seed": seed, "score": score if score in test.scores else None}
    result = evaluate(policy, test)
    draw("rates_and_shares", lambda: figure_of(rates_and_shares(policy, result)))
    if fit.label is not None:
        draw("rates_for_budgets", lambda: _eero_at_three_budgets(fit, calibrate, test, common))
    if test.label is not None:
        draw("risk_per_exit", lambda: figure_of(risk_per_exit(test)))
    if image is not None:
        draw("inputs_by_exit", lambda: _sheet(policy, test, image, class_names))
    whole = concatenate([fit, calibrate, test])
    if whole.label is None:
        return written
    repeat: dict[str, Any] = {"splits": splits, "seed": seed}
    repeat |= {"fit": fit.n / whole.n, "calibrate": calibrate.n / whole.n, "test": test.n / whole.n}
    if progress is not None:
        progress("comparing policies")
    compared = compared_presets(**common)
    if policy.name in PRESETS:
        compared[policy.name] = partial(PRESETS[policy.name], answer=policy.answer.name, **common)
    found = frontier(compared, whole, evenly_spaced_budgets(whole.cost, n_budgets), **repeat)
    draw(
        "accuracy_against_budget",
        lambda: figure_of(accuracy_against_budget(found, whole, results=[result])),
    )
    draw("spent_against_allowed", lambda: figure_of(spent_against_allowed(found)))
    if whole.n_exits > 1:
        draw("head_pairs", lambda: _pairs(whole, n_budgets, repeat | common))
    return written


def _eero_at_three_budgets(
    fit: ExitTrace, calibrate: ExitTrace, test: ExitTrace, common: dict[str, Any]
) -> Figure:
    cost = fit.cost
    shares = (0.3, 0.5, 0.7) if cost.first <= 0.3 * cost.full else (0.25, 0.5, 0.75)
    low = 0.0 if cost.first <= 0.3 * cost.full else cost.first
    budgets = [low + share * (cost.full - low) for share in shares]
    policies = [eero(fit, calibrate, budget=budget, **common) for budget in budgets]
    return rates_for_budgets(policies, [evaluate(policy, test) for policy in policies])


def _sheet(
    policy: Policy, test: ExitTrace, image: Callable[[int], Any], class_names: Sequence[str] | None
) -> Figure:
    picked = pick_inputs(policy, test)
    in_use = int(np.count_nonzero(evaluate(policy, test).shares))
    some = f", {len(picked)} of {in_use} exits in use shown" if len(picked) < in_use else ""
    title = f"Who leaves first: {policy.name}, {policy.cost.share(policy.budget):.0%} of {policy.cost.whole} allowed"
    return image_sheet(
        sheet_rows(picked, policy.answer.on(test), image, class_names=class_names), title=title + some
    )


def _pairs(whole: ExitTrace, n_budgets: int, repeat: dict[str, Any]) -> Figure:
    # An early, a middle and a late head show the whole range, whatever the number of exits.
    last = whole.n_exits - 1
    heads = sorted({round(last * share) for share in (0.2, 0.45, 0.7)} - {last})
    return figure_of(head_pairs(pair_frontiers(whole, heads, n_budgets=n_budgets, **repeat), whole))
