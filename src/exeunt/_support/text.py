"""Text for people: lines that fit the terminal, counted things, and tables for a terminal or a notebook."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from html import escape


def echo(text: object = "", *, err: bool = False) -> None:
    """Print a text, on standard error with `err`.

    A terminal gets lines that are broken between words; rows of tables stay whole, and so do all lines elsewhere.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed
        return
    lines = str(text).split("\n")
    if stream.isatty():
        fill = textwrap.TextWrapper(
            shutil.get_terminal_size().columns, break_long_words=False, break_on_hyphens=False
        ).fill
        lines = [line if "  " in line.strip() else fill(line) for line in lines]
    print(*lines, sep="\n", file=stream, flush=True)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)" with the known name that is most like an unknown one; "" if none is like it."""
    close = get_close_matches(name, [*known], n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def counted(n: int, noun: str, many: str | None = None) -> str:
    """Return a number with its noun: `noun` if n is 1, else `many`, by default `noun` with an s.

    >>> counted(1, "text was", "texts were"), counted(3000, "input")
    ('1 text was', '3,000 inputs')
    """
    return f"{n:,} {noun if n == 1 else many or noun + 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """Return the first `most` of these names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of text in columns: the first flush left, the others flush right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def lay(line: list[str]) -> str:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([lay(lines[0]), lay(["-" * w for w in widths]), *map(lay, lines[1:])])


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out the same rows as an HTML table under a title."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f"<div><p>{escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
