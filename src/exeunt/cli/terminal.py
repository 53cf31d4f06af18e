"""Printing texts that fit the terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap


def echo(text: object = "", *, err: bool = False) -> None:
    """Print a text, on standard error with `err`.

    A terminal gets lines that are broken between words; rows of tables stay whole, and so do all lines elsewhere.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed
        return
    lines = str(text).split("\n")
    if stream.isatty():
        width = shutil.get_terminal_size().columns
        lines = [line if "  " in line.strip() else _wrapped(line, width) for line in lines]
    print(*lines, sep="\n", file=stream, flush=True)


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
