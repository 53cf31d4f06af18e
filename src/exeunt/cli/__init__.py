"""The command line, `exeunt COMMAND ...`. Each command is a file that reads its arguments and calls the library."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Any

from exeunt.cli.terminal import echo
from exeunt.errors import ExeuntWarning, require

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line with these arguments, by default those of the process, and exit.

    An error is one or two lines on standard error, a warning of the library one; `--debug`, anywhere, adds the traceback.
    Exit status: 0 done; 1 an unexpected error; 2 arguments that cannot be used, or a file that cannot be read or
    written; 3 an extra that is not installed; 130 interrupted; 141 the output is no longer read.
    """
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    interruptions = _noted_interruptions()
    try:
        for stream in (sys.stdout, sys.stderr):
            # A class name that the terminal cannot show must not end the command.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        require("typer", extra="cli")
        from exeunt.cli.app import run

        status = run([word for word in given if word != "--debug"])
        if sys.stdout is not None:  # as when it was closed
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        status = 141
    except (KeyboardInterrupt, Exception) as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would interrupt the end
        if debug:
            import traceback

            traceback.print_exc()
        if interruptions or isinstance(error, KeyboardInterrupt):
            kept = str(error) if isinstance(error, KeyboardInterrupt) else ""
            message, status = f"interrupted; {kept}" if kept else "interrupted", 130
        else:
            from exeunt.cli.failures import described

            message, status = described(error, given)
        echo(f"exeunt: {message}", err=True)
    sys.exit(status)


def _noted_interruptions() -> list[int]:
    """Return a list that grows with every Ctrl-C: a package that is being imported may raise another error instead."""
    noted: list[int] = []

    def interrupt(number: int, _: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # else it is ignored, as in the background
        signal.signal(signal.SIGINT, interrupt)
    return noted


_show_any_warning = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """Print a warning of the library without its place in the code."""
    if issubclass(category, ExeuntWarning):
        echo(f"exeunt: warning: {message}", err=True)
    else:
        _show_any_warning(message, category, *place)
