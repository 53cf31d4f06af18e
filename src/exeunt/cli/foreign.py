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

_FEW = 10  # right or wrong answers, below which nothing is said of a confidence


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

    @property
    def is_named(self) -> bool:
        """Whether anything was said that has no default."""
        return any(part is not None for part in (self.confidence, self.prediction, self.id, self.cost))


def open_traces(
    paths: Sequence[Path], foreign: Foreign, *, say: Callable[[str], None]
) -> dict[str, Path | ExitTrace]:
    """Return what to compare on, by name: paths that say themselves what they are, and tables as traces.

    Files of one name are told apart by their folders. Raises InputError for a table whose columns were not named.
    """
    tables = [path for path in paths if _is_table(path)]
    if not tables and foreign.is_named:
        raise InputError(
            "--confidence, --prediction, --id and --cost are about tables (.csv, .parquet), and there is none among "
            f"{', '.join(map(str, paths))}"
        )
    found: dict[str, Path | ExitTrace] = {}
    for name, path in zip(_names(paths), paths, strict=True):
        found[name] = path
        if path in tables:
            found[name] = trace = _read(path, foreign)
            say(_told(name, trace))
            for doubt in _doubts(trace):
                say(f"note: {doubt}")
    return found


def _is_table(path: Path) -> bool:
    from exeunt.trace_table import is_trace_file

    suffix = path.suffix.lower()
    return suffix in (".csv", ".tsv", ".txt") or (
        path.is_file() and suffix == ".parquet" and not is_trace_file(path)
    )


def _told(name: str, trace: ExitTrace) -> str:
    """Say how a table was understood: columns in a wrong order show here, before anything is compared."""
    costs = ", ".join(f"{cost:.4g}" for cost in trace.cost.cumulative)
    right = ", ".join(f"{share:.1%}" for share in trace.correct.mean(axis=0))
    return (
        f"{name}: {trace.n} inputs, {trace.n_exits} exits that cost {costs} {trace.cost.unit} up to each, and are "
        f"right on {right}"
    )


def _doubts(trace: ExitTrace) -> list[str]:
    """Say which exits are surer where they are wrong: no policy can mend what most likely is an uncertainty."""
    from scipy.stats import rankdata

    ranks = rankdata(trace.scores["confidence"], axis=0)
    doubts = []
    for j in range(trace.n_exits):
        right, wrong = (ranks[trace.correct[:, j] == is_right, j] for is_right in (True, False))
        if min(len(right), len(wrong)) >= _FEW and right.mean() < wrong.mean() - 0.1 * trace.n:
            doubts.append(
                f"the confidence of exit {j} (0 = first) is lower where it is right than where it is wrong: if it "
                "is an uncertainty, such as an entropy, give its negative"
            )
    return doubts


def columns(pattern: str, there: Sequence[str]) -> list[str]:
    """Return the columns that a pattern means: a list as it is, "conf_{}" all that are numbered, in order.

    Raises InputError if one of a list is not there, or none of a pattern.
    """
    if "{}" not in pattern:
        listed = [name.strip() for name in pattern.split(",")]
        missing = [name for name in listed if name not in there]
        if missing:
            raise InputError(
                f"the table has no column {', '.join(missing)}; it has {', '.join(there) or 'none'} "
                "(a pattern has {} in place of the exit's number: conf_{})"
            )
        return listed
    return list(_numbered(pattern, there).values())


def _numbered(pattern: str, there: Sequence[str]) -> dict[int, str]:
    """Return the columns of a pattern by their numbers, in order."""
    numbered = re.compile(re.escape(pattern).replace(re.escape("{}"), r"(\d+)"))
    matches = [match for name in there if (match := numbered.fullmatch(name))]
    found = {int(match[1]): match[0] for match in matches}
    if not found:
        raise InputError(
            f"the table has no column {pattern} with a number for {{}}; it has {', '.join(there) or 'none'}"
        )
    if len(found) < len(matches):
        raise InputError(
            f"two columns {pattern} have the same number: {', '.join(match[0] for match in matches)}; list them "
            "one by one"
        )
    return dict(sorted(found.items()))


def _check_numbers(confidence: str, prediction: str, there: Sequence[str]) -> None:
    """Refuse patterns that number the exits differently: pairs would be made of two exits."""
    if not ("{}" in confidence and "{}" in prediction):
        return
    pairs = [(pattern, list(_numbered(pattern, there))) for pattern in (confidence, prediction)]
    if pairs[0][1] != pairs[1][1]:
        told = [f"{pattern} are numbered {', '.join(map(str, numbers))}" for pattern, numbers in pairs]
        raise InputError(
            f"the columns {' and the columns '.join(told)}: rename them, or list them in the order of the exits"
        )


def _read(path: Path, foreign: Foreign) -> ExitTrace:
    from exeunt.trace import ExitTrace
    from exeunt.trace_table import read_table

    if foreign.confidence is None or foreign.prediction is None or foreign.cost is None:
        raise InputError(
            f"{path} is a table: name its columns with --confidence 'conf_{{}}' --prediction 'pred_{{}}' --label "
            "NAME, and what each exit costs with --cost 1,4,13"
        )
    table = read_table(path)
    there = table.column_names
    _check_numbers(foreign.confidence, foreign.prediction, there)
    if foreign.label not in there:
        raise InputError(
            f"the table has no column {foreign.label}: name the column of true classes with --label; it has "
            f"{', '.join(there)}"
        )
    return ExitTrace.from_table(
        table,
        confidence=columns(foreign.confidence, there),
        prediction=columns(foreign.prediction, there),
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
