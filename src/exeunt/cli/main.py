"""Running a command: errors in one line, exit statuses, and what Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from exeunt._support.files import system_error, why_it_failed
from exeunt._support.text import echo
from exeunt.errors import ExeuntError, ExeuntWarning, MissingExtra, one_line, require


def main(arguments: list[str] | None = None) -> None:
    """Run the command line with these arguments, by default those of the process, and exit.

    An error is one or two lines on standard error, a warning of the library one; `--debug` adds the traceback.
    Exit status: 0 done; 1 an unexpected error; 2 arguments that cannot be used, or a file that cannot be read or
    written; 3 an extra that is not installed; 130 interrupted; 141 the output is no longer read.
    """
    # NumPy is not imported yet. On arrays as small as those of policies its threads wait for one another: `exeunt demo`
    # took 28 s of processor time with two, and 11 s with one. PyTorch and ONNX Runtime have threads of their own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    interruptions = _noted_interruptions()
    try:
        for stream in (sys.stdout, sys.stderr):
            # A class name that the terminal cannot show must not end the command.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        require("typer", extra="cli")
        from exeunt.cli.app import run

        status = run([word for word in words if word != "--debug"])
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
            kept_work = str(error) if isinstance(error, KeyboardInterrupt) else ""
            message, status = f"interrupted; {kept_work}" if kept_work else "interrupted", 130
        else:
            message, status = described(error, words)
        echo(f"exeunt: {message}", err=True)
    sys.exit(status)


def _noted_interruptions() -> list[int]:
    """Return a list that grows with every Ctrl-C: a package that is being imported may raise another error instead."""
    noted: list[int] = []

    def interrupt(number: int, _: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, as in the background
        signal.signal(signal.SIGINT, interrupt)
    return noted


_show_any_warning = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """Print a warning of the library without its place in the code."""
    if issubclass(category, ExeuntWarning):
        echo(f"exeunt: warning: {message}", err=True)
    else:
        _show_any_warning(message, category, *place)


def described(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """Return one or two lines for what the command with these arguments raised, and its exit status (see `main`)."""
    status = 2
    if isinstance(error, ExeuntError):
        message, status = str(error), 3 if isinstance(error, MissingExtra) else 2
    elif hasattr(error, "format_message"):  # of the parser, whose class depends on the version of typer
        message = _usage(error, arguments)
    elif (refused := system_error(error)) is not None:
        message = _refusal(refused)
    elif isinstance(error, UnicodeEncodeError):
        message = f"{error.object!r} is not text in UTF-8, and some library cannot open such names: rename it"
    elif isinstance(error, MemoryError):
        message = "there is not enough memory: close other programs, or choose a smaller batch or model"
    else:
        message, status = f"unexpected {one_line(error)}\nadd --debug to see where", 1
    for word in arguments:
        text = word.partition("=")[2] or word
        if not text.isprintable():  # line ends and control characters of terminals
            message = message.replace(text, repr(text)[1:-1])
    return message, status


def _usage(error: Any, arguments: Sequence[str]) -> str:
    message = error.format_message().rstrip(".")
    if hasattr(error.__cause__, "errors"):  # of pydantic, which keeps apart what was given
        message += f", got {error.__cause__.errors()[0]['input']!r}"
    context, option = error.ctx, getattr(error, "param", None)
    if context is not None and option is not None:
        source = context.get_parameter_source(option.name)
        if source is not None and source.name == "DEFAULT_MAP":
            message += f", in {context.params['config']}"
    verb = next((word for word in arguments if not word.startswith("-")), "")
    command = f"exeunt {verb}".strip() if context is None else context.command_path
    return f"{message}\n`{command} --help` lists what can be given"


def _refusal(error: OSError) -> str:
    """Return what the system refused, and for which file; some libraries give only a message of their own."""
    files = [
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
    ]
    why = why_it_failed(error) if error.errno else one_line(error).removeprefix(f"{type(error).__name__}: ")
    return f"{' to '.join(files)}: {why}" if files else why
