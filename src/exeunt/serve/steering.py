"""Between a controller and a run in service: what happened goes in, the policy that is to be active comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exeunt._arrays import Floats
from exeunt.errors import InputError
from exeunt.serve.controller import Controller
from exeunt.serve.load import Load, OperatingPoint

if TYPE_CHECKING:
    from exeunt.serve.engine_thread import EngineThread
    from exeunt.serve.opened_run import OpenedRun
    from exeunt.serve.settings import Settings
    from exeunt.serve.traffic import Counts

__all__ = ["Profile", "Steering", "controller_of", "operating_points", "profile_of"]


@dataclass(frozen=True, eq=False)
class Profile:
    """What a run takes.

    `seconds` (2, s): of a call of each segment beside its rows, and of each row. `row_s`: of a row, by policy.
    """

    seconds: Floats
    row_s: Mapping[str, float]


class Steering:
    """Lets a controller choose the active policy, so that the latency asked for is kept."""

    def __init__(self, engine: EngineThread, controller: Controller, profile: Profile) -> None:
        self.controller = controller
        self._engine, self._profile = engine, profile
        self._work, self._busy_s = engine.work, engine.busy_s

    def chosen(self, now: float, counts: Counts, waiting: int) -> str:
        """Return the name of the policy to be active. `counts`: since the last call; `waiting`: rows."""
        work, busy_s = self._engine.work, self._engine.busy_s
        profile = self._profile
        timed = [(seconds, rows) for seconds, rows, own_deadline in counts.seconds if not own_deadline]
        load = Load(
            rows=counts.arrived,
            requests=counts.requests,
            together=counts.together,
            own_s=sum(rows * profile.row_s.get(policy, 0.0) for policy, rows in counts.own.items()),
            waiting=waiting,
            answered=sum(rows for _, rows in timed),
            late=sum(rows for seconds, rows in timed if seconds > self.controller.late_s),
            busy_s=busy_s - self._busy_s,
            expected_s=float(((work - self._work) * profile.seconds).sum()),
        )
        self._work, self._busy_s = work, busy_s
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
    per_call, per_row = _call_seconds(opened)
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


def profile_of(opened: OpenedRun) -> Profile:
    """Return what a run takes, from the seconds that warming up took. Raises as `operating_points` does."""
    row_s = {point.name: point.row_s for point in operating_points(opened)}
    return Profile(_call_seconds(opened), row_s)


def _call_seconds(opened: OpenedRun) -> Floats:
    few, many = min(opened.seconds), max(opened.seconds)
    per_row = np.maximum(opened.seconds[many] - opened.seconds[few], 1e-9) / max(many - few, 1)
    return np.stack([np.maximum(opened.seconds[few] - few * per_row, 0.0), per_row])
