"""The columns of predictions, and the files that hold them: Parquet, CSV or JSON lines, by their ending."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from exeunt._support.arrays import Floats
from exeunt._support.files import atomic_path, check_writable, parse_json
from exeunt._support.paths import AnyPath
from exeunt.errors import InputError, require
from exeunt.runs.folder import RunFolder
from exeunt.score.mask_confidence import Masks, mask_of, runs_of

Cells: TypeAlias = "dict[str, list[Any]]"
"""Columns of equal length, by name; None for a cell without a value."""

_COLUMNS = {
    "name": "string",
    "label": "int64",
    "class_name": "string",
    "confidence": "double",
    "exit": "int64",
    "cost": "double",
    "borderline": "bool",
    "truncated": "bool",
    "error": "string",
    "score": "double",
    "first_score": "double",
    "tie": "double",
}
"""The columns that all predictions have, with their types in Arrow."""
WATCHED = ("score", "first_score", "tie")
"""Those that a watch is told of, beside the exit."""
_PARQUET = ("", ".parquet", ".pq")
_ENDINGS = (*_PARQUET, ".csv", ".jsonl")


@dataclass(frozen=True)
class PredictionColumns:
    """The columns that are written about inputs of a network with these classes.

    `top`: how many of the most probable classes are written, in columns top_1, top_1_probability, top_2, ...
    `probabilities`: also write the probability of every class k, in columns probability_0, probability_1, ...
    Both are those of the exit that answered. `kept`: columns of the inputs that are written as they are, and their
    types in Arrow. `masks`: the network answers with masks, which are written as runs
    (`exeunt.score.mask_confidence.mask_of`).

    Raises InputError for a `top` above the number of classes, for probabilities of masks, and for a column to keep that
    has the name of another.
    """

    class_names: Sequence[str]
    top: int = 0
    probabilities: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)
    masks: bool = False

    def __post_init__(self) -> None:
        if self.masks and (self.top or self.probabilities):
            raise InputError("masks are written without probabilities: leave out --top and --probabilities")
        if not 0 <= self.top <= len(self.class_names):
            raise InputError(
                f"top must be at most {len(self.class_names)}, the number of classes, got {self.top}"
            )
        if taken := [name for name in self.kept if name in self._own_types]:
            raise InputError(
                f"the column {taken[0]!r} cannot be kept, as predictions have a column of this name: rename it in the "
                "table"
            )

    @property
    def needs_probabilities(self) -> bool:
        """Whether the answers must have all probabilities."""
        return self.probabilities or self.top > 0

    @property
    def needs_details(self) -> bool:
        """Whether the answers must have more than class and confidence: all probabilities, or masks."""
        return self.needs_probabilities or self.masks

    @property
    def _own_types(self) -> dict[str, str]:
        types = {**_COLUMNS, **({"mask": "string"} if self.masks else {})}
        for rank in range(1, self.top + 1):
            types |= {f"top_{rank}": "string", f"top_{rank}_probability": "double"}
        if self.probabilities:
            types |= {f"probability_{k}": "double" for k in range(len(self.class_names))}
        return types

    @property
    def schema(self) -> Any:
        """The schema of the columns in Arrow."""
        own = {name: pa.type_for_alias(kind) for name, kind in self._own_types.items()}
        return pa.schema(list({**own, **self.kept}.items()))

    def cells(
        self,
        names: Sequence[str],
        arrays: Mapping[str, NDArray[Any]],
        errors: Sequence[str | None],
        probabilities: Floats | None,
        kept: Mapping[str, list[Any]],
        masks: Mapping[int, Masks] = MappingProxyType({}),
    ) -> Cells:
        """Return the cells of inputs with these names.

        `arrays`: the columns label, confidence, exit, cost, borderline, truncated, and, NaN where they are not known,
        those of `WATCHED`; the label is -1 where there is no answer. `probabilities` (n, k): None if not needed.
        `kept`: the columns to keep, (n,) each, also in place of others, as of answers in text. `masks`: by row, those
        of the inputs that have one.
        """
        answered = (arrays["label"] >= 0).tolist()
        cells = {name: _shown(column, answered) for name, column in arrays.items()}
        for name in WATCHED:
            cells[name] = [None if cell is None or math.isnan(cell) else cell for cell in cells[name]]
        named = self._named(cells["label"])
        cells |= {"name": list(names), "error": list(errors), "class_name": named, **kept}
        if probabilities is not None:
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top]
            sorted_ = np.take_along_axis(probabilities, order, axis=1)
            for rank in range(self.top):
                cells[f"top_{rank + 1}"] = self._named(_shown(order[:, rank], answered))
                cells[f"top_{rank + 1}_probability"] = _shown(sorted_[:, rank], answered)
            for k, column in enumerate(probabilities.T):
                cells[f"probability_{k}"] = _shown(column, answered)
        if self.masks:
            cells["mask"] = [runs_of(masks[i]) if i in masks else None for i in range(len(names))]
        return {name: cells[name] for name in self.schema.names}

    def _named(self, labels: Sequence[int | None]) -> list[str | None]:
        return [
            None if label is None or not self.class_names else self.class_names[label] for label in labels
        ]


def _shown(column: NDArray[Any], answered: Sequence[bool]) -> list[Any]:
    return [cell if there else None for cell, there in zip(column.tolist(), answered, strict=True)]


def check_out(out: Path, *, force: bool) -> None:
    """Raise InputError, before anything is computed, if `out` cannot be written, or must not be replaced.

    Earlier predictions and an empty file may be replaced, with `force` any file.
    """
    if out.is_dir():
        raise InputError(f"cannot write {out}: it is a folder; name a file, such as {out}/answers.parquet")
    if out.suffix.lower() not in _ENDINGS:
        raise InputError(
            f"predictions are written as .parquet, .csv or .jsonl: name a file such as {out.stem}.parquet, got {out}"
        )
    check_writable(out.parent, f"cannot write {out}")
    if out.exists() and not out.is_file():
        raise InputError(f"cannot write {out}: it is not a file; use `--out -` to print")
    if out.exists() and not force and not _holds_predictions(out):
        raise InputError(
            f"{out} exists and does not hold predictions: name another file, or replace it with --force"
        )


def write_predictions(out: Path, schema: Any, parts: Sequence[AnyPath]) -> None:
    """Write the rows of Parquet files of this schema, one file after the other, to `out`."""
    read = partial(pq.read_table, page_checksum_verification=True)
    tables = (read(part).replace_schema_metadata(None) for part in parts)
    with atomic_path(out) as temporary:
        if out.suffix.lower() in _PARQUET:
            with pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
                for table in tables:
                    writer.write_table(table)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            lines = csv_lines if out.suffix.lower() == ".csv" else _json_lines
            file.writelines(lines(table.to_pydict() for table in tables))


def csv_lines(tables: Iterable[Cells]) -> Iterator[str]:
    """Yield the names of the columns, once there is a table, then the rows of the tables, as lines of CSV."""
    writer: Any = csv.writer(SimpleNamespace(write=str), lineterminator="\n")  # each call returns its line
    for number, table in enumerate(tables):
        if number == 0:
            yield writer.writerow(table)
        for row in zip(*table.values(), strict=True):
            yield writer.writerow(row)


def _json_lines(tables: Iterable[Cells]) -> Iterator[str]:
    for table in tables:
        for row in zip(*table.values(), strict=True):
            # JSON has no NaN or infinity, which a column that is kept may hold.
            values = (None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row)
            record = dict(zip(table, values, strict=True))
            yield json.dumps(record, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _holds_predictions(path: Path) -> bool:
    """Return whether a file is empty, or has the columns that all predictions have."""
    if path.stat().st_size == 0:
        return True
    try:
        if (ending := path.suffix.lower()) in _PARQUET:
            names = list(pq.read_schema(path).names)
        else:
            with path.open(encoding="utf-8", newline="") as file:
                names = next(csv.reader(file)) if ending == ".csv" else list(parse_json(next(file)))
    except (pa.ArrowException, OSError, ValueError, TypeError, StopIteration):  # it is of another format
        return False
    return names[: len(_COLUMNS)] == list(_COLUMNS)


def check_mask_folder(run: RunFolder, folder: Path, *, has_file: bool) -> None:
    """Raise InputError, before anything is computed, if a run has no masks or they cannot be written to a folder."""
    if not run.masks:
        raise InputError(f"{run.path} answers with classes, and has no masks to write to {folder}")
    if not has_file:
        raise InputError("masks are written beside a file of predictions: name one")
    check_writable(folder, f"cannot write masks to {folder}")


def write_mask_files(parts: Sequence[AnyPath], folder: Path) -> None:
    """Write the masks in these Parquet files of predictions to a folder, each under the name of its image.

    "street/17.jpg" gives "street/17.png"; where there is also "street/17.webp", it gives "street/17.jpg.png". The row
    "test.parquet#17" gives "test.parquet#17.png". Pixels are numbers of classes. Inputs without an answer have no file.
    """

    def read(part: AnyPath, *columns: str) -> list[list[Any]]:
        table = pq.read_table(part, columns=list(columns), page_checksum_verification=True)
        return [table[column].to_pylist() for column in columns]

    shared = Counter(_short(name) for part in parts for name in read(part, "name")[0])
    for part in parts:
        for name, runs in zip(*read(part, "name", "mask"), strict=True):
            if runs is not None:
                short = _short(name)
                file = folder.joinpath(*(short if shared[short] == 1 else _places(name)))
                file = file.with_name(f"{file.name}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(file) as temporary:
                    temporary.write_bytes(_png(mask_of(runs)))


def _places(name: str) -> tuple[str, ...]:
    """Return the folders and the file of a name below any folder: without a root, and without steps out of it."""
    return tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".."))


def _short(name: str) -> tuple[str, ...]:
    """Return the same without the ending of an image file. A row of a table, "test.parquet#17", has none."""
    *folders, file = _places(name)
    return (*folders, file if "#" in file else PurePosixPath(file).stem)


def _png(mask: Masks) -> bytes:
    file = io.BytesIO()
    require("PIL.Image", extra="onnx").fromarray(mask).save(file, "PNG")
    return file.getvalue()
