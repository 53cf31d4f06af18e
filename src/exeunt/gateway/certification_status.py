"""What a gateway has certified now, what it takes to certify more, and what was measured: in words and numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np

from exeunt._support.text import counted, text_table
from exeunt.gateway.certifier import DEPENDENT, Certifier, Plan, ProposalUnderTest
from exeunt.gateway.config import GatewayConfig, Promise
from exeunt.gateway.evidence import Evidence
from exeunt.gateway.plan_measurement import Measured, measured
from exeunt.gateway.proposals import (
    BUDGET,
    EARLY_LOSS,
    EARLY_WORSE,
    FEWEST,
    LOSS,
    SAVES,
    TAIL,
    limits_of,
    values_of,
)
from exeunt.stream import bets
from exeunt.stream.ratios import Interval
from exeunt.stream.records import NOT_GRADED, NOT_PAID

STATUS = "standing"
"""Under this name the records keep what is certified, for who asks another process."""
_RESAMPLES, _RANGE = 40, (0.1, 0.9)
_MANY = 100_000
"""More units than anybody waits for."""
_NEVER = 1e12
_DECIDES = 0.5
"""A client that brings more of the units than this decides what is certified."""


@dataclass(frozen=True)
class CertificationStatus:
    """Where a question stands. `certified`: by name of a policy, what is guaranteed of it and what was measured, of
    the plan of each proposal that passed last. `notes`: what else is to be known, and what it takes to certify more.
    `earlier`: those that passed before these, and are certified, too.
    """

    certified: dict[str, Certified]
    notes: list[str]
    earlier: dict[str, Certified] = field(default_factory=dict)

    def of(self, name: str) -> Certified | None:
        """Return what is certified of a policy; None if nothing is."""
        return self.certified.get(name) or self.earlier.get(name)

    def also(self, shown: Collection[str]) -> list[str]:
        """Return a sentence on the certified policies that are not `shown`; none without any."""
        rest = [policy for policy in (self.certified | self.earlier).values() if policy.name not in shown]
        costs = [
            f"{policy.name} {1000 * policy.cost:.4g}"
            for policy in sorted(rest, key=lambda policy: policy.cost)
        ]
        return [f"Certified, too, with what 1,000 requests cost in usd: {', '.join(costs)}."] if costs else []

    def __str__(self) -> str:
        best = min(self.certified.values(), key=lambda policy: policy.cost, default=None)
        also = [*self.also(() if best is None else (best.name,)), *self.notes]
        return "\n\n".join([str(best or "Nothing is certified now."), "\n".join(also)]).rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        certified = {name: policy.to_dict() for name, policy in self.certified.items()}
        return {"certified": certified, "notes": self.notes, "text": str(self)}


@dataclass(frozen=True)
class Certified:
    """A policy that is certified. `guarantees`: sentences; `measured`: on held-out units."""

    name: str
    guarantees: list[str]
    measured: Measured | None
    limits: dict[str, float]

    @property
    def cost(self) -> float:
        """US dollars per request, as measured; infinite where nothing was."""
        return math.inf if self.measured is None else self.measured.cost

    @property
    def sentences(self) -> list[str]:
        """The guarantees, then the measurements."""
        return [*self.guarantees, *_measured_text(self.measured)]

    def __str__(self) -> str:
        table = "" if self.measured is None else "\n" + text_table(*self.measured.table())
        return f"{self.name} is certified.{table}\n" + "\n".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        numbers = None if self.measured is None else self.measured.to_dict()
        return {"sentences": self.sentences, "measured": numbers, "limits": self.limits}


def certification_status(certifier: Certifier, config: GatewayConfig) -> CertificationStatus:
    """Return where the question of a gateway stands."""
    if certifier.question is None or config.promise is None:
        return CertificationStatus(
            {}, ["Nothing is promised: write `promise: {max_loss: 5%}` into the file of the gateway."]
        )
    certified: dict[str, Certified] = {}
    earlier: dict[str, Certified] = {}
    notes = [*_about_question(certifier), *_short_of_money(certifier), *_ungraded(certifier)]
    for proposal in certifier.proposals:
        if proposal.ended:
            notes.append(
                f"Proposal {proposal.number} held requests of a client that was forgotten: it has ended."
            )
            continue
        if why := certifier.withheld(proposal):
            notes.append(f"Nothing of proposal {proposal.number} is certified: {why}.")
            continue
        passed = [plan for plan in proposal.plans if plan.passed is not None and plan.policy is not None]
        if not passed:
            continue
        evidence = certifier.held_out(proposal)
        for plan in passed:
            group = certified if plan is passed[-1] else earlier
            passed_plan = _Passed(certifier, config, config.promise, proposal, plan, evidence)
            group[plan.name] = passed_plan.certified()
    notes += _forecast(certifier, config)
    return CertificationStatus(certified, notes, earlier)


def _about_question(certifier: Certifier) -> list[str]:
    question, n = certifier.question, certifier.store.last
    if question is None or question.number == 1:
        return []
    return [
        (
            f"This is question {question.number}, asked because of {question.why}: units of before do not test it. "
            f"{counted(n, 'proposal')} came before, so its next one has {bets.weight(n + 1):.0%} of delta."
        )
    ]


def _short_of_money(certifier: Certifier) -> list[str]:
    """Return a sentence if money for comparisons was missing."""
    short, periods = certifier.short_of_money()
    if not short:
        return []
    return [
        (
            f"In {short} of {periods} periods money for comparisons was missing for more than 2% of the units that "
            "were chosen: each of them counts as lost in the tests. Let comparisons cost more (spend of shadow), or "
            "compare fewer (share)."
        )
    ]


def _ungraded(certifier: Certifier) -> list[str]:
    """Return a sentence if more than 2% of the comparisons have no grade."""
    reasons, compared = certifier.ungraded()
    ungraded = sum(reasons.values())
    if ungraded <= compared / 50:
        return []
    remedies = {
        NOT_GRADED: "the grader failed (the log says why)",
        NOT_PAID: "money for the judge was short (let comparisons cost more: spend of shadow)",
    }
    why = " and ".join(f"{remedies[reason]} {counted(n, 'time')}" for reason, n in reasons.items())
    of = counted(compared, "request")
    return [
        (
            f"{ungraded} of {of} compared since the question was asked have no grade: {why}. Those of held-out units "
            "count as lost in the tests."
        )
    ]


@dataclass(frozen=True)
class _Passed:
    """A plan that has passed, and what tested it."""

    certifier: Certifier
    config: GatewayConfig
    promise: Promise
    proposal: ProposalUnderTest
    plan: Plan
    evidence: Evidence

    def certified(self) -> Certified:
        promise, policy = self.promise, self.plan.policy
        assert policy is not None  # noqa: S101 - for types
        numbers = measured(policy, self.proposal.rows, self.evidence)
        guarantees, promised = [], {}
        if promise.max_loss is not None:
            guarantees.append(self._of_loss(promise.max_loss))
            promised[LOSS] = promise.max_loss
        for name, early in ((EARLY_LOSS, promise.max_early_loss), (EARLY_WORSE, promise.max_early_worse)):
            if early is not None:
                guarantees.append(self._of_early(name, early))
        if promise.budget is not None:
            guarantees.append(self._of_cost(promise.budget, numbers))
        if promise.tail is not None:
            guarantees.append(self._of_tail(*promise.tail))
        return Certified(self.plan.name, [*guarantees, *self._assumptions()], numbers, promised)

    @property
    def _chance(self) -> str:
        return f"{100 * (1 - self.certifier.store.highest_delta):g}%"

    @property
    def _unit(self) -> str:
        return self.config.unit_rules.kind

    def _of_loss(self, limit: float) -> str:
        tightest = self.certifier.tightest(self.proposal, self.plan, LOSS)
        text = (
            f"Guarantee: with probability {self._chance} over all looks and questions together, the long-run mean "
            f"{self.certifier.models.measure} per request is at most {_points(limit)} below that of "
            f"{self.config.reference}."
        )
        return text + _tighter(tightest, _points(tightest * limit))

    def _of_early(self, name: str, limit: float) -> str:
        tightest = self.certifier.tightest(self.proposal, self.plan, name)
        early = f"the requests that are answered without asking {self.config.reference}"
        if name == EARLY_LOSS:
            what = f"the mean {self.certifier.models.measure} of {early} is at most {_points(limit)} below that of "
            tighter = _points(tightest * limit)
        else:
            what = f"at most {_share(limit)} of {early} have a lower {self.certifier.models.measure} than that of "
            tighter = _share(tightest * limit)
        return (
            f"Guarantee: with probability {self._chance}, together with the other guarantees, in the long run {what}"
            f"{self.config.reference}.{_tighter(tightest, tighter)}"
        )

    def _of_tail(self, cost: str, limit: float) -> str:
        tightest = self.certifier.tightest(self.proposal, self.plan, TAIL)
        of = "" if "usd" in cost else f" of what {self.config.reference} costs for them"
        return (
            f"Guarantee: with probability {self._chance}, together with the other guarantees, in the long run at most "
            f"{_share(limit)} of the requests that the policy may answer cost more than {cost}{of}."
            f"{_tighter(tightest, _share(tightest * limit))}"
        )

    def _of_cost(self, budget: str, numbers: Measured | None) -> str:
        of = "" if "usd" in budget else f" of that of {self.config.reference}"
        covered = over_all = ""
        if numbers is not None:
            compared = "requests of new users" if self._unit == "user" else "compared requests"
            covered = f" These are {numbers.may_answer:.1%} of the {compared} and {numbers.money:.1%} of their cost."
            if numbers.saved is not None:
                low, high = sorted(1 - share for share in numbers.saved[1:])
                over_all = (
                    f" Over all {compared} the policy costs an estimated {1 - numbers.saved.mean:.1%} of "
                    f"{self.config.reference} (95% interval {low:.1%} to {high:.1%})."
                )
        tightest = self.certifier.tightest(self.proposal, self.plan, BUDGET)
        tighter = _tighter(tightest, f"{tightest:.0%} of that")
        return (
            f"Guarantee: with probability {self._chance}, together with the other guarantee if there is one, the "
            f"long-run mean cost of the requests that the policy may answer is at most {budget}{of}, where a request "
            f"counts {self.config.cap:g} usd at most.{tighter}{covered}{over_all}"
        )

    def _assumptions(self) -> list[str]:
        unit, proposal, rows = self._unit, self.proposal, self.proposal.rows
        if unit == "request":
            answers = "It answers requests one by one."
        else:
            first = f"first {rows} requests" if rows > 1 else "first request"
            answers = (
                f"It answers the {first} of a {unit}; {self.config.reference} answers later ones, and what a model "
                "does not take."
            )
        question = self.certifier.question
        asked_on = datetime.fromtimestamp(question.asked_at if question else 0.0, timezone.utc).date()
        tested = (
            f"Tested on {counted(proposal.units, f'held-out {unit}')} in {counted(proposal.periods, 'period')} "
            f"(proposal {proposal.number}, which may use {proposal.weight:.0%} of delta; the question was "
            f"asked on {asked_on}), read "
            f"between periods. It assumes that "
            f"{unit}s are independent and that future ones are exchangeable with these, and that what is asked does "
            f"not depend on who answered."
        )
        tested += _of_log(self.certifier.log, unit)
        if unit == "user":
            tested += " It is about new users: the reference answers those who have come before."
        if self.config.units is not None and proposal.correlation < DEPENDENT:
            tested += (
                f" That {unit}s are independent is your own assumption (p = {proposal.correlation:.2g})."
            )
        return [answers, tested]


def _of_log(log: Mapping[str, Any] | None, unit: str) -> str:
    """Return what is to be said of the log that tested a proposal; "" if none did."""
    if log is None:
        return ""
    text = (
        f" Up to {counted(log['testing'], unit)} of these are of {log['file']}: its owner chose what is in it, and "
        "future requests must be like it."
    )
    if not log["has_times"]:
        text += " It has no times, so it is one period, and nothing was waited for."
    if log["assumption"]:
        text += f" It also assumes that {log['assumption']}."
    return text


def _tighter(tightest: float, limit: str) -> str:
    if tightest >= 1:
        return ""
    return f" For this policy alone, with the same probability, the limit is {limit}."


def _share(share: float) -> str:
    return f"{100 * share:.4g}%"


def _points(share: float) -> str:
    number = f"{100 * share:.4g}"
    return f"{number} point" if number == "1" else f"{number} points"


def _measured_text(numbers: Measured | None) -> list[str]:
    if numbers is None:
        return []
    saved, lost = numbers.saved, numbers.lost
    if saved is None or lost is None:
        return ["Too few held-out units were compared to say what is saved and lost."]
    answered = ", ".join(f"{name} {share:.1%}" for name, share in numbers.shares.items())
    of_answered = ""
    if numbers.lost_answered is not None:
        of_answered = (
            f" Among those that the policy answers, {100 * numbers.lost_answered.mean:.2f} points are lost; on average "
            f"over units, {100 * numbers.lost_per_unit:.2f}."
        )
    missing = ""
    if numbers.missing:
        n = counted(numbers.missing, "request")
        missing = f" {n} of which something is missing are left out here; the tests count them as lost."
    text = (
        f"Measured, not certified, on {numbers.units:,} held-out units ({counted(numbers.requests, 'request')}), per "
        "request: "
        f"{saved.mean:.1%} of the reference's cost is saved (95% interval {saved.low:.1%} to {saved.high:.1%}), "
        f"{100 * abs(lost.mean):.2f} points of the grade are {'gained' if lost.mean < 0 else 'lost'} (interval of the "
        f"loss {100 * lost.low:.2f} to {100 * lost.high:.2f}).{of_answered} Intervals hold at all looks at "
        f"this policy together. What comparisons cost is not counted here: the bill counts it.{missing}"
    )
    return [text, f"Answered by: {answered}."]


# -- how many more ------------------------------------------------------------------------------------------------


def _forecast(certifier: Certifier, config: GatewayConfig) -> list[str]:
    """Return about how many more units it takes to certify a policy, or a cheaper one."""
    if certifier.proposals:
        forecast = _until_next_plan(certifier, config, certifier.proposals[-1])
    else:
        forecast = _until_first_proposal(certifier, config)
    return [*forecast, *_mostly_one_client(certifier)]


def _until_next_plan(certifier: Certifier, config: GatewayConfig, proposal: ProposalUnderTest) -> list[str]:
    """Return how many more units and periods the next plan of a proposal takes."""
    if not proposal.plans:
        return [
            (
                f"Proposal {proposal.number} has no plan: no policy saves {SAVES:.0%} or more and loses little enough "
                "on the units that fit."
            )
        ]
    drawn = certifier.probability
    waiting = next((plan for plan in proposal.plans if plan.passed is None and plan.policy is not None), None)
    if waiting is None or drawn <= 0:
        return []
    units = _units_to_come(certifier, config, proposal, waiting)
    if units is None:  # too few have tested it
        units = Interval(*[max(waiting.needed - proposal.units, 0.0)] * 3)
    middle, low, high = (2 * n / drawn for n in units)
    if middle > _MANY:
        return [
            (
                f"The next plan of proposal {proposal.number} would hardly ever be certified: it loses about as much "
                "as is promised. Allow a larger loss, add a model, or wait for the next proposal."
            )
        ]
    n, plan = certifier.min_periods - proposal.periods, f"the next plan of proposal {proposal.number}"
    periods = counted(n, "more period") if n > 0 else ""
    if middle < 1:
        return [f"It takes {periods} to certify {plan}."] if periods else []
    source = f"{_rounded(low)} to {_rounded(high)}" if low < high else "by the units that it was made of"
    text = (
        f"For a chance of 80% that {plan} is certified, it takes about {_rounded(middle)} more "
        f"{config.unit_rules.kind}s ({source}){periods and f' and {periods}'}{_when(certifier, middle)}."
    )
    return [text, *_scarce(certifier, config, middle)]


def _until_first_proposal(certifier: Certifier, config: GatewayConfig) -> list[str]:
    """Return how many more units the first proposal takes."""
    n, drawn = certifier.n_fitting, certifier.probability
    if n >= FEWEST:
        return []
    text = (
        f"The first proposal is made once {FEWEST} drawn units fit policies: {n} do, about half of those that were "
        "drawn and have closed."
    )
    if drawn <= 0:
        return [f"{text} Now none is drawn: there was no request yet, or money for comparisons is missing."]
    more, kind = math.ceil(2 * (FEWEST - n) / drawn), config.unit_rules.kind
    text += f" With {drawn:.0%} of the units drawn, that is about {_rounded(more)} more {kind}s"
    return [f"{text}{_when(certifier, more)}.", *_scarce(certifier, config, more)]


def _units_to_come(
    certifier: Certifier, config: GatewayConfig, proposal: ProposalUnderTest, plan: Plan
) -> Interval | None:
    """Return about how many more held-out units a plan takes, with a range, by the units that it was tested on."""
    evidence = certifier.held_out(proposal)
    if config.promise is None or plan.policy is None or evidence.n_units < 10:
        return None
    outcomes = evidence.outcomes(plan.policy)
    rng = np.random.default_rng(proposal.number)
    samples = [
        np.arange(evidence.n_units),
        *rng.integers(0, evidence.n_units, (_RESAMPLES, evidence.n_units)),
    ]
    needed = np.zeros(len(samples))
    for name, limit in limits_of(config.promise).items():
        values, highest = values_of(name, limit, 1.0, evidence, outcomes, proposal.rows)
        logs = np.array(plan.logs.get((name, 1.0), [])).reshape(-1, len(bets.STAKES)).sum(axis=0)
        level = math.log(certifier.needed(proposal) * len(bets.STAKES)) - logs
        more = [min(bets.units_needed(values[rows], highest, level), _NEVER) for rows in samples]
        needed = np.maximum(needed, more)
    low, high = np.quantile(needed[1:], _RANGE)
    return Interval(float(needed[0]), float(low), float(high))


def _mostly_one_client(certifier: Certifier) -> list[str]:
    """Return a sentence if one of several clients brings most of the units."""
    clients = Counter(certifier.clients())
    total = clients.total()
    if total < FEWEST or len(clients) == 1:
        return []
    name, units = clients.most_common(1)[0]
    if units <= _DECIDES * total:
        return []
    return [
        f"{name} brings {units / total:.0%} of the compared units, so what is certified is mostly about it."
    ]


def _scarce(certifier: Certifier, config: GatewayConfig, more: float) -> list[str]:
    """Return a sentence if fewer users than that are still to come."""
    if config.unit_rules.kind != "user" or not certifier.fewer_come:
        return []
    unseen = certifier.unseen_users
    if unseen >= more:
        return []
    return [
        (
            f"That may be more than will come: fewer and fewer users are new, and by how often users return, about "
            f"{_rounded(unseen)} or more are still to come. Only new users are evidence. With `units: conversation` "
            "every new conversation counts, of users as they are."
        )
    ]


def _when(certifier: Certifier, units: float) -> str:
    pace = certifier.units_a_period
    if pace is None:
        return ""
    if pace <= 0:
        return ", and none came in the latest periods"
    return f", which is about {counted(math.ceil(units / pace), 'period')} at the pace of the latest ones"


def _rounded(number: float) -> str:
    if number > _MANY:
        return f"more than {_MANY:,}"
    digits = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return f"{math.ceil(number / digits) * digits:,}"
