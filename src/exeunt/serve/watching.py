"""The watches of a server: one for each policy, told of rows in the order in which their requests began to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Integers
from exeunt.engine.answers import Answers
from exeunt.policy import Policy
from exeunt.stream.order import InOrder, Waiting
from exeunt.watch import Alarm, Watch
from exeunt.watch.e_detectors import evidence_level

_Parts: TypeAlias = "Sequence[tuple[Integers, Any]]"
_Answered: TypeAlias = "tuple[int, _Parts]"
"""How many requests began before one, and its rows' places and tickets."""


def is_watched(policy: Policy) -> bool:
    """Whether a policy keeps what a watch needs, and watches single rows: requests do not name groups."""
    return policy.watched is not None and policy.n_groups is None


class ServedWatches:
    """Tells the watch of each policy of the rows that it answered.

    Requests are answered in another order than they come, and easy rows before hard ones. So they wait in order of
    arrival until all earlier ones are done. `exits`: by policy, which of the engine's exits are its own. `several`:
    whether other servers or workers answer under the same policies.
    """

    def __init__(
        self, policies: Mapping[str, Policy], exits: Mapping[str, Sequence[int]], *, several: bool
    ) -> None:
        watched = {name: policy for name, policy in policies.items() if is_watched(policy)}
        several |= len(watched) > 1
        self._watches = {name: Watch(policy, of_several=several) for name, policy in watched.items()}
        self._own = {name: {exit_: own for own, exit_ in enumerate(exits[name])} for name in watched}
        self._requests = InOrder[_Answered]()
        self._resting: set[str] = set()
        self._renewed = dict[str, int]()  # by policy: how many requests had begun when its watch was replaced

    @property
    def evidence(self) -> float:
        """The evidence for drift of the policy with the most of it, on a logarithmic scale: an alarm comes at 1."""
        levels = (evidence_level(watch.evidence, watch.threshold) for watch in self._watches.values())
        return max(levels, default=0.0)

    @property
    def alarms(self) -> dict[str, Alarm]:
        """The alarms that stand, by policy."""
        return {name: watch.alarm for name, watch in self._watches.items() if watch.alarm is not None}

    def rest(self, name: str) -> None:
        """Tell the watch of a policy nothing more, because another one answers its rows; its alarm stands."""
        self._resting.add(name)

    def renew(self, name: str, policy: Policy) -> None:
        """Watch another policy in place of the one of this name, from the requests that begin now."""
        several = self._watches[name].of_several
        self._watches[name] = Watch(policy, of_several=several)
        self._resting.discard(name)
        self._renewed[name] = self._requests.n_begun

    def begin(self) -> Waiting[_Answered]:
        """Take note that a request begins to run."""
        return self._requests.begin()

    def end(self, request: Waiting[_Answered], parts: _Parts | None) -> None:
        """Take note that a request is answered; None if it is not."""
        self._requests.end(request, None if parts is None else (request.number, parts))

    def follow(self) -> dict[str, Alarm]:
        """Tell the watches of the requests that are done, and of which all earlier ones are; return new alarms.

        If a deadline or a full engine ended any of their rows, none of them is told: rows that take long are those that
        go deep, so the others are no sample of all.
        """
        tickets = []
        for number, parts in self._requests.take_ready():
            before = {name for name, first in self._renewed.items() if number < first}
            tickets += [(ticket, before | self._resting) for _, ticket in parts]
        if not (tickets and self._watches):
            return {}
        answers = [ticket.answers for ticket, _ in tickets]
        early = [
            column for answer in answers for column in (answer.expired, answer.degraded) if column is not None
        ]
        if early and np.concatenate(early).any():
            return {}
        names = [
            "" if name is None or name in unwatched else name
            for ticket, unwatched in tickets
            for name in ticket.policies
        ]
        columns = _columns(answers, "valid", "exit", "score", "first_score", "tie")
        return self._told(np.array(names, dtype=object), *columns)

    def _told(self, names: NDArray[Any], valid: Any, exit_: Any, *scores: Any) -> dict[str, Alarm]:
        """Tell the watches of rows, with what each is told of (n,), None for what is not known."""
        alarms: dict[str, Alarm] = {}
        for name, watch in self._watches.items():
            rows = np.flatnonzero((names == name) & valid)
            if len(rows) == 0:
                continue
            own = self._own[name]
            exits = np.array([own[exit_of_run] for exit_of_run in exit_[rows].tolist()], dtype=np.int64)
            for alarm in watch.update(exits, *(None if score is None else score[rows] for score in scores)):
                alarms[name] = alarm
        return alarms


def _columns(answers: Sequence[Answers], *names: str) -> Iterator[NDArray[Any] | None]:
    """Yield columns of all answers together; None for those that are not known."""
    for name in names:
        parts = [getattr(answer, name) for answer in answers]
        yield None if any(part is None for part in parts) else np.concatenate(parts)
