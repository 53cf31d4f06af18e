"""What is watched while a policy answers: where units' first requests leave, and by audits how good the answers are."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from exeunt._support.files import read_json, write_json
from exeunt._support.sealed_json import built
from exeunt.errors import ArtefactError, InputError
from exeunt.gateway.answering import Active, Seen
from exeunt.stream.records import COMPARED, NOT_PAID
from exeunt.watch import Alarm, Watch
from exeunt.watch.alarm_report import loss_alarm
from exeunt.watch.e_detectors import EvidenceCurve, evidence_level
from exeunt.watch.loss_detector import LossDetector

_FEWEST = 100
"""Audits without a change until a false alarm, on average at least, however few there are."""
_AUDITS = 8
"""Audits to a point of the curve, at first."""
_COMPARISONS = 50
"""The latest comparisons, of which a fifth without grades is too much."""


class LiveWatch:
    """The watch of the active policy. `run_length`: units without a change until a false alarm, on average at least,
    where the share `audit` of them is audited. What it knows goes on from `file` after a restart.

    A policy that keeps nothing to watch exits by is watched by audits alone, one without a promised loss by exits
    alone. `alarm`: the first one that was raised. `policy`: the name of the policy.
    """

    def __init__(self, active: Active, file: Path, *, run_length: float, audit: float) -> None:
        policy = active.policy
        self.policy, self._policy, self._file = active.name, policy, file
        # Exits and audits share it.
        self._audits = max(2 * run_length * audit, _FEWEST)
        self._exits = (
            None if policy is None or policy.watched is None else Watch(policy, run_length=2 * run_length)
        )
        self._losses = None if policy is None or active.max_loss is None else LossDetector(active.max_loss)
        self._loss_curve = EvidenceCurve(_AUDITS)
        self.alarm: Alarm | None = None
        self._restore()

    @property
    def evidence(self) -> dict[str, float]:
        """The evidence for drift, and for a loss above what is certified, on a log scale: an alarm comes at 1."""
        levels = {}
        if self._exits is not None:
            levels["exits"] = evidence_level(self._exits.evidence, self._exits.threshold)
        if self._losses is not None:
            levels["audits"] = evidence_level(float(self._losses.evidence.mean()), self._audits)
        return levels

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """The same over time: (units or audits so far, evidence), from (0, 0) to now; at most some 400 of each."""
        points, now = {}, self.evidence
        if self._exits is not None:
            points["exits"] = _points(self._exits.curve, self._exits.threshold, self._exits.n, now["exits"])
        if self._losses is not None:
            points["audits"] = _points(self._loss_curve, self._audits, self._losses.n, now["audits"])
        return points

    def answered(self, observed: Seen) -> Alarm | None:
        """Update the watch with the first request of a unit, in order of arrival. Returns a new alarm, or None."""
        if self._exits is None:
            return None
        scores = (observed.score, observed.first_score, observed.tie)
        columns = [None if score is None else [score] for score in scores]
        try:
            alarms = self._exits.update([observed.exit], *columns)
        except InputError:  # no scores came where there were some, or the other way round
            return None
        return self._raised(alarms[0]) if alarms else None

    def audited(self, lost: float) -> Alarm | None:
        """Update the watch with what an audited unit lost, in [-1, 1], in order of arrival. Returns a new alarm, or
        None.
        """
        if self._losses is None or self._policy is None:
            return None
        detection = self._losses.update(np.array([lost]), self._audits)
        self._loss_curve.add(self._losses.n, float(self._losses.evidence.mean()))
        if detection is None:
            return None
        return self._raised(loss_alarm(self._policy, *detection, self._losses.certified))

    def _raised(self, alarm: Alarm) -> Alarm | None:
        """Return an alarm, if it is the first."""
        first, self.alarm = self.alarm is None, self.alarm or alarm
        return alarm if first else None

    def save(self) -> None:
        """Write what is known."""
        if self._policy is None:
            return
        body: dict[str, Any] = {
            "policy": self.policy,
            "exits": self._exits and self._exits.to_dict(),
            "losses": self._losses and self._losses.to_dict(),
            "curve": self._loss_curve.to_dict(),
            "alarm": self.alarm and self.alarm.to_dict(),
        }
        write_json(self._file, body)

    def _restore(self) -> None:
        """Go on from the file, if it is of this policy. One that is chosen again after an alarm is watched anew.

        The run length may be another one: evidence is what it is, and the threshold moves.
        """
        try:
            body = read_json(self._file)
            self._exits, self._losses, self._loss_curve = built(
                self._file, body, self._kept, kind="watch", remedy="it begins anew"
            )
        except (ArtefactError, InputError):
            return  # none yet, or of another calibration: it begins anew

    def _kept(self, body: Any) -> tuple[Watch | None, LossDetector | None, EvidenceCurve]:
        """Return what a file says of exits and losses; what is known now where it is of something else."""
        exits, losses, curve = self._exits, self._losses, self._loss_curve
        if body["policy"] != self.policy or body["alarm"]:
            return exits, losses, curve
        if exits is not None and self._policy is not None and body["exits"]:
            exits = Watch.from_dict({**body["exits"], "run_length": exits.run_length}, self._policy)
        if losses is not None and body["losses"]:
            losses = LossDetector(losses.certified)
            losses.restore(body["losses"])
            curve = EvidenceCurve.from_dict(body["curve"])
        return exits, losses, curve


class GradingWatch:
    """Notices that comparisons are not graded any more, which hides losses: more than a fifth of the latest fifty."""

    def __init__(self) -> None:
        self._latest: deque[str] = deque(maxlen=_COMPARISONS)
        self._is_raised = False

    def compared(self, became: str) -> str:
        """Count how a comparison ended, one of `ASKED`. Returns the text of an alarm, once until grading works
        again; "" for nothing.
        """
        self._latest.append(became)
        n = len(self._latest)
        missing = n - self._latest.count(COMPARED)
        if missing <= n // 20:
            self._is_raised = False
        if self._is_raised or n < _COMPARISONS or missing <= n // 5:
            return ""
        self._is_raised = True
        unpaid, reasons = self._latest.count(NOT_PAID), list[str]()
        if unpaid < missing:
            reasons.append("the grader failed (the log says why)")
        if unpaid:
            reasons.append(
                f"money for the judge was short for {unpaid} of them (let comparisons cost more: spend of shadow)"
            )
        return (
            f"{missing} of the latest {n} comparisons have no grade, because {' and '.join(reasons)}: losses are not "
            "seen by audits until they are graded again"
        )


def _points(curve: EvidenceCurve, threshold: float, n: int, now: float) -> list[tuple[int, float]]:
    """Return what is to be drawn of a curve, after `n` inputs."""
    before = [
        (position, round(evidence_level(peak, threshold), 4))
        for position, peak in curve.points
        if position < n
    ]
    return [(0, 0.0), *before, (n, now)]
