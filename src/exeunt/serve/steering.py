"""Between a controller and a run in service: what happened goes in, the policy that is to be in force comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exeunt.errors import InputError
from exeunt.serve.controller import Controller, Load, OperatingPoint

if TYPE_CHECKING:
    from exeunt.serve.engine_thread import EngineThread
    from exeunt.serve.opened_run import OpenedRun
    from exeunt.serve.settings import Settings
    from exeunt.serve.traffic import Counts

__all__ = ["Steering", "controller_of", "operating_points"]


class Steering:
    """Lets a controller choose the policy in force, so that the latency asked for is kept."""

    def __init__(self, controller: Controller, engine: EngineThread) -> None:
        self.controller = controller
        self._engine = engine
        self._steps, self._busy_s = engine.steps, engine.busy_s

    def chosen(self, now: float, counts: Counts, waiting: int) -> str:
        """Return the name of the policy to be in force. `counts`: since the last call; `waiting`: rows."""
        steps, busy_s = self._engine.steps, self._engine.busy_s
        load = Load(
            rows=counts.arrived,
            requests=counts.requests,
            waiting=waiting,
            served=counts.served,
            passes=(steps - self._steps) / self._engine.segments,
            busy_s=busy_s - self._busy_s,
            late=sum(rows for seconds, rows in counts.seconds if seconds > self.controller.slo_s),
        )
        self._steps, self._busy_s = steps, busy_s
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
    few, many = min(opened.seconds), max(opened.seconds)
    per_row = np.maximum(opened.seconds[many] - opened.seconds[few], 1e-9) / max(many - few, 1)
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
