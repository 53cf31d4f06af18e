"""The policy that answers: activation and rolling back, and falling back to the reference when a certificate ends."""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path
from shlex import quote
from typing import Any

from exeunt._files import read_json, write_json
from exeunt.budget_text import parse_budget
from exeunt.errors import ArtefactError, ExeuntError, InputError, one_line
from exeunt.gateway.answering import Active, Answered, active_policy
from exeunt.gateway.config import GatewayConfig
from exeunt.gateway.live_watch import LiveWatch
from exeunt.gateway.metrics import GatewayMetrics
from exeunt.gateway.records import Record, Records
from exeunt.gateway.saved_policies import REFERENCE, GatewayPolicies
from exeunt.gateway.tally import Tally
from exeunt.live.function_model import FeatureModel
from exeunt.watch import Alarm

_log = logging.getLogger("exeunt.gateway")
_ALARMS, _WATCH = "alarms.json", "watch.json"


class LivePolicy:
    """Which of the policies in a gateway's folder answers, and what is known of its answers.

    `active`: the one that answers "auto", since the time `since`. `watch`, `tally`: of what it has answered. `alarms`:
    the latest, also of before a restart. `fallen`: the watch whose alarm made the reference answer; None if it answers
    for another reason.
    """

    def __init__(
        self, config: GatewayConfig, policies: GatewayPolicies, *, features: FeatureModel | None, records: Records,
        metrics: GatewayMetrics,
    ) -> None:  # fmt: skip
        self._config, self._policies, self._features = config, policies, features
        self._records, self._metrics = records, metrics
        self._file = config.folder / _ALARMS
        self.alarms: deque[dict[str, Any]] = deque(_alarms_in(self._file), maxlen=20)
        self._known: dict[str, Active] = {}
        self.active: Active
        self.fallen: LiveWatch | None
        self._follow(self._latest())

    def named(self, name: str) -> Active:
        """Return a policy. Raises InputError for a name that none has, ArtefactError for one for other models."""
        if name not in self._known:
            policy = None if name == REFERENCE else self._policies.load(name)
            self._known[name] = active_policy(name, policy, self._config.models, self._features)
        return self._known[name]

    def activate(self, name: str) -> None:
        """Let another policy answer from now on; "reference" is the reference alone. Raises as `named` does."""
        active = self.named(name)
        self._policies.activate(name, time.time())
        self._follow(active)

    def roll_back(self) -> str:
        """Let the policy answer that did before, and return its name."""
        self._follow(self.named(self._policies.roll_back(time.time())))
        return self.active.name

    def within(self, budget: str) -> str:
        """Return the name of the dearest policy whose expected cost is within a budget, such as "40%" of the
        reference's cost. Raises InputError if there is none.
        """
        parse_budget(budget, full=1.0, unit="usd")  # raises for what is none
        costs = {}
        for name in self._policies.names:
            try:
                policy = self._policies.load(name)
            except ExeuntError:  # made for other models
                continue
            if policy.expected_cost <= policy.cost.amount(budget):
                costs[name] = policy.cost.share(policy.expected_cost)
        if not costs:
            raise InputError(
                f"no policy costs at most {budget}: make one with `exeunt calibrate {quote(str(self._config.folder))} "
                f"--max-loss 5% --budget {quote(budget)}`"
            )
        return max(costs, key=lambda name: costs[name])

    def answered(self, answered: Answered) -> None:
        """Take note of an answer of the active policy."""
        if (alarm := self.watch.answered(answered)) is not None:
            self.fall_back(alarm)

    def recorded(self, record: Record) -> None:
        """Take note of a record, unless another policy became active since the answer."""
        if (record.policy or REFERENCE) != self.active.name:
            return
        self.tally.add(record)
        if record.kind == "audit" and (alarm := self.watch.audited(record, self._config.reference)):
            self.fall_back(alarm)

    def fall_back(self, alarm: Alarm) -> None:
        """Let the reference answer: the certificate no longer describes the requests."""
        fields = {"policy": self.active.name, "alarm": alarm.sentences}
        _log.error("the policy is no longer certified: the reference answers", extra={"fields": fields})
        self._metrics.alarm(self.active.name)
        watch = self.watch
        try:
            self._keep_alarm(fields)
            watch.save()
            self.activate(REFERENCE)
        except (ExeuntError, OSError) as error:  # such as a full disk
            _log.error("the alarm cannot be kept: until the next start the reference answers", exc_info=error)
            self.active = self.named(REFERENCE)
        self.fallen = watch

    def leave_forgotten(self) -> None:
        """Use no policy any more that was removed because a client was forgotten."""
        for name in filter(self._policies.is_forgotten, tuple(self._known)):
            del self._known[name]
        if self.active.name not in self._known:
            self._follow(self._latest())

    def _latest(self) -> Active:
        """Return the policy that was activated last; the reference if it cannot answer, such as one of other models."""
        name = self._policies.active()
        try:
            return self.named(name)
        except ExeuntError as error:
            fields = {"policy": name, "alarm": one_line(error)}
            _log.error("the policy cannot answer: the reference answers", extra={"fields": fields})
            self._keep_alarm(fields)
            self._policies.activate(REFERENCE, time.time())
            return self.named(REFERENCE)

    def _follow(self, active: Active) -> None:
        self.active, self.fallen = active, None
        audit = 0.0 if self._config.shadow is None else self._config.shadow.audit
        file = self._config.folder / _WATCH
        self.watch = LiveWatch(active, file, run_length=self._config.run_length, audit=audit)
        history = self._policies.history
        self.since = history[-1][0] if history else 0.0
        self.tally = Tally(self._config.reference, self._records.read(since=self.since))
        _log.info("a policy answers", extra={"fields": {"policy": active.name}})

    def _keep_alarm(self, fields: dict[str, Any]) -> None:
        """Let the page tell of an alarm, also after a restart."""
        self.alarms.append({"time": time.time(), **fields})
        write_json(self._file, list(self.alarms))


def _alarms_in(file: Path) -> list[dict[str, Any]]:
    """Return the alarms that a file holds; none if there is no file. Raises ArtefactError for what holds none."""
    remedy = f"remove {file}, and alarms of before are not shown"
    found = read_json(file, remedy=remedy) if file.is_file() else []
    if not isinstance(found, list) or not all(isinstance(one, dict) and "alarm" in one for one in found):
        raise ArtefactError(f"{file} holds no alarms: {remedy}")
    return found
