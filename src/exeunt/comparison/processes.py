"""Measuring splits in several processes.

Processes of our own, because others fall short (Python 3.11, joblib 1.6, two busy cores). `ProcessPoolExecutor` imports
the caller's script again, which breaks where that has no main guard; under fork, NumPy has its threads already. The
loky of joblib starts as fast (5.2 s for two trivial splits, as here) and ends as fast on Ctrl-C or when a worker is
killed (1 s). But when the caller itself is killed, its workers are still there after 90 s; these end after the split at
hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, cast

from exeunt.comparison.cache import SplitCache
from exeunt.errors import ExeuntError, InputError

__all__ = ["ONE_THREAD", "answer_jobs", "measure_in_processes"]

# One thread each: the processes share the cores, and sums come out the same however many there are.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
) | {"PYTHONSAFEPATH": "1"}  # nor are modules taken from whatever folder this runs in


def measure_in_processes(jobs: Sequence[tuple[SplitCache, int]], n: int) -> Iterator[None]:
    """Measure every (cache, split) in `n` processes, yielding once for each that is done; with 0, in this one.

    Raises InputError for what a policy refuses, RuntimeError if a process dies. Ending early ends the processes.
    """
    if n == 0:
        for cache, split in jobs:
            cache.measure(split)
            yield
        return
    processes: list[subprocess.Popen[str]] = []
    free: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()

    def measure(cache: SplitCache, split: int) -> None:
        process, answer = free.get(), ""
        jobs, answers = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
        try:
            with suppress(OSError):  # it has ended
                print(json.dumps([str(cache.folder), split]), file=jobs, flush=True)
                answer = answers.readline()
        finally:
            free.put(process)
        if not answer:
            raise RuntimeError(f"the process that measured split {split} ended; its error is printed above")
        if refusal := json.loads(answer):
            raise InputError(refusal)

    threads = ThreadPoolExecutor(n)
    try:
        for _ in range(min(n, len(jobs))):
            processes.append(_start())
            free.put(processes[-1])
        for future in as_completed([threads.submit(measure, *job) for job in jobs]):
            future.result()
            yield
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()  # at any moment: a file in the cache is whole or absent
        threads.shutdown()
        for process in processes:
            process.communicate()  # waits, and closes the pipes


def _start() -> subprocess.Popen[str]:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", "from exeunt.comparison.processes import answer_jobs; answer_jobs()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        start_new_session=True,  # Ctrl-C is for the caller, who ends the processes
    )


def answer_jobs() -> None:
    """Answer each line [folder, split] on standard input by a line: null once it is measured, or what was refused.

    This is what a process runs. It ends when its input does, so also when the caller is killed.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # other prints must not be read as an answer
    for line in sys.stdin:
        folder, split = json.loads(line)
        refusal = None
        try:
            SplitCache(Path(folder)).measure(split)
        except ExeuntError as error:
            refusal = str(error)
        print(json.dumps(refusal), file=answers, flush=True)
