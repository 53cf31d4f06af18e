"""The stream of a gateway's requests: numbered, in units, drawn for comparison, billed and kept."""

from __future__ import annotations

import itertools
import threading
from asyncio import Task
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import astuple, replace
from functools import partial
from typing import Any

from exeunt.gateway.config import GatewayConfig
from exeunt.gateway.folder import GatewayModels
from exeunt.stream.bill import Bill, Span
from exeunt.stream.drawing import LOOKED_AT, Drawing
from exeunt.stream.records import Record, Records
from exeunt.stream.units import Arrival, Place, Unit, Units

_REMEMBERED = 200_000


class RequestStream:
    """The requests to `auto` in order of arrival. It goes on from the records after a restart.

    `units`: that requests belong to. `setting`: the number of models, grader and rules as they are. `bill`: what was
    saved. `latest_number`: of a request. `drawings`: by unit, tasks that find out whether it is drawn. `choices`: by
    unit, the model that answered its first request, once that is known.
    """

    def __init__(
        self, config: GatewayConfig, models: GatewayModels, records: Records, secret: bytes, now: float
    ) -> None:
        self._records, self._reference, self._now = records, config.reference, now
        self.setting = records.setting(_setting(config, models), now)
        self.units = Units(config.unit_rules)
        self.drawing = Drawing(secret, config.period, records.latest_periods(LOOKED_AT + 1, config.period))
        self.bill = Bill([Span.from_dict(body) for body in records.kept("bill") or ()])
        self.drawings: dict[int, Task[None]] = {}
        self.choices: dict[int, Future[str]] = {}
        self.latest_number = records.latest_number()
        self._running: Counter[int] = Counter()
        self._over: dict[int, Unit] = {}
        self._changed: dict[int, Unit] = {}
        self._not_written = deque[Unit]()
        self._turn, self._snapshots, self._written = threading.Lock(), itertools.count(1), 0
        self._restore(now)
        if config.sticky:
            self._restore_choices()

    def number(self) -> int:
        """Return the number of a request that arrives now."""
        self.latest_number += 1
        return self.latest_number

    def arrive(self, request: Arrival, now: float) -> Place:
        """Return the place of a request, in order of arrival."""
        self._now = max(now, self._now)  # a clock that is set back stands still
        place = self.units.arrive(request, self._now)
        self._take_closed()
        if place.unit is not None:
            self._running[place.unit.number] += 1
            if place.is_open:  # of others, from before a restart, not all is known
                place.unit.setting = place.unit.setting or self.setting
                self._changed[place.unit.number] = place.unit
        return place

    def is_chosen(self, unit: Unit, now: float, share: float) -> bool:
        """Return whether the lot falls on comparing a unit that begins. `share`: the probability at most."""
        period = self.drawing.period(max(now, self._now), share)
        period.units += 1
        unit.period, unit.probability = period.number, period.probability
        unit.held_out = self.drawing.is_held_out(unit.number)
        chosen = self.drawing.is_chosen(unit.number, period.probability)
        period.chosen += chosen
        return chosen

    def draw(self, unit: Unit, *, free: bool) -> None:
        """Draw a unit that was chosen if money is `free`."""
        unit.drawn, unit.refused = free, not free
        if not free:
            self.drawing.refuse(unit.period)
        self._changed[unit.number] = unit

    def answered(
        self, request: Arrival, place: Place, transcript: bytes, now: float, *, failed: bool
    ) -> None:
        """Note that a request has been answered."""
        self.units.answered(request, place, transcript, max(now, self._now), failed=failed)

    def ended(self, unit: Unit) -> None:
        """Note that a request of a unit has ended, with its comparison."""
        self._running[unit.number] -= 1
        if not self._running[unit.number]:
            del self._running[unit.number]
            self.drawings.pop(unit.number, None)

    @property
    def busy(self) -> tuple[Unit, ...]:
        """The units that are open, or of which requests are under way."""
        return (*self.units.open, *self._over.values())

    def take_over(self, now: float) -> list[Unit]:
        """Return the units that have closed and of which nothing is under way any more, until `unit_over`."""
        self._now = max(now, self._now)
        self.units.close_due(self._now)
        self._take_closed()
        return [unit for unit in self._over.values() if unit.number not in self._running]

    def _take_closed(self) -> None:
        for unit in self.units.take_closed():
            self._over[unit.number] = self._changed[unit.number] = unit

    # -- the bill and the file ------------------------------------------------------------------------------

    def forget(self, client: str) -> None:
        """Keep of a client's units nothing but their numbers."""
        for unit in (*self.busy, *self._changed.values(), *self._not_written):
            if unit.client == client:
                unit.client, unit.user, unit.drawn, unit.refused = "", b"", False, False

    def count(self, record: Record, *, opted_out: bool) -> None:
        """Count a record in the bill."""
        self.bill.now.add(record, self._reference, opted_out=opted_out)

    def unit_over(self, unit: Unit, records: Sequence[Record]) -> None:
        """Count a unit that is over in the bill, if it was drawn, once."""
        if self._over.pop(unit.number, None) is None:
            return
        self._changed[unit.number] = unit
        self.choices.pop(unit.number, None)
        if unit.drawn:
            self.bill.of(unit).add_unit(unit, records, self._reference)

    def keeping(self, record: Record) -> Callable[[], None]:
        """Return what writes a record and what has changed, as it is now: it may run in a thread."""
        return self._writing(partial(self._records.add, record))

    def saving(self) -> Callable[[], None]:
        """Return what writes what has changed, as it is now."""
        return self._writing(self._records.update) if self._changed or self._not_written else lambda: None

    def _writing(self, write: Callable[..., None]) -> Callable[[], None]:
        """Return what calls `write` with what has changed, as it is now.

        Threads may call these in another order: an earlier state never replaces a later one. What could not be written
        is written with what changes next.
        """
        while self._not_written:
            unit = self._not_written.popleft()
            self._changed.setdefault(unit.number, unit)
        units, self._changed = [*self._changed.values()], {}
        # In the file a unit closes together with its bill: after a crash it is open, and closes again.
        changed = [
            replace(unit, closed=None) if unit.number in self._over else replace(unit) for unit in units
        ]
        number, periods, bill = next(self._snapshots), self.drawing.latest, self.bill.to_dict()

        def writing() -> None:
            with self._turn:
                try:
                    if number > self._written:
                        write(changed, periods, bill=bill)
                        self._written = number
                        return
                    write()
                except Exception:  # such as a full disk
                    self._not_written.extend(units)
                    raise
                self._not_written.extend(units)

        return writing

    def _restore(self, now: float) -> None:
        """Take up the units of before a restart. Those of another setting are closed."""
        units = {unit.number: unit for unit in self._records.units("closed IS NULL")}
        for unit in units.values():
            if unit.setting != self.setting:
                unit.closed = now
                self._changed[unit.number] = self._over[unit.number] = unit
            self.units.restore(unit)
        if self.units.rules.kind == "user":
            for unit in self._records.units("user != x'' AND closed IS NOT NULL"):
                self.units.restore(unit)
        if self.units.rules.kind == "conversation":
            for number, transcript in self._records.transcripts(_REMEMBERED):
                unit = units.get(number) or Unit(number, "", 0.0, 0.0, closed=0.0)
                self.units.restore(units.setdefault(number, unit), (transcript,))

    def _restore_choices(self) -> None:
        """Take up which models have answered the first requests of the units that are open."""
        open_units = "unit IN (SELECT number FROM unit WHERE closed IS NULL)"
        for record in self._records.read(f"row = 0 AND answered != '' AND {open_units}"):
            choice: Future[str] = Future()
            self.choices[record.unit] = choice
            choice.set_result(record.answered)


def _setting(config: GatewayConfig, models: GatewayModels) -> Mapping[str, Any]:
    """Return what decides which records may be counted together, JSON-able."""
    return {
        "identity": dict(models.identity),
        "grader": models.grader,
        "features": models.features,
        "units": list(astuple(config.unit_rules)),
        "cap": config.cap,
    }
