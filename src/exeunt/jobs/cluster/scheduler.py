"""Hands out blocks to the workers of a cluster until each block is done, whichever workers die or hang meanwhile.

Ray can restart actors that die, and `ray.util.ActorPool` hands out work to them. But neither knows which block an actor
hangs with, nor since when, so this module keeps track of the blocks that each worker has.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from exeunt.errors import ExeuntError, one_line
from exeunt.jobs.blocks import Block

WINDOW = 4  # blocks that a worker has at a time: some in its stream, others being read
_POLL_S = 1.0
_LATE = 4.0  # a block that takes this many times the median is given to an idle worker as well
_HUNG, _HUNG_S = 30.0, 60.0  # a worker hangs after this many times the median, and at least this many seconds
_FIRST_S = 3600.0  # or after this many seconds while no block is done, so that there is no median
_HANGS = 3  # the job fails when more workers than this hang with the same block
_DEATHS = 20  # the job fails after this many deaths, or two of every worker, with no block done in between


@dataclass(eq=False)
class _Worker:
    """A worker. `blocks`: the blocks that it has, with the time when it got them, by the reference to their result.

    `ready`: a reference that resolves once the worker runs; before, it may wait for a machine. `runs`: the time since
    when it is known to run.
    """

    actor: Any
    blocks: dict[Any, tuple[Block, float]] = field(default_factory=dict)
    runs: float | None = None

    def __post_init__(self) -> None:
        self.ready = self.actor.__ray_ready__.remote()


class BlockScheduler:
    """A fixed number of workers.

    `start()` starts one. `give(actor, block)` submits a block to one and returns a reference to its result.
    `repeat`: give a late block to an idle worker as well; else workers are given an hour before they are said to hang.
    """

    def __init__(
        self,
        ray: Any,
        n: int,
        *,
        start: Callable[[], Any],
        give: Callable[[Any, Block], Any],
        repeat: bool = True,
    ) -> None:
        self._ray, self._start, self._give, self._repeat = ray, start, give, repeat
        self._workers = [_Worker(start()) for _ in range(n)]
        self._left: deque[Block] = deque()
        self._missing: set[int] = set()
        self._took: deque[float] = deque(maxlen=64)  # seconds of the latest blocks
        self._longest = 0.0  # of all blocks; the first block of a worker includes opening its network
        self._deaths = 0
        self._hangs: Counter[int] = Counter()

    def results(self, blocks: Sequence[Block]) -> Iterator[Any]:
        """Yield the result of each block, once, in any order.

        Raises the errors that a worker raises on purpose, ExeuntError if workers die one after the other, or hang with
        the same block.
        """
        self._left, self._missing = deque(blocks), {block.start for block in blocks}
        while self._missing:
            self._replace_hung()
            self._hand_out()
            waited = [ref for worker in self._workers for ref in worker.blocks]
            for ref in self._ray.wait(waited, num_returns=1, timeout=_POLL_S)[0]:
                worker = next(worker for worker in self._workers if ref in worker.blocks)
                block, since = worker.blocks.pop(ref)
                result = self._result(worker, block, ref)
                if result is not None and block.start in self._missing:
                    self._missing.remove(block.start)
                    self._took.append(took := time.monotonic() - since)
                    self._longest, self._deaths = max(self._longest, took), 0
                    yield result

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            self._ray.kill(worker.actor)

    def _hand_out(self) -> None:
        held = Counter(block.start for worker in self._workers for block, _ in worker.blocks.values())
        for _ in range(WINDOW):  # one block per worker and round, so that all workers get some
            for worker in self._workers:
                if len(worker.blocks) < WINDOW and (block := self._next(held)) is not None:
                    self._submit(worker, block)
        if self._repeat and not self._left and self._took:  # an idle worker may do a late block sooner
            limit = time.monotonic() - _LATE * median(self._took)
            under_way = [entry for worker in self._workers for entry in worker.blocks.values()]
            late = [block for block, since in under_way if held[block.start] == 1 and since < limit]
            idle = [worker for worker in self._workers if not worker.blocks]
            for worker, block in zip(
                idle, [slow for slow in late if slow.start in self._missing], strict=False
            ):
                self._submit(worker, block)

    def _next(self, held: Counter[int]) -> Block | None:
        """Take out the next block that no worker has; blocks of dead workers may be done, or with another worker."""
        while self._left:
            block = self._left.popleft()
            if block.start in self._missing and not held[block.start]:
                held[block.start] += 1
                return block
        return None

    def _submit(self, worker: _Worker, block: Block) -> None:
        worker.blocks[self._give(worker.actor, block)] = block, time.monotonic()

    def _replace_hung(self) -> None:
        """Replace the workers that run and have had a block for too long."""
        patience = _FIRST_S
        if self._took:
            least = _HUNG_S if self._repeat else _FIRST_S
            patience = max(least, _HUNG * median(self._took), _LATE * self._longest)
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.runs is None:
                worker.runs = now if self._ray.wait([worker.ready], timeout=0)[0] else None
                continue
            held = [(block, max(since, worker.runs)) for block, since in worker.blocks.values()]
            hung = [block for block, since in held if block.start in self._missing and now - since > patience]
            for block in hung:
                self._hangs[block.start] += 1
                if self._hangs[block.start] > _HANGS:
                    remedy = "if they only take as long, ask for smaller blocks (--block-size)"
                    if self._took:
                        remedy = "what was answered is kept, the same command goes on"
                    raise ExeuntError(
                        f"the {block.n} inputs from {block.start} on hang: {_HANGS + 1} workers did not answer them in "
                        f"{patience:.0f} s each; {remedy}"
                    )
            if hung:
                self._replace(worker)

    def _result(self, worker: _Worker, block: Block, ref: Any) -> Any:
        """Return the result of a block; None if its worker died, so that the block has to be done again."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayError as error:
            cause: Any = error
            while isinstance(cause, errors.RayTaskError):  # the worker's error may contain one of a reader
                cause = cause.cause
            # An OSError is a full disk, or a store out of reach.
            if not isinstance(cause, (errors.RayError, OSError)):
                raise cause if isinstance(cause, ExeuntError) else error from None
        self._left.append(block)  # last, since the block itself may be at fault
        self._deaths += 1
        if self._deaths >= max(_DEATHS, 2 * len(self._workers)):  # many workers may die with one machine
            raise ExeuntError(
                f"workers died {self._deaths} times and answered nothing between: "
                f"{one_line(cause)}; what was answered is kept, the same command goes on"
            )
        self._replace(worker)
        return None

    def _replace(self, worker: _Worker) -> None:
        """Start a worker in the place of one that died or hangs, and hand out its blocks again."""
        self._left.extendleft(block for block, _ in worker.blocks.values())
        self._ray.kill(worker.actor)  # it may still run, out of reach
        self._workers[self._workers.index(worker)] = _Worker(self._start())
