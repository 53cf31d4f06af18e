"""`exeunt verify RUN`: whether a run is as it was written."""

from __future__ import annotations

import typer

from exeunt.cli.options import RunPath
from exeunt.cli.terminal import echo


def verify(path: RunPath) -> None:
    """Check every part of a run that can change an answer: digests, formats, costs, and policies.

    Prints a line for each part. A damaged part's line says how to mend it, and the exit status is then 1.
    The other commands check only the files that they read.
    """
    from exeunt.run.verification import verify

    parts = verify(path)
    width = max(len(part.part) for part in parts)
    for part in parts:
        echo(f"{part.part:<{width}}  {part.state:<7}  {part.text}")
    sound, failed = (sum(part.state == state for part in parts) for state in ("ok", "FAILED"))
    echo(f"{sound} of {len(parts)} parts are as they were written")
    if failed:
        raise typer.Exit(1)
