"""What the page of a gateway shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from exeunt.errors import ExeuntError, one_line
from exeunt.gateway.certification_status import Certified
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.proposals import LOSS
from exeunt.stream.ratios import FEWEST

_OF_SPAN = (
    "requests",
    "by_policy",
    "opted_out",
    "in_units",
    "estimated",
    "refused",
    "guessed",
    "retries",
    "cost",
    "answered",
    "decided",
    "lost",
    "lost_answered",
)
"""What the page shows of a span of the bill as it is (see `Span`)."""


class PageState:
    """The state of a gateway for its page. Saved policies do not change, so each is read once."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._unfit: dict[str, str] = {}

    def read(self) -> dict[str, Any]:
        """Return what the page shows, JSON-able. Money is in US dollars, times are in seconds since 1970.

        `certificate`: of the active policy, sentences; None without one. `policies`: those that can be chosen beside
        the reference. `fallen_from`: the policy whose alarm made the reference answer; None if it answers for another
        reason. `bill`: since `since`; `in_all`: since the first start. `feedback`: a sentence, "" without any.
        `evidence`: of the active policy or of that one, see `LiveWatch.curves`. `drawing`: what share of the units is
        compared, and what became of those of the latest periods, `since`. `alarms`: those with `ends` ended a
        certificate. `resting`: models and providers that are left alone, `for_s` seconds more. `stopped`: models that
        are asked no more.
        """
        gateway, config = self._gateway, self._gateway.config
        active = gateway.live.active
        certified = self._certified(active.name)
        return {
            "policy": active.name,
            "since": gateway.traffic.bill.now.since,
            "unit": config.unit_rules.kind,
            "rows": active.rows,
            "certificate": certified and certified.guarantees,
            "promise": None if config.promise is None else asdict(config.promise),
            "limit": certified and certified.limits.get(LOSS),
            "standing": [] if gateway.status is None else gateway.status.notes,
            "policies": {name: self._policy(name) for name in gateway.policies.names},
            "fallen_from": None if gateway.live.fallen is None else gateway.live.fallen.policy,
            "reference": config.reference,
            "shadow": None if config.shadow is None else asdict(config.shadow),
            "bill": self._bill(),
            "in_all": self._in_all(),
            "feedback": gateway.feedback.told,
            "drawing": self._drawing(),
            "evidence": (gateway.live.fallen or gateway.live.watch).curves,
            "alarms": list(gateway.live.alarms),
            "compared": dict(gateway.compared),
            "money": gateway.money.state(gateway.keys.clients),
            "resting": [
                {"name": breaker.name, "why": breaker.why, "for_s": breaker.rests_s, "models": models}
                for breaker, models in config.resting
            ],
            "stopped": list(gateway.money.total.stopped),
            "disputed": {name: dispute._asdict() for name, dispute in gateway.money.disputed.items()},
        }

    def _bill(self) -> dict[str, Any]:
        """Return counts and costs since the active policy became active."""
        span, compared = self._gateway.traffic.bill.now, self._gateway.money.compared
        return {
            **{name: getattr(span, name) for name in _OF_SPAN},
            "compared": compared - span.compared,
            "audits": span.loss.n,
            "fewest": FEWEST,
            "saved": span.saved(compared),
        }

    def _in_all(self) -> dict[str, Any]:
        """Return what was saved since the first start, and when comparisons are earned back."""
        bill, compared = self._gateway.traffic.bill, self._gateway.money.compared
        now = self._gateway.clock()
        return {
            "since": bill.spans[0].since,
            "saved": bill.saved_in_all(compared),
            "compared": compared,
            "break_even": bill.break_even(compared, now),
            "told": bill.told(compared, now),
        }

    def _drawing(self) -> dict[str, Any]:
        """Return how many units were drawn for comparison in the latest periods."""
        drawing = self._gateway.traffic.drawing
        periods = [period for period in drawing.latest if period.units]
        return {
            "probability": periods[-1].probability if periods else None,
            "since": periods[0].number * drawing.period_s if periods else None,
            "units": sum(period.units for period in periods),
            "chosen": sum(period.chosen for period in periods),
            "refused": sum(period.refused for period in periods),
            "open": len(self._gateway.traffic.units.open),
        }

    def _certified(self, name: str) -> Certified | None:
        status = self._gateway.status
        return None if status is None else status.of(name)

    def _policy(self, name: str) -> dict[str, Any]:
        """Return the certificate of a policy, and why it cannot be chosen; "" if it can."""
        if name not in self._unfit or self._gateway.policies.is_forgotten(name):
            try:
                self._gateway.live.named(name)
                self._unfit[name] = ""
            except ExeuntError as error:
                self._unfit[name] = one_line(error)
        certified = self._certified(name)
        return {"certificate": certified and certified.guarantees, "unfit": self._unfit[name]}
