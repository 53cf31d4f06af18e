"""The Parquet form of a trace: one row per input, readable by anyone with PyArrow.

Columns: `id` (uint64); `row` (uint64), of a part of a trace; `label` (int64, if there are labels; null for an unknown
one); `loss` (a list of one number per exit, if answers are graded); `prediction` and one column per score, each a
fixed-size list with one entry per exit; `log_probability`, if kept, a list of exits times classes (numbers in half
precision as their 16 bits, uint16); `cost`, if inputs differ in cost; `group` (uint64), if rows come in groups. Of many
classes `log_probability` holds the likeliest, `top_class` names them, and `other_log_probability` holds the value of
each other class, by exit. Of answers with parts, `disagreement` is a list of exits times exits. `features:EXIT` is a
list of what is known of the input once this exit is run. The costs, or their means, the number of many classes,
`rows_per_group`, and the `measure` of the grades or the `reference` of labels that are no true classes, are JSON in the
schema's metadata, under "exeunt".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from exeunt._support.files import atomic_path, parse_json
from exeunt.costs.cost_model import CostModel
from exeunt.errors import ArtefactError, InputError, one_line
from exeunt.trace.fields import usual_rows
from exeunt.trace.grades import Grades
from exeunt.trace.groups import Groups
from exeunt.trace.log_probability import LogProbability, TopClasses

T = TypeVar("T")

_VERSION = 6
"""Version 6: traces with disagreement or features. 5: others with grades or a reference. 4: others with groups. 3:
others with many classes. 2: others whose inputs differ in cost. 1: all others."""
_KEY = b"exeunt"
SCORE = "score:"
"""Prefix of the columns of scores."""
LOGS = ("log_probability", "top_class", "other_log_probability")
"""Columns of log-probabilities."""
_LOGS, _TOP, _OTHERS = LOGS
_COST, _GROUP, _LOSS, _DISAGREEMENT = "cost", "group", "loss", "disagreement"
FEATURES_OF = "features:"
"""Prefix of the columns of features, before the number of the exit."""
ROW = "row"
"""Name of the column of the keys of rows, which a part of a trace has."""


class Header(NamedTuple):
    """The metadata of a trace's file.

    `cost`: the costs, or their means. `classes`: the number of classes if only the likeliest are stored, else 0.
    `rows_per_group`: as in `Groups`, None without groups. `measure`: as in `Grades`, None without grades.
    `reference`: as in `ExitTrace`.
    """

    cost: CostModel
    classes: int
    rows_per_group: int | None
    measure: str | None
    reference: str = ""


def save_columns(path: str | Path, fields: Mapping[str, Any]) -> None:
    """Write the fields of an `ExitTrace` as Parquet, atomically. Floats keep every bit."""
    table = trace_table(fields)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, **writing_options(table))


def trace_table(fields: Mapping[str, Any]) -> Any:
    """Return the fields of an `ExitTrace`, by name, as an Arrow table. A label below 0 is written as unknown."""
    cost, label, logs = fields["cost"], fields["label"], fields["log_probability"]
    columns: dict[str, Any] = {"id": pa.array(fields["id"])}
    if not np.array_equal(fields["row"], usual_rows(fields["id"])):
        columns[ROW] = pa.array(fields["row"])
    if label is not None:
        columns["label"] = pa.array(label, mask=label < 0)
    columns["prediction"] = _lists(fields["prediction"])
    columns |= {SCORE + name: _lists(field) for name, field in fields["scores"].items()}
    header: dict[str, Any] = {"version": 1, "cost": cost.to_dict()}
    if cost.per_input is not None:
        columns[_COST] = _lists(cost.per_input)
        header["version"] = 2
    if isinstance(logs, TopClasses):
        columns |= {_LOGS: _floats(logs.log), _TOP: _lists(logs.label), _OTHERS: _floats(logs.others)}
        header |= {"version": 3, "classes": logs.n_classes}
    elif logs is not None:
        columns[_LOGS] = _floats(logs)
    further, about = _further(fields)
    columns, header = {**columns, **further}, {**header, **about}
    return pa.table(columns).replace_schema_metadata({_KEY: json.dumps(header)})


def _further(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns that few traces have, and what the header says of them."""
    columns, header = dict[str, Any](), dict[str, Any]()
    if (groups := fields["groups"]) is not None:
        columns[_GROUP] = pa.array(groups.key)
        header |= {"version": 4, "rows_per_group": groups.rows_per_group}
    if (grades := fields["grades"]) is not None:
        columns[_LOSS] = _lists(grades.loss)
        header |= {"version": 5, "measure": grades.measure}
    if fields["reference"]:
        header |= {"version": 5, "reference": fields["reference"]}
    if (differ := fields["disagreement"]) is not None:
        columns[_DISAGREEMENT] = _lists(differ)
        header["version"] = 6
    for exit_, features in fields["features"].items():
        columns[f"{FEATURES_OF}{exit_}"] = _lists(features)
        header["version"] = 6
    return columns, header


def writing_options(table: Any) -> dict[str, Any]:
    """Return the options of `write_table` for a trace: byte stream splitting saves a third of the space."""
    floats = [
        f"{field.name}.list.element"
        for field in table.schema
        if pa.types.is_fixed_size_list(field.type) and pa.types.is_floating(field.type.value_type)
    ]
    labels = ["label", "prediction.list.element"]
    options = {"compression": "zstd", "write_page_checksum": True}
    return {**options, "use_dictionary": labels, "use_byte_stream_split": floats}


def load_trace(path: str | Path, build: Callable[..., T]) -> T:
    """Return the trace in a file, made by `build` (`ExitTrace`) from its fields.

    Raises InputError for a missing file, ArtefactError for one that is damaged, foreign or newer.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no trace file {file}")
    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ArtefactError(f"{file} is not a readable Parquet file: {one_line(error)}") from None
    return trace_of(table, read_header(table.schema, file), file, build)


def trace_of(table: Any, header: Header, file: object, build: Callable[..., T]) -> T:
    """Return what `build` (`ExitTrace`) makes of the fields in a trace's table, or in some columns and rows of it.

    Raises ArtefactError, naming the file, for a table that holds no trace.
    """
    names = [name.removeprefix(SCORE) for name in table.column_names if name.startswith(SCORE)]
    cost = header.cost
    try:
        prediction = _matrix(table["prediction"])
        if _COST in table.column_names and table.num_rows:
            about = {name: getattr(cost, name) for name in ("unit", "source", "reference", "highest")}
            cost = CostModel(_matrix(table[_COST]), **about)
        graded = header.measure is not None and _LOSS in table.column_names
        labelled = "label" in table.column_names and not table["label"].null_count
        return build(
            prediction=prediction,
            scores={name: _matrix(table[SCORE + name]) for name in names},
            cost=cost,
            label=table["label"].to_numpy() if labelled else None,
            id=table["id"].to_numpy(),
            log_probability=_log_probability(table, prediction.shape, header.classes),
            row=table[ROW].to_numpy() if ROW in table.column_names else None,
            groups=Groups(table[_GROUP].to_numpy(), header.rows_per_group) if header.rows_per_group else None,
            grades=Grades(_matrix(table[_LOSS]), header.measure) if graded else None,  # type: ignore[arg-type]
            reference=header.reference,
            features={
                int(name.removeprefix(FEATURES_OF)): _matrix(table[name])
                for name in table.column_names
                if name.startswith(FEATURES_OF)
            },
            disagreement=(
                _matrix(table[_DISAGREEMENT]).reshape(*prediction.shape, -1)
                if _DISAGREEMENT in table.column_names
                else None
            ),
        )
    except (AttributeError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise ArtefactError(f"{file} is damaged or edited: {one_line(error)}") from error


def is_trace_file(path: str | Path) -> bool:
    """Whether a Parquet file is a trace of `ExitTrace.save` rather than any table."""
    try:
        return _KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def read_header(schema: Any, file: object) -> Header:
    """Return the metadata of a trace's file. Raises ArtefactError for a file that is foreign, damaged or newer."""
    metadata = schema.metadata or {}
    if _KEY not in metadata:
        raise ArtefactError(f"{file} was not written by ExitTrace.save: its metadata has no 'exeunt' entry")
    try:
        header = parse_json(metadata[_KEY])
        version, classes = int(header["version"]), header.get("classes", 0)
        if not isinstance(classes, int) or classes < 0:
            raise ArtefactError(f"{file} is damaged or edited: its metadata says {classes!r} classes")
        if version <= _VERSION:
            about = (header.get("rows_per_group"), header.get("measure"), str(header.get("reference", "")))
            return Header(CostModel.from_dict(header["cost"]), classes, *about)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{file} is damaged or edited: its metadata says {error!r}") from error
    raise ArtefactError(f"{file} has trace format {version}, this version reads {_VERSION}: upgrade exeunt")


def _log_probability(table: Any, shape: tuple[int, ...], n_classes: int) -> LogProbability | None:
    if _LOGS not in table.column_names:
        return None
    logs = _halves(_matrix(table[_LOGS])).reshape(*shape, table[_LOGS].type.list_size // shape[1])
    if _TOP not in table.column_names:
        return logs
    label, others = _matrix(table[_TOP]).reshape(logs.shape), _halves(_matrix(table[_OTHERS]))
    return TopClasses(label, logs, others, n_classes)


def _halves(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in half precision, which are written as their 16 bits, or other numbers unchanged."""
    return values.view(np.float16) if values.dtype == np.uint16 else values


def _floats(values: NDArray[Any]) -> Any:
    """Return (n, m) or (n, m, k) as n lists, numbers in half precision as their 16 bits."""
    return _lists(values.view(np.uint16) if values.dtype == np.float16 else values)


def _lists(matrix: NDArray[Any]) -> Any:
    """Return (n, m) or (n, m, k) as n lists of m or m * k numbers."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), int(np.prod(matrix.shape[1:])))


def _matrix(column: Any) -> NDArray[Any]:
    """Return n lists of m values as (n, m)."""
    flat = column.combine_chunks().flatten().to_numpy()
    return np.asarray(flat).reshape(len(column), column.type.list_size)
