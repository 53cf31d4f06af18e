"""Counts of requests and rows: for Prometheus since the start, for the page over the last seconds, and for the
controller since it last asked.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import prometheus_client as prometheus
from prometheus_client.multiprocess import MultiProcessCollector

from exeunt.serve.prediction import Answer

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable: the folder in which Prometheus's client adds up the counts of several processes."""
_FINE = 100
"""Latencies are counted by their logarithm, in steps of one hundredth, so that they are right to 1%."""

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_WINDOW_S = 10
_LATEST = 0.05
"""Weight of the latest request in the mean number of rows."""
_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass
class Counts:
    """What happened in a period.

    `arrived`: rows of requests that were read and name no policy; `own`: rows of the others, by policy. `requests`:
    of the former, those without a deadline of their own; `together`: their rows. `exits`: rows answered, by policy and
    exit; `ended_early`: those of them that were degraded or expired; `own_answered`: by policy, if the request names
    it. `problems`: rows that were degraded or expired, rows with errors, requests that were refused. `latencies`:
    requests that were answered, by the logarithm of their seconds from the last byte, see `latency_ms`.
    `seconds`: the seconds of each, for the controller, with its rows and whether it had a deadline of its own.
    """

    requests: int = 0
    together: int = 0
    arrived: int = 0
    own: Counter[str] = field(default_factory=Counter)
    cost: float = 0.0
    exits: Counter[tuple[str, int]] = field(default_factory=Counter)
    ended_early: Counter[tuple[str, int]] = field(default_factory=Counter)
    own_answered: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)
    seconds: list[tuple[float, int, bool]] = field(default_factory=list)

    @property
    def answered(self) -> Counter[str]:
        """Rows answered, by policy."""
        rows: Counter[str] = Counter()
        for (policy, _), count in self.exits.items():
            rows[policy] += count
        return rows

    def latency_ms(self) -> dict[str, float | None]:
        """Return quantiles of the milliseconds of requests, to 1%; None if there were none."""
        if not self.latencies:
            return dict.fromkeys(_QUANTILES)
        logarithms = sorted(self.latencies)
        reached = np.cumsum([self.latencies[logarithm] for logarithm in logarithms])
        places = {name: np.searchsorted(reached, share * reached[-1]) for name, share in _QUANTILES.items()}
        return {name: 1e3 * math.exp(logarithms[place] / _FINE) for name, place in places.items()}

    def add(self, other: Counts) -> None:
        """Add the counts of another period."""
        for name, theirs in vars(other).items():
            if isinstance(theirs, Counter):
                getattr(self, name).update(theirs)
            elif theirs:
                setattr(self, name, getattr(self, name) + theirs)


def sum_of(parts: Iterable[Counts]) -> Counts:
    """Return the counts of several periods or workers together."""
    total = Counts()
    for part in parts:
        total.add(part)
    return total


class Metrics:
    """Counts requests and rows."""

    def __init__(self) -> None:
        self._reading, self._read, self._read_own_deadline, self._rows_each = 0, 0, 0, 1.0
        self._new = Counts()
        self._untaken: list[Counts] = []
        self._unreported: list[Counts] = []
        self._window: deque[tuple[float, Counts]] = deque([(0.0, Counts())])
        self.registry = registry = prometheus.CollectorRegistry()
        named: dict[str, Any] = {"namespace": "exeunt", "registry": registry}
        self.requests = prometheus.Counter("requests", "Requests.", ["path", "status"], **named)
        self._ended: Counter[tuple[str, int]] = Counter()
        self._seconds = prometheus.Histogram(
            "answer_seconds", "Seconds from a request's last byte to its answers.", buckets=_BOUNDS, **named
        )
        self._rows = prometheus.Counter("rows", "Rows answered.", ["policy", "exit"], **named)
        self._cost = prometheus.Counter("cost", "Cost of all answers, in the unit of the costs.", **named)
        self._problems = prometheus.Counter(
            "problems", "Rows degraded, expired or with errors; requests refused.", ["problem"], **named
        )
        gauge: Any = partial(prometheus.Gauge, **named)
        about = "Rows that are not answered yet."
        self._waiting = gauge("rows_waiting", about, multiprocess_mode="livesum")
        self.workers = gauge("workers", "Workers that answer requests.", multiprocess_mode="livesum")
        about = "The largest mean cost per row, in the unit of the costs. With --slo-ms, load may lower it."
        self.budget = gauge("budget", about, multiprocess_mode="livemostrecent")
        about = "The budget of the active policy, in the unit of the costs."
        self._active = gauge("budget_active", about, multiprocess_mode="livemin")
        self._active.set(math.inf)  # else a worker that still loads the run would have the smallest one
        about = "Estimated accuracy that the answers of the last seconds lost to load: 0.01 is a point."
        self._lost = gauge("accuracy_lost", about, multiprocess_mode="livemax")
        about = "Evidence that inputs have drifted, on a logarithmic scale: 0 is none, an alarm comes at 1."
        self._evidence = gauge("drift_evidence", about, multiprocess_mode="livemax")
        about = "1 if an alarm stands that inputs have drifted."
        self._drift = gauge("drift", about, multiprocess_mode="livemax")

    def restart_window(self, now: float) -> None:
        """Forget the last seconds: they belong to another run, or to none."""
        self._report()
        self._window = deque([(now, Counts())])

    @property
    def waiting(self) -> int:
        """Rows that are not answered yet. Those of requests that are not read yet are estimated."""
        return self._read + round(self._reading * self._rows_each)

    @property
    def waiting_without_deadline(self) -> int:
        """Those of them whose requests have no deadline of their own."""
        return self.waiting - self._read_own_deadline

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a request that is being read, inside the block."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    @contextmanager
    def running(self, rows: int, policy: str | None = None, *, own_deadline: bool = False) -> Iterator[None]:
        """Count a request that was read, and runs inside the block. `policy`: the one that it names."""
        self._rows_each += _LATEST * (rows - self._rows_each)
        new = self._new
        if policy is not None:
            new.own[policy] += rows
        else:
            new.arrived += rows
            if not own_deadline:
                new.requests += 1
                new.together += rows
        self._read += rows
        self._read_own_deadline += rows * own_deadline
        try:
            yield
        finally:
            self._read -= rows
            self._read_own_deadline -= rows * own_deadline

    def answered(
        self,
        answers: Sequence[Answer],
        seconds: float,
        policy: str | None = None,
        *,
        own_deadline: bool = False,
    ) -> None:
        """Count the answers to a request. `policy`: the one that it names."""
        new = self._new
        new.latencies[round(_FINE * math.log(max(seconds, 1e-6)))] += 1
        new.seconds.append((seconds, len(answers), own_deadline))
        for answer in answers:
            new.cost += answer.cost
            if answer.degraded:
                new.problems["degraded"] += 1
            if answer.expired:
                new.problems["expired"] += 1
            if answer.exit < 0:
                new.problems["errors"] += 1
                continue
            place: Any = answer.policy, answer.exit
            new.exits[place] += 1
            if policy is not None:
                new.own_answered[policy] += 1
            if answer.degraded or answer.expired:
                new.ended_early[place] += 1

    def ended(self, path: str, status: int) -> None:
        """Count a request to a path that was answered with a status."""
        self._ended[path, status] += 1

    def refused(self) -> None:
        """Count a request that was refused, because there are too many or money is short."""
        self._new.problems["refused"] += 1

    def _set_aside(self) -> None:
        """Begin new counts. Those so far are still to be taken and to be reported."""
        self._unreported.append(self._new)
        self._untaken.append(self._new)
        self._new = Counts()

    def _report(self) -> None:
        """Add what was not reported yet to the last seconds and to the metrics of Prometheus."""
        self._set_aside()
        new, self._unreported = sum_of(self._unreported), []
        self._window[-1][1].add(replace(new, seconds=[]))
        self._cost.inc(new.cost)
        for (path, status), count in self._ended.items():
            self.requests.labels(path, status).inc(count)
        self._ended.clear()
        for (answering, exit_), rows in new.exits.items():
            self._rows.labels(answering, exit_).inc(rows)
        for problem, count in new.problems.items():
            self._problems.labels(problem).inc(count)
        for seconds, _, _ in new.seconds:
            self._seconds.observe(seconds)

    def set_estimates(self, event: Mapping[str, Any]) -> None:
        """Take over what the page shows of the active policy (see `exeunt.serve.events.snapshot`)."""
        self._active.set(event["budget_active"])
        self._evidence.set(event["drift_evidence"])
        self._drift.set(bool(event["drift"]))
        best, now = event["accuracy_without_load"], event["estimated_accuracy"]
        self._lost.set(0.0 if best is None or now is None else max(best - now, 0.0))

    def take_counts(self) -> Counts:
        """Return what happened since the last call."""
        self._set_aside()
        untaken, self._untaken = self._untaken, []
        return untaken[0] if len(untaken) == 1 else sum_of(untaken)

    def last_seconds(self, now: float) -> tuple[Counts, float]:
        """Return what happened in the last ten seconds, and in how many; to be called once a second."""
        self._report()
        self._waiting.set(self.waiting)
        total = sum_of(counts for _, counts in self._window)
        elapsed = max(now - self._window[0][0], 1e-9)
        self._window.append((now, Counts()))
        if len(self._window) > _WINDOW_S:
            self._window.popleft()
        return total, elapsed

    def exposition(self) -> bytes:
        """Return all metrics as Prometheus reads them, of all workers of the server.

        The other workers write what is new once a second.
        """
        self._report()
        self._waiting.set(self.waiting)
        if SHARED_FOLDER not in os.environ:
            return prometheus.generate_latest(self.registry)
        together = prometheus.CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return prometheus.generate_latest(together)
