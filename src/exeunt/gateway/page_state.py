"""What the page of a gateway shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from exeunt.errors import ExeuntError, one_line
from exeunt.gateway.gateway import Gateway
from exeunt.policy import Policy


class PageState:
    """Tells what a gateway does. Saved policies do not change, so each is read once."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._policies: dict[str, dict[str, Any]] = {}

    def read(self) -> dict[str, Any]:
        """Return what the page shows, JSON-able. Money is in US dollars, times are in seconds since 1970.

        `certificate`: of the active policy, in words; None without one. `policies`: those that can be chosen beside the
        reference. `fallen_from`: the policy whose alarm made the reference answer; None if it answers for another
        reason. `tally`: since `since`. `evidence`: of the active policy or of that one, see `LiveWatch.curves`.
        `resting`: providers that are left alone, `for_s` seconds more. `stopped`: models that are asked no more.
        """
        gateway, config = self._gateway, self._gateway.config
        return {
            "policy": gateway.live.active.name,
            "since": gateway.live.since,
            "certificate": _certificate(gateway.live.active.policy),
            "policies": {name: self._policy(name) for name in gateway.policies.names},
            "fallen_from": None if gateway.live.fallen is None else gateway.live.fallen.policy,
            "reference": config.reference,
            "shadow": None if config.shadow is None else asdict(config.shadow),
            "tally": gateway.live.tally.to_dict(),
            "evidence": (gateway.live.fallen or gateway.live.watch).curves,
            "alarms": list(gateway.live.alarms),
            "compared": dict(gateway.compared),
            "records": dict(gateway.records.counts()),
            "money": gateway.money.state(gateway.keys.clients),
            "resting": _resting(gateway),
            "stopped": list(gateway.money.whole.stopped),
        }

    def _policy(self, name: str) -> dict[str, Any]:
        """Return the certificate of a policy, and why it cannot be chosen; "" if it can."""
        if name not in self._policies or self._gateway.policies.is_forgotten(name):
            try:
                made = {"certificate": _certificate(self._gateway.policies.load(name)), "unfit": ""}
            except ExeuntError as error:
                made = {"certificate": None, "unfit": one_line(error)}
            self._policies[name] = made
        return self._policies[name]


def _certificate(policy: Policy | None) -> str | None:
    certificate = None if policy is None else policy.loss_certificate
    return None if certificate is None else str(certificate)


def _resting(gateway: Gateway) -> list[dict[str, Any]]:
    """Return the providers that rest, with their models."""
    found: dict[str, dict[str, Any]] = {}
    for name, model in gateway.config.models.items():
        if (for_s := model.breaker.rests_s) > 0:
            provider = model.breaker.provider
            found.setdefault(provider, {"provider": provider, "for_s": for_s, "models": []})["models"].append(
                name
            )
    return list(found.values())
