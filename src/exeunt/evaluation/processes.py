"""Measuring splits in several processes.

The processes are started here, because executors fall short. `ProcessPoolExecutor` imports the caller's script again,
which breaks where the script has no main guard; under fork, NumPy has its threads already. loky 3.7 needs no main
guard, but when the caller is killed, its workers go on for some 40 s; these end after the split at hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from exeunt.errors import ExeuntError, InputError
from exeunt.evaluation.cache import SplitCache

# One thread each: the processes share the cores, and sums come out the same however many processes there are.
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
    read, write = os.pipe()  # all processes write to it, a line for each split
    processes: list[subprocess.Popen[str]] = []
    try:
        with os.fdopen(read) as answers:
            with os.fdopen(write, "w") as end:
                processes.extend(_start(jobs[first::n], end) for first in range(min(n, len(jobs))))
            for _ in jobs:
                answer = answers.readline()  # empty if all processes have ended
                if not answer or any(process.poll() for process in processes):
                    raise RuntimeError("a process that measured splits ended; its error is printed above")
                if refusal := json.loads(answer):
                    raise InputError(refusal)
                yield
    finally:
        for process in processes:
            process.terminate()  # at any moment: a file in the cache is whole or absent
            process.wait()


def _start(jobs: Sequence[tuple[SplitCache, int]], answers: IO[str]) -> subprocess.Popen[str]:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from exeunt.evaluation.processes import measure_given; measure_given()"],
        stdin=subprocess.PIPE,
        stdout=answers,
        text=True,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        start_new_session=True,  # Ctrl-C is for the caller, who ends the processes
    )
    with suppress(BrokenPipeError), cast("IO[str]", process.stdin) as stream:
        json.dump([(str(cache.folder), split) for cache, split in jobs], stream)
    return process


def measure_given() -> None:
    """Measure the jobs [[folder, split], ...] on standard input; write a line for each: null, or what was refused.

    A process runs this. It ends after the split at hand when nobody reads its lines any more.
    """
    sys.stdout = sys.stderr  # other prints must not be read as an answer
    for folder, split in json.load(sys.stdin):
        refusal = None
        try:
            SplitCache(Path(folder)).measure(split)
        except ExeuntError as error:
            refusal = str(error)
        try:
            os.write(1, (json.dumps(refusal) + "\n").encode())
        except BrokenPipeError:
            return
