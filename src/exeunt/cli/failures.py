"""Any error in one or two lines: what happened, and how to mend it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exeunt._files import system_error, why_it_failed
from exeunt.errors import ExeuntError, MissingExtra

_LONGEST = 500  # characters of a message that is not Exeunt's own


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C inside the block say what is kept of the work, and how to resume it."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept()) from None


def described(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """Return a message for what the command with these arguments raised, and its exit status (see `main`)."""
    message, status = _described(error, arguments)
    for given in arguments:
        value = given.partition("=")[2] or given
        if not value.isprintable():  # line ends and control characters of terminals
            message = message.replace(value, repr(value)[1:-1])
    return message, status


def _described(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    if isinstance(error, ExeuntError):
        return str(error), 3 if isinstance(error, MissingExtra) else 2
    if hasattr(error, "format_message"):  # of the parser: which class that is depends on the version of typer
        return _usage(error, arguments), 2
    if (refused := system_error(error)) is not None:
        return _refusal(refused), 2
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!r} is not text in UTF-8, and some library cannot open such names: rename it", 2
    if isinstance(error, MemoryError):
        return "there is not enough memory: close other programs, or choose a smaller batch or model", 2
    return f"unexpected {type(error).__name__}: {_first_line(error)}\nadd --debug to see where", 1


def _usage(error: Any, arguments: Sequence[str]) -> str:
    message = error.format_message().rstrip(".")
    if hasattr(
        error.__cause__, "errors"
    ):  # of pydantic, which keeps what was given apart from what is allowed
        message += f", got {error.__cause__.errors()[0]['input']!r}"
    if (file := _config_file(error)) is not None:
        message += f", in {file}"
    verb = next((word for word in arguments if not word.startswith("-")), "")
    command = f"exeunt {verb}".strip() if error.ctx is None else error.ctx.command_path
    return f"{message}\n`{command} --help` lists what can be given"


def _config_file(error: Any) -> Path | None:
    """Return the file that gave the value that is refused; None if it was given on the command line."""
    context, option = error.ctx, getattr(error, "param", None)
    if context is None or option is None or context.get_parameter_source(option.name) is None:
        return None
    from_file = context.get_parameter_source(option.name).name == "DEFAULT_MAP"
    return context.params["config"] if from_file else None


def _refusal(error: OSError) -> str:
    """Return what the system refused, and for which file; some libraries give only a message of their own."""
    files = [
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
    ]
    why = why_it_failed(error) if error.errno else _first_line(error)
    return f"{' to '.join(files)}: {why}" if files else why


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[0][:_LONGEST]
