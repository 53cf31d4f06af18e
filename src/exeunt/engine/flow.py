"""One loop for every executor: run a segment, ask the policy which rows answer, drop them, run the rest on.

Rows in flight wait before each segment, in waves. `Flow` runs the rows that wait before one segment, in calls of the
planned size; the rows that have not answered wait before the next. A single batch and a stream of batches differ only
in when this happens.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._words import counted
from exeunt.engine.answers import BatchTable
from exeunt.engine.deciding import Decider
from exeunt.engine.input_keys import input_keys
from exeunt.engine.plan import Plan, check_segments
from exeunt.engine.row_dropping import Wave, without
from exeunt.errors import ExeuntError, InputError
from exeunt.policy import PolicyState

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from exeunt.engine.answers import Answers, OpenBatch
    from exeunt.engine.executor import Executor
    from exeunt.policy import Policy

__all__ = ["Flow", "answer_batch"]


class Flow:
    """Rows in flight through one network under one policy.

    `check`: called with the inputs of each batch; raises what is wrong with them.

    Raises InputError if policy, plan and network have different numbers of exits.
    """

    def __init__(
        self,
        executor: Executor,
        policy: Policy,
        plan: Plan | None = None,
        *,
        check: Callable[[Any], None] | None = None,
        probabilities: bool = False,
    ) -> None:
        if policy.n_exits != executor.n_exits:
            raise InputError(
                f"the policy has {counted(policy.n_exits, 'exit')} but the network has {executor.n_exits}"
            )
        check_segments(executor.segments, executor.n_exits)
        self.executor = executor
        self.policy = policy
        self.plan = Plan.unmeasured(executor.name, executor.segments) if plan is None else plan
        if self.plan.segments != executor.segments:
            raise InputError(
                f"the plan is for the segments {self.plan.segments}, the network runs in {executor.segments}: "
                "make a plan for these"
            )
        self._check = check
        self.table = BatchTable()
        self._decider = Decider(policy, executor.segments, self.table, probabilities=probabilities)
        needs = policy.needs
        self._wanted = [
            [exit_ for exit_ in range(first, last + 1) if needs[exit_]] for first, last in executor.segments
        ]
        # Before each segment, waves by signature: only those of one signature can be joined.
        self._waiting: list[dict[Hashable, list[Wave]]] = [{} for _ in executor.segments]
        self._restarts = executor.restarts
        self._given_up: list[OpenBatch] = []  # since the last `advance` began

    # -- what comes in, and what waits ------------------------------------------------------------------

    def push(self, inputs: Any, *, id: ArrayLike | None = None, now: float = 0.0) -> OpenBatch:  # noqa: A002
        """Let a batch in. `id` (n,): keys of the inputs, which break ties; by default those of `input_keys`."""
        if self._check is not None:
            self._check(inputs)
        state, valid = self.executor.start(inputs)
        n = len(valid)
        first = self.table.next_slot
        slot = np.arange(first, first + n)
        memory = self.policy.init(n, id=input_keys(inputs, n) if id is None else id)
        signature = self.executor.signature(state)
        wave = Wave(state, n, None, slot, memory)
        if not valid.all():
            wave.keep(valid)
        batch = self.table.admit(n, now)  # after all that may fail
        self.table.reject(slot[~valid], 0.0)
        if len(wave.slot):
            self._waiting[0].setdefault(signature, []).append(wave)
        return batch

    def waiting(self) -> Iterator[tuple[int, Hashable, list[Wave]]]:
        """Yield (segment, signature, waves) of all that waits, from the first segment on."""
        for segment, queues in enumerate(self._waiting):
            for signature, waves in queues.items():
                yield segment, signature, waves

    def first_with(self, batch: OpenBatch) -> tuple[int, Hashable]:
        """Return (segment, signature) of the first queue in which rows of an open batch wait."""
        return next(
            (segment, signature)
            for segment, signature, waves in self.waiting()
            if any(batch.owns(wave.slot).any() for wave in waves)
        )

    def shrink(self) -> None:
        """Drop answered rows from what waits where they are half of it or more, so that memory is bounded."""
        for _, _, waves in self.waiting():
            for place, wave in enumerate(waves):
                if 2 * len(wave.slot) <= wave.height:
                    with suppress(Exception):  # without memory for the copy it stays as it is
                        waves[place] = self._joined([wave])

    # -- what is done -----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Run all that waits to its answers, segment after segment."""
        for segment, queues in enumerate(self._waiting):
            for signature in list(queues):
                self.advance(segment, signature)

    def advance(self, segment: int, signature: Hashable) -> None:
        """Run what waits before a segment, in the planned number of calls; survivors wait before the next."""
        waves = self._waiting[segment].pop(signature, [])
        self._given_up.clear()
        for together in self._calls(segment, waves):
            for batch in self._given_up:
                together = without(batch, together)
            if together:
                self._call(segment, signature, together)

    def _calls(self, segment: int, waves: list[Wave]) -> Iterator[list[Wave]]:
        """Share waves out over the planned number of calls, evenly, or one by one where that saves copying."""
        rows = sum(len(wave.slot) for wave in waves)
        calls = self.plan.calls(segment, rows)
        if self._fit(segment, waves, calls):
            yield from ([wave] for wave in waves)
            return
        for wave in waves:
            if wave.has_gaps and self._pays(segment, wave):
                # It is split next: parts without gaps need no copy. Where that fails the parts are copied after all.
                with suppress(Exception):
                    wave.compact(self.executor)
        ahead, used = list(reversed(waves)), 0
        for i in range(calls):
            wanted, together = rows * (i + 1) // calls - rows * i // calls, []
            while wanted:
                whole = len(ahead[-1].slot)
                together.append(ahead[-1].part(used, min(used + wanted, whole)))
                wanted -= len(together[-1].slot)
                used += len(together[-1].slot)
                if used == whole:
                    ahead.pop()
                    used = 0
            yield together

    def _fit(self, segment: int, waves: list[Wave], calls: int) -> bool:
        """Whether each wave may as well be run by itself: each is of a good size, and joining would save no copy."""
        plan = self.plan
        if any(plan.calls(segment, len(wave.slot)) > 1 for wave in waves):
            return False
        large = all(wave.rows is None and 2 * len(wave.slot) >= plan.piece[segment] for wave in waves)
        return large or len(waves) == calls

    def _call(self, segment: int, signature: Hashable, waves: list[Wave]) -> None:
        """Run waves in one call. If it fails, it is made again in halves, down to the batch that fails alone."""
        try:
            wave = self._prepared(segment, waves)
            logits, wave.state = self.executor.run(segment, wave.state, self._wanted[segment])
            shown = self._checked(segment, logits, wave.height)
            if segment in self._restarts:
                signature = self.executor.signature(wave.state)
        except Exception as error:  # an executor may raise anything
            self._bisect(segment, signature, waves, error)
            return
        for left in self._decided(shown, wave):
            self._waiting[segment + 1].setdefault(signature, []).append(left)

    def _checked(self, segment: int, logits: list[NDArray[Any]], rows: int) -> list[tuple[int, NDArray[Any]]]:
        """Return the logits with their exits. Of fewer rows than were run it is not known whose they are."""
        wanted, shapes = self._wanted[segment], [np.shape(one) for one in logits]
        if len(shapes) != len(wanted) or any(len(shape) != 2 or shape[0] != rows for shape in shapes):
            raise ExeuntError(
                f"the executor {self.executor.name!r} returned logits of shapes {shapes} for the exits {wanted} of "
                f"{rows} rows: it must return (rows, classes) for each exit"
            )
        return list(zip(wanted, logits, strict=True))

    def _prepared(self, segment: int, waves: list[Wave]) -> Wave:
        """Return one wave of these, in the state that is to be run."""
        first = waves[0]
        pays = self._pays(segment, first)
        if len(waves) > 1 or (pays and not first.has_gaps):
            return self._joined(waves)
        if pays:
            first.compact(self.executor)
        return replace(first)

    def _joined(self, waves: list[Wave]) -> Wave:
        """Return one wave of these, in a new state of its own."""
        state = self.executor.gather([(wave.state, wave.rows) for wave in waves])
        slot = np.concatenate([wave.slot for wave in waves])
        return Wave(state, len(slot), None, slot, PolicyState.joined([wave.memory for wave in waves]))

    def _pays(self, segment: int, wave: Wave) -> bool:
        """Whether a state of the wave's rows alone is made before this segment."""
        if wave.rows is None:
            return False
        if not wave.alone:
            return True  # the others of the state are run in another call
        too_large = self.plan.calls(segment, wave.height) > 1
        return too_large or self.plan.drops(segment, wave.height, len(wave.slot))

    def _bisect(self, segment: int, signature: Hashable, waves: list[Wave], error: Exception) -> None:
        """Run both halves of the batches of a call that failed, without rows that have answered.

        Give a batch up that was in the call alone. One that fails among b costs 2 log2(b) calls.
        """
        batches = self.table.batches_of(np.concatenate([wave.slot for wave in waves]))
        others_in_state = len(waves) == 1 and waves[0].has_gaps
        if len(batches) == 1 and not others_in_state:
            self._give_up(batches[0], error)
            return
        middle = batches[len(batches) // 2].base
        for second in (False, True):
            half = [wave.only((wave.slot >= middle) == second) for wave in waves]
            if half := [wave for wave in half if len(wave.slot)]:
                self._call(segment, signature, half)

    def _give_up(self, batch: OpenBatch, error: Exception) -> None:
        self.table.fail(batch, error)
        self._given_up.append(batch)
        for queues in self._waiting:
            for signature, waves in list(queues.items()):
                queues[signature] = without(batch, waves)
                if not queues[signature]:
                    del queues[signature]

    def _decided(self, shown: list[tuple[int, NDArray[Any]]], wave: Wave) -> list[Wave]:
        """Enter who answers, exit by exit. Return the others: one wave, or one of each batch if the score failed."""
        for place, (exit_, logits) in enumerate(shown):
            try:
                wave = self._decider.decide(exit_, logits, wave)
            except Exception as error:  # raised by a score of the user
                batches = self.table.batches_of(wave.slot)
                if len(batches) == 1:
                    self._give_up(batches[0], error)
                    return []
                parts = [wave.only(batch.owns(wave.slot)) for batch in batches]
                return [left for part in parts for left in self._decided(shown[place:], part)]
            if len(wave.slot) == 0:
                return []
        return [wave]


def answer_batch(
    executor: Executor,
    policy: Policy,
    inputs: Any,
    *,
    id: ArrayLike | None = None,  # noqa: A002
    plan: Plan | None = None,
    probabilities: bool = False,
) -> Answers:
    """Answer a batch. `id` (n,): keys of the inputs, which break ties; by default those of `input_keys`.
    `plan`: by default pieces of 64, and rows are dropped after every segment. `probabilities`: keep those of all
    classes.

    Inputs with values that are not finite are flagged in `valid`. Raises InputError if policy and network have
    different numbers of exits, and whatever the executor raises.
    """
    flow = Flow(executor, policy, plan, probabilities=probabilities)
    batch = flow.push(inputs, id=id)
    flow.drain()
    if batch.error is not None:
        raise batch.error
    return batch.finished()
