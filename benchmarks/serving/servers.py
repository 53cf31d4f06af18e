"""Servers in processes of their own, started on a free port and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

HERE = Path(__file__).resolve().parent
_START_S = 180


@dataclass
class Running:
    """A server that answers at `port`; `start` starts it again after it was killed."""

    port: int
    command: Sequence[str]
    ready: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=environment, preexec_fn=os.setpgrp
            )
        end = time.monotonic() + _START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.end()
                printed = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{' '.join(self.command)} did not start:\n{printed}")
            time.sleep(0.1)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and all that it has started."""
        assert self.process is not None
        for number in (how, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, number)
                self.process.wait(20)

    def memory_mb(self) -> float:
        """Resident memory of the server's processes, in MB; what they share counts for each."""
        pages = [int((process / "statm").read_text().split()[1]) for process in self._processes()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_s(self) -> float:
        """Processor seconds of the server's processes so far."""
        ticks = [int(one) for process in self._processes() for one in _fields(process)[11:13]]
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def _processes(self) -> list[Path]:
        """Return folders in /proc of the process that was started and of those that it has started."""
        assert self.process is not None
        every = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
        found = []
        for path in every:
            with suppress(OSError):
                if int(_fields(path)[2]) == self.process.pid:
                    found.append(path)
        return found

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready}", timeout=2) as response:
                return response.status == 200
        except (OSError, urllib.error.URLError):
            return False


def _fields(process: Path) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name: state, parent, group and so on."""
    return (process / "stat").read_text().rpartition(")")[2].split()


@contextmanager
def running(command: Callable[[int], Sequence[str]], ready: str, log: Path) -> Iterator[Running]:
    """Run a server; `command` is given a free port, and `ready` is what answers once it is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Running(port, command(port), ready, log)
    server.start()
    try:
        yield server
    finally:
        server.end()


def exeunt_server(run: Path, *options: str, source: Path | None = None) -> Callable[[int], list[str]]:
    """Return the command of our server. `source`: another checkout of the repository, whose server it is."""
    other = [] if source is None else ["env", f"PYTHONPATH={source / 'src'}"]
    command = [*other, sys.executable, "-m", "exeunt", "serve", str(run), "--name", "model", *options]
    live = ["--live-file", str(run.parent / f"{run.name}-serving.json")]
    return lambda port: [*command, "--port", str(port), *live]


def bare_server(*options: str, workers: int) -> Callable[[int], list[str]]:
    """Return the command of uvicorn with the same decoding."""
    command = [sys.executable, str(HERE / "bare_server.py"), "--workers", str(workers), *options]
    return lambda port: [*command, "--port", str(port)]


def litserve_server(run: Path, *, batch: int, workers: int = 1) -> Callable[[int], list[str]]:
    """Return the command of LitServe around the original model of a run, with so many worker and API processes."""
    command = [
        sys.executable,
        str(HERE / "litserve_server.py"),
        str(run),
        "--batch",
        str(batch),
        "--workers",
        str(workers),
    ]
    return lambda port: [*command, "--port", str(port)]
