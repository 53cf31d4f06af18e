"""One call of the executor: waves are joined, run, and decided about; a call that fails is made again in halves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Floats
from exeunt.engine.waves import Share, Wave, joined
from exeunt.errors import ExeuntError

if TYPE_CHECKING:
    from exeunt.engine.deciding import Decided
    from exeunt.engine.executor import Executor
    from exeunt.engine.plan import Plan
    from exeunt.engine.row_table import RowTable
    from exeunt.engine.tickets import Ticket

__all__ = ["Calls", "Left", "Work"]

Left: TypeAlias = "tuple[int, Hashable, Wave]"
"""What is left after a call: the segment to run next, the signature, and the rows."""


class Work(NamedTuple):
    """What an executor did: calls of each segment (s,), and their rows (s,)."""

    calls: list[int]
    rows: list[int]


class Calls:
    """Calls of an executor under a plan, whose answers go to a table. `probabilities`: enter those of all classes.

    `keeps_said`: enter what is said of rows that stay, too. `work`: so far, calls that failed included.
    """

    def __init__(self, executor: Executor, plan: Plan, table: RowTable, *, probabilities: bool) -> None:
        self.executor, self.plan, self.table = executor, plan, table
        self.keeps_said = False
        self.work = Work([0] * len(executor.segments), [0] * len(executor.segments))
        self._probabilities = probabilities
        self._restarts = executor.restarts

    def run(self, segment: int, signature: Hashable, waves: list[Wave]) -> Iterator[Left]:
        """Run waves in one call, and yield the rows that are left.

        If it fails, it is made again in halves, down to the ticket that fails alone. What else is raised, such as
        KeyboardInterrupt, comes out after all tickets of the call are given up, since their rows wait nowhere.
        """
        if not waves:
            return
        try:
            yield from self._made(segment, signature, waves)
        except BaseException as error:
            self.table.lose(np.concatenate([wave.rows for wave in waves]), error)
            raise

    def _made(self, segment: int, signature: Hashable, waves: list[Wave]) -> Iterator[Left]:
        try:
            wave = self._prepared(segment, waves)
            wave.shares = [self._begun(segment, share) for share in wave.shares]
            wanted = self._exits_wanted(segment, wave)
            self.work.calls[segment] += 1
            self.work.rows[segment] += wave.height
            logits, wave.state = self.executor.run(segment, wave.state, wanted)
            shown = self._checked(logits, wanted, wave.height)
            if self.keeps_said:
                self._note_spent(segment, wave)
            if segment in self._restarts or segment + 1 in self._restarts:
                signature = self.executor.signature(wave.state)
        except Exception as error:  # an executor may raise anything
            yield from self._bisect(segment, signature, waves, error)
            return
        for left in self._decided(shown, wave):
            yield from self._routed(segment, signature, left)

    def _begun(self, segment: int, share: Share) -> Share:
        decider, memory = share.decider, share.memory
        if decider is not None and decider.after[-1] == segment:
            memory = decider.policy.init(len(memory.tie), id=memory.tie)
        return Share(decider, share.at, memory)

    def _exits_wanted(self, segment: int, wave: Wave) -> list[int]:
        """Return the exits of a segment that any of the policies needs."""
        if len(wave.shares) == 1:
            return wave.shares[0].decider.wanted[segment]  # type: ignore[union-attr]
        return sorted({exit_ for share in wave.shares for exit_ in share.decider.wanted[segment]})  # type: ignore[union-attr]

    def _checked(
        self, logits: list[NDArray[Any]], wanted: list[int], rows: int
    ) -> list[tuple[int, NDArray[Any]]]:
        """Return the logits with their exits. Of fewer rows than were run it is not known whose they are."""
        if len(logits) != len(wanted) or any(np.ndim(one) != 2 or len(one) != rows for one in logits):
            raise ExeuntError(
                f"the executor {self.executor.name!r} returned logits of shapes {[np.shape(one) for one in logits]} "
                f"for the exits {wanted} of {rows} rows: it must return (rows, classes) for each exit"
            )
        return list(zip(wanted, logits, strict=True))

    def _note_spent(self, segment: int, wave: Wave) -> None:
        """Enter what was spent on rows whose policies ask nothing here, who may be cut short before they ask again."""
        for share in wave.shares:
            decider: Any = share.decider
            if (cost := decider.spent_unasked[segment]) is not None:
                self.table.spend(wave.rows if share.at is None else wave.rows[share.at], cost, decider.place)

    def _prepared(self, segment: int, waves: list[Wave]) -> Wave:
        """Return one wave of these, in the state that is to be run."""
        first = waves[0]
        pays = self.drops(segment, first)
        if len(waves) > 1 or (pays and not first.has_gaps):
            return joined(self.executor, waves)
        if pays:
            first.compact(self.executor)
        return Wave(first.state, first.height, first.place, first.rows, first.shares, first.alone)

    def drops(self, segment: int, wave: Wave) -> bool:
        """Whether a state of the wave's rows alone is made before this segment."""
        if wave.place is None:
            return False
        if not wave.alone:
            return True  # the others of the state are run in another call
        too_large = self.plan.calls(segment, wave.height) > 1
        return too_large or self.plan.drops(segment, wave.height, len(wave.rows))

    def _bisect(
        self, segment: int, signature: Hashable, waves: list[Wave], error: Exception
    ) -> Iterator[Left]:
        """Run both halves of the tickets of a call that failed, without rows that have answered.

        Give a ticket up that was in the call alone. One that fails among b costs 2 log2(b) calls.
        """
        tickets = self.table.tickets_of(np.concatenate([wave.rows for wave in waves]))
        others_in_state = len(waves) == 1 and waves[0].has_gaps
        if len(tickets) == 1 and not others_in_state:
            self._give_up(tickets[0], error, waves)
            return
        middle = tickets[len(tickets) // 2].base
        for second in (False, True):
            half = [wave.only((wave.rows >= middle) == second) for wave in waves]
            if half := [wave for wave in half if len(wave.rows)]:
                yield from self._made(segment, signature, half)

    def _give_up(self, ticket: Ticket, error: Exception, waves: list[Wave]) -> None:
        self.table.fail(ticket, error)
        self.table.stale -= sum(len(wave.rows) for wave in waves)  # these wait nowhere

    # -- what is decided --------------------------------------------------------------------------------

    def _decided(self, shown: list[tuple[int, NDArray[Any]]], wave: Wave) -> list[Wave]:
        """Enter who answers, exit by exit. Return the others: one wave, or one of each ticket if a score failed."""
        for place, (exit_, logits) in enumerate(shown):
            values: Floats = np.asarray(
                logits if wave.place is None else logits[wave.place], dtype=np.float64
            )
            if not math.isfinite(np.vdot(values, values)):  # a sum would warn of infinities of both signs
                values = self._without_wrong(exit_, values, wave)
                if len(values) == 0:
                    return []
            asked = [share for share in wave.shares if share.decider and share.decider.asks(exit_)]
            try:
                found = [self._decide(exit_, values, share) for share in asked]
            except Exception as error:  # raised by a score of the user
                tickets = self.table.tickets_of(wave.rows)
                if len(tickets) == 1:
                    self._give_up(tickets[0], error, [wave])
                    return []
                parts = [wave.only(ticket.owns(wave.rows)) for ticket in tickets]
                return [left for part in parts for left in self._decided(shown[place:], part)]
            if not self._entered(exit_, asked, found, wave):
                return []
        return [wave]

    def _decide(self, exit_: int, values: Floats, share: Share) -> Decided:
        decider: Any = share.decider
        return decider.decide(exit_, values if share.at is None else values[share.at], share.memory)  # type: ignore[no-any-return]

    def _entered(self, exit_: int, asked: list[Share], found: list[Decided], wave: Wave) -> int:
        """Enter what was decided, and return how many rows are left."""
        stays: Any = None
        for share, decided in zip(asked, found, strict=True):
            decider: Any = share.decider
            rows = wave.rows if share.at is None else wave.rows[share.at]
            decider.enter(
                exit_, decided, rows, self.table, stays=self.keeps_said, probabilities=self._probabilities
            )
            share.memory = decided.memory
            if share.at is None:
                stays = ~decided.leave
                continue
            if stays is None:
                stays = np.ones(len(wave.rows), dtype=np.bool_)
            stays[share.at] = ~decided.leave
        left = len(wave.rows) if stays is None else int(np.count_nonzero(stays))
        if 0 < left < len(wave.rows):
            wave.keep(stays)
        return left

    def _without_wrong(self, exit_: int, values: Floats, wave: Wave) -> Floats:
        """Reject rows whose logits are not finite, where they are asked for."""
        good: Any = np.isfinite(values).all(axis=1)
        for share in wave.shares:
            at = slice(None) if share.at is None else share.at
            if share.decider is None or not share.decider.asks(exit_):
                good[at] = True
            elif not good[at].all():
                wrong = wave.rows[at][~good[at]]
                self.table.reject(wrong, share.decider.cost_at(exit_), share.decider.place)
        if not good.all():
            wave.keep(good)
        kept: Floats = values[good]
        return kept

    def _routed(self, segment: int, signature: Hashable, wave: Wave) -> Iterator[Left]:
        """Yield rows with the next segment that their policies ask for."""
        routes = {share.decider.after[segment] for share in wave.shares if share.decider is not None}
        if routes == {segment + 1}:
            yield segment + 1, signature, wave
            return
        for route in sorted(routes):
            goes = np.zeros(len(wave.rows), dtype=np.bool_)
            for share in wave.shares:
                if share.decider is not None and share.decider.after[segment] == route:
                    goes[slice(None) if share.at is None else share.at] = True
            part = wave.only(goes)
            if route != segment + 1:
                cascade: Any = self.executor  # nothing else has models to skip
                part.state = cascade.skip(part.state)
                yield route, self.executor.signature(part.state), part
            else:
                yield route, signature, part
