"""Rows that wait before a segment, and which of them are run next: what is full, what is late, or what comes first."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from exeunt.engine.waves import Wave, joined
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.engine.executor import Executor
    from exeunt.engine.plan import Plan
    from exeunt.engine.row_table import RowTable

__all__ = ["Queue", "Waiting"]


class _Entry(NamedTuple):
    """A wave that waits. `oldest`: number of its oldest row. `order`: in which it came."""

    due: float
    oldest: int
    order: int
    wave: Wave


_TURN = 16
"""Of so many calls one is for rows that may take any time, where those that must be done by some time leave none, and
of so many of these one is for the row that has waited longest."""


class Queue:
    """Waves before one segment whose states can be joined, the most urgent first. `rows`: of all of them.

    `has_dues`: whether its rows must be done by some time.
    """

    __slots__ = ("has_dues", "heap", "rows", "segment", "signature")

    def __init__(self, segment: int, signature: Hashable, has_dues: bool) -> None:
        self.segment, self.signature, self.has_dues = segment, signature, has_dues
        self.heap: list[_Entry] = []
        self.rows = 0

    @property
    def head(self) -> Wave:
        """The most urgent wave."""
        return self.heap[0].wave

    def push(self, entry: _Entry) -> None:
        """Let a wave wait."""
        heappush(self.heap, entry)
        self.rows += len(entry.wave.rows)

    def pop(self) -> _Entry:
        """Take the most urgent wave out."""
        entry = heappop(self.heap)
        self.rows -= len(entry.wave.rows)
        return entry


class Waiting:
    """All that waits.

    `company` (s,): how many rows before a segment are worth a call; by default as the plan says. `seconds` (s,): what a
    call of the planned size takes; by default no time. `least_seconds` (s,): of one row; by default as much.
    """

    def __init__(
        self,
        plan: Plan,
        company: Sequence[int] | None,
        seconds: Sequence[float] | None,
        least_seconds: Sequence[float] | None,
    ) -> None:
        count = len(plan.segments)
        self.plan = plan
        self.company = plan.company if company is None else tuple(company)
        self.seconds = (0.0,) * count if seconds is None else tuple(seconds)
        self.least_seconds = self.seconds if least_seconds is None else tuple(least_seconds)
        for name in ("company", "seconds", "least_seconds"):
            if len(given := getattr(self, name)) != count:
                raise InputError(f"{name} must be {count} numbers, one for each segment, got {len(given)}")
        self.remaining = tuple(sum(self.seconds[segment:]) for segment in range(count))
        self.longest_call = max(self.seconds)
        self._queues: dict[tuple[int, Hashable, bool], Queue] = {}
        self._pushed = 0
        self._may_be_full = False  # whether a queue grew full since none was found that is
        self._passed_over = 0  # calls in a row for rows that have a time
        self._patient_calls = 0  # those for the others
        self._gaps: dict[int, Wave] = {}  # by order, waves in states half empty that wait

    def __iter__(self) -> Iterator[Queue]:
        """Iterate over the queues that hold waves."""
        return iter(list(self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def first(self) -> Queue:
        """Return the queue before the first segment at which rows wait."""
        return min(self._queues.values(), key=lambda queue: queue.segment)

    def drop_answered(self, table: RowTable) -> None:
        """Let rows that have answered wait no longer. Where others are always more urgent, nothing else drops them."""
        queues, self._queues, self._gaps = self._queues, {}, {}
        for queue in queues.values():
            for entry in queue.heap:
                entry.wave.drop_answered(table)
                if len(entry.wave.rows):
                    self.push(queue.segment, queue.signature, entry.wave, table.due(entry.wave.rows))
        table.stale = 0

    @property
    def soonest(self) -> float:
        """When a queue must be run at the latest; inf for any time."""
        return min(map(self.latest, self._queues.values()), default=math.inf)

    def tidy(self, executor: Executor) -> None:
        """Drop answered rows from states half empty that wait, so that memory is bounded."""
        for wave in self._gaps.values():
            with suppress(Exception):  # without memory for the copy it stays as it is
                small = joined(executor, [wave])
                wave.state, wave.height, wave.place, wave.alone = small.state, small.height, None, True
        self._gaps.clear()

    def push(self, segment: int, signature: Hashable, wave: Wave, due: float) -> None:
        """Let a wave wait before a segment."""
        key = segment, signature, due < math.inf
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(*key)
        rows = wave.rows
        self._pushed += 1
        entry = _Entry(due, int(rows[0]) if len(rows) == 1 else int(rows.min()), self._pushed, wave)
        queue.push(entry)
        if queue.rows >= self.company[segment]:
            self._may_be_full = True
        if 2 * len(rows) <= wave.height:
            self._gaps[entry.order] = wave

    def latest(self, queue: Queue) -> float:
        """Return when the queue must be run at the latest, so that all its rows are done in time as profiled."""
        if not queue.has_dues:
            return math.inf
        behind = self.plan.calls(queue.segment, queue.rows) - 1
        return queue.heap[0].due - self.remaining[queue.segment] - behind * self.seconds[queue.segment]

    def takes(self, queue: Queue) -> float:
        """Return how many seconds the next call of a queue takes, as profiled."""
        segment, least = queue.segment, self.least_seconds[queue.segment]
        rows = queue.rows / self.plan.calls(segment, queue.rows)
        return least + (self.seconds[segment] - least) * (rows - 1) / max(self.plan.piece[segment] - 1, 1)

    def choose(
        self, now: float, *, force: bool, older_than: int | None, table: RowTable | None
    ) -> Queue | None:
        """Return the queue to run now; None if all can wait for company.

        `table`: of the rows, if any of them has a deadline.

        What is full or late goes first, by the time at which it must be run; rows that are `overdue` go as if that were
        now. Rows that are late but `can_do_without` come after those that cannot, and before what is full but has any
        time, which gets every sixteenth call all the same. Of that goes first what came furthest, but every sixteenth
        time the row that has waited longest: others may enter behind it without end, where policies skip models of a
        cascade. Then come rows numbered below `older_than`, and all the others if `force`, the first segment first: their
        survivors join what waits behind it. Of queues before the same segment, such as texts of two lengths, the one
        whose row has waited longest goes first.
        """
        if not (force or self._may_be_full) and older_than is None and table is None:
            return None  # nothing else makes a row that has any time run
        best, least = None, (9, 0.0, 0, 0)
        patient = -1 if self._passed_over >= _TURN - 1 else 2
        furthest = -int(self._patient_calls % _TURN < _TURN - 1)
        for queue in self._queues.values():
            segment, latest, oldest = queue.segment, self.latest(queue), queue.heap[0].oldest
            late = latest <= now
            if table is not None and not queue.has_dues and table.overdue(queue.head.rows, now):
                key = (0, now, segment, oldest)
            elif late or queue.rows >= self.company[segment]:
                told = late and table is not None and table.can_do_without(queue.head.rows)
                rank = int(told) if queue.has_dues else patient
                key = (rank, latest, segment if queue.has_dues else furthest * segment, oldest)
            elif older_than is not None and oldest < older_than:
                key = (3, 0.0, segment, oldest)
            elif force:
                key = (4, 0.0, segment, oldest)
            else:
                continue
            if key < least:
                best, least = queue, key
        self._may_be_full = best is not None
        return best

    def take(self, queue: Queue) -> list[Wave]:
        """Take waves for one call out of a queue: of the planned size, evenly shared out, or one that needs no copy.

        The last of them may be a part of a wave, whose rest waits on.
        """
        plan, segment, rows = self.plan, queue.segment, queue.rows
        self._passed_over = self._passed_over + 1 if queue.has_dues else 0
        self._patient_calls += not queue.has_dues
        calls, head = plan.calls(segment, rows), queue.head
        taken = []
        if self._alone(queue, calls, head):
            taken.append(self._popped(queue).wave)
        else:
            wanted = rows // calls
            while wanted:
                entry = self._popped(queue)
                wave, size = entry.wave, len(entry.wave.rows)
                taken.append(wave.part(0, min(size, wanted)))
                if size > wanted:
                    queue.push(entry._replace(wave=wave.part(wanted, size)))
                wanted -= len(taken[-1].rows)
        if not queue.heap:
            del self._queues[queue.segment, queue.signature, queue.has_dues]
        return taken

    def _popped(self, queue: Queue) -> _Entry:
        entry = queue.pop()
        self._gaps.pop(entry.order, None)
        return entry

    def _alone(self, queue: Queue, calls: int, head: Wave) -> bool:
        """Whether the first wave may as well be run by itself: joining would save no copy, or no call."""
        size, piece = len(head.rows), self.plan.piece[queue.segment]
        if self.plan.calls(queue.segment, size) > 1:
            return False
        large = head.place is None and 2 * size >= piece and 2 * (queue.rows - size) >= piece
        return large or len(queue.heap) == calls
