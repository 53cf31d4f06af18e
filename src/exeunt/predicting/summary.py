"""What came of a prediction: how many inputs were answered, at what cost, and how many rightly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from exeunt._words import counted
from exeunt.budget_text import amount_text
from exeunt.data.stored_inputs import ImageFiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exeunt.data import Dataset
    from exeunt.policy import Policy
    from exeunt.predicting.columns import Cells

__all__ = ["COUNTED", "PredictionSummary", "Tally", "true_classes"]

COUNTED = ("class_name", "exit", "cost", "borderline", "truncated", "error")
"""The columns that `Tally` reads."""


@dataclass(frozen=True)
class PredictionSummary:
    """What was predicted: number of inputs, and mean cost per answered input (`spend`), in `unit`.

    `spend_apart`: what they would have cost had no two exits been run together (see `Answers.cost`).
    `n_unanswered`: inputs that could not be read, or led to values that are not finite; `first_error` says why of the
    first. `n_borderline`: see `Answers`. `n_truncated`: texts that were longer than the network takes. `n_right` of
    `n_labelled` answered inputs with a known class were right. `out`: the file written; None for standard output. Both
    spends are None where no input was answered.
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
    out: Path | None
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


class Tally:
    """Counts what was predicted under a policy, part after part.

    `truth`: the class name of each input in order, None for unknown.
    """

    def __init__(self, policy: Policy, truth: Sequence[str | None] | None) -> None:
        self._policy, self._truth = policy, truth
        self._cost = self._cost_apart = 0.0
        self._n = self._unanswered = self._borderline = self._truncated = self._labelled = self._right = 0
        self._first_error: str | None = None

    def add(self, cells: Cells) -> None:
        """Count these rows, the next ones in order."""
        answers = cells["class_name"]
        if self._truth is not None:
            known = self._truth[self._n : self._n + len(answers)]
            both = [(a, t) for a, t in zip(answers, known, strict=True) if a is not None and t is not None]
            self._labelled += len(both)
            self._right += sum(answer == truth for answer, truth in both)
        self._n += len(answers)
        self._unanswered += answers.count(None)
        self._borderline += cells["borderline"].count(True)
        self._truncated += cells["truncated"].count(True)
        self._cost += float(np.sum([cost for cost in cells["cost"] if cost is not None]))
        exits = [exit_ for exit_ in cells["exit"] if exit_ is not None]
        self._cost_apart += float(self._policy.cost.cumulative[exits].sum())
        self._first_error = self._first_error or next(filter(None, cells["error"]), None)

    def summary(self, out: Path | None) -> PredictionSummary:
        """Return what was counted."""
        answered = self._n - self._unanswered
        return PredictionSummary(
            n=self._n,
            n_unanswered=self._unanswered,
            n_borderline=self._borderline,
            n_truncated=self._truncated,
            n_labelled=self._labelled,
            n_right=self._right,
            spend=self._cost / answered if answered else None,
            spend_apart=self._cost_apart / answered if answered else None,
            budget=self._policy.budget,
            unit=self._policy.cost.unit,
            out=out,
            first_error=self._first_error,
        )


def true_classes(inputs: Dataset, class_names: Sequence[str]) -> tuple[list[str | None] | None, str]:
    """Return the class name of each input, None where none is known, and a note of what could not be used.

    Names are those of labels; without labels, of folders that image files lie in, if all are classes of the network.
    Labels are compared by name, since data may number the same classes otherwise.
    """
    known = set(class_names)
    if inputs.labels is not None and inputs.class_names is not None:
        names = [inputs.class_names[k] if k >= 0 else None for k in inputs.labels.tolist()]
        unknown = sorted({name for name in names if name is not None} - known)
        if not unknown:
            return names, ""
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        return None, f"no accuracy: the data have classes that the network does not know: {shown}"
    if isinstance(inputs.stored, ImageFiles):
        folders = [PurePath(inputs.name(i)).parent.name for i in range(len(inputs))]
        if known.issuperset(folders):
            return list(folders), ""
    return None, ""
