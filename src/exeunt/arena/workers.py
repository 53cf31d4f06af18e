"""Measuring splits in several processes.

Processes of our own rather than `multiprocessing`: those would import the caller's script again, which needs a
guard that scripts and notebooks lack, and the number of threads must be set before NumPy is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from exeunt.arena.cache import Shelf

__all__ = ["measured"]

# One thread each: the processes share the cores, and sums come out the same however many there are.
_ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
) | {"PYTHONSAFEPATH": "1"}  # nor are modules taken from whatever folder this runs in


def measured(jobs: Sequence[tuple[Shelf, int]], workers: int) -> Iterator[None]:
    """Measure every (shelf, split), yielding once for each that is done; with 0 workers, in this process.

    Raises InputError for what a policy refuses, RuntimeError if a process dies. Ending early ends the processes.
    """
    if workers == 0:
        for shelf, split in jobs:
            shelf.measure(split)
            yield
        return
    local, started = threading.local(), list[_Worker]()

    def start() -> None:
        local.worker = _Worker()
        started.append(local.worker)

    def measure(shelf: Shelf, split: int) -> None:
        local.worker.measure(shelf, split)

    threads = ThreadPoolExecutor(min(workers, max(len(jobs), 1)), initializer=start)
    try:
        futures = [threads.submit(measure, shelf, split) for shelf, split in jobs]
        for future in as_completed(futures):
            future.result()
            yield
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in started:
            worker.end()  # whoever waits for its answer now reads that there is none
        threads.shutdown()
        for worker in started:
            worker.close()


class _Worker:
    """One process, driven by one thread."""

    def __init__(self) -> None:
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "exeunt.arena.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            start_new_session=True,  # Ctrl-C is for the caller, who ends the processes
        )

    def measure(self, shelf: Shelf, split: int) -> None:
        """Have a split measured."""
        questions, answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        try:
            questions.write(json.dumps({"folder": str(shelf.folder), "split": split}) + "\n")
            questions.flush()
            line = answers.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            raise RuntimeError(f"the process that measured split {split} ended; its error is printed above")
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(answer["error"])

    def end(self) -> None:
        """End the process, whatever it is at: a file in the cache is whole or absent."""
        self._process.terminate()

    def close(self) -> None:
        """Give back what the process held, once it has ended and nobody talks to it."""
        with self._process:  # closes the pipes and waits
            pass
