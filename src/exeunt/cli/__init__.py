"""The command line, `exeunt VERB ...`. Each verb is a file that reads its arguments and calls the library."""

from __future__ import annotations

import sys

from exeunt.errors import ExeuntError, MissingExtra, require

__all__ = ["main"]


def main() -> None:
    """Run the command line. An error of the library, or of a file, is one line on standard error and status 2 or 3.

    Status 3: an extra is not installed.
    """
    try:
        require("typer", extra="cli")
        from exeunt.cli.app import app

        app()
    except ExeuntError as error:
        print(f"exeunt: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, MissingExtra) else 2)
    except OSError as error:  # of a file that no layer below expected to fail; it names the file
        print(f"exeunt: {error}", file=sys.stderr)
        sys.exit(2)
