"""The engine: rows of many tickets and policies run through one network, segment by segment.

Rows wait before each segment, grouped by the executor's state that holds them. `step` runs one call: rows of all
policies together, up to the planned size. Then each policy decides which of its rows leave, and the others wait before
the next segment. There is no clock, thread or socket here: the caller passes the time. A batch, a stream and a server
differ only in when they call `step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from secrets import token_bytes
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Keys
from exeunt._support.text import counted
from exeunt.engine.answers import Answers, Ticket
from exeunt.engine.batch_scheduler import BatchScheduler, Queue
from exeunt.engine.deadlines import Deadlines
from exeunt.engine.decider import Decider
from exeunt.engine.dropping_finished_rows import ALL, PolicyRows, RowGroup
from exeunt.engine.executor import Executor, looks_once
from exeunt.engine.inputs import input_keys, joined_inputs, n_rows
from exeunt.engine.one_call import Calls, Survivors
from exeunt.engine.plan import Plan, check_segments
from exeunt.engine.row_table import RowTable
from exeunt.errors import InputError, QueueFull
from exeunt.policy import Policy, PolicyState
from exeunt.score.tie_breaking import Ties, row_keys


class Submission(NamedTuple):
    """Inputs for a ticket: their keys `id` (n,) and deadline as `Engine.submit` takes them."""

    inputs: Any
    id: ArrayLike | None = None
    deadline: float | None = None


class Engine:
    """Rows in flight through one network.

    `policies`: one, or several by name; `exits`: by name, which exits of the network a policy's own are, if they are
    not the same. The first policy is `active` until another one is set.
    `plan`: sizes of calls, and when finished rows are dropped; by default 64 rows, and always.
    `min_batch` (s,): rows before a segment that are worth a call; by default the plan's.
    `max_wait_s`: how long rows wait to be batched; None for any time. `seconds` (s,): duration of a call of each
    segment, for deadlines; `single_row_seconds` (s,): of a call of one row. `max_rows`: the most rows without an
    answer; `when_full`: "refuse" raises QueueFull beyond it, "degrade" first answers rows with the output of their
    latest exit.
    `check`: called with the inputs of each ticket; raises what is wrong with them. `probabilities`: keep those of all
    classes. `work`: calls of each segment (s,) so far, and their rows (s,).

    Raises InputError if policies, plan and network have different numbers of exits.
    """

    def __init__(
        self,
        executor: Executor,
        policies: Policy | Mapping[str, Policy],
        plan: Plan | None = None,
        *,
        exits: Mapping[str, Sequence[int]] | None = None,
        min_batch: Sequence[int] | None = None,
        max_wait_s: float | None = None,
        seconds: Sequence[float] | None = None,
        single_row_seconds: Sequence[float] | None = None,
        max_rows: int | None = None,
        when_full: str = "refuse",
        check: Callable[[Any], None] | None = None,
        probabilities: bool = False,
    ) -> None:
        if when_full not in ("refuse", "degrade"):
            raise InputError(f"when_full must be one of refuse, degrade, got {when_full!r}")
        self.executor = executor
        self.table = RowTable()
        self._started, self._submitted = token_bytes(16), 0  # tell a row from those of all other engines
        self._deciders: dict[str, Decider] = {}
        check_segments(executor.segments, executor.n_exits)
        for name, policy in ({"": policies} if isinstance(policies, Policy) else policies).items():
            self.add(name, policy, exits=(exits or {}).get(name))
        self._active = next(iter(self._deciders))
        self.plan = Plan.unmeasured(executor.name, executor.segments) if plan is None else plan
        if self.plan.segments != executor.segments:
            raise InputError(
                f"the plan is for the segments {self.plan.segments}, the network runs in {executor.segments}: "
                "make a plan for these"
            )
        self.scheduler = BatchScheduler(self.plan, min_batch, seconds, single_row_seconds)
        self.max_wait_s, self.max_rows, self.when_full, self._check = max_wait_s, max_rows, when_full, check
        self._calls = Calls(executor, self.plan, self.table, details=probabilities)
        self._calls.keeps_outputs, self.work = when_full == "degrade", self._calls.work
        self._deadlines, self._has_dues = Deadlines(self.table), False

    # -- policies ---------------------------------------------------------------------------------------

    def add(self, name: str, policy: Policy, *, exits: Sequence[int] | None = None) -> None:
        """Add a policy, or replace the one of this name; rows that have begun keep theirs.

        Raises InputError for a policy whose ties are broken by other keys than the others'.
        """
        if {policy.ties} != {decider.policy.ties for decider in self._deciders.values()} | {policy.ties}:
            raise InputError(
                f"ties of the policy {name!r} are broken by the keys of {policy.ties}, those of the others are not: "
                "calibrate all with the same ties"
            )
        if policy.looks_once != looks_once(self.executor):
            raise InputError(
                "policies that choose an exit at the network's gate (one_look) and those that look at every exit run a "
                "network in two ways: open it for one kind alone, with exeunt.load"
            )
        self._deciders[name] = Decider(
            policy,
            self.executor.segments,
            models=sorted(self.executor.restarts) or [0],
            exits=exits,
            number=self.table.policy_number(name),
            border=self.executor.border,
            mask_scale=self.executor.mask_scale,
        )

    @property
    def ties(self) -> Ties:
        """The keys by which the policies break ties."""
        return self._deciders[self._active].policy.ties

    @property
    def highest_cost(self) -> float:
        """The most that a row may cost under any of the policies."""
        return max(decider.policy.cost.highest for decider in self._deciders.values())

    def segments_run(self, policy: str) -> list[int]:
        """Return the segments that rows of a policy run, in order. The others are skipped."""
        return self._deciders[self._known(policy)].runs

    @property
    def active(self) -> str:
        """The policy of rows that name none, looked up when they first run."""
        return self._active

    @active.setter
    def active(self, name: str) -> None:
        self._active = self._known(name)

    def _known(self, name: str) -> str:
        if name not in self._deciders:
            raise InputError(
                f"there is no policy {name!r}: choose one of {', '.join(map(repr, self._deciders))}"
            )
        return name

    # -- submitting and cancelling ----------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows without an answer."""
        return self.table.rows

    def submit(
        self,
        inputs: Any,
        now: float = 0.0,
        *,
        policy: str | None = None,
        deadline: float | None = None,
        soft: bool = False,
        id: ArrayLike | None = None,  # noqa: A002
    ) -> Ticket:
        """Submit inputs; `step` returns the ticket once all are answered.

        `policy`: its name; by default the one that is active when the rows first run. `deadline`: on the clock of
        `now`; a row without an answer by then gets the output of its latest exit. If it has no output, it gets no
        answer, or with `soft` it runs at once until it has one. `id` (n,): keys of the inputs, which break ties; by
        default those of `input_keys`, or one for each row where the policies' ties are broken by those.

        Raises InputError for inputs that the network does not take, QueueFull if there is no room.
        """
        submission = Submission(inputs, id, deadline)
        return self.submit_together([submission], now, policy=policy, soft=soft)[0]

    def submit_together(
        self,
        submissions: Sequence[Submission],
        now: float = 0.0,
        *,
        policy: str | None = None,
        soft: bool = False,
    ) -> list[Ticket]:
        """Submit inputs as `submit` does one after the other, each with a ticket of its own, which takes less time.

        Raises what `submit` raises for one of them, InputError if they cannot be joined; then none is submitted.
        """
        for submission in submissions:
            if submission.deadline is not None and math.isnan(submission.deadline):
                raise InputError("deadline must be a time on the clock of now, got nan")
            if self._check is not None:
                self._check(submission.inputs)
        decider = None if policy is None else self._deciders[self._known(policy)]
        inputs = (
            submissions[0].inputs
            if len(submissions) == 1
            else joined_inputs([submission.inputs for submission in submissions])
        )
        state, valid = self.executor.start(inputs)
        n = len(valid)
        sizes = [n] if len(submissions) == 1 else [n_rows(submission.inputs) for submission in submissions]
        signature = self.executor.signature(state)
        keys = self._keys(submissions, inputs, sizes)
        self._submitted += n
        self._make_room(n)
        tickets = self._admit([submission.deadline for submission in submissions], sizes, now, soft)
        rows = np.arange(tickets[0].base, tickets[0].base + n)
        group = RowGroup(state, n, None, rows, [PolicyRows(decider, ALL, PolicyState(keys, {}, {}))])
        if np.count_nonzero(valid) < n:
            group.keep(valid)
            self.table.reject(rows[~valid], 0.0, -1)
        if len(group.rows):
            self._push(0 if decider is None else decider.after[-1], signature, group)
        return tickets

    def _keys(self, submissions: Sequence[Submission], inputs: Any, sizes: Sequence[int]) -> Keys:
        """Return the keys (n,) of the rows of several submissions, whose joined inputs these are."""
        n = sum(sizes)
        if all(submission.id is None for submission in submissions):
            if self.ties == "row":
                return row_keys(self._started, np.arange(self._submitted, self._submitted + n))
            return input_keys(inputs, n)
        if any(submission.id is None for submission in submissions):
            raise InputError("inputs that are submitted together all have keys, or none has")
        ids = [submission.id for submission in submissions if submission.id is not None]
        keys = [arrays.keys(id_, "id", n=size) for id_, size in zip(ids, sizes, strict=True)]
        return keys[0] if len(keys) == 1 else np.concatenate(keys)

    def _admit(
        self, deadlines: Sequence[float | None], sizes: Sequence[int], now: float, soft: bool
    ) -> list[Ticket]:
        limits = [math.inf if deadline is None else deadline for deadline in deadlines]
        due = math.inf if self.max_wait_s is None else now + self.max_wait_s + self.scheduler.remaining_s[0]
        dues = [due] * len(sizes)
        if not soft:  # another call may have begun when a row should run
            dues = [min(limit - self.scheduler.longest_call_s, due) for limit in limits]
        tickets = self.table.admit_together(sizes, limits, dues)
        for ticket, deadline in zip(tickets, deadlines, strict=True):
            if deadline is not None:
                ticket.soft, self._calls.keeps_outputs = soft, True
                self._deadlines.watch(ticket)
                self._has_dues = True
        self._has_dues |= self.max_wait_s is not None
        return tickets

    def refuse(self, n: int, error: Exception) -> Ticket:
        """Return the ticket of n inputs that could not be submitted; `step` returns it too."""
        ticket = self.table.admit(n)
        self.table.fail(ticket, error)
        self.table.stale -= n  # these are in no queue
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Drop the rows of a ticket without an answer; `step` does not return it."""
        ticket.cancelled = True
        self.table.drop(ticket)

    def _make_room(self, n: int) -> None:
        if self.max_rows is None or self.rows + n <= self.max_rows:
            return
        over = self.rows + n - self.max_rows
        if self.when_full == "degrade" and n <= self.max_rows:
            with_output = self.table.with_output()
            if len(with_output) >= over:
                # Finding them takes a look at all rows: make room for several at a time.
                self.table.end_early(with_output[: max(over, self.max_rows // 64)], expired=False)
                return
        raise QueueFull(
            f"{self.rows} rows wait and {counted(n, 'row')} more would be beyond {self.max_rows}: ask again later"
        )

    # -- running ----------------------------------------------------------------------------------------

    def step(self, now: float = 0.0, *, force: bool = False, flush: Ticket | None = None) -> list[Ticket]:
        """Return the tickets that are done; else run one call of a full or late queue and return those done by then.

        `force`: run something even if all rows could wait to be batched, because there is nothing else to do. `flush`:
        likewise, but only rows of this ticket and of those before it.
        """
        queue = self._next(now, force=force, flush=flush)
        if self._has_dues:
            self._deadlines.expire(now, self.scheduler.call_seconds(queue) if queue else 0.0)
        if queue is None:
            self.scheduler.compact(self.executor)
        elif all(ticket.cancelled for ticket in self.table.done):  # else done tickets would wait for the call
            for left in self._calls.run(*self._taken(queue)):
                self._push(*left)
                if self._has_dues:
                    self._deadlines.left.append(left[2].rows)
        if self.table.stale >= self.rows:
            self.scheduler.drop_finished(self.table)
        return self.table.take_done()

    def drain(self) -> list[Ticket]:
        """Run everything to its answers, segment after segment, and return the tickets that are done."""
        while self.rows:
            call: Any = self._taken(self.scheduler.first())
            while call is not None:
                left = list(self._calls.run(*call))
                call = self._next_alone(left)
            for one in left:
                self._push(*one)
        self.scheduler.drop_finished(self.table)
        return self.table.take_done()

    def _next_alone(self, left: list[Survivors]) -> tuple[int, Hashable, list[RowGroup]] | None:
        """Return the next call for what a call has left, if nothing else waits: it need not be queued."""
        if len(left) != 1 or self.table.stale or not self.scheduler.is_empty:
            return None
        segment, signature, group = left.pop()
        if self.plan.calls(segment, len(group.rows)) > 1:
            left.append((segment, signature, group))
            return None
        return segment, signature, [group]

    def answer(self, inputs: Any, *, id: ArrayLike | None = None) -> Answers:  # noqa: A002
        """Run inputs to their answers. Raises whatever the executor raises."""
        ticket = self.submit(inputs, id=id)
        self.drain()
        if ticket.error is not None:
            raise ticket.error
        ticket.number = 0
        return ticket.answers

    def ready(self, now: float = 0.0) -> bool:
        """Return whether `step` would run something without being forced to."""
        return self._next(now, force=False, flush=None) is not None

    def seconds_left(self, now: float) -> float | None:
        """Return how long until something is late or expires; None for any time."""
        soonest = min(self.scheduler.soonest, self._deadlines.soonest) if self._has_dues else math.inf
        return None if soonest == math.inf else max(0.0, soonest - now)

    def _next(self, now: float, *, force: bool, flush: Ticket | None) -> Queue | None:
        older_than = None if flush is None else flush.base + flush.n
        table = self.table if self._has_dues else None
        force = force or (self._has_dues and self._deadlines.has_overdue)
        return self.scheduler.choose(now, force=force, older_than=older_than, table=table)

    def _taken(self, queue: Queue) -> tuple[int, Hashable, list[RowGroup]]:
        """Take the rows of one call out of a queue."""
        segment, signature, head = queue.segment, queue.signature, queue.head
        splits = self.plan.calls(segment, len(head.rows)) > 1
        if splits and head.has_gaps and head.needs_drop(segment, self.plan):
            # Parts of a state without gaps need no copy. If compacting fails, the parts are copied after all.
            with suppress(Exception):
                head.compact(self.executor)
        groups = []
        for group in self.scheduler.take(queue):
            if self.table.stale:
                group.drop_finished(self.table)
            if len(group.rows) and self._starts_here(segment, signature, group):
                groups.append(group)
        return segment, signature, groups

    def _starts_here(self, segment: int, signature: Hashable, group: RowGroup) -> bool:
        """Give rows without a policy the active one. If that starts at another segment, queue them there."""
        if group.parts[0].decider is not None:
            return True
        decider = self._deciders[self.active]
        group.parts = [PolicyRows(decider, ALL, group.parts[0].memory)]
        if (start := decider.after[-1]) == segment:
            return True
        self._push(start, signature, group)
        return False

    def _push(self, segment: int, signature: Hashable, group: RowGroup) -> None:
        due = self.table.due(group.rows) if self._has_dues else math.inf
        self.scheduler.push(segment, signature, group, due)
