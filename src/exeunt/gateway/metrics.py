"""Counts of a gateway, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily

from exeunt.gateway.answering import REASONS, Answered

_NAMESPACE = "exeunt_gateway"
_BOUNDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
REQUESTS, CONNECTIONS = "requests", "connections"


class GatewayMetrics:
    """Counts requests, answers and money since the start. `on_refused`: gets what was refused, `REQUESTS` or
    `CONNECTIONS`.
    """

    def __init__(self, on_refused: Callable[[str], object]) -> None:
        self._on_refused = on_refused
        self.registry = prometheus.CollectorRegistry()
        counter = partial(prometheus.Counter, namespace=_NAMESPACE, registry=self.registry)
        self._requests = counter("requests", "Requests, by path and status.", ["path", "status"])
        self._refused = counter("refused", "Requests refused because too many were open.")
        self._refused_connections = counter(
            "refused_connections", "Connections refused because there were too many."
        )
        self._answers = counter(
            "answers", "Answers, by policy and the model that gave them.", ["policy", "model"]
        )
        self._escalated = counter(
            "escalated",
            f"Answers for which further or other models were asked, by policy and reason: {', '.join(REASONS)}.",
            ["policy", "reason"],
        )
        self._failures = counter("failures", "Requests to models without an answer.", ["model"])
        self._spent = counter("spent_usd", "US dollars billed for answers, by model.", ["model"])
        self._seconds = prometheus.Histogram(
            "seconds",
            "Seconds until an answer.",
            namespace=_NAMESPACE,
            registry=self.registry,
            buckets=_BOUNDS,
        )
        self._alarms = counter("alarms", "Alarms of the watch.", ["policy"])

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
            policy = answered.policy or "none"
            self._answers.labels(policy, answered.model).inc()
            self._seconds.observe(seconds)
            if answered.escalated:
                self._escalated.labels(policy, answered.escalated).inc()

    def alarm(self, policy: str) -> None:
        """Count an alarm."""
        self._alarms.labels(policy).inc()

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a number that is read when somebody asks for it."""
        prometheus.Gauge(name, description, namespace=_NAMESPACE, registry=self.registry).set_function(read)

    def family(
        self,
        name: str,
        description: str,
        labels: Sequence[str],
        read: Callable[[], Iterable[tuple[Sequence[str], float]]],
    ) -> None:
        """Add numbers that are read, with the values of their labels, when somebody asks for them."""
        self.registry.register(_Family(f"{_NAMESPACE}_{name}", description, labels, read))

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
