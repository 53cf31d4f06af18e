"""Queues of rows before each segment: which queue runs next, and which of its rows form the batch of the next call."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from typing import NamedTuple

from exeunt.engine.dropping_finished_rows import RowGroup, joined
from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan
from exeunt.engine.row_table import RowTable
from exeunt.errors import InputError

_TURN = 16
"""One call in 16 serves rows without a deadline, so that urgent rows cannot starve them; one in 16 of those serves the
row that has waited longest."""


class _Entry(NamedTuple):
    """A group in a queue. `oldest`: number of its oldest row. `order`: in which it was queued."""

    due: float
    oldest: int
    order: int
    group: RowGroup


class Queue:
    """Groups before one segment whose states can be joined, the most urgent first. `rows`: of all of them.

    `has_dues`: whether each of its rows should be done by some time.
    """

    __slots__ = ("has_dues", "heap", "rows", "segment", "signature")

    def __init__(self, segment: int, signature: Hashable, has_dues: bool) -> None:
        self.segment, self.signature, self.has_dues = segment, signature, has_dues
        self.heap: list[_Entry] = []
        self.rows = 0

    @property
    def head(self) -> RowGroup:
        """The most urgent group."""
        return self.heap[0].group

    def push(self, entry: _Entry) -> None:
        """Add a group."""
        heappush(self.heap, entry)
        self.rows += len(entry.group.rows)

    def pop(self) -> _Entry:
        """Take the most urgent group out."""
        entry = heappop(self.heap)
        self.rows -= len(entry.group.rows)
        return entry


class BatchScheduler:
    """All queues.

    `min_batch` (s,): rows before a segment that are worth a call; by default the plan's. `seconds` (s,): duration of a
    call of the planned size; by default 0. `single_row_seconds` (s,): of a call of one row; by default the same.
    """

    def __init__(
        self,
        plan: Plan,
        min_batch: Sequence[int] | None,
        seconds: Sequence[float] | None,
        single_row_seconds: Sequence[float] | None,
    ) -> None:
        count = len(plan.segments)
        self.plan = plan
        self.min_batch = plan.min_batch if min_batch is None else tuple(min_batch)
        self.seconds = (0.0,) * count if seconds is None else tuple(seconds)
        self.single_row_seconds = self.seconds if single_row_seconds is None else tuple(single_row_seconds)
        for name in ("min_batch", "seconds", "single_row_seconds"):
            if len(numbers := getattr(self, name)) != count:
                raise InputError(f"{name} must be {count} numbers, one for each segment, got {len(numbers)}")
        self.remaining_s = tuple(sum(self.seconds[segment:]) for segment in range(count))
        self.longest_call_s = max(self.seconds)
        self._queues: dict[tuple[int, Hashable, bool], Queue] = {}
        self._pushed = 0
        self._may_be_full = False  # whether a queue may hold a batch: one grew since none was found that does
        self._calls_with_due = 0  # in a row
        self._calls_without_due = 0
        self._gaps: dict[int, RowGroup] = {}  # by order, groups in queues whose state is half empty or more

    def __iter__(self) -> Iterator[Queue]:
        """Iterate over the queues that hold rows."""
        return iter(list(self._queues.values()))

    @property
    def is_empty(self) -> bool:
        """Whether no rows wait."""
        return not self._queues

    def first(self) -> Queue:
        """Return the queue before the first segment at which rows wait."""
        return min(self._queues.values(), key=lambda queue: queue.segment)

    @property
    def soonest(self) -> float:
        """The earliest time by which some queue must run; inf for any time."""
        return min(map(self.latest, self._queues.values()), default=math.inf)

    # -- what goes in -----------------------------------------------------------------------------------

    def push(self, segment: int, signature: Hashable, group: RowGroup, due: float) -> None:
        """Queue a group before a segment. `due`: when its most urgent row should be done."""
        key = segment, signature, due < math.inf
        if (queue := self._queues.get(key)) is None:
            queue = self._queues[key] = Queue(*key)
        rows = group.rows
        self._pushed += 1
        entry = _Entry(due, int(rows[0]) if len(rows) == 1 else int(rows.min()), self._pushed, group)
        queue.push(entry)
        if queue.rows >= self.min_batch[segment]:
            self._may_be_full = True
        if 2 * len(rows) <= group.state_rows:
            self._gaps[entry.order] = group

    def drop_finished(self, table: RowTable) -> None:
        """Remove finished rows from all queues. A queue that others always overtake would keep them."""
        queues, self._queues, self._gaps = self._queues, {}, {}
        for queue in queues.values():
            for entry in queue.heap:
                entry.group.drop_finished(table)
                if len(entry.group.rows):
                    self.push(queue.segment, queue.signature, entry.group, table.due(entry.group.rows))
        table.stale = 0

    def compact(self, executor: Executor) -> None:
        """Drop finished rows from half-empty states in the queues, so that memory is bounded."""
        for group in self._gaps.values():
            with suppress(Exception):  # without memory for the copy, the state stays as it is
                small = joined(executor, [group])
                group.state, group.state_rows = small.state, small.state_rows
                group.places, group.owns_state = None, True
        self._gaps.clear()

    # -- what runs next ---------------------------------------------------------------------------------

    def latest(self, queue: Queue) -> float:
        """Return when a queue must run at the latest for all its rows to be done in time, by the given durations."""
        if not queue.has_dues:
            return math.inf
        behind = self.plan.calls(queue.segment, queue.rows) - 1
        return queue.heap[0].due - self.remaining_s[queue.segment] - behind * self.seconds[queue.segment]

    def call_seconds(self, queue: Queue) -> float:
        """Return the expected duration of a queue's next call."""
        segment, least = queue.segment, self.single_row_seconds[queue.segment]
        rows = queue.rows / self.plan.calls(segment, queue.rows)
        return least + (self.seconds[segment] - least) * (rows - 1) / max(self.plan.piece[segment] - 1, 1)

    def choose(
        self, now: float, *, force: bool, older_than: int | None, table: RowTable | None
    ) -> Queue | None:
        """Return the queue to run now; None if all can wait for larger batches.

        `table`: of the rows, if any of them has a deadline.

        1. Queues whose rows are overdue, that is without output at their deadline, and queues that are full or late,
           in the order of the time at which they must run; for overdue rows this is now. Late rows that have an output
           to fall back on come after those without, and before full queues without a deadline. These get one call in
           `_TURN` all the same; among them the furthest segment goes first, but one time in `_TURN` the row that has
           waited longest: other rows may overtake it for ever if policies skip models of a cascade.
        2. Queues with rows numbered below `older_than`.
        3. All others if `force`, the first segment first: its survivors join what waits behind it.

        Of queues before the same segment, such as texts of two lengths, the one with the oldest row goes first.
        """
        if not (force or self._may_be_full) and older_than is None and table is None:
            return None  # nothing else makes rows without a deadline run
        if force and len(self._queues) == 1:
            return next(iter(self._queues.values()))
        best, least = None, (9, 0.0, 0, 0)
        no_due_rank = -1 if self._calls_with_due >= _TURN - 1 else 2
        by_segment = -int(self._calls_without_due % _TURN < _TURN - 1)
        for queue in self._queues.values():
            segment, latest, oldest = queue.segment, self.latest(queue), queue.heap[0].oldest
            late = latest <= now
            if table is not None and not queue.has_dues and table.overdue(queue.head.rows, now):
                key = (0, now, segment, oldest)
            elif late or queue.rows >= self.min_batch[segment]:
                has_fallback = late and table is not None and table.has_fallback(queue.head.rows)
                rank = int(has_fallback) if queue.has_dues else no_due_rank
                key = (rank, latest, segment if queue.has_dues else by_segment * segment, oldest)
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

    # -- how a batch is formed --------------------------------------------------------------------------

    def take(self, queue: Queue) -> list[RowGroup]:
        """Take the groups for one call out of a queue.

        All rows of the queue are shared evenly among as many calls as the plan makes of them, so the last group may be
        a part of one whose rest stays in the queue. A group that needs no copy is a batch by itself.
        """
        plan, segment, rows = self.plan, queue.segment, queue.rows
        self._calls_with_due = self._calls_with_due + 1 if queue.has_dues else 0
        self._calls_without_due += not queue.has_dues
        calls = plan.calls(segment, rows)
        taken = []
        if self._runs_alone(queue, calls):
            taken.append(self._pop(queue).group)
        else:
            wanted = rows // calls
            while wanted:
                entry = self._pop(queue)
                group, size = entry.group, len(entry.group.rows)
                taken.append(group.between(0, min(size, wanted)))
                if size > wanted:
                    queue.push(entry._replace(group=group.between(wanted, size)))
                wanted -= len(taken[-1].rows)
        if not queue.heap:
            del self._queues[queue.segment, queue.signature, queue.has_dues]
        return taken

    def _pop(self, queue: Queue) -> _Entry:
        entry = queue.pop()
        self._gaps.pop(entry.order, None)
        return entry

    def _runs_alone(self, queue: Queue, calls: int) -> bool:
        """Whether the first group is better run by itself: joining would save no copy, or no call."""
        head = queue.head
        size, piece = len(head.rows), self.plan.piece[queue.segment]
        if self.plan.calls(queue.segment, size) > 1:
            return False
        large = head.places is None and 2 * size >= piece and 2 * (queue.rows - size) >= piece
        return large or len(queue.heap) == calls
