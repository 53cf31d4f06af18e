"""Drawing all figures of one evaluation into a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._files import make_folder
from exeunt.baselines import msdnet
from exeunt.evaluation import evaluate
from exeunt.frontiers import frontier
from exeunt.plots.curves import accuracy_against_budget, cost_against_budget
from exeunt.plots.exits import rates_and_shares, risk_per_exit
from exeunt.plots.image_sheet import image_sheet, pick_inputs, sheet_rows
from exeunt.plots.style import figure_of, save_figure
from exeunt.policies.catalogue import PRESETS
from exeunt.policies.common_threshold import common_threshold
from exeunt.policies.eero import eero
from exeunt.policy import Policy
from exeunt.trace import ExitTrace, concatenate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_evaluation"]


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
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write every figure of an evaluation as PNG and SVG to `out_dir` (made if missing); return the paths.

    The policy itself is measured on `test`. Figures that compare policies over budgets, its own rule first, split
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
        progress(name)
        written.extend(save_figure(make(), folder / name))

    # A learned score was fitted on one of the parts, which are split again here: it is left to the rule.
    score = policy.score.name if policy.score.name in test.scores else None
    compared = _compared(policy, seed=seed, score=score)
    result = evaluate(policy, test)
    draw("rates_and_shares", lambda: figure_of(rates_and_shares(policy, result)))
    if test.label is not None:
        draw("risk_per_exit", lambda: figure_of(risk_per_exit(test)))
    if image is not None:
        draw("inputs_by_exit", lambda: _sheet(policy, test, image, class_names))
    whole = concatenate([fit, calibrate, test])
    if whole.label is None:
        return written
    progress("comparing policies")
    found = frontier(
        compared, whole, np.linspace(whole.cost.first, whole.cost.full, n_budgets).tolist(), splits=splits, seed=seed,
        fit=fit.n / whole.n, calibrate=calibrate.n / whole.n, test=test.n / whole.n,
    )  # fmt: skip
    draw(
        "accuracy_against_budget",
        lambda: figure_of(accuracy_against_budget(found, whole, results=[result])),
    )
    draw("cost_against_budget", lambda: figure_of(cost_against_budget(found)))
    return written


def _compared(policy: Policy, **common: Any) -> dict[str, Callable[..., Policy]]:
    """Return the rule of a policy, or EERO for one without a rule, and two of the literature to compare with."""
    if policy.name in PRESETS:
        own = {policy.name: partial(PRESETS[policy.name], answer=policy.answer.name, **common)}
    else:
        own = {"EERO": partial(eero, **common)}
    paper = partial(eero, calibration="marginal", **common)
    other = (
        {"geometric (MSDNet)": msdnet}
        if policy.name == "common_threshold"
        else {"one common threshold": common_threshold}
    )
    return {
        **own,
        "EERO, marginal (the paper)": paper,
        **{name: partial(make, **common) for name, make in other.items()},
    }


def _sheet(
    policy: Policy, test: ExitTrace, image: Callable[[int], Any], class_names: Sequence[str] | None
) -> Figure:
    picked = pick_inputs(policy, test)
    in_use = int(np.count_nonzero(evaluate(policy, test).shares))
    some = f", {len(picked)} of {in_use} exits in use shown" if len(picked) < in_use else ""
    title = f"Which inputs leave first: {policy.name}, {policy.cost.share(policy.budget):.0%} of {policy.cost.whole}"
    return image_sheet(
        sheet_rows(picked, policy.answer.on(test), image, class_names=class_names), title=title + some
    )
