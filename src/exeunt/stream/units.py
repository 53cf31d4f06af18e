"""Which requests belong together: units, which are independent of one another and alike (METHOD: live traffic).

Requests of one conversation, or of one user, may depend on one another. Units may not, so they are what is drawn,
tested and watched. A unit is numbered by when it came, never by what it holds: two conversations that begin with the
same words are two units.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

from exeunt._support.arrays import check_positive
from exeunt.errors import InputError

T = TypeVar("T")

UnitKind: TypeAlias = Literal["request", "conversation", "user"]
KINDS: tuple[UnitKind, ...] = ("request", "conversation", "user")

HOUR_S, DAY_S = 3600.0, 86400.0
_RETRY_S = 60.0
"""So long after a request has ended another one may be its retry."""
_EXAMPLES = 3
"""Units in which a client has sent the same beginning of a conversation, from which on it is an example in a prompt."""
_REMEMBERED = 200_000
"""Transcripts by which later requests are recognised, of all clients: the latest."""


@dataclass(frozen=True)
class UnitRules:
    """What a unit is. `kind`: a request, a conversation, or all requests of a user. `idle_s`: a unit without a request
    for so long has closed (not a user's). `rows`: the requests of a unit at most. `time_s`: from its first request on.

    Raises InputError for another kind, and for numbers that are not above 0.
    """

    kind: UnitKind = "conversation"
    idle_s: float = HOUR_S
    rows: int = 20
    time_s: float = DAY_S

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"units are {', '.join(KINDS)}, got {self.kind!r}")
        check_positive(self.idle_s, "unit_idle")
        check_positive(self.time_s, "unit_time")
        if self.rows < 1:
            raise InputError(f"unit_rows must be at least 1, got {self.rows}")

    @property
    def most_rows(self) -> int:
        """The most requests of a unit."""
        return 1 if self.kind == "request" else self.rows


@dataclass
class Unit:
    """Requests that belong together. `number`: that of its first request. `opened`, `latest`: the times of its first
    and its latest request. `rows`: the requests that it took while it was open, without retries. `closed`: when it
    closed; None while it is open.

    `probability`: with which it was chosen; `drawn`: whether it was and is compared; `refused`: whether it was when
    money was missing; `held_out`: whether it tests policies or fits them. `period`: in which it began; `setting`: that
    there was then (see `Records.setting`). `later`: requests that came after it had closed, and what they have cost,
    which the records count.
    """

    number: int
    client: str
    opened: float
    latest: float
    rows: int = 0
    closed: float | None = None
    user: bytes = b""
    period: int = 0
    probability: float = 0.0
    drawn: bool = False
    held_out: bool = False
    setting: int = 0
    later: int = 0
    later_cost: float = 0.0
    refused: bool = False


@dataclass(frozen=True)
class Arrival:
    """A request as it comes. `number`: of its arrival. All digests are HMACs that begin with the client.

    `content`: of the whole request. `transcripts`: of its messages up to each assistant's message, the longest first.
    `beginning`: of the messages before the first assistant's one. `name`: of the conversation, if the client names it.
    `user`: whom the client names. `is_retry`: whether the client says that it repeats a request.
    """

    number: int
    client: str
    content: bytes
    transcripts: Sequence[bytes] = ()
    beginning: bytes = b""
    name: bytes = b""
    user: bytes = b""
    is_retry: bool = False

    @property
    def repeated(self) -> tuple[bytes, ...]:
        """What a retry has in common with the request that it repeats."""
        return self.content, self.name, self.user


@dataclass(frozen=True)
class Place:
    """Where a request lies in the stream. `unit`: None if it is in none. `row`: its place in it, from 0.

    `is_open`: whether the unit takes it; later requests of a closed one are answered by the reference. `starts`:
    whether it is the first one. `retry`: whether it repeats another. `guessed`: whether it holds an answer that this
    client was not given, so that its unit is known by its beginning, or is its own.
    """

    unit: Unit | None
    row: int = 0
    is_open: bool = False
    starts: bool = False
    retry: bool = False
    guessed: bool = False


@dataclass
class _Attempts:
    """The latest attempts at one content: their place, which are under way, when the latest one ended, and how."""

    place: Place
    running: set[int]
    ended: float = -math.inf
    failed: bool = False

    def are_repeated(self, request: Arrival, now: float) -> bool:
        """Whether a request of this content is a retry."""
        recent = now - self.ended <= _RETRY_S
        return (recent and self.failed and not self.running) or (
            request.is_retry and (recent or bool(self.running))
        )

    def are_over(self, now: float) -> bool:
        """Whether no request can repeat these any more."""
        return not self.running and now - self.ended > _RETRY_S


class Units:
    """Finds the unit of each request, in order of arrival. `now`: seconds since 1970, which never fall."""

    def __init__(self, rules: UnitRules) -> None:
        self.rules = rules
        self._open: OrderedDict[int, Unit] = OrderedDict()  # in order of their first requests
        self._latest: OrderedDict[int, Unit] = OrderedDict()  # the same in order of their latest requests
        self._in_order = True
        self._known: OrderedDict[bytes, Unit] = (
            OrderedDict()
        )  # by transcript, or by the name that a client gives
        self._sent: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        self._begun_with: dict[bytes, dict[int, Unit]] = {}  # open units, that of the latest request last
        self._beginnings: dict[int, set[bytes]] = {}  # of each of them
        self._users: dict[bytes, Unit] = {}
        self._attempts: dict[tuple[bytes, ...], _Attempts] = {}
        self._closed: list[Unit] = []

    @property
    def open(self) -> tuple[Unit, ...]:
        """The units that are open, the oldest first."""
        return tuple(self._open.values())

    def arrive(self, request: Arrival, now: float) -> Place:
        """Return the place of a request, which begins a unit if it belongs to none.

        A retry has the place of the request that it repeats: one of the same content that failed within a minute, or,
        where the client says that it is a retry, one that is under way or ended within a minute. Other requests of the
        same content are draws of their own, however close together they come.
        """
        attempts = self._attempts.get(request.repeated)
        if attempts is not None and attempts.are_repeated(request, now):
            attempts.running.add(request.number)
            return replace(attempts.place, starts=False, retry=True)
        place = self._placed(request, now)
        self._attempts[request.repeated] = _Attempts(place, {request.number})
        return place

    def answered(
        self, request: Arrival, place: Place, transcript: bytes, now: float, *, failed: bool
    ) -> None:
        """Take note that a request has ended. `transcript`: of its messages and the answer, by which the next request
        of the conversation is recognised; b"" without an answer.
        """
        attempts = self._attempts.get(request.repeated)
        if attempts is not None and request.number in attempts.running:
            attempts.running.remove(request.number)
            attempts.ended, attempts.failed = now, failed
        if transcript and place.unit is not None and self.rules.kind == "conversation":
            _remember(self._known, transcript, place.unit)

    def close_due(self, now: float) -> None:
        """Close the units whose time has come."""
        if not self._in_order:  # after a restart
            by_time = sorted(self._latest.items(), key=lambda pair: pair[1].latest)
            self._latest, self._in_order = OrderedDict(by_time), True
        for order in (self._open, self._latest):  # of many open units only those that are due are looked at
            while order and self._is_due(unit := next(iter(order.values())), now):
                self._close(unit, now)
        for key in [key for key, attempts in self._attempts.items() if attempts.are_over(now)]:
            del self._attempts[key]

    def take_closed(self) -> list[Unit]:
        """Return the units that have closed since this was last called."""
        closed, self._closed = self._closed, []
        return closed

    def restore(self, unit: Unit, transcripts: Sequence[bytes] = ()) -> None:
        """Take up a unit of before a restart, with transcripts or names by which it is known. The oldest come first."""
        if unit.closed is None:
            self._open[unit.number] = self._latest[unit.number] = unit
            self._in_order = False
            if unit.rows >= self.rules.most_rows:  # it had closed before a crash
                self._close(unit, unit.latest)
        for transcript in transcripts:
            _remember(self._known, transcript, unit)
        if unit.user:
            self._users[unit.user] = unit

    # -- one request ----------------------------------------------------------------------------------------

    def _placed(self, request: Arrival, now: float) -> Place:
        if self.rules.kind == "user" and not request.user:
            return Place(None)
        known, guessed = self._unit_of(request, now)
        unit = known or self._begun(request, now)
        if unit.closed is None and known is not None and self._is_due(unit, now):
            self._close(unit, now)
        if self.rules.kind == "conversation":
            self._take_note(request, unit)
        place = Place(unit, unit.rows, unit.closed is None, starts=known is None, guessed=guessed)
        if place.is_open:
            unit.rows, unit.latest = unit.rows + 1, now
            self._latest.move_to_end(unit.number)
            if unit.rows >= self.rules.most_rows:
                self._close(unit, now)
        return place

    def _unit_of(self, request: Arrival, now: float) -> tuple[Unit | None, bool]:
        """Return the unit that a request continues, None if it begins one, and whether that is a guess."""
        if self.rules.kind == "request":
            return None, False
        if self.rules.kind == "user":
            return self._users.get(request.user), False
        if request.name:
            return self._known.get(request.name), False
        if not request.transcripts:
            return None, False
        if len(self._sent.get(request.transcripts[0], ())) >= _EXAMPLES:
            return None, False
        for transcript in request.transcripts:
            if (unit := self._known.get(transcript)) is not None:
                return unit, False
        alike = reversed(self._begun_with.get(request.beginning, {}).values())
        return next((unit for unit in alike if not self._is_due(unit, now)), None), True

    def _begun(self, request: Arrival, now: float) -> Unit:
        user = request.user if self.rules.kind == "user" else b""
        unit = Unit(request.number, request.client, now, now, user=user)
        self._open[unit.number] = self._latest[unit.number] = unit
        if user:
            self._users[user] = unit
        return unit

    def _take_note(self, request: Arrival, unit: Unit) -> None:
        """Remember by what later requests of a conversation are recognised."""
        if request.name:
            _remember(self._known, request.name, unit)
        elif request.transcripts:
            numbers = self._sent.get(request.transcripts[0], ())
            if unit.number not in numbers and len(numbers) < _EXAMPLES:
                _remember(self._sent, request.transcripts[0], (*numbers, unit.number))
        if request.beginning and unit.closed is None:
            alike = self._begun_with.setdefault(request.beginning, {})
            alike.pop(unit.number, None)
            alike[unit.number] = unit
            self._beginnings.setdefault(unit.number, set()).add(request.beginning)

    # -- closing --------------------------------------------------------------------------------------------

    def _is_due(self, unit: Unit, now: float) -> bool:
        rules = self.rules
        idle = rules.kind != "user" and now - unit.latest >= rules.idle_s
        return idle or now - unit.opened >= rules.time_s or unit.rows >= rules.most_rows

    def _close(self, unit: Unit, now: float) -> None:
        unit.closed = now
        self._open.pop(unit.number, None)
        self._latest.pop(unit.number, None)
        self._closed.append(unit)
        for beginning in self._beginnings.pop(unit.number, ()):
            del self._begun_with[beginning][unit.number]
            if not self._begun_with[beginning]:
                del self._begun_with[beginning]


def _remember(memory: OrderedDict[bytes, T], key: bytes, entry: T) -> None:
    memory[key] = entry
    memory.move_to_end(key)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
