"""The table of a policy: per exit what was planned, and what the thresholds did on the calibration inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exeunt._arrays import Floats, Integers
from exeunt.calibration import WORDS

if TYPE_CHECKING:
    from exeunt.costs import CostModel
    from exeunt.trace.cascade_step import CascadeStep

__all__ = ["exit_table"]


def exit_table(
    cost: CostModel,
    rates: Floats,
    counts: Integers | None,
    thresholds: Floats,
    cascade: Sequence[CascadeStep] = (),
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows, one per exit. A score has no unit: "of those asked" says how strict a threshold is.

    `rates` (m,): planned shares. `counts` (m,): calibration inputs answered, if known. `thresholds` (m,).
    `cascade`: whose the exits are, named beside their numbers.
    """
    size, unit = cost.scale
    header = [
        "exit", f"cost ({unit})", "planned", "answered", "of those asked", "answers if score >="
    ]  # fmt: skip
    answered, asked = ["-"] * len(rates), ["-"] * len(rates)
    if counts is not None:
        reached = counts[::-1].cumsum()[::-1]
        answered = [f"{count / reached[0]:.1%}" for count in counts]
        asked = [f"{count / of:.1%}" if of else "-" for count, of in zip(counts, reached, strict=True)]
    shown = [WORDS.get(threshold, f"{threshold:.6g}") for threshold in thresholds]
    spent = [f"{amount / size:.4g}" for amount in cost.cumulative]
    planned = [f"{rate:.1%}" for rate in rates]
    names = [name for step in cascade for name in step.exit_names] or [""] * len(rates)
    exits = [f"{exit_} {name}".strip() for exit_, name in enumerate(names)]
    return header, [list(row) for row in zip(exits, spent, planned, answered, asked, shown, strict=True)]
