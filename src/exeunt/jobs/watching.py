"""The watch of predictions: in a file, in the order of its rows, or of a whole job, in a random order.

Where inputs come in groups, a group counts once, by its first row that the policy decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from exeunt._support.arrays import Booleans, Floats, Integers, Keys
from exeunt._support.paths import AnyPath, open_arrow
from exeunt._support.text import counted
from exeunt.errors import InputError, one_line
from exeunt.jobs.prediction_files import WATCHED
from exeunt.policy import Policy
from exeunt.runs.folder import RunFolder
from exeunt.score.tie_breaking import scramble
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.fields import id_keys
from exeunt.watch import Watch
from exeunt.watch.alarm_report import REMEDY

_MOST = 10_000_000
"""Of more predictions of a job, one in two, three, ... is watched, or of groups one in so many."""
_NEEDED, _KNOWN = ("exit", *WATCHED), ("error", "degraded")
_GROUPED = "the calibration inputs came in groups, and these name none: name the column of their groups"


class _Seen(NamedTuple):
    """Predictions that the policy decided, as a watch is told of them, (n,) each.

    `scores`: scores, first scores and ties; None if not written. `groups`: their keys, None without groups. `left_out`:
    how many others there are.
    """

    exits: Integers
    scores: tuple[Floats | None, ...]
    groups: Keys | None
    left_out: int


def watch_file(run: RunFolder, watch: Watch, path: Path, group_column: str | None = None) -> int:
    """Tell a watch of the predictions in a file, or in a folder of parts, in the order of the rows.

    `group_column`: names the group of each row, where inputs come in groups. Returns how many rows were left out,
    because they have no answer or money was short.

    Raises InputError for a file without the columns of `exeunt predict` or that of the groups, for a row that names no
    group, for answers that the policy cannot have given, and where calibration inputs came in groups and these name
    none.
    """
    if watch.policy.n_groups is not None and group_column is None:
        raise InputError(f"{_GROUPED} with --group-column; `exeunt predict --group-column` writes it")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InputError(
            f"the folder {path} holds no parts of predictions (*.parquet), as exeunt predict writes them"
        )
    left_out = 0
    for predictions in _seen(run, watch.policy, files, group_column):
        watch.update(predictions.exits, *predictions.scores, groups=predictions.groups)
        left_out += predictions.left_out
    return left_out


def watched_job(
    run: RunFolder, policy: Policy, files: Sequence[AnyPath], n: int, group_column: str | None = None
) -> str:
    """Say in a line whether the n predictions of a job are like those of calibration; "" if that is not watched.

    They are watched in a random order, because files are often sorted by class. `group_column`: see `watch_file`.
    """
    if not files or (policy.watched is None and group_column is None):
        return ""
    if policy.watched is None:
        return "drift was not watched: this policy keeps nothing to watch by"
    if policy.n_groups is not None and group_column is None:
        return f"drift was not watched: {_GROUPED} with --group-column"
    try:
        exits, *others = _counted(_seen(run, policy, files, group_column), every=-(-n // _MOST))
        if len(exits) == 0:
            return ""
        order = np.random.default_rng(0).permutation(len(exits))
        watch = Watch(policy)
        watch.update(exits[order], *(None if column is None else column[order] for column in others))
    except InputError as error:
        return f"drift was not watched: {one_line(error)}"
    if watch.alarm is None:
        units = counted(len(exits), "input" if group_column is None else "group")
        return f"no drift: {units} look like those of calibration (evidence {_peak(watch)})"
    return f"DRIFT: these inputs are not like those of calibration. {watch.alarm.what} {REMEDY}"


def watched_text(watch: Watch, left_out: int, *, by_group: bool = False) -> str:
    """Return what a watch found, in words. `by_group`: whether it counts groups."""
    units = counted(watch.n, "group" if by_group else "input")
    left = counted(left_out, "input") if by_group else f"{left_out:,}"
    lines = [f"{units} watched" + (f", {left} left out" if left_out else "")]
    if watch.alarm is None:
        lines.append(f"no drift (evidence {_peak(watch)})")
    else:
        lines.append(str(watch.alarm))
    return "\n".join(lines)


def _peak(watch: Watch) -> str:
    return f"at most {max(watch.curve.peaks, default=0.0):,.0f}, an alarm at {watch.threshold:,.0f}"


def _counted(parts: Iterable[_Seen], *, every: int) -> list[Any]:
    """Return exits, scores, first scores and ties of the predictions that count: of one in so many, or of such groups.

    Of a group the first row counts.
    """
    columns: list[list[Any]] = [[np.empty(0, np.int64)], [], [], []]
    groups = list[Keys]()
    for part in parts:
        if not len(part.exits):
            continue
        rows = np.arange(len(part.exits))
        if part.groups is None:
            rows = rows[::every]
        else:  # all rows of a group or none, by its key
            rows = rows[scramble(part.groups) % np.uint64(every) == 0]
            groups.append(part.groups[rows])
        for column, values in zip(columns, (part.exits, *part.scores), strict=True):
            column.append(None if values is None else values[rows])
    known = (bool(some) and all(column is not None for column in some) for some in columns)
    joined = [np.concatenate(some) if all_ else None for some, all_ in zip(columns, known, strict=True)]
    if not groups:
        return joined
    first = np.sort(np.unique(np.concatenate(groups), return_index=True)[1])
    return [None if values is None else values[first] for values in joined]


def _seen(
    run: RunFolder, policy: Policy, files: Sequence[AnyPath], group_column: str | None
) -> Iterator[_Seen]:
    """Yield the predictions of each file. Exits are those of the policy."""
    own, before = _own_exits(run, policy), 0
    for file in files:
        table = _read(file, group_column)
        exits, *others = (table.column(name) for name in _NEEDED)
        decided = ~_numbers(exits.is_null())
        for name, ended in (("error", None), ("degraded", True)):
            if name in table.column_names:
                column = table.column(name)
                decided &= ~_numbers(column.is_valid() if ended is None else column.fill_null(False))
        places = _numbers(exits.fill_null(0))[decided]
        exits_of_policy = np.append(own, -1)[np.minimum(places, len(own))]
        if len(foreign := places[exits_of_policy < 0]):
            raise InputError(
                f"{file} has an answer at exit {foreign[0]}, where the policy of {run.path} gives none: give "
                "predictions that were made with this policy"
            )
        scores = [
            _numbers(column.cast("double"))[decided]
            if column.null_count < len(column) or len(column) == 0
            else None
            for column in others
        ]
        groups = None
        if group_column is not None:
            groups = _group_keys(table.column(group_column), group_column, decided, before)
        before += len(decided)
        yield _Seen(exits_of_policy, tuple(scores), groups, int((~decided).sum()))


def _group_keys(cells: Any, column: str, decided: Booleans, before: int) -> Keys:
    """Return the keys of the groups of the rows that were decided. `before`: how many rows came before these.

    Raises InputError for a row that names no group, and for a column that cannot hold names.
    """
    try:
        names = np.array(
            (cells if pa.types.is_integer(cells.type) else cells.cast("string")).to_pylist(), object
        )
    except pa.ArrowException as error:
        raise InputError(f"the column {column!r} holds {cells.type}, not the names of groups") from error
    unnamed = decided & np.array([name is None or not str(name).strip() for name in names], dtype=np.bool_)
    if unnamed.any():
        raise InputError(
            f"row {before + int(unnamed.argmax())} of the predictions (rows count from 0) names no group: its cell in "
            f"the column {column!r} is empty; give a row that is a group of its own a name of its own"
        )
    names = names[decided].tolist()
    return id_keys(names, len(names), column) if names else np.empty(0, np.uint64)


def _numbers(column: Any) -> Any:
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()


def _own_exits(run: RunFolder, policy: Policy) -> Integers:
    """Return which exit of the policy each exit of the run is, -1 for none."""
    steps = tuple(entry.step for entry in run.cascade) or (CascadeStep("", run.n_exits),)
    before, total = dict[str, int](), 0
    for step in steps:
        before[step.model] = total
        total += step.n_exits
    own = np.full(total, -1)
    exits = [before[step.model] + exit_ for step in policy.cascade or steps for exit_ in step.exits]
    own[exits] = np.arange(len(exits))
    return own


def _read(file: AnyPath, group_column: str | None) -> Any:
    """Return the columns that a watch needs. Raises InputError if they are not there."""
    ending = file.suffix.lower()
    try:
        if ending == ".csv":  # "007" is another name than "7"
            types = {} if group_column is None else {group_column: pa.string()}
            options = pyarrow.csv.ConvertOptions(column_types=types)
            table = pyarrow.csv.read_csv(str(file), convert_options=options)
        elif ending == ".jsonl":
            table = pyarrow.json.read_json(str(file))
        else:
            with open_arrow(file) as opened:
                names = [*_NEEDED, *_KNOWN, group_column]
                there = pq.read_schema(opened).names
                table = pq.read_table(opened, columns=[name for name in names if name in there])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"cannot read {file} as predictions (.parquet, .csv or .jsonl): {one_line(error)}"
        ) from error
    if missing := [name for name in _NEEDED if name not in table.column_names]:
        raise InputError(
            f"{file} has no column {missing[0]!r}: give predictions of this version, as `exeunt predict --out` "
            "writes them"
        )
    if group_column is not None and group_column not in table.column_names:
        raise InputError(
            f"{file} has no column {group_column!r} that names groups: name another with --group-column, or write it "
            f"with `exeunt predict --group-column {quote(group_column)}`"
        )
    return table
