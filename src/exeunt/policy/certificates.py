"""What a policy guarantees: of the mean cost and its tail, and of the loss of all answers and of early ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from exeunt.costs.budget_text import amount_text, readable_unit
from exeunt.trace.grades import known_by
from exeunt.trace.groups import GROUP_OF, mean_text, units_text, weights_text

CERTAIN = "certain"
"""The `bound` of a `LossCertificate` that needs no test: the policy gives the answers of the reference."""
_ASSUMED = "are exchangeable with these, and that nothing else was fitted on them"


EarlyName: TypeAlias = Literal["max_early_loss", "max_early_worse"]


@dataclass(frozen=True, kw_only=True)
class _OfGroups:
    """How many groups the inputs come in, and how these weigh (see `Groups`); None without groups.

    `row`: what is counted, an "input", or a "token" of a language model, whose groups are prompts. `further`: what is
    assumed beside what the certificate always assumes, after "and that"; "" for nothing.
    """

    n_groups: int | None = None
    rows_per_group: int | None = None
    row: str = "input"
    further: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form, without groups if there are none, and without what is usual."""
        usual = {
            "n_groups": None,
            "rows_per_group": None,
            "row": "input",
            "further": "",
            "loss": None,
            "measure": "accuracy",
            "of": "answers",
        }
        return {
            name: field for name, field in asdict(self).items() if name not in usual or field != usual[name]
        }

    @property
    def _beside(self) -> str:
        return f", and that {self.further}" if self.further else ""


@dataclass(frozen=True)
class Certificate(_OfGroups):
    """The guarantee P(mean cost per input <= budget) >= 1 - delta, over calibration and future inputs.

    The mean cost is that of the policy in the long run, given its thresholds; `MeanCostDistribution.batch_quantile`
    says how much a batch of given size can stray from it. `probability` is P itself, `cost_quantile` the (1 - delta)
    quantile of the mean cost. `assumption` completes the sentence "It assumes that ...". `loss`: the guarantee on
    accuracy that the policy has as well; printed, both are shown.
    """

    budget: float
    delta: float
    unit: str
    probability: float
    expected_cost: float
    cost_quantile: float
    n_calibration: int
    assumption: str = f"future inputs {_ASSUMED}"
    loss: LossCertificate | None = None

    def __str__(self) -> str:
        size, _ = readable_unit(self.budget, self.unit)
        quantity = "mean cost" if self.row == "input" else f"mean cost per {self.row}"
        return (
            f"Guarantee: with probability {_percent(self.delta)} over the "
            f"{units_text(self.n_calibration, self.n_groups, 'calibration', self.row)}, the long-run "
            f"{mean_text(quantity, self.rows_per_group, self.row)} is at most "
            f"{amount_text(self.budget, self.unit)} (expected: {self.expected_cost / size:.4g}). "
            f"It assumes that {self.assumption}{self._beside}."
            + ("" if self.loss is None else f"\n{self.loss}")
        )


@dataclass(frozen=True)
class LossCertificate(_OfGroups):
    """The guarantee P(accuracy >= that of the full network - max_loss) >= 1 - delta; or the same of another measure.

    Of agreement: P(share of answers that differ from those of `reference` <= max_loss) >= 1 - delta. As of the mean
    cost, it is about the long run, per input, and over the draw of the tested inputs, with which future ones are
    exchangeable.

    `reference`: the model that a cascade is measured against instead of the full network. `p_value`: of the
    policy, `bound` the name of the bound it comes from, `loss` the loss of accuracy measured on the `n_test` labelled
    inputs that the policy was tested on. They had no part in the policy. Where `bound` is `CERTAIN`, the policy gives
    the reference's own answers. `of`: what is counted, "answers", the "tokens" of a language model or the
    "pixels" of masks.
    """

    max_loss: float
    delta: float
    p_value: float
    bound: str
    loss: float
    n_test: int
    reference: str | None = None
    measure: str = "accuracy"
    of: str = "answers"

    subject: ClassVar[str] = "loss"

    def __str__(self) -> str:
        reference, agrees = self.reference or "the full network", self.measure == "agreement"
        if self.bound == CERTAIN:
            nothing = "no answer differs" if agrees else f"no {self.measure} is lost"
            return f"Guarantee: {nothing}, because every input gets the answer of {reference}."
        if agrees:
            change, promise = f"{self.loss:.2%}", self._difference(reference)
        else:
            change = f"{100 * abs(self.loss):.2f} points {'gained' if self.loss < 0 else 'lost'}"
            promise = f"{self._mean()} is at most {100 * self.max_loss:.4g} points below that of {reference}"
        return (
            f"Guarantee: with probability {_percent(self.delta)} over the {_tested(self)}, {promise} "
            f"(measured: {change}; p = {self.p_value:.2g}, {self.bound.replace('_', '-')} bound). {_assumed(self)}"
        )

    def _mean(self) -> str:
        """Return which mean is certified: "the long-run accuracy per input"."""
        per = f"per {self.row}"
        if self.rows_per_group == 1:
            quantity = self.measure
        elif self.measure == "accuracy":
            quantity = f"accuracy {per}"
        elif self.measure.startswith("1 - "):
            quantity = f"mean {per} of {self.measure}"
        else:
            quantity = f"mean {self.measure} {per}"
        return f"the long-run {mean_text(quantity, self.rows_per_group, self.row)}"

    def _difference(self, reference: str) -> str:
        """Return what share of which answers may differ."""
        how = ""
        if self.rows_per_group is None and self.of == "pixels":
            how = " (mean over inputs)"
        elif self.rows_per_group is not None and (self.row, self.of) != ("token", "answers"):
            how = f" ({weights_text(self.rows_per_group, self.row)})"  # the answer to a prompt is a unit by itself
        bound = f"at most {100 * self.max_loss:.4g}% of the {self.of}{how}"
        return f"{bound} differ from those of {reference} in the long run"


@dataclass(frozen=True)
class EarlyCertificate(_OfGroups):
    """The guarantee, with probability 1 - delta, of the answers that come early: `promise` is kept within `limit`.

    Early answers are those before the last exit, or for which the `reference` of a cascade was not asked.
    "max_early_loss": they lose at most `limit` on average, against the full network or the reference.
    "max_early_worse": at most this share of them is worse; where agreement is measured, differs. It is about the long
    run, as a `LossCertificate` is. `p_value`: of the policy, by `bound`; `measured`: what corresponds to the limit on
    the `n_early` early answers among the `n_test` inputs that tested the policy.
    """

    promise: EarlyName
    limit: float
    p_value: float
    bound: str
    measured: float
    n_early: int
    delta: float
    n_test: int
    reference: str | None = None
    measure: str = "accuracy"
    of: str = "answers"

    @property
    def subject(self) -> str:
        """What it is about, in a few words."""
        return "loss of early answers" if self.promise == "max_early_loss" else "share of worse early answers"

    def __str__(self) -> str:
        reference, agrees = self.reference or "the full network", self.measure == "agreement"
        early = f"the {self.of} that come early"
        if self.promise == "max_early_loss" and not agrees:
            promise = (
                f"{early} lose at most {100 * self.limit:.4g} points of {self.measure} against {reference}, on average "
                "over them"
            )
            measured = f"{100 * abs(self.measured):.2f} points {'gained' if self.measured < 0 else 'lost'}"
        else:
            how = "differ from" if agrees else "are worse than"
            promise = f"at most {100 * self.limit:.4g}% of {early} {how} those of {reference}"
            measured = f"{self.measured:.2%}"
        return (
            f"Guarantee: with probability {_percent(self.delta)} over the "
            f"{_tested(self)}, in the long run {promise}{_weighing(self)} (measured on {self.n_early:,}: {measured}; "
            f"p = {self.p_value:.2g}, {self.bound.replace('_', '-')} bound). {_assumed(self)}"
        )


@dataclass(frozen=True)
class TailCertificate(_OfGroups):
    """The guarantee P(share of the inputs that cost more than `amount` <= limit) >= 1 - delta, `amount` in `unit`.

    It is about the long run, as a `LossCertificate` is. `p_value`: of the policy, by `bound`; `measured`: the share of
    the `n_test` inputs that tested the policy.
    """

    amount: float
    unit: str
    limit: float
    p_value: float
    bound: str
    measured: float
    delta: float
    n_test: int

    subject: ClassVar[str] = "tail of the cost"
    promise: ClassVar[str] = "max_tail"

    def __str__(self) -> str:
        tested = units_text(self.n_test, self.n_groups, "calibration", self.row)
        return (
            f"Guarantee: with probability {_percent(self.delta)} over the {tested}, in the long run at most "
            f"{100 * self.limit:.4g}% of the {self.row}s cost more than {amount_text(self.amount, self.unit)}"
            f"{_weighing(self)} (measured: {self.measured:.2%}; p = {self.p_value:.2g}, {self.bound} bound). "
            f"{_assumed(self)}"
        )


PromiseCertificate: TypeAlias = EarlyCertificate | TailCertificate
"""What `Policy.promises` holds."""


def _weighing(of: EarlyCertificate | TailCertificate) -> str:
    """Return how the inputs of groups weigh in a share."""
    if (most := of.rows_per_group) is None:
        return ""
    return f" ({of.row}s of {GROUP_OF[of.row]}s of more than {most:,} weigh {most:,}/size)"


def _tested(of: LossCertificate | EarlyCertificate) -> str:
    """Return which inputs tested the policy."""
    known = "calibration" if of.measure == "agreement" else f"{known_by(of.measure)} calibration"
    return units_text(of.n_test, of.n_groups, known, of.row)


def _assumed(of: LossCertificate | EarlyCertificate | TailCertificate) -> str:
    unit = of.row if of.n_groups is None else GROUP_OF[of.row]
    return f"It assumes that future {unit}s {_ASSUMED}{of._beside}."


def _percent(delta: float) -> str:
    """Return 1 - delta as text. A small delta must not be printed as certainty."""
    return f"{100 * (1 - delta):g}%" if delta >= 1e-5 else f"1 - {delta:g}"
