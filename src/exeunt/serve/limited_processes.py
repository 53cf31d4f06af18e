"""Functions that may take long, called in processes that end once they take too much processor time or memory."""

from __future__ import annotations

import math
import os
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

_NICE = 5


class LimitedProcesses:
    """Calls functions in processes, one for each call at a time. Threads may share it.

    `memory`: bytes of address space of each.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._idle: list[tuple[SpawnProcess, Connection]] = []
        self._all: set[SpawnProcess] = set()

    def call(self, seconds: float, function: Callable[..., Any], *given: Any) -> tuple[Any, float]:
        """Return what a function returns or raises, and the processor time that it took (s).

        Raises TimeoutError if it takes more than `seconds`, or if its process dies.
        """
        process, pipe = self._idle.pop() if self._idle else self._started()
        try:
            pipe.send((seconds, function, given))
            answer = pipe.recv()
        except (EOFError, OSError):
            self._all.discard(process)
            pipe.close()
            raise TimeoutError from None
        self._idle.append((process, pipe))
        return answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """End all processes. Calls raise TimeoutError."""
        for process in tuple(self._all):
            process.kill()
            process.join()
        for _, pipe in self._idle:
            pipe.close()

    def _started(self) -> tuple[SpawnProcess, Connection]:
        spawn = get_context("spawn")
        pipe, other_end = spawn.Pipe()
        process = spawn.Process(target=_answer_calls, args=(other_end, self._memory), daemon=True)
        process.start()
        other_end.close()
        self._all.add(process)
        return process, pipe


def _answer_calls(pipe: Connection, memory: int) -> None:
    """Call the functions that come in, until the process that sends them ends."""
    import resource

    os.nice(_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all processes
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with suppress(EOFError):
        while True:
            seconds, function, given = pipe.recv()
            begun = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(begun + seconds), hard))
            try:
                result = function(*given)
            except Exception as error:
                result = error
            pipe.send((result, time.process_time() - begun))
