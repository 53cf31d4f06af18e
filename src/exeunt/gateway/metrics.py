"""Counts of a gateway, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily

from exeunt.gateway.answering import REASONS, Answered

_BOUNDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)


REQUESTS, CONNECTIONS = "requests", "connections"


class GatewayMetrics:
    """Counts requests, answers and money since the start. `on_refused`: is told what was refused, `REQUESTS` or
    `CONNECTIONS`.
    """

    def __init__(self, on_refused: Callable[[str], object]) -> None:
        self._on_refused = on_refused
        self.registry = registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "exeunt_gateway_requests", "Requests, by path and status.", ["path", "status"], registry=registry
        )
        self._refused = prometheus.Counter(
            "exeunt_gateway_refused", "Requests refused because too many were open.", registry=registry
        )
        self._refused_connections = prometheus.Counter(
            "exeunt_gateway_refused_connections",
            "Connections refused because there were too many.",
            registry=registry,
        )
        self._answers = prometheus.Counter(
            "exeunt_gateway_answers",
            "Answers, by policy and the model that gave them.",
            ["policy", "model"],
            registry=registry,
        )
        self._escalated = prometheus.Counter(
            "exeunt_gateway_escalated",
            f"Answers for which further or other models were asked, by policy and reason: {', '.join(REASONS)}.",
            ["policy", "reason"],
            registry=registry,
        )
        self._failures = prometheus.Counter(
            "exeunt_gateway_failures", "Requests to models without an answer.", ["model"], registry=registry
        )
        self._spent = prometheus.Counter(
            "exeunt_gateway_spent_usd",
            "US dollars billed for answers, by model.",
            ["model"],
            registry=registry,
        )
        self._seconds = prometheus.Histogram(
            "exeunt_gateway_seconds", "Seconds until an answer.", registry=registry, buckets=_BOUNDS
        )
        self._alarms = prometheus.Counter(
            "exeunt_gateway_alarms", "Alarms of the watch.", ["policy"], registry=registry
        )

    def ended(self, path: str, status: int) -> None:
        """Count a request to a path that was answered with a status."""
        self._requests.labels(path, status).inc()

    def refused(self, kind: str = REQUESTS) -> None:
        """Count a request, or a connection, that was refused because too many were open."""
        (self._refused_connections if kind == CONNECTIONS else self._refused).inc()
        self._on_refused(kind)

    def answered(self, answered: Answered, seconds: float) -> None:
        """Count what became of a request."""
        for name, reply in answered.replies.items():
            self._spent.labels(name).inc(reply.billed)
            if not reply.is_given:
                self._failures.labels(name).inc()
        if answered.reply is not None:
            self._answers.labels(answered.policy or "none", answered.model).inc()
            self._seconds.observe(seconds)
            if answered.escalated:
                self._escalated.labels(answered.policy or "none", answered.escalated).inc()

    def alarm(self, policy: str) -> None:
        """Count an alarm."""
        self._alarms.labels(policy).inc()

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a number that is read when somebody asks for it."""
        prometheus.Gauge(f"exeunt_gateway_{name}", description, registry=self.registry).set_function(read)

    def family(
        self,
        name: str,
        description: str,
        labels: Sequence[str],
        read: Callable[[], Iterable[tuple[Sequence[str], float]]],
    ) -> None:
        """Add numbers that are read, with the values of their labels, when somebody asks for them."""
        self.registry.register(_Family(f"exeunt_gateway_{name}", description, labels, read))

    def exposition(self) -> bytes:
        """Return all counts."""
        return prometheus.generate_latest(self.registry)


@dataclass(frozen=True, eq=False)
class _Family:
    """Numbers with labels, read at each scrape."""

    name: str
    description: str
    labels: Sequence[str]
    read: Callable[[], Iterable[tuple[Sequence[str], float]]]

    def collect(self) -> Iterator[Any]:
        """Yield the family of those that there are."""
        family = GaugeMetricFamily(self.name, self.description, labels=self.labels)
        for values, number in self.read():
            family.add_metric(values, number)
        yield family
