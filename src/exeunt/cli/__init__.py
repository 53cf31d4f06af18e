"""The command line: `exeunt VERB ...`. Each verb is a file that turns arguments into one call."""

from __future__ import annotations

import sys

from exeunt.errors import ExeuntError, MissingExtra, require

__all__ = ["main"]


def main() -> None:
    """Run the command line; errors of the library's own are one line on standard error, exit status 2."""
    try:
        require("typer", extra="cli")
        from exeunt.cli.app import app

        app()
    except MissingExtra as error:
        sys.exit(_said(error, status=3))
    except ExeuntError as error:
        sys.exit(_said(error, status=2))


def _said(error: Exception, *, status: int) -> int:
    print(f"exeunt: {error}", file=sys.stderr)
    return status
