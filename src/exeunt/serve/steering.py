"""Between a controller and a run in service: what happened goes in, the policy that is to be in force comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exeunt.errors import InputError
from exeunt.serve.controller import Controller, Load, OperatingPoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exeunt._arrays import Floats
    from exeunt.serve.engine_thread import EngineThread
    from exeunt.serve.opened_run import OpenedRun
    from exeunt.serve.settings import Settings
    from exeunt.serve.traffic import Counts

__all__ = ["Steering", "controller_of", "operating_points", "seconds_at"]


class Steering:
    """Lets a controller choose the policy in force, so that the latency asked for is kept.

    `seconds_at`: what a row takes that is answered at an exit, see the function of that name.
    """

    def __init__(
        self, controller: Controller, engine: EngineThread, seconds_at: Mapping[tuple[str, int], float]
    ) -> None:
        self.controller = controller
        self._engine, self._seconds_at = engine, seconds_at
        self._calls, self._busy_s = engine.calls, engine.busy_s

    def chosen(self, now: float, counts: Counts, waiting: int) -> str:
        """Return the name of the policy to be in force. `counts`: since the last call; `waiting`: rows."""
        calls, busy_s = self._engine.calls, self._engine.busy_s
        passes = (calls - self._calls) / self._engine.segments
        taken = sum(rows * self._seconds_at.get(place, 0.0) for place, rows in counts.exits.items())
        timed = [(seconds, rows) for seconds, rows, own_deadline in counts.seconds if not own_deadline]
        load = Load(
            rows=counts.arrived,
            requests=counts.requests,
            waiting=waiting,
            answered=sum(rows for _, rows in timed),
            late=sum(rows for seconds, rows in timed if seconds > self.controller.late_s),
            busy_s=busy_s - self._busy_s,
            expected_s=passes * self.controller.in_force.pass_s + taken,
        )
        self._calls, self._busy_s = calls, busy_s
        return self.controller.observe(now, load).name


def controller_of(opened: OpenedRun, settings: Settings) -> Controller:
    """Return the controller that the settings ask for. Raises as `Controller` and `operating_points` do."""
    assert settings.slo_s is not None  # noqa: S101 - who asks for no latency has no controller
    return Controller(
        operating_points(opened),
        slo_s=settings.slo_s,
        quantile=settings.slo_quantile,
        min_accuracy=settings.min_accuracy,
    )


def operating_points(opened: OpenedRun) -> list[OperatingPoint]:
    """Return the policies of a run as a controller sees them, from the seconds that warming up took.

    Raises InputError if the traces on fit have no labels to estimate accuracies from.
    """
    per_row = _per_row(opened)
    few = min(opened.seconds)
    per_call = np.maximum(opened.seconds[few] - few * per_row, 0.0)
    points = []
    for name, policy in opened.policies.items():
        accuracy = opened.accuracy[name]
        if accuracy is None:
            raise InputError(
                f"the traces of {opened.run.path} on fit have no labels, from which a controller estimates what a "
                "smaller budget costs: serve it without --slo-ms"
            )
        reach = opened.reach(name)
        row_s, pass_s = float(per_row @ reach), float(per_call @ (reach > 0))
        points.append(OperatingPoint(name, policy.budget, accuracy, row_s, pass_s))
    return points


def seconds_at(opened: OpenedRun) -> dict[tuple[str, int], float]:
    """Return by policy and exit of the run what a row takes that is answered there, in a large pass."""
    per_row, executor = _per_row(opened), opened.shared.executor
    found = {}
    for name in opened.policies:
        until = np.cumsum(per_row * (opened.reach(name) > 0))
        for exit_ in opened.shared.exits[name]:
            (segment,) = (k for k, (first, last) in enumerate(executor.segments) if first <= exit_ <= last)
            found[name, opened.shared.places[exit_]] = float(until[segment])
    return found


def _per_row(opened: OpenedRun) -> Floats:
    """Return the seconds of each segment that a further row takes (s,)."""
    few, many = min(opened.seconds), max(opened.seconds)
    per_row: Floats = np.maximum(opened.seconds[many] - opened.seconds[few], 1e-9) / max(many - few, 1)
    return per_row
