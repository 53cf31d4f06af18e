"""Functions that may take long, called in processes that end once they take too much processor time or memory."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_NICE = 5


class LimitedProcesses:
    """Calls functions in processes, one for each call at a time. Threads may share it.

    `memory`: bytes of address space of each.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._idle: list[subprocess.Popen[bytes]] = []
        self._running: set[subprocess.Popen[bytes]] = set()

    def call(self, seconds: float, function: Callable[..., Any], *given: Any) -> tuple[Any, float]:
        """Return what a function returns or raises, and the processor time that it took (s).

        Raises TimeoutError if it takes more than `seconds`, or if its process dies.
        """
        process = self._idle.pop() if self._idle else self._started()
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        try:
            pickle.dump((seconds, function, given), process.stdin)
            process.stdin.flush()
            result, taken = pickle.load(process.stdout)  # noqa: S301 - a process of our own
        except (
            EOFError,
            OSError,
            ValueError,
            pickle.UnpicklingError,
        ):  # it has ended, and its pipes may be closed
            self._end(process)
            raise TimeoutError from None
        self._idle.append(process)
        return result, taken

    def close(self) -> None:
        """End all processes. Calls raise TimeoutError."""
        for process in tuple(self._running):
            self._end(process)

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-W", "ignore", "-m", __name__, str(self._memory)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **pipes, start_new_session=True)  # type: ignore[call-overload]  # noqa: S603
        self._running.add(process)
        return process  # type: ignore[no-any-return]

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(OSError), process:  # which closes its pipes and waits
            process.kill()
        self._running.discard(process)


def _answer_calls(memory: int) -> None:
    """Call the functions that come in at stdin, until it ends, as it does with the process that started this one."""
    import resource

    calls, answers = sys.stdin.buffer, sys.stdout.buffer
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with suppress(EOFError):
        while True:
            seconds, function, given = pickle.load(calls)  # noqa: S301 - from the process that started this one
            begun = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(begun + seconds), hard))
            try:
                result = function(*given)
            except Exception as error:
                result = error
            pickle.dump((result, time.process_time() - begun), answers)
            answers.flush()


if __name__ == "__main__":
    _answer_calls(int(sys.argv[1]))
