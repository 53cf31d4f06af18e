"""What is counted: for Prometheus since the start, for the page over the last seconds, for the controller since it
last asked.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import prometheus_client as prometheus
from numpy.typing import NDArray
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["SHARED", "Counts", "Traffic"]

SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of a process's environment that names a folder in which Prometheus's client adds up what several
processes count."""

_WINDOW_S = 10
_LATEST = 0.05
"""Weight of the latest request in the mean number of rows."""
_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass
class Counts:
    """What happened in some time.

    `arrived`: rows of requests that were read and name no policy; `own`: rows of the others, by policy. `requests`: of
    the former, those that name no deadline either; `together`: their rows. `exits`: rows answered, by policy and exit;
    `cut_short`: those of them that were degraded or expired; `own_served`: by policy, where the request names it.
    `marks`: rows that were degraded or expired, rows with errors, requests that were refused. `seconds`: of each
    request that was answered, from its last byte, with its rows and whether it had a deadline of its own.
    """

    begun: float = 0.0
    requests: int = 0
    together: int = 0
    arrived: int = 0
    own: Counter[str] = field(default_factory=Counter)
    cost: float = 0.0
    exits: Counter[tuple[str, int]] = field(default_factory=Counter)
    cut_short: Counter[tuple[str, int]] = field(default_factory=Counter)
    own_served: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    seconds: list[tuple[float, int, bool]] = field(default_factory=list)

    @property
    def served(self) -> Counter[str]:
        """Rows answered, by policy."""
        rows: Counter[str] = Counter()
        for (policy, _), count in self.exits.items():
            rows[policy] += count
        return rows

    def add(self, other: Counts) -> None:
        """Add what happened in another time."""
        self.requests += other.requests
        self.together += other.together
        self.arrived += other.arrived
        self.own.update(other.own)
        self.cost += other.cost
        self.exits.update(other.exits)
        self.cut_short.update(other.cut_short)
        self.own_served.update(other.own_served)
        self.marks.update(other.marks)
        self.seconds += other.seconds


class Traffic:
    """Counts requests and rows."""

    def __init__(self) -> None:
        self._being_read, self._read, self._patient, self._rows_each = 0, 0, 0, 1.0
        self.since = Counts()
        self.begin_anew(0.0)
        self.registry = registry = prometheus.CollectorRegistry()
        named: dict[str, Any] = {"namespace": "exeunt", "registry": registry}
        self.requests = prometheus.Counter("requests", "Requests.", ["path", "status"], **named)
        self._seconds = prometheus.Histogram(
            "answer_seconds", "Seconds from a request's last byte to its answers.", buckets=_BOUNDS, **named
        )
        self._rows = prometheus.Counter("rows", "Rows answered.", ["policy", "exit"], **named)
        self._cost = prometheus.Counter("cost", "What was spent, in the unit of the costs.", **named)
        self._marks = prometheus.Counter(
            "marked", "Rows degraded, expired or with errors; requests refused.", ["mark"], **named
        )
        self._waiting = prometheus.Gauge(
            "rows_waiting", "Rows that are not answered yet.", multiprocess_mode="livesum", **named
        )
        said = "The most to spend per row, in the unit of the costs; with --slo-ms less may be active."
        self.budget = prometheus.Gauge("budget", said, multiprocess_mode="livemostrecent", **named)
        said = "What may be spent per row under the active policy, in the unit of the costs."
        self._active = prometheus.Gauge("budget_active", said, multiprocess_mode="livemin", **named)
        said = (
            "How much accuracy the load costs the answers of the last seconds, as estimated: 0.01 is a point."
        )
        self._lost = prometheus.Gauge("accuracy_lost", said, multiprocess_mode="livemax", **named)

    def begin_anew(self, now: float) -> None:
        """Forget the last seconds: they are of another run, or of none."""
        self._window: deque[Counts] = deque([Counts(now)])

    @property
    def waiting(self) -> int:
        """Rows that are not answered yet. Of requests that are not read yet they are estimated."""
        return self._read + round(self._being_read * self._rows_each)

    @property
    def pressing(self) -> int:
        """Those of them whose requests name no deadline."""
        return self.waiting - self._patient

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a request that is being read, inside the block."""
        self._being_read += 1
        try:
            yield
        finally:
            self._being_read -= 1

    @contextmanager
    def inside(self, rows: int, policy: str | None = None, *, own_deadline: bool = False) -> Iterator[None]:
        """Count a request that was read, and is waited for inside the block. `policy`: the one that it names."""
        self._arrived(rows, policy, own_deadline=own_deadline)
        self._read += rows
        self._patient += rows * own_deadline
        try:
            yield
        finally:
            self._read -= rows
            self._patient -= rows * own_deadline

    def _arrived(self, rows: int, policy: str | None, *, own_deadline: bool) -> None:
        self._rows_each += _LATEST * (rows - self._rows_each)
        for counts in (self.since, self._window[-1]):
            if policy is not None:
                counts.own[policy] += rows
                continue
            counts.arrived += rows
            if not own_deadline:
                counts.requests += 1
                counts.together += rows

    def answered(
        self,
        columns: Mapping[str, NDArray[Any]],
        seconds: float,
        policy: str | None = None,
        *,
        own_deadline: bool = False,
    ) -> None:
        """Count the answers to a request (see `answer_columns`). `policy`: the one that it names."""
        n, cost = len(columns["label"]), float(columns["cost"].sum())
        pairs = list(zip(columns["policy"].tolist(), columns["exit"].tolist(), strict=True))
        exits = Counter(pair for pair in pairs if pair[1] >= 0)
        cut = (columns["degraded"] | columns["expired"]).nonzero()[0].tolist()
        cut_short = Counter(pairs[i] for i in cut if pairs[i][1] >= 0)
        marks = {
            "degraded": int(columns["degraded"].sum()),
            "expired": int(columns["expired"].sum()),
            "errors": n - sum(exits.values()),
        }
        for counts in (self.since, self._window[-1]):
            counts.cost += cost
            counts.exits.update(exits)
            counts.cut_short.update(cut_short)
            if policy is not None:
                counts.own_served[policy] += sum(exits.values())
            counts.marks.update(marks)
            counts.seconds.append((seconds, n, own_deadline))
        self._seconds.observe(seconds)
        self._cost.inc(cost)
        for (answering, exit_), rows in exits.items():
            self._rows.labels(answering, exit_).inc(rows)
        for mark, count in marks.items():
            if count:
                self._marks.labels(mark).inc(count)

    def refused(self) -> None:
        """Count a request that was refused because there are too many."""
        for counts in (self.since, self._window[-1]):
            counts.marks["refused"] += 1
        self._marks.labels("refused").inc()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Count what the page shows of the active policy (see `exeunt.serve.events.snapshot`)."""
        self._active.set(event["budget"])
        most, now = event["accuracy_most"], event["estimated_accuracy"]
        self._lost.set(0.0 if most is None or now is None else max(most - now, 0.0))

    def taken(self, now: float) -> Counts:
        """Return what happened since the last call."""
        taken, self.since = self.since, Counts(now)
        return taken

    def last_seconds(self, now: float) -> tuple[Counts, float]:
        """Return what happened in the last ten seconds, and in how many; to be called once a second."""
        self._waiting.set(self.waiting)
        whole = Counts()
        for counts in self._window:
            whole.add(counts)
        elapsed = max(now - self._window[0].begun, 1e-9)
        self._window.append(Counts(now))
        if len(self._window) > _WINDOW_S:
            self._window.popleft()
        return whole, elapsed

    def exposition(self) -> bytes:
        """Return everything as Prometheus reads it, of all workers of the server.

        How many rows wait in the others they tell once a second.
        """
        self._waiting.set(self.waiting)
        if SHARED not in os.environ:
            return prometheus.generate_latest(self.registry)
        together = prometheus.CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return prometheus.generate_latest(together)
