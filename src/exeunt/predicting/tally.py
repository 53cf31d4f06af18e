"""Counting what was predicted, block by block: what blocks are sums of can be added in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from exeunt._text import counted
from exeunt.data import Dataset
from exeunt.data.stored_inputs import ImageFiles
from exeunt.policy import Policy
from exeunt.predicting.columns import Cells
from exeunt.predicting.summary import PredictionSummary

__all__ = ["Tally", "Truth", "true_classes"]

_SHOWN = 5  # classes in a message


class Truth(NamedTuple):
    """The class name of each input (n,), None where it is not known; None where none is.

    `unknown`: classes of the data that the network does not know. `comparable`: whether the folders of image files are
    named like classes of the network, so that they may be compared.
    """

    names: Sequence[str | None] | None
    unknown: tuple[str, ...] = ()
    comparable: bool = True


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts and sums over inputs. `allowed`: the budgets of those that were answered.

    `n_labelled`: answered inputs with a class that the network knows; `n_unknown`: those with another class.
    `first_error`: which input has it, by its place among all, and what it says. `unknown`, `comparable`: see `Truth`.
    """

    n: int = 0
    n_unanswered: int = 0
    n_borderline: int = 0
    n_truncated: int = 0
    n_labelled: int = 0
    n_unknown: int = 0
    n_right: int = 0
    cost: float = 0.0
    cost_apart: float = 0.0
    allowed: float = 0.0
    first_error: tuple[int, str] | None = None
    unknown: tuple[str, ...] = ()
    comparable: bool = True

    @classmethod
    def of(cls, start: int, cells: Cells, truth: Truth, policy: Policy) -> Tally:
        """Count the rows from this input on, as answered under a policy."""
        answers = cells["class_name"]
        names, unknown = truth.names or (), set(truth.unknown)
        both = [(a, t) for a, t in zip(answers, names, strict=False) if a is not None and t is not None]
        n_unknown = sum(name in unknown for _, name in both)
        exits = [exit_ for exit_ in cells["exit"] if exit_ is not None]
        errors = [(start + place, error) for place, error in enumerate(cells["error"]) if error]
        return cls(
            n=len(answers),
            n_unanswered=answers.count(None),
            n_borderline=cells["borderline"].count(True),
            n_truncated=cells["truncated"].count(True),
            n_labelled=len(both) - n_unknown,
            n_unknown=n_unknown,
            n_right=sum(answer == name for answer, name in both),
            cost=float(np.sum([cost for cost in cells["cost"] if cost is not None])),
            cost_apart=float(policy.cost.cumulative[exits].sum()),
            allowed=policy.budget * len(exits),
            first_error=min(errors, default=None),
            unknown=truth.unknown[: _SHOWN + 1],
            comparable=truth.comparable,
        )

    def __add__(self, other: Tally) -> Tally:
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
            if field.type in ("int", "float")
        }
        return Tally(
            **sums,
            first_error=min(filter(None, (self.first_error, other.first_error)), default=None),
            unknown=tuple(sorted({*self.unknown, *other.unknown})[: _SHOWN + 1]),
            comparable=self.comparable and other.comparable,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back an equal one."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Tally:
        """Rebuild from `to_dict`."""
        error = body["first_error"]
        pair = None if error is None else (int(error[0]), str(error[1]))
        return cls(**{**body, "first_error": pair, "unknown": tuple(body["unknown"])})

    @property
    def n_answered(self) -> int:
        """Number of answered inputs."""
        return self.n - self.n_unanswered

    @property
    def note(self) -> str:
        """Which labelled inputs no accuracy is told of; "" if there are none."""
        if not self.unknown:
            return ""
        shown = ", ".join(self.unknown[:_SHOWN]) + (", ..." if len(self.unknown) > _SHOWN else "")
        return (
            f"no accuracy on {counted(self.n_unknown, 'answered input')} of classes that the network does not know "
            f"(it cannot be right there): {shown}"
        )

    def summary(self, policy: Policy, out: Path | str | None) -> PredictionSummary:
        """Return what was counted. `policy`: one that inputs were answered under."""
        answered = self.n_answered
        return PredictionSummary(
            n=self.n,
            n_unanswered=self.n_unanswered,
            n_borderline=self.n_borderline,
            n_truncated=self.n_truncated,
            n_labelled=self.n_labelled if self.comparable else 0,
            n_right=self.n_right if self.comparable else 0,
            spend=self.cost / answered if answered else None,
            spend_apart=self.cost_apart / answered if answered else None,
            budget=self.allowed / answered if answered else policy.budget,
            unit=policy.cost.unit,
            out=out,
            first_error=None if self.first_error is None else self.first_error[1],
        )


def true_classes(inputs: Dataset, class_names: Sequence[str]) -> Truth:
    """Return the true classes of inputs.

    Names are those of labels; without labels, of folders that image files lie in, if all are classes of the network.
    Labels are compared by name, since data may number the same classes otherwise.
    """
    known = set(class_names)
    if (names := inputs.true_names) is not None:
        return Truth(names, tuple(sorted({name for name in names if name is not None} - known)))
    if isinstance(inputs.stored, ImageFiles):
        folders = [PurePath(inputs.name(i)).parent.name for i in range(len(inputs))]
        named = known.issuperset(folders)
        return Truth(folders if named else None, comparable=named)
    return Truth(None)
