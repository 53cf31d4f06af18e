"""What came of a prediction: how many inputs were answered, at what cost, and how many rightly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exeunt._text import counted
from exeunt.budget_text import amount_text

__all__ = ["PredictionSummary"]


@dataclass(frozen=True)
class PredictionSummary:
    """What was predicted: number of inputs, and mean cost per answered input (`spend`), in `unit`.

    `spend_apart`: what they would have cost had no two exits been run together (see `Answers.cost`). `n_unanswered`:
    inputs that could not be read, or led to values that are not finite; `first_error` says why of the first.
    `n_borderline`: see `Answers`. `n_truncated`: texts that were longer than the network takes. `n_right` of
    `n_labelled` answered inputs, those of a class that the network knows, were right. `out`: the file or folder
    written; None for standard output. Both spends are None where no input was answered.
    """

    n: int
    n_unanswered: int
    n_borderline: int
    n_truncated: int
    n_labelled: int
    n_right: int
    spend: float | None
    spend_apart: float | None
    budget: float
    unit: str
    out: Path | str | None
    first_error: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.n - self.n_unanswered:,} of {counted(self.n, 'input')} answered"]
        if self.n_unanswered:
            lines[0] += " (the column 'error' says why not)"
        if self.spend is not None:
            lines[0] += (
                f"; mean cost {amount_text(self.spend, self.unit)} of {amount_text(self.budget, self.unit)} allowed "
                f"({self.spend / self.budget:.1%} of the budget)"
            )
        if (
            self.spend is not None
            and self.spend_apart is not None
            and self.spend > self.spend_apart * (1 + 1e-6)
        ):
            lines.append(
                "exits were run together, by the plan for this machine or because the network runs whole; one by one "
                f"they would have cost {amount_text(self.spend_apart, self.unit)}"
            )
        if self.n_labelled:
            lines.append(
                f"accuracy {self.n_right / self.n_labelled:.2%} on {counted(self.n_labelled, 'answered input')} "
                "with labels"
            )
        if self.n_borderline:
            lines.append(
                f"{self.n_borderline} came so close to a threshold or to another class that they might be answered "
                "otherwise in another batch (see the column 'borderline')"
            )
        if self.n_truncated:
            lines.append(
                f"{counted(self.n_truncated, 'text was', 'texts were')} longer than the network takes and cut (see "
                "the column 'truncated')"
            )
        return "\n".join([*lines, *([] if self.out is None else [f"written to {self.out}"])])
