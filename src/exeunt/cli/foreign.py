"""Traces named on the command line, other people's tables among them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exeunt.trace import ExitTrace


@dataclass(frozen=True)
class Foreign:
    """How tables are read: patterns of columns, and what answers cost; None where it was not said."""

    confidence: str | None
    prediction: str | None
    label: str
    id: str | None
    cost: str | None
    cost_is: str
    unit: str


def open_traces(
    paths: Sequence[Path], foreign: Foreign, *, say: Callable[[str], None]
) -> dict[str, Path | ExitTrace]:
    """Return what to compare on, by name: paths that say themselves what they are, and tables as traces.

    Files of one name are told apart by their folders. Raises InputError for a table whose columns were not named.
    """
    from exeunt.trace_table import is_trace_file

    found: dict[str, Path | ExitTrace] = {}
    for name, path in zip(_names(paths), paths, strict=True):
        is_table = path.suffix == ".csv" or (
            path.is_file() and path.suffix == ".parquet" and not is_trace_file(path)
        )
        if is_table:
            trace = _read(path, foreign)
            say(f"{name}: {trace}, costs up to each exit {trace.cost}")
            found[name] = trace
        else:
            found[name] = path
    return found


def columns(pattern: str, there: Sequence[str]) -> list[str]:
    """Return the columns that a pattern means: a list as it is, "conf_{}" all that are numbered, in order.

    Raises InputError if none is.
    """
    if "{}" not in pattern:
        return [name.strip() for name in pattern.split(",")]
    numbered = re.compile(re.escape(pattern).replace(re.escape("{}"), r"(\d+)"))
    found = {name: int(match[1]) for name in there if (match := numbered.fullmatch(name))}
    if not found:
        raise InputError(
            f"the table has no column {pattern} with a number for {{}}; it has {', '.join(there) or 'none'}"
        )
    return sorted(found, key=lambda name: found[name])


def _read(path: Path, foreign: Foreign) -> ExitTrace:
    from exeunt.trace import ExitTrace
    from exeunt.trace_table import read_table

    if foreign.confidence is None or foreign.prediction is None or foreign.cost is None:
        raise InputError(
            f"{path} is a table: name its columns with --confidence 'conf_{{}}' --prediction 'pred_{{}}' --label "
            "NAME, and what each exit costs with --cost 1,4,13"
        )
    table = read_table(path)
    return ExitTrace.from_table(
        table,
        confidence=columns(foreign.confidence, table.column_names),
        prediction=columns(foreign.prediction, table.column_names),
        label=foreign.label,
        id=foreign.id,
        cost=_numbers(foreign.cost),
        cost_is=foreign.cost_is,  # type: ignore[arg-type]  # checked there
        unit=foreign.unit,
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--cost must be numbers such as 1,4,13, got {text!r}") from None


def _names(paths: Sequence[Path]) -> list[str]:
    names = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
