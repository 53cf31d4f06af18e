"""The batches of a stream in flight: before each segment rows wait for others, up to limits on rows and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exeunt.errors import BatchFailed

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from numpy.typing import ArrayLike

    from exeunt.engine.answers import Answers, OpenBatch
    from exeunt.engine.flow import Flow

__all__ = ["Batch", "StreamPool", "WaitLimits"]


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of a stream with keys: `inputs` as a runner takes them, and `id` (n,), which breaks ties."""

    inputs: Any
    id: ArrayLike | None = None


@dataclass(frozen=True)
class WaitLimits:
    """How long rows wait: per segment until there are `pool_rows` (s,) of them; while at most `max_rows` rows are
    in flight or not given out; and no batch longer than `max_wait_s` seconds (None: any time).
    """

    pool_rows: tuple[int, ...]
    max_rows: int
    max_wait_s: float | None = None


class StreamPool:
    """The batches of a stream that were taken in and not given out. `failure`: of the first that failed."""

    def __init__(self, flow: Flow, bounds: WaitLimits, *, ordered: bool) -> None:
        self.flow, self.bounds, self.ordered = flow, bounds, ordered
        self.failure: BatchFailed | None = None
        self._done: dict[int, OpenBatch] = {}  # held back until the batches before them are done

    def seconds_left(self, now: float) -> float | None:
        """Return how long the next batch can be waited for; None for as long as it takes."""
        opened = self.flow.table.open
        if self.bounds.max_wait_s is None or not opened:
            return None
        return max(0.0, opened[0].since + self.bounds.max_wait_s - now)

    def take_in(self, batch: Any, now: float) -> None:
        """Let a batch in: inputs, or a Batch of them with their keys."""
        given = batch if isinstance(batch, Batch) else Batch(batch)
        try:
            self.flow.push(given.inputs, id=given.id, now=now)
        except Exception as error:  # a batch that cannot be taken in costs no other its answers
            self.flow.table.refuse(_rows(given.inputs), error, now)

    def work(self, now: float) -> None:
        """Run what has company enough, what waited too long, and what is too much to hold."""
        while (full := self._deepest_full()) is not None:
            self.flow.advance(*full)
        opened, wait = self.flow.table.open, self.bounds.max_wait_s
        while wait is not None and opened and now - opened[0].since >= wait:
            self._hurry(opened[0])
        self._collect()
        while opened and self._held() > self.bounds.max_rows:
            self._hurry(opened[0])
            self._collect()
        self.flow.shrink()

    def finish(self) -> None:
        """Run everything to its answers."""
        self.flow.drain()
        self._collect()

    def give_out(self, *, skip: bool) -> Iterator[Answers]:
        """Yield the answers of batches that are done, in order if that is asked for."""
        self._collect()
        for number in list(self._done) if not self.ordered else sorted(self._done):
            if self._is_held_back(number):
                return
            batch = self._done.pop(number)
            if skip or batch.error is None:
                yield batch.finished()

    def _collect(self) -> None:
        for batch in self.flow.table.done:
            self._done[batch.number] = batch
            if batch.error is not None and self.failure is None:
                self.failure = BatchFailed(
                    f"batch {batch.number} of the stream failed: {batch.error}", batch=batch.number
                )
                self.failure.__cause__ = batch.error
        self.flow.table.done.clear()

    def _is_held_back(self, number: int) -> bool:
        opened = self.flow.table.open
        return self.ordered and bool(opened) and opened[0].number < number

    def _held(self) -> int:
        """Return how many rows cannot be given out yet."""
        late = sum(batch.n for number, batch in self._done.items() if self._is_held_back(number))
        return self.flow.table.rows + late

    def _deepest_full(self) -> tuple[int, Hashable] | None:
        full = None
        for segment, signature, waves in self.flow.waiting():
            if sum(len(wave.slot) for wave in waves) >= self.bounds.pool_rows[segment]:
                full = segment, signature
        return full

    def _hurry(self, batch: OpenBatch) -> None:
        """Run a batch to its answers, with what company there is."""
        while batch.left:
            self.flow.advance(*self.flow.first_with(batch))


def _rows(inputs: Any) -> int:
    """Return how many rows inputs have that could not be taken in, or 0 if they do not say."""
    first = inputs
    if isinstance(inputs, Mapping):
        first = next(iter(inputs.values()), ())
    elif isinstance(inputs, (tuple, list)):
        first = next(iter(inputs), ())
    try:
        return len(first)
    except TypeError:
        return 0
