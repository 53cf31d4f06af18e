"""The engine: rows of many tickets and policies run through one network, segment by segment.

Rows wait before each segment in waves. `step` runs one call: waves of all policies together, up to the planned size.
Then each policy decides who of its rows leaves, and the others wait before the next segment. There is no clock, no
thread and no socket here: the caller says what time it is. A batch, a stream and a server differ only in when they call
`step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exeunt import _arrays
from exeunt._text import counted
from exeunt.engine.calls import Calls, Left
from exeunt.engine.deadlines import Deadlines
from exeunt.engine.deciding import Decider
from exeunt.engine.executor import Executor
from exeunt.engine.input_keys import input_keys
from exeunt.engine.plan import Plan, check_segments
from exeunt.engine.row_table import RowTable
from exeunt.engine.tickets import Ticket
from exeunt.engine.waiting import Queue, Waiting
from exeunt.engine.waves import Share, Wave
from exeunt.errors import InputError, QueueFull
from exeunt.policy import Policy, PolicyState

__all__ = ["WHEN_FULL", "Engine"]

WHEN_FULL = ("refuse", "degrade")


class Engine:
    """Rows in flight through one network.

    `policies`: one, or several by name; `exits`: by name, which exits of the network a policy's own are, where they are
    not the same. The first of them is `active` until another one is put there.
    `plan`: sizes of calls, and when rows that have answered are dropped; by default 64, and always.
    `company` (s,): how many rows before a segment are worth a call by themselves; by default as the plan says.
    `max_wait_s`: how long rows wait for company; None for any time. `seconds` (s,): what a call of each segment takes,
    by which the time that remains is reckoned, `least_seconds` (s,): one of a single row. `max_rows`: the most rows
    without an answer; `when_full`: "refuse" raises QueueFull beyond it, "degrade" first answers rows by what the exits
    so far have said of them.
    `check`: called with the inputs of each ticket; raises what is wrong with them. `probabilities`: keep those of all
    classes. `work`: what the network did so far.

    Raises InputError if policies, plan and network have different numbers of exits.
    """

    def __init__(
        self,
        executor: Executor,
        policies: Policy | Mapping[str, Policy],
        plan: Plan | None = None,
        *,
        exits: Mapping[str, Sequence[int]] | None = None,
        company: Sequence[int] | None = None,
        max_wait_s: float | None = None,
        seconds: Sequence[float] | None = None,
        least_seconds: Sequence[float] | None = None,
        max_rows: int | None = None,
        when_full: str = "refuse",
        check: Callable[[Any], None] | None = None,
        probabilities: bool = False,
    ) -> None:
        if when_full not in WHEN_FULL:
            raise InputError(f"when_full must be one of {', '.join(WHEN_FULL)}, got {when_full!r}")
        self.executor = executor
        self.table = RowTable()
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
        self.waiting = Waiting(self.plan, company, seconds, least_seconds)
        self.max_wait_s, self.max_rows, self.when_full, self._check = max_wait_s, max_rows, when_full, check
        self._calls = Calls(executor, self.plan, self.table, probabilities=probabilities)
        self._calls.keeps_said, self.work = when_full == "degrade", self._calls.work
        self._deadlines, self._has_dues = Deadlines(self.table), False

    # -- policies ---------------------------------------------------------------------------------------

    def add(self, name: str, policy: Policy, *, exits: Sequence[int] | None = None) -> None:
        """Take a policy in, or put another in the place of one; rows that run keep theirs."""
        place, border = self.table.place_of(name), self.executor.border
        models = sorted(self.executor.restarts) or [0]
        self._deciders[name] = Decider(
            policy, self.executor.segments, models=models, exits=exits, place=place, border=border
        )

    def remove(self, name: str) -> None:
        """Take a policy out, but not the active one; rows that run keep it."""
        if name == self.active:
            raise InputError(f"policy {name!r} is active: activate another first")
        del self._deciders[self._known(name)]

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies by name."""
        return {name: decider.policy for name, decider in self._deciders.items()}

    @property
    def active(self) -> str:
        """The policy of rows that name none, looked up when they are first run."""
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

    # -- what comes in, and goes before its time ---------------------------------------------------------

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
        """Let inputs in; `step` gives the ticket out once all are answered.

        `policy`: its name; by default the active one when the rows are first run. `deadline`: on the clock of `now`; a
        row that has no answer by then gets what the exits so far said of it, or none if nothing was; if it is `soft`,
        the row is run at once until something is. `id` (n,): keys of the inputs, which break ties; by default those of
        `input_keys`.

        Raises InputError for inputs that the network does not take, QueueFull where there is no room.
        """
        if deadline is not None and math.isnan(deadline):
            raise InputError("deadline must be a time on the clock of now, got nan")
        if self._check is not None:
            self._check(inputs)
        decider = None if policy is None else self._deciders[self._known(policy)]
        state, valid = self.executor.start(inputs)
        n = len(valid)
        keys = _arrays.keys(input_keys(inputs, n) if id is None else id, "id", n=n)
        signature = self.executor.signature(state)
        self._make_room(n)
        ticket = self._admit(n, now, deadline, soft)
        rows = np.arange(ticket.base, ticket.base + n)
        wave = Wave(state, n, None, rows, [Share(decider, None, PolicyState(keys, {}, {}))])
        if np.count_nonzero(valid) < n:
            wave.keep(valid)
            self.table.reject(rows[~valid], 0.0, -1)
        if len(wave.rows):
            self._push(0 if decider is None else decider.after[-1], signature, wave)
        return ticket

    def _admit(self, n: int, now: float, deadline: float | None, soft: bool) -> Ticket:
        if deadline is None and self.max_wait_s is None:
            return self.table.admit(n, now)
        limit = math.inf if deadline is None else deadline
        waited = math.inf if self.max_wait_s is None else now + self.max_wait_s + self.waiting.remaining[0]
        begun = self.waiting.longest_call  # another call may have begun when a row should be run
        ticket = self.table.admit(n, now, limit, waited if soft else min(limit - begun, waited))
        self._has_dues = True
        if deadline is not None:
            ticket.soft, self._calls.keeps_said = soft, True
            self._deadlines.watch(ticket)
        return ticket

    def refuse(self, n: int, error: Exception, now: float = 0.0) -> Ticket:
        """Return the ticket of n inputs that could not be taken in; `step` gives it out."""
        return self.table.refuse(n, error, now)

    def cancel(self, ticket: Ticket) -> None:
        """Let the rows of a ticket go without an answer; `step` does not give it out."""
        ticket.cancelled = True
        self.table.drop(ticket)

    def _make_room(self, n: int) -> None:
        if self.max_rows is None or self.rows + n <= self.max_rows:
            return
        over = self.rows + n - self.max_rows
        if self.when_full == "degrade" and n <= self.max_rows:
            said = self.table.all_said()
            if len(said) >= over:  # all were looked through: make room for more at a time
                self.table.cut_short(said[: max(over, self.max_rows // 64)], expired=False)
                return
        raise QueueFull(
            f"{self.rows} rows wait and {counted(n, 'row')} more would be beyond {self.max_rows}: ask again later"
        )

    # -- what is done -----------------------------------------------------------------------------------

    def step(self, now: float = 0.0, *, force: bool = False, hurry: Ticket | None = None) -> list[Ticket]:
        """Return the tickets that are done, else run one call of what is full or late and return those done by then.

        `force`: run something even if all could wait for company, as one does with nothing else to do. `hurry`: do so
        for rows of this ticket and those before it alone.
        """
        queue = self._next(now, force=force, hurry=hurry)
        if self._has_dues:
            self._deadlines.expire(now, self.waiting.takes(queue) if queue else 0.0)
        if queue is None:
            self.waiting.tidy(self.executor)
        elif all(ticket.cancelled for ticket in self.table.done):  # else it would wait for the call
            for left in self._calls.run(*self._taken(queue)):
                self._push(*left)
                if self._has_dues:
                    self._deadlines.left.append(left[2].rows)
        if self.table.stale >= self.rows:
            self.waiting.drop_answered(self.table)
        return self.table.take_done()

    def drain(self) -> list[Ticket]:
        """Run everything to its answers, segment after segment, and return the tickets that are done."""
        left: list[Left] = []
        while self.rows:
            if len(left) == 1 and not self.waiting and self.plan.calls(left[0][0], len(left[0][2].rows)) == 1:
                segment, signature, wave = left[0]  # it need not wait
                waves = [wave]
            else:
                for one in left:
                    self._push(*one)
                segment, signature, waves = self._taken(self.waiting.first())
            left = list(self._calls.run(segment, signature, waves))
        self.waiting.drop_answered(self.table)
        return self.table.take_done()

    def ready(self, now: float = 0.0) -> bool:
        """Return whether `step` would run something without being forced to."""
        return self._next(now, force=False, hurry=None) is not None

    def seconds_left(self, now: float) -> float | None:
        """Return how long until something is late or expires; None for any time."""
        soonest = min(self.waiting.soonest, self._deadlines.soonest) if self._has_dues else math.inf
        return None if soonest == math.inf else max(0.0, soonest - now)

    def _next(self, now: float, *, force: bool, hurry: Ticket | None) -> Queue | None:
        older_than = None if hurry is None else hurry.base + hurry.n
        table = self.table if self._has_dues else None
        force = force or (self._has_dues and self._deadlines.pressing)
        return self.waiting.choose(now, force=force, older_than=older_than, table=table)

    def _taken(self, queue: Queue) -> tuple[int, Hashable, list[Wave]]:
        """Take the rows of one call out of a queue."""
        segment, signature = queue.segment, queue.signature
        head = queue.head
        splits = self.plan.calls(segment, len(head.rows)) > 1
        if splits and head.has_gaps and self._calls.drops(segment, head):
            # Parts without gaps need no copy. Where that fails the parts are copied after all.
            with suppress(Exception):
                head.compact(self.executor)
        waves = []
        for wave in self.waiting.take(queue):
            if self.table.stale:
                wave.drop_answered(self.table)
            if len(wave.rows) and self._starts_here(segment, signature, wave):
                waves.append(wave)
        return segment, signature, waves

    def _starts_here(self, segment: int, signature: Hashable, wave: Wave) -> bool:
        """Give rows without a policy the active one. Let them wait elsewhere if that starts at another segment."""
        if wave.shares[0].decider is not None:
            return True
        decider = self._deciders[self.active]
        wave.shares = [Share(decider, None, wave.shares[0].memory)]
        if (start := decider.after[-1]) == segment:
            return True
        self._push(start, signature, wave)
        return False

    def _push(self, segment: int, signature: Hashable, wave: Wave) -> None:
        self.waiting.push(segment, signature, wave, self.table.due(wave.rows) if self._has_dues else math.inf)
