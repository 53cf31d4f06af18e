"""A worker on some machine of a cluster: one network, and a stream of blocks that other processes read for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from exeunt.cluster.sent_job import opened_job
from exeunt.data import Dataset
from exeunt.errors import require

if TYPE_CHECKING:
    from exeunt.predicting.batches import PreparedBatch
    from exeunt.predicting.blocks import Block, BlockEnd
    from exeunt.predicting.parts import Parts
    from exeunt.predicting.tally import Tally
    from exeunt.run.shared_executor import SharedExecutor

__all__ = ["SHOWN", "Worker", "read_block"]

SHOWN = 3  # inputs of a block that could not be read and are told
_POLL_S = 0.05
_AHEAD = 4  # batches of a block that are read before they are asked for
_AGAIN = 3  # how often a block is read again whose reader died, or whose store did not answer


class _Task(NamedTuple):
    block: Block
    inputs: Dataset
    result: Future[tuple[Tally, list[str]]]


class Worker:
    """Answers blocks: rows wait for company from the next blocks, as long as some may come.

    `job`: see `packed_job`. `parts`: where answers are kept. `window`: how many blocks it is given at a time.
    `readers`: how many of them are read at the same time, by processes of their own. `threads`: to compute with.
    """

    def __init__(self, job: bytes, parts: Parts, *, window: int, readers: int, threads: int | None) -> None:
        self._job, self._parts, self._window, self._readers, self._threads = (
            job,
            parts,
            window,
            readers,
            threads,
        )
        self._given: queue.Queue[_Task] = queue.Queue()
        self._open: dict[int, _Task] = {}
        self._draining = False
        threading.Thread(target=self._work, name="exeunt-answers", daemon=True).start()

    def answer(self, block: Block, inputs: Dataset) -> tuple[Tally, list[str]]:
        """Answer a block and keep its part; return what it counts, and why the first unreadable inputs are so."""
        task = _Task(block, inputs, Future())
        self._open[block.start] = task
        self._given.put(task)
        return task.result.result()

    def drain(self) -> None:
        """Let rows no longer wait for blocks: few or none will come."""
        self._draining = True

    @cached_property
    def _shared(self) -> SharedExecutor:
        return opened_job(self._job).open(self._threads)

    def _work(self) -> None:
        """Answer stream after stream. A stream ends where nothing can come before something is answered."""
        while True:
            first = self._given.get()
            try:
                job = opened_job(self._job)
                for answered in job.answer(self._shared, self._arriving(first), ordered=False):
                    self._parts.keep(job, answered)
                    told = answered.tally, answered.unreadable[:SHOWN]
                    self._open.pop(answered.block.start).result.set_result(told)
            except BaseException as error:  # whoever gave the blocks hears of it
                for task in [self._open.pop(start) for start in list(self._open)]:
                    task.result.set_exception(error)

    def _arriving(self, first: _Task) -> Iterator[tuple[Block, PreparedBatch | BlockEnd]]:
        ray = require("ray", extra="ray")
        read = ray.remote(
            num_cpus=0, num_returns="streaming", max_retries=_AGAIN, retry_exceptions=[OSError],
            _generator_backpressure_num_objects=_AHEAD,
        )(read_block)  # fmt: skip
        reading: dict[Any, Block] = {read.remote(self._job, first.inputs): first.block}
        while True:
            while len(reading) < self._readers and (task := self._next(wait=not reading)) is not None:
                reading[read.remote(self._job, task.inputs)] = task.block
            if not reading:
                return
            ready, _ = ray.wait(list(reading), num_returns=1)
            try:
                item = next(ready[0])
            except StopIteration:
                del reading[ready[0]]
                continue
            yield reading[ready[0]], ray.get(item)

    def _next(self, *, wait: bool) -> _Task | None:
        """Return the next block; None if there is none yet, or, after waiting for it, if none will come."""
        while wait and self._given.empty() and not self._draining and len(self._open) < self._window:
            time.sleep(_POLL_S)
        return None if self._given.empty() else self._given.get()


def read_block(job: bytes, inputs: Dataset) -> Iterator[PreparedBatch | BlockEnd]:
    """Read and prepare the inputs of a block, in a process of its own."""
    yield from opened_job(job).read(inputs)
