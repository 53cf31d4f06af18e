"""A server that answers requests in batches, event by event: slow and obvious, without the controller's formulas.

A row that would be answered after the controller's deadline ends early: it takes as long as under the cheapest policy.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from exeunt.serve.latency_controller import Controller, Load, OperatingPoint

TICK_S = 0.005
PIECE = 64  # rows that are run together


@dataclass
class Served:
    """Seconds from arrival to answer of each request, when it arrived, and (second, place settled on) at each change.

    `rows_at`: by place of the policy, those that end early with the cheapest.
    """

    arrived: np.ndarray
    latency: np.ndarray
    changes: list[tuple[float, int]] = field(default_factory=list)
    rows_at: np.ndarray | None = None

    def quantile(self, q=0.99, since=0.0, until=np.inf):
        chosen = (self.arrived >= since) & (self.arrived < until)
        return float(np.quantile(self.latency[chosen], q))

    def turns(self, since=0.0):
        """How often the direction of change turned: what oscillates turns often."""
        moves = np.sign(np.diff([place for _, place in self.changes]))
        times = np.array([time for time, _ in self.changes[1:]])
        return int(((moves[1:] != moves[:-1]) & (times[1:] >= since)).sum())


def affordable(controller: Controller, rate, *, waiting=0, size=1.0) -> OperatingPoint:
    """Return the policy that a controller of the same policies finds at a steady load of `size` rows a request."""
    made = Controller(controller.points, slo_s=controller.slo_s, budget=controller.without_load.budget)
    made.observe(0.0, Load())
    return made.observe(60.0, Load(rows=60 * rate, requests=1, together=size, waiting=waiting))


def poisson(rng, rate, seconds, start=0.0):
    """Arrival times of a Poisson process; `rate` is a number, or a function of the time with a most."""
    count = rng.poisson(rate * seconds)
    return start + np.sort(rng.uniform(0, seconds, count))


def simulate(
    controller: Controller, arrived, size, true: dict[str, OperatingPoint], rng, noise=0.1
) -> Served:
    """Let requests of `size` rows come in at the times `arrived` (n,). `true`: what each policy really takes."""
    n, latency = len(arrived), np.zeros(len(arrived))
    places = {point.name: i for i, point in enumerate(controller.points)}
    served = Served(arrived, latency, [(0.0, places[controller.settled.name])], np.zeros(len(places)))
    began = done = seen = 0  # requests that have begun, are answered, and were reported to the controller
    free_at, now, finishing = 0.0, 0.0, None
    report = Counter()
    profile = {point.name: point for point in controller.points}
    while done < n:
        now += TICK_S
        # The server works through this tick.
        while True:
            if finishing is not None and free_at <= now:
                first, last, name = finishing
                latency[first:last] = free_at - arrived[first:last]
                report["answered"] += (last - first) * size
                report["late"] += int((latency[first:last] > controller.late_s).sum()) * size
                done, finishing = last, None
            if finishing is not None or began == n:
                break
            start = max(free_at, arrived[began])
            if start > now:
                break
            last = began + 1
            while last < n and arrived[last] <= start and (last + 1 - began) * size <= PIECE:
                last += 1
            name = controller.active.name
            point, least = true[name], true[controller.points[0].name]
            whole_s = point.pass_s + (last - began) * size * point.row_s
            cut = int((arrived[began:last] + controller.within_s < start + whole_s).sum())
            seconds = (whole_s - cut * size * (point.row_s - least.row_s)) * rng.lognormal(0, noise)
            served.rows_at[places[name]] += (last - began - cut) * size
            served.rows_at[0] += cut * size
            report["busy_s"] += seconds
            rows_s = (last - began - cut) * profile[name].row_s + cut * controller.points[0].row_s
            report["expected_s"] += profile[name].pass_s + size * rows_s
            finishing, began, free_at = (began, last, name), last, start + seconds
        arrived_by_now = int(np.searchsorted(arrived, now, side="right"))
        new = arrived_by_now - seen
        load = Load(
            rows=new * size, requests=new, together=new * size,
            waiting=(arrived_by_now - done) * size, **report
        )  # fmt: skip
        seen, report = arrived_by_now, Counter()
        controller.observe(now, load)
        place = places[controller.settled.name]
        if place != served.changes[-1][1]:
            served.changes.append((now, place))
    return served
