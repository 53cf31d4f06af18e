"""A worker on some machine of a cluster: one network, and a stream of blocks that other processes read for it."""

from __future__ import annotations

import pickle
import platform
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from exeunt._version import __version__
from exeunt.data import Dataset
from exeunt.errors import InputError, require
from exeunt.evaluation.cache import code_digest
from exeunt.jobs.batches import PreparedBatch
from exeunt.jobs.blocks import Block, BlockEnd, Job
from exeunt.jobs.cluster.scheduler import WINDOW
from exeunt.jobs.parts import Parts
from exeunt.jobs.summary import Tally
from exeunt.runs.folder import RunFolder

SHOWN = 3  # unreadable inputs of a block that are reported
_WAIT_S = 0.5  # how long a stream waits for the next block before it ends
_AHEAD = 4  # batches of a block that are read ahead
_AGAIN = 3  # how often a block is read again after its reader died, or its store did not answer


def check_code(code: str) -> None:
    """Raise InputError unless this machine has the code of this digest."""
    if code_digest() != code:
        raise InputError(
            f"the machine {platform.node()} of the cluster has another version of exeunt, {__version__} or a changed "
            "one: install the same on all"
        )


def packed_job(job: Job) -> bytes:
    """Return a job as bytes, for `opened_job`."""
    return pickle.dumps((code_digest(), pickle.dumps(job)))


@lru_cache(maxsize=4)
def opened_job(sent: bytes) -> Job:
    """Return a job that was sent to this machine. It is kept, so that its tokeniser is opened once.

    Raises InputError if this machine has other code, or has no run, or another one, in the place of the job's run.
    """
    code, packed = pickle.loads(sent)  # noqa: S301 - of the process that started this one
    check_code(code)
    job: Job = pickle.loads(packed)  # noqa: S301 - likewise
    path = job.run.path
    if not RunFolder.exists(path) or RunFolder.open(path).digest != job.run.digest:
        raise InputError(
            f"the machine {platform.node()} of the cluster has {'another' if RunFolder.exists(path) else 'no'} run at "
            f"{path}: put the run folder on a disk that all share, or a copy in the same place on each"
        )
    return job


class _Task(NamedTuple):
    block: Block
    inputs: Dataset
    result: Future[tuple[Tally, list[str]]]


class Worker:
    """Does blocks. Rows of a block wait to be batched with rows of the next one, as long as blocks keep coming.

    `job`: see `packed_job`. `parts`: where results are kept. `readers`: how many blocks are read at the same time, each
    by a process of its own. `threads`: threads to compute with.
    """

    def __init__(self, job: bytes, parts: Parts, *, readers: int, threads: int | None) -> None:
        self._job, self._parts, self._threads, self._readers = job, parts, threads, readers
        self._given: queue.Queue[_Task] = queue.Queue()
        self._open: dict[int, _Task] = {}
        threading.Thread(target=self._work, name="exeunt-answers", daemon=True).start()

    def answer(self, block: Block, inputs: Dataset) -> tuple[Tally, list[str]]:
        """Do a block and write its part; return its tally, and messages about the first unreadable inputs."""
        task = _Task(block, inputs, Future())
        self._open[block.start] = task
        self._given.put(task)
        return task.result.result()

    @cached_property
    def _opened(self) -> Any:
        return opened_job(self._job).open(self._threads)

    def _work(self) -> None:
        """Do one stream of blocks after the other. A stream ends when no further block arrives in time."""
        while True:
            first = self._given.get()
            try:
                job = opened_job(self._job)
                for done in job.answer(self._opened, self._arriving(first), ordered=False):
                    self._parts.keep(done)
                    self._open.pop(done.block.start).result.set_result((done.tally, done.unreadable[:SHOWN]))
            except BaseException as error:  # `answer` raises it
                for task in [self._open.pop(start) for start in list(self._open)]:
                    task.result.set_exception(error)

    def _arriving(self, first: _Task) -> Iterator[tuple[Block, PreparedBatch | BlockEnd]]:
        ray = require("ray", extra="ray")
        read = ray.remote(
            num_cpus=0,
            num_returns="streaming",
            max_retries=_AGAIN,
            retry_exceptions=[OSError],
            _generator_backpressure_num_objects=_AHEAD,
        )(read_block)
        reading: dict[Any, Block] = {read.remote(self._job, first.inputs): first.block}
        while True:
            while len(reading) < self._readers and (task := self._next(wait=not reading)) is not None:
                reading[read.remote(self._job, task.inputs)] = task.block
            if not reading:
                return
            ready, _ = ray.wait(list(reading), num_returns=1)
            try:
                batch = next(ready[0])
            except StopIteration:
                del reading[ready[0]]
                continue
            yield reading[ready[0]], ray.get(batch)

    def _next(self, *, wait: bool) -> _Task | None:
        """Return the next block, or None. `wait`: wait for it if another block may come."""
        try:
            return self._given.get(timeout=_WAIT_S if wait and len(self._open) < WINDOW else 0)
        except queue.Empty:
            return None


def read_block(job: bytes, inputs: Dataset) -> Iterator[PreparedBatch | BlockEnd]:
    """Read and prepare the inputs of a block, in a process of its own."""
    yield from opened_job(job).read(inputs)
