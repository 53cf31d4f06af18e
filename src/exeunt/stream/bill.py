"""What a policy has saved by the bills, and what it has lost: counted from the stream, with intervals over drawn units.

Saved is what the reference would have cost for the requests that the policy answered, less what these cost, less what
was spent on comparing. The reference's cost is known where it was asked. Elsewhere its input is known, and the rest is
estimated from drawn units, for which the reference was asked in comparison.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from exeunt.stream.ratios import LOSSES, Interval, RatioSums
from exeunt.stream.records import COMPARED, Record, one_each
from exeunt.stream.units import DAY_S, Unit

_LONG_S = 3652 * DAY_S

_SUMS, _COUNTS = ("loss", "loss_answered", "rest"), ("answered", "decided")


@dataclass
class Span:
    """The requests to `auto` while one policy was active, without those of clients who opted out.

    `since`: when it became active, in seconds since 1970; `compared`: US dollars spent on comparing until then.
    `requests`: all; `in_units`: those that their unit took. `answered`: by model; `decided`: reasons by number.
    `by_policy`: those that the policy was asked for, and `cost` of these. `reference_cost`: what the reference cost for
    those of them for which it was asked; `estimated`: the others, and `input_cost` of these at the reference.
    `opted_out`: requests of clients who are not compared, which count nowhere else. `refused`: those that a compared
    model does not take, or that could cost more than the cap. `guessed`, `retries`: see `Place`.

    Of drawn units: `loss` per request, `loss_answered` per request that the policy was asked for, `rest`: what the
    reference costs beyond the input per request of `estimated` ones.
    """

    policy: str
    since: float = 0.0
    compared: float = 0.0
    requests: int = 0
    in_units: int = 0
    by_policy: int = 0
    cost: float = 0.0
    reference_cost: float = 0.0
    estimated: int = 0
    input_cost: float = 0.0
    opted_out: int = 0
    refused: int = 0
    guessed: int = 0
    retries: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    loss: RatioSums = field(default_factory=RatioSums)
    loss_answered: RatioSums = field(default_factory=RatioSums)
    rest: RatioSums = field(default_factory=RatioSums)

    def add(self, record: Record, reference: str, *, opted_out: bool) -> None:
        """Count a request to `auto`. One without an answer has cost something, and saved nothing."""
        if opted_out:
            self.opted_out += 1
            return
        if not record.answered:
            self.cost += record.cost if record.policy else 0.0
            return
        self.requests += 1
        self.in_units += record.is_open
        self.guessed += record.guessed
        self.retries += record.retry
        self.refused += bool(record.refused)
        self.answered[record.answered] += 1
        if record.decided:
            self.decided[record.decided] += 1
        if not record.policy:
            return
        self.by_policy += 1
        self.cost += record.cost
        if reference_was_asked(record, reference):
            self.reference_cost += record.said[reference].cost
        else:
            self.estimated += 1
            self.input_cost += record.input_cost or 0.0

    def add_unit(self, unit: Unit, records: Sequence[Record], reference: str) -> None:
        """Count a drawn unit that has closed, with its compared requests, of which retries are the same row."""
        lost, answered, rest, estimated = 0.0, 0, 0.0, 0
        for record in one_each(records).values():
            if not record.policy:
                continue
            answered += 1
            lost += loss_of(record, reference)
            answer = record.said.get(reference)
            if (
                answer is not None
                and not reference_was_asked(record, reference)
                and record.compared == COMPARED
            ):
                estimated += 1
                rest += answer.cost - (record.input_cost or 0.0)
        probability = unit.probability or 1.0
        self.loss.add(lost, unit.rows, probability)
        self.loss_answered.add(lost, answered, probability)
        self.rest.add(rest, estimated, probability)

    def saved(self, compared: float, rest: RatioSums | None = None) -> Interval | None:
        """Return US dollars saved, net of what has been spent on comparing by now; None with too few drawn units.

        `rest`: in place of its own, where that is of too few.
        """
        spent = self.cost + compared - self.compared
        known = self.reference_cost + self.input_cost - spent
        if not self.estimated:
            return Interval(known, known, known)
        ratio = self.rest.ratio() or (rest and rest.ratio())
        return Interval(*(known + self.estimated * each for each in ratio)) if ratio else None

    @property
    def lost(self) -> Interval | None:
        """By how much the mean grade per request is below the reference's, over all requests; None with few units."""
        ratio = self.loss.ratio(LOSSES)
        share = self.in_units / self.requests if self.requests else 0.0  # later requests lose nothing
        return Interval(*(share * each for each in ratio)) if ratio else None

    @property
    def lost_answered(self) -> Interval | None:
        """The same over the requests that the policy answered."""
        return self.loss_answered.ratio(LOSSES)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        sums = {name: getattr(self, name).to_dict() for name in _SUMS}
        return {**vars(self), **sums, **{name: dict(getattr(self, name)) for name in _COUNTS}}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Span:
        """Rebuild from `to_dict`."""
        sums = {name: RatioSums(**body[name]) for name in _SUMS}
        return cls(**{**body, **sums, **{name: Counter(body[name]) for name in _COUNTS}})


class Bill:
    """The spans of a gateway, the active policy's last."""

    def __init__(self, spans: Sequence[Span] = ()) -> None:
        self.spans = list(spans)

    @property
    def now(self) -> Span:
        """The span of the active policy."""
        return self.spans[-1]

    def begin(self, policy: str, since: float, compared: float) -> None:
        """Begin a span: another policy is active. `compared`: US dollars spent on comparing until now."""
        is_empty = self.spans and not self.now.requests and not self.now.opted_out
        # In place of the list, not within it: a thread may read it.
        self.spans = [*(self.spans[:-1] if is_empty else self.spans), Span(policy, since, compared)]

    def of(self, unit: Unit) -> Span:
        """Return the span in which a unit began."""
        return next((span for span in reversed(self.spans) if span.since <= unit.opened), self.spans[0])

    def saved_in_all(self, compared: float) -> Interval | None:
        """Return US dollars saved since the gateway was first started, net of all comparisons."""
        rest = self._rest()
        total = [0.0, 0.0, 0.0]
        for span in self.spans:
            saved = span.saved(span.compared, rest)
            if saved is None:
                return None
            total = [sum(pair) for pair in zip(total, saved, strict=True)]
        return Interval(*(each - compared for each in total))

    def break_even(self, compared: float, now: float) -> float | None:
        """Return when comparisons will have been earned back at the active policy's pace, in seconds since 1970.

        None if they are earned back already, or are not at this pace, or if too little is known.
        """
        total, span = self.saved_in_all(compared), self.now.saved(compared, self._rest())
        days = (now - self.now.since) / DAY_S
        if total is None or span is None or total.mean >= 0 or span.mean <= 0 or days <= 0:
            return None
        return now - total.mean / (span.mean / days) * DAY_S

    def told(self, compared: float, now: float) -> str:
        """Say what was saved since the first start, and when comparisons are earned back: the same words everywhere."""
        saved, begun = self.saved_in_all(compared), f"Since {_day(self.spans[0].since)}, the first start,"
        spent = f"{in_usd(compared)} for comparisons, audits and judges"
        if saved is None:
            return f"{begun} {spent} were spent. Too few units were compared to say what was saved."
        if not any(span.by_policy for span in self.spans):
            return f"{begun} no policy has answered, and {spent} were spent."
        exact = in_usd(saved.low) == in_usd(saved.high)
        about = "" if exact else f" (95% interval {_range(saved.low, saved.high)})"
        text = f"{begun} {in_usd(abs(saved.mean))} were {_side(saved.mean)}{about}"
        if not compared:
            return f"{text}."
        return f"{text}, net of {spent}. {self._earned_back(saved, compared, now)}"

    def _earned_back(self, saved: Interval, compared: float, now: float) -> str:
        if saved.mean >= 0:
            return "These are earned back."
        day = self.break_even(compared, now)
        if day is None:
            return "At this pace they are not earned back."
        if day - now > _LONG_S:
            return "At this pace they are not earned back within ten years."
        return f"At this pace they are earned back on about {_day(day)}, which is an estimate."

    def _rest(self) -> RatioSums:
        """Return the sums of all spans together."""
        parts = [span.rest for span in self.spans]
        names = RatioSums().to_dict()
        return RatioSums(**{name: sum(getattr(part, name) for part in parts) for name in names})

    def to_dict(self) -> list[dict[str, Any]]:
        """Return a JSON-able form."""
        return [span.to_dict() for span in self.spans]


def loss_of(record: Record, reference: str, *, missing: float = 1.0) -> float:
    """Return by how much the grade of the answer that was given is below the reference's, in [-1, 1].

    `missing`: where a grade is missing and the answer is not surely the reference's.
    """
    if record.answered == reference or not record.policy:
        return 0.0
    answer, of_reference = record.said.get(record.answered), record.said.get(reference)
    if answer is None or answer.grade is None or of_reference is None or of_reference.failed:
        return missing
    return (1.0 if of_reference.grade is None else of_reference.grade) - answer.grade


def reference_was_asked(record: Record, reference: str) -> bool:
    """Return whether the reference was asked for the answer, and not for comparison alone."""
    return reference in record.asked


# -- in words -----------------------------------------------------------------------------------------------------


def in_usd(amount: float) -> str:
    """Return US dollars as people read them, with cents from 1 on: "1,204.50 usd", "0.0123 usd"."""
    if amount == 0 or abs(amount) >= 1:
        return f"{amount:,.2f} usd" if amount else "0 usd"
    digits = min(2 - math.floor(math.log10(abs(amount))), 9)
    return f"{amount:.{digits}f}".rstrip("0").rstrip(".") + " usd"


def _day(time: float) -> str:
    day = datetime.fromtimestamp(time, timezone.utc)
    return f"{day.day} {day:%b %Y}"


def _side(saved: float) -> str:
    return "lost" if saved < 0 else "saved"


def _range(low: float, high: float) -> str:
    """Return an interval of what was saved, in words."""
    if _side(low) != _side(high):
        return f"{in_usd(-low)} lost to {in_usd(high)} saved"
    least, highest = sorted((abs(low), abs(high)))
    return f"{in_usd(least)} to {in_usd(highest)}"
