"""What a server does once inputs have drifted: tell; keep the shares of exits; ask the last exit; calibrate again."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from exeunt._support.arrays import Booleans, Floats
from exeunt.errors import InfeasibleBudget, InputError, one_line
from exeunt.policy import Policy
from exeunt.policy.calibration import ALWAYS, NEVER, Thresholds, of_those_left
from exeunt.policy.recalibration import check_recalibrates, recalibrate_on_scores
from exeunt.policy.state import Decision, PolicyState
from exeunt.serve.engine_thread import EngineThread
from exeunt.serve.live_engine import LiveEngine
from exeunt.serve.watching import ServedWatches, is_watched
from exeunt.trace.cascade_step import is_tree

_log = logging.getLogger("exeunt.serve")
_ENOUGH = 1000
"""Inputs that a policy is calibrated again on; twice as many where they are too few for its certificate."""
_SCORES = "recorded scores"


class Tell:
    """Nothing follows an alarm but the warning.

    `policies`: those that are served, by name; `exits`: which exits of the engine each one's are. `notes`: what
    followed the alarms that stand, and `receipts`: of calibrations since the run was loaded, both by policy.
    """

    def __init__(
        self,
        engine: EngineThread | LiveEngine,
        policies: Mapping[str, Policy],
        exits: Mapping[str, Sequence[int]],
        watches: ServedWatches,
    ) -> None:
        self._engine, self._policies, self._exits, self._watches = engine, dict(policies), exits, watches
        self.notes: dict[str, str] = {}
        self.receipts: dict[str, str] = {}

    @classmethod
    def check(cls, policy: Policy) -> None:
        """Raise InputError for a policy that this response is not for."""

    async def alarmed(self, name: str) -> None:
        """Respond to an alarm of a policy."""

    async def follow(self) -> None:
        """Go on with what was begun; called every second."""

    async def _put(self, name: str, policy: Policy) -> None:
        """Let another policy answer the rows of one, those that have not begun."""
        await self._engine.call(lambda engine: engine.add(name, policy, exits=self._exits[name]))


class Reference(Tell):
    """The last exit answers the rows of the policy, until the run is loaded again."""

    @classmethod
    def check(cls, policy: Policy) -> None:
        """Raise InputError for a router, and for a policy without a watch, which raises no alarm."""
        if not is_watched(policy):
            raise InputError(
                "nothing would follow a drift: this policy is not watched, as none is whose calibration data come in "
                "groups, which requests do not name; serve it with --on-drift tell"
            )
        if is_tree(policy.cascade):
            raise InputError(
                "after a drift another policy can answer where exits come in a row, and this is a router: serve it "
                "with --on-drift tell"
            )

    async def alarmed(self, name: str) -> None:
        """Let the other policy answer."""
        self._watches.rest(name)
        instead, now = self._instead(self._policies[name])
        await self._put(name, instead)
        self.notes[name] = f"{now}, until the run is loaded again."
        _log.warning("another policy answers", extra={"fields": {"policy": name, "about": self.notes[name]}})

    def _instead(self, policy: Policy) -> tuple[Policy, str]:
        """Return what answers in place of a policy, and what that is."""
        return at_last_exit(policy), "The last exit answers now"


class ByQuota(Reference):
    """Each exit answers its planned share of rows, so that the budget is kept, until the run is loaded again."""

    def _instead(self, policy: Policy) -> tuple[Policy, str]:
        planned = policy.cost.show(float(policy.planned_shares @ policy.cost.cumulative))
        now = f"Each exit answers its planned share of the rows now, the surest ones, at {planned} per row or less"
        return _changed(policy, QuotaPolicy, quota=Quota(policy.planned_shares)), now


class Recalibrate(Reference):
    """The last exit answers while scores are recorded at all exits; then the policy has thresholds made of these."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._recorded: dict[str, list[tuple[Floats, Floats]]] = {}
        self._enough = dict.fromkeys(self._policies, _ENOUGH)

    @classmethod
    def check(cls, policy: Policy) -> None:
        """Raise InputError for a router, and for a policy that was not planned by counts."""
        super().check(policy)
        check_recalibrates(policy)

    async def alarmed(self, name: str) -> None:
        """Begin to record."""
        self._watches.rest(name)
        recorded = self._recorded[name] = list[tuple[Floats, Floats]]()
        await self._put(name, _recorder(self._policies[name], lambda *some: recorded.append(some)))
        self._note(name, 0)

    def _note(self, name: str, n: int) -> None:
        self.notes[name] = (
            f"The last exit answers now, and the policy is calibrated again once {self._enough[name]:,} inputs are "
            f"recorded there: {n:,} are."
        )

    async def follow(self) -> None:
        """Calibrate policies again whose inputs are enough."""
        for name, recorded in list(self._recorded.items()):
            n = sum(len(ties) for _, ties in recorded)
            self._note(name, n)
            if n >= self._enough[name]:
                await self._calibrate(name, *(np.concatenate(some) for some in zip(*recorded, strict=True)))

    async def _calibrate(self, name: str, scores: Floats, ties: Floats) -> None:
        try:
            recalibrated = await asyncio.to_thread(recalibrate_on_scores, self._policies[name], scores, ties)
        except InfeasibleBudget as error:
            self._enough[name] = 2 * len(ties)
            _log.warning("not calibrated yet", extra={"fields": {"policy": name, "about": one_line(error)}})
            return
        del self._recorded[name], self.notes[name]
        await self._put(name, recalibrated)
        self._policies[name] = recalibrated
        self._watches.renew(name, recalibrated)
        self.receipts[name] = str(recalibrated.notes["recalibration"]["text"])
        _log.warning("calibrated again", extra={"fields": {"policy": name, "about": self.receipts[name]}})


RESPONSES: Mapping[str, type[Tell]] = {
    "tell": Tell,
    "quota": ByQuota,
    "reference": Reference,
    "recalibrate": Recalibrate,
}


def at_last_exit(policy: Policy, kind: type[Policy] = Policy, **options: Any) -> Policy:
    """Return a policy of the same exits that answers everything at the last one, and promises nothing."""
    last = np.arange(policy.n_exits) == policy.n_exits - 1
    limits = Thresholds(*[np.where(last, ALWAYS, NEVER)] * 2)
    return _changed(policy, kind, rates=last.astype(np.float64), limits=limits, counts=None, **options)


def _changed(policy: Policy, kind: type[Policy], **changes: Any) -> Policy:
    """Return a policy that differs in these fields, and promises nothing."""
    of = {field.name: getattr(policy, field.name) for field in fields(Policy)}
    promises = dict.fromkeys(("distribution", "certificate", "loss_certificate", "watched"))
    return kind(**{**of, **promises, "promises": (), **changes})


@dataclass(frozen=True, eq=False)
class _Recorder(Policy):
    """Answers at the last exit. `needed` (m,): exits that have scores; `keep`: gets these, (rows, m), and the ties."""

    needed: Booleans = field(kw_only=True)
    keep: Callable[[Floats, Floats], None] = field(kw_only=True)

    @property
    def needs(self) -> Booleans:
        """Which exits' evidence is needed, (m,)."""
        return self.needed

    def init(self, n: int, *, id: Any) -> PolicyState:  # noqa: A002
        """Return the state of n inputs before the first exit, without scores."""
        state = super().init(n, id=id)
        return PolicyState(
            state.tie, {**state.memory, _SCORES: np.full((n, self.n_exits), np.nan)}, state.outputs
        )

    def decide(self, exit_: int, evidence: Mapping[str, Any], state: PolicyState) -> Decision:
        """Decide as any policy does, and remember the score."""
        memory = dict(state.memory)
        scores = memory.pop(_SCORES).copy()
        decision = super().decide(exit_, evidence, PolicyState(state.tie, memory, state.outputs))
        scores[:, exit_] = decision.score
        if exit_ == self.n_exits - 1:
            self.keep(scores, state.tie)
        after = decision.state
        return decision._replace(
            state=PolicyState(after.tie, {**after.memory, _SCORES: scores}, after.outputs)
        )


def _recorder(policy: Policy, keep: Callable[[Floats, Floats], None]) -> Policy:
    needed = policy.needs | (np.arange(policy.n_exits) == 0)
    return at_last_exit(policy, _Recorder, needed=needed, keep=keep)


_RECENT = 256
"""Rows at an exit whose scores a row is compared with."""
_AHEAD = 16
"""Rows that may have left an exit beyond its share, so that a run of unsure ones need not leave."""


class Quota:
    """Which rows leave at exits (m,) that answer these shares of all rows.

    Of the rows that come to an exit, at least its share has left at any time. So no more rows than planned come to any
    exit, and the mean cost is at most that of the shares, whatever the scores. Rows without a score go on all the same:
    no model has answered them.
    """

    def __init__(self, shares: Floats) -> None:
        self._shares = of_those_left(shares)[1].tolist()
        self._came, self._left = [0] * len(shares), [0] * len(shares)
        self._recent = [np.empty(0)] * len(shares)

    def leave(self, exit_: int, scores: Floats, ties: Floats) -> Booleans:
        """Return which rows (n,) leave, by their scores and ties (n,), and take note of them."""
        share, scored = self._shares[exit_], scores > -math.inf
        recent = self._recent[exit_] = np.append(self._recent[exit_], scores[scored])[-_RECENT:]
        self._came[exit_] += int(scored.sum())
        least = math.ceil(share * self._came[exit_] - 1e-9) - self._left[exit_]
        surest = int((scores > np.quantile(recent, 1 - share)).sum()) if len(recent) else 0
        n = min(max(surest, least), least + _AHEAD)
        order = np.lexsort((-ties, -scores, ~scored))[: min(n, int(scored.sum()))]
        self._left[exit_] += len(order)
        leaves = np.zeros(len(scores), dtype=np.bool_)
        leaves[order] = True
        return leaves


@dataclass(frozen=True, eq=False)
class QuotaPolicy(Policy):
    """A policy whose thresholds give way to a quota."""

    quota: Quota = field(kw_only=True)

    def decide(self, exit_: int, evidence: Mapping[str, Any], state: PolicyState) -> Decision:
        """Decide as any policy does, but who leaves."""
        decision = super().decide(exit_, evidence, state)
        if exit_ == self.n_exits - 1:
            return decision
        return decision._replace(leave=self.quota.leave(exit_, decision.score, state.tie))
