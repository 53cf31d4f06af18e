"""The command line, `exeunt VERB ...`. Each verb is a file that reads its arguments and calls the library."""

from __future__ import annotations

import sys

from exeunt.errors import ExeuntError, MissingExtra, require

__all__ = ["main"]


def main() -> None:
    """Run the command line. An error of the library is one line on standard error and exit status 2 or 3.

    Status 3: an extra is not installed.
    """
    try:
        require("typer", extra="cli")
        from exeunt.cli.app import app

        app()
    except ExeuntError as error:
        print(f"exeunt: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, MissingExtra) else 2)
