"""Functions that may take long, called in processes that end once they take too much processor time or memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from exeunt._support.limits import return_large_blocks

_NICE = 5


class LimitedProcesses:
    """Calls functions in processes, one for each call at a time. Threads may share it.

    `memory`: bytes of address space of each.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._idle: list[tuple[subprocess.Popen[bytes], Connection]] = []
        self._all: set[subprocess.Popen[bytes]] = set()

    def call(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
        """Return what a function returns or raises, and the processor time that it took (s).

        Raises TimeoutError if it takes more than `seconds`, or if its process dies.
        """
        try:
            process, pipe = self._idle.pop()
        except IndexError:
            process, pipe = self._started()
        try:
            pipe.send((seconds, function, arguments))
            answer = pipe.recv()
        except (EOFError, OSError):
            pipe.close()
            process.wait()
            self._all.discard(process)
            raise TimeoutError from None
        self._idle.append((process, pipe))
        return answer  # type: ignore[no-any-return]

    def close(self) -> None:
        """End all processes. Calls raise TimeoutError."""
        for process in tuple(self._all):
            process.kill()
            process.wait()

    def _started(self) -> tuple[subprocess.Popen[bytes], Connection]:
        """Start a process. One of multiprocessing would run the main module of this one again.

        OpenBLAS gets one thread, since the buffers of many would exceed its memory. Ctrl-C is not for it.
        """
        pipe, other_end = Pipe()
        with other_end:
            number = other_end.fileno()
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-W", "ignore", "-m", __name__, str(number), str(self._memory)],
                pass_fds=[number],
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        self._all.add(process)
        return process, pipe


def _answer_calls(pipe: Connection, memory: int) -> None:
    """Call the functions that come in, until the process that sends them ends."""
    import resource

    os.nice(_NICE)
    return_large_blocks()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with suppress(EOFError):
        while True:
            seconds, function, arguments = pipe.recv()
            begun = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(begun + seconds), hard))
            try:
                result = function(*arguments)
            except Exception as error:
                result = error
            pipe.send((result, time.process_time() - begun))


if __name__ == "__main__":
    _answer_calls(Connection(int(sys.argv[1])), int(sys.argv[2]))
