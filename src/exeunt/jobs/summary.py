"""The counts of a job, which add up over blocks in any order; its progress; and its summary in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

from exeunt._support.progress import Progress
from exeunt._support.text import counted
from exeunt.costs.budget_text import amount_text
from exeunt.policy import Policy
from exeunt.runs.folder import RunFolder

_LEVEL = 0.95
_EVERY_S = 2.0
_SHOWN = 5  # classes in a message


class Truth(NamedTuple):
    """The true class of each input by name (n,), None for an unknown one; `names` is None if all are unknown.

    `unknown`: classes of the data that the network does not know. `comparable`: False if the folders of image files are
    not named like classes of the network.
    """

    names: Sequence[str | None] | None
    unknown: tuple[str, ...] = ()
    comparable: bool = True


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts and sums over inputs.

    `n_unanswered`: inputs that could not be read, led to values that are not finite, or got no answer from live models;
    `first_error`: position among all inputs, and message, of the first of them. `n_unpaid`: those of them for which
    there was too little money. `n_borderline`: see `Answers`. `n_truncated`: texts that were longer
    than the network takes. `n_labelled`: answered inputs of a class that the network knows, of which `n_right` were
    answered correctly; `n_unknown`: answered inputs of another class. `cost`: of the answered inputs; `cost_apart`:
    their cost if no two exits had been run together (see `Answers.cost`). `unknown`, `comparable`: see `Truth`.
    """

    n: int = 0
    n_unanswered: int = 0
    n_unpaid: int = 0
    n_borderline: int = 0
    n_truncated: int = 0
    n_labelled: int = 0
    n_unknown: int = 0
    n_right: int = 0
    cost: float = 0.0
    cost_apart: float = 0.0
    first_error: tuple[int, str] | None = None
    unknown: tuple[str, ...] = ()
    comparable: bool = True

    @classmethod
    def of(
        cls, start: int, answers: Sequence[str | None], truth: Truth, errors: Mapping[int, str], **counts: Any
    ) -> Tally:
        """Count a block of inputs, of which the first has the position `start` among all inputs.

        `answers`: names of the predicted classes, None without an answer. `errors`: why inputs have no answer, by their
        position in the block. `counts`: other fields.
        """
        pairs = zip(answers, truth.names or (), strict=False)
        both = [(answer, name) for answer, name in pairs if answer is not None and name is not None]
        n_unknown = sum(name in set(truth.unknown) for _, name in both)
        return cls(
            n=len(answers),
            n_unanswered=answers.count(None),
            n_labelled=len(both) - n_unknown,
            n_unknown=n_unknown,
            n_right=sum(answer == name for answer, name in both),
            first_error=min(((start + row, why) for row, why in errors.items()), default=None),
            unknown=truth.unknown[: _SHOWN + 1],
            comparable=truth.comparable,
            **counts,
        )

    def __add__(self, other: Tally) -> Tally:
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(Tally)
            if field.type in ("int", "float")
        }
        return Tally(
            **sums,
            first_error=min(filter(None, (self.first_error, other.first_error)), default=None),
            unknown=tuple(sorted({*self.unknown, *other.unknown})[: _SHOWN + 1]),
            comparable=self.comparable and other.comparable,
        )

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Tally:
        """Rebuild from `dataclasses.asdict`, also after JSON."""
        error = None if body["first_error"] is None else tuple(body["first_error"])
        return cls(**{**body, "first_error": error, "unknown": tuple(body["unknown"])})

    @property
    def n_answered(self) -> int:
        """Number of answered inputs."""
        return self.n - self.n_unanswered

    @property
    def note(self) -> str:
        """A line about labelled inputs that the accuracy leaves out; "" if there are none."""
        if not self.unknown:
            return ""
        shown = ", ".join(self.unknown[:_SHOWN]) + (", ..." if len(self.unknown) > _SHOWN else "")
        return (
            f"no accuracy on {counted(self.n_unknown, 'answered input')} of classes that the network does not know "
            f"(it cannot be right there): {shown}"
        )

    @property
    def truncated_text(self) -> str:
        """How many texts were cut, in words."""
        return f"{counted(self.n_truncated, 'text was', 'texts were')} longer than the network takes and cut"


@dataclass(frozen=True, kw_only=True)
class PredictionSummary(Tally):
    """The tally of a prediction, with the `budget` per input, None if there is none, and its `unit`.

    `out`: the file or folder that was written; None for standard output. `watched`: a line on drift, or "".
    """

    budget: float | None
    unit: str
    out: Path | str | None
    watched: str = ""

    @classmethod
    def of_job(
        cls, total: Tally, policy: Policy, out: Path | str | None, watched: str = ""
    ) -> PredictionSummary:
        """Return the summary of inputs that were answered under a policy."""
        return cls(**vars(total), budget=policy.limit, unit=policy.cost.unit, out=out, watched=watched)

    @property
    def mean_cost(self) -> float | None:
        """Mean cost per answered input, in `unit`; None where no input was answered."""
        return self.cost / self.n_answered if self.n_answered else None

    def __str__(self) -> str:
        lines = [f"{self.n_answered:,} of {counted(self.n, 'input')} answered"]
        if self.n_unanswered:
            lines[0] += " (the column 'error' says why not)"
        if self.mean_cost is not None:
            lines[0] += f"; mean cost {amount_text(self.mean_cost, self.unit)}"
            if self.budget is not None:
                used = f"{self.mean_cost / self.budget:.1%} of the budget"
                lines[0] += f" of {amount_text(self.budget, self.unit)} allowed ({used})"
        if self.n_unpaid:
            lines.append(
                f"{counted(self.n_unpaid, 'input has', 'inputs have')} no answer because the money was used up: ask "
                "about them in another job"
            )
        if self.cost > self.cost_apart * (1 + 1e-6):
            lines.append(
                "exits were run together, by the plan for this machine or because the network runs whole; one by one "
                f"they would have cost {amount_text(self.cost_apart / self.n_answered, self.unit)}"
            )
        if self.n_labelled and self.comparable:
            lines.append(
                f"accuracy {self.n_right / self.n_labelled:.2%} on {counted(self.n_labelled, 'answered input')} "
                "with labels"
            )
        if self.note:
            lines.append(self.note)
        if self.n_borderline:
            lines.append(
                f"{self.n_borderline} came so close to a threshold or to another class that they might be answered "
                "otherwise in another batch (see the column 'borderline')"
            )
        if self.n_truncated:
            lines.append(f"{self.truncated_text} (see the column 'truncated')")
        written = "" if self.out is None else f"written to {self.out}"
        return "\n".join([*lines, *filter(None, (self.watched, written))])


def recorded_text(total: Tally, out: str, run: RunFolder) -> str:
    """Return the summary of a recording in words."""
    exits = counted(run.cost.n_exits, "exit")
    lines = [f"{total.n_answered:,} of {counted(total.n, 'input')} recorded at {exits}"]
    if total.first_error is not None:
        lines.append(
            f"{counted(total.n_unanswered, 'input was', 'inputs were')} left out; the first: {total.first_error[1]}"
        )
    if total.n_labelled and total.comparable:
        lines.append(
            f"the last exit is right on {total.n_right / total.n_labelled:.2%} of "
            f"{counted(total.n_labelled, 'input')} with labels"
        )
    if total.note:
        lines.append(total.note)
    if total.n_truncated:
        lines.append(total.truncated_text)
    lines.append(
        f"written to {out}; next: exeunt calibrate {quote(str(run.path))} "
        f"--budget {run.cost.share_to_try(0.5):.0%} --traces {quote(str(out))}"
    )
    return "\n".join(lines)


def planned_cost(policy: Policy, n: int) -> str:
    """Say the expected cost of n inputs, and the bound that their mean cost keeps with probability 95%, if known."""
    show, expected = policy.cost.show, policy.expected_cost
    text = f"planned: {show(expected * n)} for {counted(n, 'input')}, {show(expected)} each"
    if policy.limit is None:
        return text
    text += f" of {show(policy.limit)} allowed"
    if policy.distribution is None:
        return f"{text} ({policy.calibration} calibration has no exact distribution of the mean cost)"
    limit = policy.distribution.batch_quantile(_LEVEL, n)
    return f"{text}; with probability {_LEVEL:.0%} at most {show(limit)} each"


class JobProgress(Progress):
    """The progress of a job of n inputs, after a line about its planned cost; silent for a job of a single block.

    `policy`: see `Job.planned`. `total`: the tally of blocks that were done before.
    """

    def __init__(
        self, policy: Policy | None, n: int, total: Tally, *, block_size: int, say: Callable[[str], None]
    ) -> None:
        self.tally, self._budget = total, None if policy is None else policy.limit
        if n > block_size and policy is not None:
            say(planned_cost(policy, n))
        if total.n:
            say(f"{total.n:,} of {counted(n, 'input')} were done before")
        super().__init__("inputs", total=n, done=total.n, say=say, every_s=_EVERY_S, show=n > block_size)

    def add(self, tally: Tally) -> None:
        """Count a block that was done."""
        self.tally += tally
        if self._budget and self.tally.n_answered:
            used = self.tally.cost / (self._budget * self.tally.n_answered)
            self.set_postfix_str(f"{used:.1%} of the budget so far", refresh=False)
        self.update(tally.n)
