"""One call of the executor: groups are joined, run and decided about; a call that fails is repeated in halves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Floats, Integers
from exeunt.engine.answers import Ticket
from exeunt.engine.decider import Decider, Decisions, detail_of
from exeunt.engine.dropping_finished_rows import ALL, PolicyRows, RowGroup, joined
from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan
from exeunt.engine.row_table import RowTable
from exeunt.errors import ExeuntError

Survivors: TypeAlias = "tuple[int, Hashable, RowGroup]"
"""Rows that go on after a call: the segment to run next, the signature of their state, and the rows."""


class Calls:
    """Calls of an executor under a plan, whose answers go into a table.

    `details`: keep the probabilities of all classes, or masks.

    `keeps_outputs`: also enter the outputs for rows that stay. `work`: calls of each segment (s,) so far, and their
    rows (s,); calls that failed count.
    """

    def __init__(self, executor: Executor, plan: Plan, table: RowTable, *, details: bool) -> None:
        self.executor, self.plan, self.table = executor, plan, table
        self.keeps_outputs = False
        self.work = [0] * len(executor.segments), [0] * len(executor.segments)
        self._details = details
        self._restarts = executor.restarts

    def run(self, segment: int, signature: Hashable, groups: list[RowGroup]) -> Iterator[Survivors]:
        """Run groups in one call, and yield the rows that go on.

        A call that fails is repeated in halves, down to the ticket that fails alone. Any other exception, such as
        KeyboardInterrupt, is raised after all tickets of the call have failed, because their rows are in no queue.
        """
        if not groups:
            return
        try:
            yield from self._attempt(segment, signature, groups)
        except BaseException as error:
            self.table.fail_tickets_of(np.concatenate([group.rows for group in groups]), error)
            raise

    def _attempt(self, segment: int, signature: Hashable, groups: list[RowGroup]) -> Iterator[Survivors]:
        try:
            group = self._prepared(segment, groups)
            group.parts = [self._begun(segment, part) for part in group.parts]
            wanted = self._wanted_exits(segment, group)
            self.work[0][segment] += 1
            self.work[1][segment] += group.state_rows
            logits, group.state = self.executor.run(segment, group.state, wanted)
            outputs = self._checked(logits, wanted, group.state_rows)
            if self.keeps_outputs:
                self._record_costs(segment, group)
            if segment in self._restarts or segment + 1 in self._restarts:
                signature = self.executor.signature(group.state)
        except Exception as error:  # an executor may raise anything
            yield from self._bisect(segment, signature, groups, error)
            return
        for left in self._decided(outputs, group):
            yield from self._routed(segment, signature, left)

    def _begun(self, segment: int, part: PolicyRows) -> PolicyRows:
        decider, memory = part.decider, part.memory
        if decider is not None and decider.after[-1] == segment:
            memory = decider.policy.init(len(memory.tie), id=memory.tie)
        return PolicyRows(decider, part.at, memory)

    def _wanted_exits(self, segment: int, group: RowGroup) -> list[int]:
        """Return the exits of a segment that any of the policies needs."""
        deciders = [part.decider for part in group.parts if part.decider is not None]
        if len(deciders) == 1:
            return deciders[0].wanted[segment]
        return sorted({exit_ for decider in deciders for exit_ in decider.wanted[segment]})

    def _checked(
        self, logits: list[NDArray[Any]], wanted: list[int], rows: int
    ) -> list[tuple[int, NDArray[Any]]]:
        """Return the logits with their exits. If rows are missing, it is not known which."""
        if len(logits) != len(wanted) or any(
            getattr(logit, "ndim", 0) not in (2, 4) or len(logit) != rows for logit in logits
        ):
            raise ExeuntError(
                f"the executor {self.executor.name!r} returned logits of shapes {[np.shape(row) for row in logits]} "
                f"for the exits {wanted} of {rows} rows: it must return (rows, classes) for each exit, or of masks "
                "(rows, classes, height, width)"
            )
        return list(zip(wanted, logits, strict=True))

    def _record_costs(self, segment: int, group: RowGroup) -> None:
        """Enter the cost of rows whose policies want no exit here: they may end early before the next wanted exit."""
        for part in group.parts:
            decider: Any = part.decider
            if (cost := decider.cost_without_output[segment]) is not None:
                self.table.record_cost(group.rows[part.at], cost, decider.number)

    def _prepared(self, segment: int, groups: list[RowGroup]) -> RowGroup:
        """Return one group of these, in the state that is to be run."""
        first = groups[0]
        drops = first.needs_drop(segment, self.plan)
        if len(groups) > 1 or (drops and not first.has_gaps):
            return joined(self.executor, groups)
        if drops:
            first.compact(self.executor)
        return first.copied()

    def _bisect(
        self, segment: int, signature: Hashable, groups: list[RowGroup], error: Exception
    ) -> Iterator[Survivors]:
        """Run both halves of the tickets of a call that failed, without finished rows.

        If the call held one ticket alone, that ticket fails. To find one failing ticket among b takes 2 log2(b) calls.
        """
        tickets = self.table.tickets_of(np.concatenate([group.rows for group in groups]))
        others_in_state = len(groups) == 1 and groups[0].has_gaps
        if len(tickets) == 1 and not others_in_state:
            self._fail(tickets[0], error, groups)
            return
        middle = tickets[len(tickets) // 2].base
        for second in (False, True):
            half = [group.where((group.rows >= middle) == second) for group in groups]
            if half := [group for group in half if len(group.rows)]:
                yield from self._attempt(segment, signature, half)

    def _fail(self, ticket: Ticket, error: Exception, groups: list[RowGroup]) -> None:
        self.table.fail(ticket, error)
        self.table.stale -= sum(len(group.rows) for group in groups)  # these are in no queue

    # -- decisions --------------------------------------------------------------------------------------

    def _decided(self, outputs: list[tuple[int, NDArray[Any]]], group: RowGroup) -> list[RowGroup]:
        """Enter the answers, exit by exit. Return the rows that stay: one group, or one a ticket if a score failed."""
        for number, (exit_, logits) in enumerate(outputs):
            values: Floats = logits if group.places is None else logits[group.places]
            if logits.ndim == 2:  # the logits of masks are many, and their confidences are means
                values = np.asarray(values, dtype=np.float64)
            if not math.isfinite(np.vdot(values, values)):  # a sum would warn of infinities of both signs
                values = self._without_not_finite(exit_, values, group)
                if len(values) == 0:
                    return []
            deciding = [
                (part, part.decider)
                for part in group.parts
                if part.decider and exit_ in part.decider.all_wanted
            ]
            try:
                decisions_of = [
                    decider.decide(exit_, values[part.at], part.memory) for part, decider in deciding
                ]
            except Exception as error:  # raised by a score of the user
                tickets = self.table.tickets_of(group.rows)
                if len(tickets) == 1:
                    self._fail(tickets[0], error, [group])
                    return []
                ends = [(ticket.base, ticket.base + ticket.n) for ticket in tickets]
                each = [group.where((group.rows >= base) & (group.rows < end)) for base, end in ends]
                return [left for group_left in each for left in self._decided(outputs[number:], group_left)]
            if not self._entered(exit_, deciding, decisions_of, group):
                return []
        return [group]

    def _entered(
        self,
        exit_: int,
        deciding: list[tuple[PolicyRows, Decider]],
        decisions_of: list[Decisions],
        group: RowGroup,
    ) -> int:
        """Enter decisions, and return how many rows are left."""
        n = left = len(group.rows)
        stays: Any = None
        for (part, decider), decisions in zip(deciding, decisions_of, strict=True):
            rows = group.rows if part.at is ALL else group.rows[part.at]
            leaving = self._enter(exit_, decider, decisions, rows)
            part.memory = decisions.memory
            left -= leaving
            if not 0 < leaving < n:  # none leave, or all do
                continue
            if part.at is ALL:
                stays = ~decisions.leave
            else:
                stays = np.ones(n, dtype=np.bool_) if stays is None else stays
                stays[part.at] = ~decisions.leave
        if 0 < left < n:
            group.keep(stays)
        return left

    def _enter(self, exit_: int, decider: Decider, decisions: Decisions, rows: Integers) -> int:
        """Enter the decisions of one policy, and return how many rows leave."""
        leave, answer, borderline, memory, score, watched, first = decisions
        if first:
            self.table.record_first_score(rows, score)
        if watched:
            self.table.record_score(rows[leave], score[leave], memory.tie[leave])
        if np.count_nonzero(borderline):
            self.table.mark_borderline(rows[borderline])
        leaving = int(np.count_nonzero(leave))
        if not leaving and not (self.keeps_outputs and answer):
            return 0
        out = rows if leaving == len(leave) else rows[leave]
        label, confidence = answer["prediction"], answer["max_probability"]
        if self.keeps_outputs or out is rows:
            entered = rows
        else:
            entered, label, confidence = out, label[leave], confidence[leave]
        which: Any = slice(None) if entered is rows else leave
        details = detail_of(answer, which) if self._details else None
        place, cost = exit_ - decider.gates, decider.cost_at[exit_]
        self.table.record(entered, label, confidence, place, cost, decider.number, details)
        if leaving:
            self.table.finish(out, valid=True)
        return leaving

    def _without_not_finite(self, exit_: int, values: Floats, group: RowGroup) -> Floats:
        """Reject the rows whose policies want this exit and whose logits are not finite."""
        finite: Any = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        for part in group.parts:
            if part.decider is None or exit_ not in part.decider.all_wanted:
                finite[part.at] = True
            elif not finite[part.at].all():
                rejected = group.rows[part.at][~finite[part.at]]
                self.table.reject(rejected, part.decider.cost_at[exit_], part.decider.number)
        if not finite.all():
            group.keep(finite)
        return values[finite]  # type: ignore[no-any-return]

    def _routed(self, segment: int, signature: Hashable, group: RowGroup) -> Iterator[Survivors]:
        """Yield rows with the next segment that their policies run."""
        routes = [
            (part.at, part.decider.following(segment, part.memory))
            for part in group.parts
            if part.decider is not None
        ]
        if all(isinstance(route, int) and route == segment + 1 for _, route in routes):
            yield segment + 1, signature, group
            return
        following = np.full(len(group.rows), -1)
        for at, route in routes:
            following[at] = route
        for route in np.unique(following).tolist():
            mine = group.where(following == route)
            if route == segment + 1:
                yield route, signature, mine
                continue
            branching: Any = self.executor  # a cascade skips models, one look skips exits
            mine.state = branching.skip(mine.state)
            yield route, self.executor.signature(mine.state), mine
