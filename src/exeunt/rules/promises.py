"""What a policy may promise of its answers: that the mean of a value per input is within a limit.

A promise may concern the answers that come early alone: those before the last exit, or for which a cascade's reference
was not asked. An input that is not answered early has the value `limit`, on which no test can win or lose.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from exeunt._support.arrays import Floats, check_between, short
from exeunt.costs.budget_text import amount_text
from exeunt.errors import InputError
from exeunt.guarantees.p_values import LOSS_BOUNDS
from exeunt.policy import EarlyCertificate, LossCertificate, TailCertificate
from exeunt.policy.certificates import EarlyName, PromiseCertificate
from exeunt.rules.outcomes import Outcome, instead
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.groups import mean, per_unit

ROUNDING = 1e-6
"""Costs that differ by so little are equal: those of cascades are sums, and equal exits differ by less."""


class Words(NamedTuple):
    """What an error says of a promise: what it is about, what it claims, and what can be shown in its place.

    `{limit}` stands for the limit in percent, `{rest}` for 100 less that, `{counted}` for what is counted, `{amount}`
    for a cost.
    """

    subject: str
    claim: str
    instead: str


@dataclass(frozen=True)
class Promise(ABC):
    """A mean that is within `limit` in the long run, and the name of the bound that tests it.

    A kind of promise says which value in [-1, 1] it gives to each input (`values`). The promise is kept exactly where
    the mean of the values is at most `limit`. Where inputs come in groups, it is the mean that guarantees are about.
    """

    limit: float
    bound: str = "betting"

    name: ClassVar[str]
    """The argument of `cheapest` that asks for it."""
    bounds: ClassVar[tuple[str, ...]] = ("betting",)
    """The bounds that may test it, the usual one first."""
    graded: ClassVar[Words]
    """Of answers that are right, or graded."""
    agreement: ClassVar[Words]
    """Where agreement is measured."""

    @abstractmethod
    def values(self, outcome: Outcome) -> Floats:
        """Return a value of each input, (n,)."""

    def measured(self, outcome: Outcome) -> float:
        """Return what of these inputs corresponds to the limit."""
        return float(mean(self.values(outcome), outcome.groups))

    def units(self, outcome: Outcome) -> Floats:
        """Return a value per exchangeable unit, whose mean is within the limit where the promise is kept."""
        return per_unit(self.values(outcome), outcome.groups, self.limit)

    def p_value(self, units: Floats, delta: float) -> float:
        """Return the p-value of the hypothesis that the promise is broken."""
        return LOSS_BOUNDS[self.bound](units, self.limit, delta)

    def with_limit(self, limit: float) -> Promise:
        """Return the same promise with another limit."""
        return replace(self, limit=limit)

    def with_tightest_bound(self, samples: Sequence[Floats], delta: float, *, grouped: bool) -> Promise:
        """Return it with the bound under which most policies pass in a row, by units of fit inputs.

        Of equally good bounds it is the usual one: betting takes less than Hoeffding-Bentkus where losses are near the
        limit. `grouped`: units are means of groups, which the binomial law does not describe.
        """
        tests = [replace(self, bound=bound) for bound in self.bounds if not (grouped and bound == "binomial")]
        return max(tests, key=lambda test: passed([test.p_value(units, delta) for units in samples], delta))

    def words(self, measure: str, counted: str) -> Words:
        """Return what an error says of it; `counted`: "answers", "tokens" or "pixels"."""
        limit, rest = (f"{100 * value:.4g}" for value in (self.limit, 1 - self.limit))
        words = self.agreement if measure == "agreement" else self.graded
        fields = {"limit": limit, "rest": rest, "counted": counted, "amount": self.amount_text}
        return Words(*(text.format(**fields) for text in words))

    @property
    def amount_text(self) -> str:
        """The cost that it is about; "" if it is about none."""
        return ""

    @abstractmethod
    def certificate(
        self, outcome: Outcome, p_value: float, **about: Any
    ) -> LossCertificate | PromiseCertificate:
        """Return what is certified of a policy with this outcome; `about`: the other fields."""


class MeanLoss(Promise):
    """The mean loss of all inputs, or the share of the answers that differ from the reference's."""

    name = "max_loss"
    bounds = ("betting", "hoeffding_bentkus")
    graded = Words("loss", "at most {limit}% is lost", "a loss of {limit}%")
    agreement = Words("agreement", "at most {limit}% of the {counted} differ", "an agreement of {rest}%")

    def values(self, outcome: Outcome) -> Floats:
        """Return what each input loses, (n,)."""
        return outcome.loss

    def certificate(self, outcome: Outcome, p_value: float, **about: Any) -> LossCertificate:
        """Return what is certified of a policy with this outcome; `about`: the other fields."""
        return LossCertificate(
            self.limit, p_value=p_value, bound=self.bound, loss=self.measured(outcome), **about
        )


_DIFFER = Words(
    "share of early answers that differ",
    "at most {limit}% of early answers differ",
    "{limit}% of early answers that differ",
)


class EarlyPromise(Promise):
    """A mean over the answers that come early alone."""

    name: ClassVar[EarlyName]

    @abstractmethod
    def of_answers(self, loss: Floats) -> Floats:
        """Return the value of each answer that comes early, of what it loses."""

    def values(self, outcome: Outcome) -> Floats:
        """Return the values of early answers, and the limit for the others, (n,)."""
        return np.where(outcome.early, self.of_answers(outcome.loss), self.limit)

    def measured(self, outcome: Outcome) -> float:
        """Return the mean over early answers; 0 if there are none."""
        values = np.where(outcome.early, self.of_answers(outcome.loss), 0.0)
        share = float(mean(outcome.early, outcome.groups))
        return float(mean(values, outcome.groups)) / share if share else 0.0

    def certificate(self, outcome: Outcome, p_value: float, **about: Any) -> EarlyCertificate:
        """Return what is certified of a policy with this outcome; `about`: the other fields."""
        return EarlyCertificate(
            self.name, self.limit, p_value, self.bound, self.measured(outcome), outcome.n_early, **about
        )


class EarlyLoss(EarlyPromise):
    """The mean loss of what is answered early."""

    name = "max_early_loss"
    graded = Words(
        "loss of early answers",
        "early answers lose at most {limit}% on average",
        "a loss of early answers of {limit}%",
    )
    agreement = _DIFFER

    def of_answers(self, loss: Floats) -> Floats:
        """Return what each answer loses."""
        return loss


class EarlyWorse(EarlyPromise):
    """The share of what is answered early that is worse than the reference's answer."""

    name = "max_early_worse"
    graded = Words(
        "share of early answers that are worse",
        "at most {limit}% of early answers are worse",
        "{limit}% of early answers that are worse",
    )
    agreement = _DIFFER
    bounds = ("binomial", "betting")

    def of_answers(self, loss: Floats) -> Floats:
        """Return 1 for each answer that loses anything."""
        return (loss > 0).astype(np.float64)


@dataclass(frozen=True)
class Tail(Promise):
    """The share of the inputs that cost more than `amount`, in `unit`."""

    amount: float = 0.0
    unit: str = ""

    name = "max_tail"
    bounds = ("binomial", "betting")
    graded = agreement = Words(
        "tail",
        "at most {limit}% of the inputs cost more than {amount}",
        "{limit}% of the inputs above {amount}",
    )

    @property
    def amount_text(self) -> str:
        """The cost that it is about."""
        return amount_text(self.amount, self.unit)

    def values(self, outcome: Outcome) -> Floats:
        """Return 1 for each input that costs more, (n,)."""
        return (outcome.paid > self.amount * (1 + ROUNDING)).astype(np.float64)

    def certificate(self, outcome: Outcome, p_value: float, **about: Any) -> TailCertificate:
        """Return what is certified of a policy with this outcome; `about`: the other fields."""
        of_answers = ("reference", "measure", "of")
        return TailCertificate(
            self.amount,
            self.unit,
            self.limit,
            p_value,
            self.bound,
            self.measured(outcome),
            **{name: field for name, field in about.items() if name not in of_answers},
        )

    @classmethod
    def of(
        cls, asked: tuple[float | str, float], inputs: ExitTrace | CascadeTrace, reference: str | None
    ) -> Tail:
        """Return the promise of a (cost, share). Raises InputError unless some input costs that little at first."""
        if not isinstance(asked, tuple | list) or len(asked) != 2:
            raise InputError(
                f"max_tail is a cost and a share, such as ('0.01 usd', 0.01), got {short(asked)}"
            )
        limit = check_between(asked[1], "the share of max_tail", 0.0, 1.0)
        cost = instead(inputs, reference).cost
        models = [inputs] if isinstance(inputs, ExitTrace) else [inputs[name] for name in inputs.names]
        least = min(float(model.cost.of_inputs(model.n)[:, 0].min()) for model in models)
        if (amount := cost.amount(asked[0])) < least * (1 - ROUNDING):
            raise InputError(
                f"every input costs more than {cost.show(amount)}, the cost of max_tail: the cheapest exit costs "
                f"{cost.show(least)}; give at least that"
            )
        return cls(limit, amount=amount, unit=cost.unit)


def promise_of(certificate: PromiseCertificate) -> Promise:
    """Return the promise that a certificate is about."""
    if isinstance(certificate, TailCertificate):
        return Tail(certificate.limit, amount=certificate.amount, unit=certificate.unit)
    kind = next(kind for kind in (EarlyLoss, EarlyWorse) if kind.name == certificate.promise)
    return kind(certificate.limit)


def early_promises(**limits: float | None) -> list[Promise]:
    """Return the promises of early answers with these limits, by name. Raises InputError for what is no share."""
    asked = [(kind, limits[kind.name]) for kind in (EarlyLoss, EarlyWorse)]
    return [kind(check_between(limit, kind.name, 0.0, 1.0)) for kind, limit in asked if limit is not None]


def passed(p_values: Sequence[float], delta: float) -> int:
    """Return how many hypotheses are rejected in a row from the start."""
    return next((k for k, p in enumerate(p_values) if p > delta), len(p_values))
