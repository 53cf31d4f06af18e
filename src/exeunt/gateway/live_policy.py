"""The policy that answers: activation and rolling back, and falling back to the reference when a certificate ends."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from exeunt._support.checked_types import check_kind
from exeunt._support.files import write_json
from exeunt._support.sealed_json import read_built
from exeunt.errors import ExeuntError, InputError, one_line
from exeunt.gateway.answering import Active, Seen, active_policy
from exeunt.gateway.config import GatewayConfig, Promise
from exeunt.gateway.live_watch import GradingWatch, LiveWatch
from exeunt.gateway.metrics import GatewayMetrics
from exeunt.gateway.saved_policies import REFERENCE, GatewayPolicies
from exeunt.live.function_model import FeatureModel
from exeunt.stream.bill import loss_of
from exeunt.stream.order import InOrder, Waiting
from exeunt.stream.records import ASKED, Record, one_each
from exeunt.stream.units import Place, Unit
from exeunt.watch import Alarm

_log = logging.getLogger("exeunt.gateway")
_ALARMS, _WATCH = "alarms.json", "watch.json"


class _Alarm(TypedDict):
    time: float
    policy: str
    alarm: str


class _KeptAlarm(_Alarm, total=False):
    """An alarm as `alarms.json` holds it."""

    ends: bool


class LivePolicy:
    """Which of the policies in a gateway's folder answers, and the watch of its answers.

    `active`: the one that answers "auto", since the time `since`. `reference`: the reference alone. `watch`: of what it
    has answered. `alarms`: the latest, also of before a restart; those with `ends` ended a certificate. `fallen`: the
    watch whose alarm made the reference answer; None if it answers for another reason. `on_change`: called when another
    policy is active, with whether an alarm is why.
    """

    def __init__(
        self,
        config: GatewayConfig,
        policies: GatewayPolicies,
        *,
        features: FeatureModel | None,
        metrics: GatewayMetrics,
        clock: Callable[[], float],
        on_change: Callable[[bool], None],
    ) -> None:
        self._config, self._policies, self._features = config, policies, features
        self._metrics, self._clock, self._on_change = metrics, clock, on_change
        self._file = config.folder / _ALARMS
        self.alarms: deque[dict[str, Any]] = deque(_alarms_in(self._file), maxlen=20)
        self._known: dict[str, Active] = {}
        self._grading = GradingWatch()
        self.reference = self.named(REFERENCE)
        self.active: Active
        self.fallen: LiveWatch | None
        self._follow(self._latest())

    def named(self, name: str) -> Active:
        """Return a policy. Raises InputError for an unknown name, ArtefactError if it is for other models."""
        if name not in self._known:
            policy = None if name == REFERENCE else self._policies.load(name)
            self._known[name] = active_policy(name, policy, self._config.models, self._features)
        return self._known[name]

    def activate(self, name: str) -> bool:
        """Let another policy answer from now on; "reference" is the reference alone. Returns whether another one did
        before: else nothing changes. Raises as `named` does.
        """
        active = self.named(name)
        if name == self.active.name:
            return False
        self._policies.activate(name, self._clock())
        self._follow(active)
        self._on_change(False)
        return True

    def roll_back(self) -> str:
        """Let the policy answer that did before, and return its name."""
        self._follow(self.named(self._policies.roll_back(self._clock())))
        self._on_change(False)
        return self.active.name

    def within(self, budget: str, certified: Iterable[str]) -> str:
        """Return the name of the dearest of these policies whose cost per request is estimated to be within a budget,
        such as "40%" of the reference's, or "0.002 usd". `certified`: those that are now. Raises InputError if there is
        none.
        """
        share, amount = Promise.parts_of(budget)
        shares = {}
        for name in certified:
            try:
                policy = self.named(name).policy
            except ExeuntError:  # made for other models, or before there were units
                continue
            note = {} if policy is None else policy.notes["gateway"]
            if note["share"] <= share or note["cost"] <= amount:
                shares[name] = note["share"]
        if not shares:
            raise InputError(
                f"no certified policy costs at most {budget}: the page says what is certified now, and what is missing"
            )
        return max(shares, key=shares.__getitem__)

    # -- the watch ------------------------------------------------------------------------------------------

    def begin(self, place: Place) -> Waiting[Seen] | None:
        """Note that the policy is asked for a request. Returns its place in the watch's order, for `answered`: of
        a unit the first request counts.
        """
        return self._firsts.begin() if place.starts and self.active.policy is not None else None

    def answered(self, waiting: Waiting[Seen] | None, observed: Seen | None) -> None:
        """Update the watch with the answer to a request; `observed` is None where failures or money decided."""
        if waiting is None:
            return
        self._firsts.end(waiting, observed)
        for first in self._firsts.take_ready():
            if (alarm := self.watch.answered(first)) is not None:
                self.fall_back(alarm)

    def audit(self, unit: Unit) -> None:
        """Begin the audit of a drawn unit whose first requests the policy answers."""
        if self.active.policy is not None:
            self._audits[unit.number] = self._audited.begin()

    def unit_ended(self, unit: Unit, records: Sequence[Record]) -> None:
        """Update the watch with the records of a drawn unit that has closed, or that the policy answers no more."""
        if (waiting := self._audits.pop(unit.number, None)) is None:
            return
        self._audited.end(waiting, self._lost(records))
        for lost in self._audited.take_ready():
            if (alarm := self.watch.audited(lost)) is not None:
                self.fall_back(alarm)

    def _lost(self, records: Sequence[Record]) -> float:
        """Return what a unit lost, such that its mean is the promised loss where the mean per request is.

        A grade that is missing speaks for no loss.
        """
        rows, limit = self.active.rows, self.active.max_loss or 0.0
        lost = [
            loss_of(record, self._config.reference, missing=-1.0)
            for row, record in one_each(records).items()
            if row < rows
        ]
        return limit + sum(loss - limit for loss in lost) / rows

    def compared(self, record: Record) -> None:
        """Count whether a comparison was graded. Too many that are not raise an alarm of their own."""
        if record.compared in ASKED and (text := self._grading.compared(record.compared)):
            fields = self._log_alarm("comparisons are not graded", self.active.name, text)
            self._metrics.alarm(self.active.name)
            self._keep_alarm(fields)

    def fall_back(self, alarm: Alarm) -> None:
        """Let the reference answer: the certificate no longer describes the requests."""
        name, watch = self.active.name, self.watch
        event = "the policy is no longer certified: the reference answers"
        fields = self._log_alarm(event, name, alarm.sentences)
        self._metrics.alarm(name)
        try:
            self._keep_alarm({**fields, "ends": True})
            watch.save()
            self._policies.activate(REFERENCE, self._clock())
        except (ExeuntError, OSError) as error:  # such as a full disk
            _log.error("the alarm cannot be kept: until the next start the reference answers", exc_info=error)
        self._follow(self.reference)
        self.fallen = watch
        self._on_change(True)

    def leave_forgotten(self) -> None:
        """Use no policy any more that was removed because a client was forgotten."""
        for name in filter(self._policies.is_forgotten, tuple(self._known)):
            del self._known[name]
        if self.active.name not in self._known:
            self._follow(self._latest())
            self._on_change(False)

    def _latest(self) -> Active:
        """Return the policy that was activated last; the reference if it cannot answer, such as one of other models."""
        name = self._policies.active()
        try:
            return self.named(name)
        except ExeuntError as error:
            event = "the policy cannot answer: the reference answers"
            self._keep_alarm(self._log_alarm(event, name, one_line(error)))
            self._policies.activate(REFERENCE, self._clock())
            return self.reference

    def _follow(self, active: Active) -> None:
        self.active, self.fallen = active, None
        config = self._config
        file = config.folder / _WATCH
        self.watch = LiveWatch(active, file, run_length=config.run_length, audit=config.audit)
        history = self._policies.history
        self.since = history[-1][0] if history else 0.0
        self._firsts, self._audited = InOrder[Seen](), InOrder[float]()
        self._audits: dict[int, Waiting[float]] = {}
        _log.info("a policy answers", extra={"fields": {"policy": active.name}})

    @staticmethod
    def _log_alarm(event: str, policy: str, alarm: str) -> dict[str, Any]:
        fields = {"policy": policy, "alarm": alarm}
        _log.error(event, extra={"fields": fields})
        return fields

    def _keep_alarm(self, fields: dict[str, Any]) -> None:
        """Keep an alarm for the page, also after a restart."""
        self.alarms.append({"time": self._clock(), **fields})
        write_json(self._file, list(self.alarms))


def _alarms_in(file: Path) -> list[dict[str, Any]]:
    """Return the alarms that a file holds; none if there is no file. Raises ArtefactError if it is damaged."""
    remedy = f"remove {file}, and alarms of before are not shown"
    if not os.path.lexists(file):
        return []
    alarms: list[dict[str, Any]] = read_built(
        file, lambda body: check_kind(body, list[_KeptAlarm], "alarms"), kind="list of alarms", remedy=remedy
    )
    return alarms
