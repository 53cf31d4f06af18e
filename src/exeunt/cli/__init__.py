"""The command line, `exeunt VERB ...`. Each verb is a file that reads its arguments and calls the library."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from exeunt.errors import ExeuntError, ExeuntWarning, MissingExtra, require

if TYPE_CHECKING:
    from typing import Any

__all__ = ["main"]


def main() -> None:
    """Run the command line. An error of the library, or of a file, is one line on standard error and status 2 or 3.

    Status 3: an extra is not installed. A warning of the library is one line, too.
    """
    warnings.showwarning = _show_warning  # type: ignore[assignment]
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


_show_any_warning = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    """Show a warning of the library without the place in its code."""
    if issubclass(category, ExeuntWarning):
        print(f"exeunt: warning: {message}", file=sys.stderr)
    else:
        _show_any_warning(message, category, *place)
