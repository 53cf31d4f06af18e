"""The watch of predictions: in a file, in the order of its rows, or of a whole job, in a random order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from exeunt._arrays import Booleans, Floats, Integers
from exeunt._paths import AnyPath, open_arrow
from exeunt._text import counted
from exeunt.errors import InputError, one_line
from exeunt.policy import Policy
from exeunt.predicting.prediction_files import WATCHED
from exeunt.run.folder import RunFolder
from exeunt.trace.cascade_step import CascadeStep
from exeunt.watch import Watch
from exeunt.watch.alarm import REMEDY

_MOST = 10_000_000
"""Of more predictions of a job, one in two, three, ... is watched."""
_NEEDED, _KNOWN = ("exit", *WATCHED), ("error", "degraded")


class _Seen(NamedTuple):
    """Predictions as a watch is told of them, (n,) each. `seen`: scores, first scores and ties; None if not written."""

    exits: Integers
    seen: tuple[Floats | None, ...]
    decided: Booleans
    groups: Sequence[Any] | None


def watch_file(run: RunFolder, watch: Watch, path: Path, group_column: str | None = None) -> int:
    """Tell a watch of the predictions in a file, or in a folder of parts, in the order of the rows.

    `group_column`: names the group of each row, where inputs come in groups. Returns how many rows were left out,
    because they have no answer or money was short.

    Raises InputError for a file without the columns of `exeunt predict`, or with answers that the policy cannot have
    given.
    """
    if watch.policy.n_groups is not None and group_column is None:
        raise InputError("the calibration data comes in groups: name their column with --group-column")
    if watch.policy.n_groups is None and group_column is not None:
        raise InputError("the calibration data does not come in groups: leave out --group-column")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(
            f"the folder {path} holds no parts of predictions (*.parquet), as exeunt predict writes them"
        )
    left_out = 0
    for seen in _seen(run, watch.policy, files, group_column):
        watch.update(seen.exits, *seen.seen, groups=seen.groups, decided=seen.decided)
        left_out += int((~seen.decided).sum())
    return left_out


def watched_job(run: RunFolder, policy: Policy, files: Sequence[AnyPath], n: int) -> str:
    """Say in a line whether the n predictions of a job are like those of calibration; "" if that is not watched.

    They are watched in a random order, because files are often sorted by class.
    """
    if policy.watched is None or policy.n_groups is not None:
        return ""
    try:
        exits, *others = _decided(_seen(run, policy, files, None), every=-(-n // _MOST))
        if len(exits) == 0:
            return ""
        order = np.random.default_rng(0).permutation(len(exits))
        watch = Watch(policy)
        watch.update(exits[order], *(None if one is None else one[order] for one in others))
    except InputError as error:
        return f"drift was not watched: {one_line(error)}"
    if watch.alarm is None:
        return f"no drift: {counted(len(exits), 'input')} look like those of calibration (evidence {_peak(watch)})"
    return f"DRIFT: these inputs are not like those of calibration. {watch.alarm.what} {REMEDY}"


def watched_text(watch: Watch, left_out: int) -> str:
    """Return what a watch found, in words."""
    lines = [f"{counted(watch.n, 'input')} watched" + (f", {left_out:,} left out" if left_out else "")]
    if watch.alarm is None:
        lines.append(f"no drift (evidence {_peak(watch)})")
    else:
        lines.append(str(watch.alarm))
    return "\n".join(lines)


def _peak(watch: Watch) -> str:
    return f"at most {max(watch.curve.peaks, default=0.0):,.0f}, an alarm at {watch.threshold:,.0f}"


def _decided(parts: Iterable[_Seen], *, every: int) -> list[Any]:
    """Return exits, scores, first scores and ties of the inputs that the policy decided: of one in so many."""
    columns: list[list[Any]] = [[np.empty(0, np.int64)], [], [], []]
    for part in parts:
        rows = np.flatnonzero(part.decided)[::every]
        for column, values in zip(columns, (part.exits, *part.seen), strict=True):
            column.append(None if values is None else values[rows])
    known = (bool(some) and all(one is not None for one in some) for some in columns)
    return [np.concatenate(some) if all_ else None for some, all_ in zip(columns, known, strict=True)]


def _seen(
    run: RunFolder, policy: Policy, files: Sequence[AnyPath], group_column: str | None
) -> Iterator[_Seen]:
    """Yield the predictions of each file. Exits are those of the policy."""
    own = _own_exits(run, policy)
    for file in files:
        table = _read(file, group_column)
        exits, *others = (table.column(name) for name in _NEEDED)
        decided = ~_numbers(exits.is_null())
        for name, ended in (("error", None), ("degraded", True)):
            if name in table.column_names:
                column = table.column(name)
                decided &= ~_numbers(column.is_valid() if ended is None else column.fill_null(False))
        places = _numbers(exits.fill_null(0))
        at = np.where(decided, np.append(own, -1)[np.minimum(places, len(own))], -1)
        if len(foreign := places[decided & (at < 0)]):
            raise InputError(
                f"{file} has an answer at exit {foreign[0]}, where the policy of {run.path} gives none: give "
                "predictions that were made with this policy"
            )
        known = [one.null_count < len(one) or len(one) == 0 for one in others]
        told = (
            _numbers(one.cast("double")) if there else None for one, there in zip(others, known, strict=True)
        )
        groups = None if group_column is None else table.column(group_column).to_pylist()
        yield _Seen(at, tuple(told), decided, groups)


def _numbers(column: Any) -> Any:
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()


def _own_exits(run: RunFolder, policy: Policy) -> Integers:
    """Return which exit of the policy each exit of the run is, -1 for none."""
    whole = tuple(entry.step for entry in run.cascade) or (CascadeStep("", run.n_exits),)
    before, total = dict[str, int](), 0
    for step in whole:
        before[step.model] = total
        total += step.n_exits
    own = np.full(total, -1)
    exits = [before[step.model] + exit_ for step in policy.cascade or whole for exit_ in step.exits]
    own[exits] = np.arange(len(exits))
    return own


def _read(file: AnyPath, group_column: str | None) -> Any:
    """Return the columns that a watch needs. Raises InputError if they are not there."""
    ending = file.suffix.lower()
    try:
        if ending in (".csv", ".jsonl"):
            read = pyarrow.csv.read_csv if ending == ".csv" else pyarrow.json.read_json
            table = read(str(file))
        else:
            with open_arrow(file) as opened:
                names = [*_NEEDED, *_KNOWN, group_column]
                there = pq.read_schema(opened).names
                table = pq.read_table(opened, columns=[name for name in names if name in there])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"cannot read {file} as predictions (.parquet, .csv or .jsonl): {one_line(error)}"
        ) from error
    needed = [*_NEEDED, *([] if group_column is None else [group_column])]
    if missing := [name for name in needed if name not in table.column_names]:
        raise InputError(
            f"{file} has no column {missing[0]!r}: give predictions of this version, as exeunt predict --out writes "
            "them, where --keep adds columns of the inputs"
        )
    return table
