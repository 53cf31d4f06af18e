"""Running the command line in this process."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from exeunt.cli.main import main


def exeunt(*arguments: object, cwd: Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["exeunt", *words(*arguments)])
        for name, value in environment(cwd).items():
            patch.setenv(name, value)
        done = subprocess.CompletedProcess(arguments, *called(*arguments))
    if ok:
        assert done.returncode == 0, done.stderr
    return done


def refusal(*arguments: object, cwd: Path) -> str:
    """Run a command that cannot be done in a folder, and return what it complains of."""
    done = exeunt(*arguments, cwd=cwd, ok=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def printed(*arguments: object) -> str:
    """Run a command in this process and return what it printed; errors are raised as they are."""
    from exeunt.cli.app import run

    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        assert run(words(*arguments)) == 0
    return said.getvalue()


def words(line: str = "", *more: object) -> list[str]:
    """Return the words of a command: the first argument is taken apart as by a shell."""
    return [*shlex.split(line), *map(str, more)]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


class Called(NamedTuple):
    """What a command left: its exit status, and what it printed."""

    status: int
    out: str
    err: str


def called(*arguments: object, to: IO[str] | None = None) -> Called:
    """Run the real `main` in this process, which is some hundred times as fast as a process of its own.

    `to`: takes the place of standard output, which is returned if nothing does.
    """
    out, err = io.StringIO(), io.StringIO()
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with redirect_stdout(to or out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            main(words(*arguments))
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return Called(int(end.value.code or 0), out.getvalue(), err.getvalue())
