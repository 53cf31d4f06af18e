"""The Parquet form of a trace: one row per input, readable by anyone with PyArrow.

Columns: `id` (uint64), `label` (int64, where known), `prediction` and one column per score, each a
fixed-size list with one entry per exit. The costs are JSON in the schema's metadata, under "exeunt".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exeunt._files import atomic_path
from exeunt.costs import CostModel
from exeunt.errors import ArtefactError, InputError
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["load_trace", "save_trace"]

_VERSION = 1
_SCORE = "score:"


def save_trace(trace: ExitTrace, path: str | Path) -> None:
    """Write `trace` to `path` as Parquet, atomically. Floats keep every bit."""
    columns: dict[str, Any] = {"id": pa.array(trace.id)}
    if trace.label is not None:
        columns["label"] = pa.array(trace.label)
    columns["prediction"] = _lists(trace.prediction)
    columns |= {_SCORE + name: _lists(value) for name, value in trace.scores.items()}
    header = json.dumps({"version": _VERSION, "cost": trace.cost.to_dict()})
    table = pa.table(columns).replace_schema_metadata({"exeunt": header})
    # Bytes of equal weight lie together: scores take two thirds of the space, to the same last bit.
    scores = [f"{_SCORE}{name}.list.element" for name in trace.scores]
    with atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            use_dictionary=["label", "prediction.list.element"],
            use_byte_stream_split=scores,
        )


def load_trace(path: str | Path) -> ExitTrace:
    """Read a trace written by `save_trace`.

    Raises InputError for a missing file, ArtefactError for one that is damaged, foreign or newer.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no trace file {file}")
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise ArtefactError(f"{file} is not a readable Parquet file: {error}") from None
    header = _header(table, file)
    names = [name.removeprefix(_SCORE) for name in table.column_names if name.startswith(_SCORE)]
    try:
        return ExitTrace(
            prediction=_matrix(table["prediction"]),
            scores={name: _matrix(table[_SCORE + name]) for name in names},
            cost=CostModel.from_dict(header["cost"]),
            label=table["label"].to_numpy() if "label" in table.column_names else None,
            id=table["id"].to_numpy(),
        )
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise ArtefactError(f"{file} is damaged or edited: {error}") from error


def _header(table: Any, file: Path) -> Any:
    metadata = table.schema.metadata or {}
    if b"exeunt" not in metadata:
        raise ArtefactError(f"{file} was not written by ExitTrace.save: its metadata has no 'exeunt' entry")
    try:
        header = json.loads(metadata[b"exeunt"])
        version = int(header["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{file} is damaged or edited: its metadata says {error!r}") from error
    if version > _VERSION:
        raise ArtefactError(
            f"{file} has trace format {version}, this version reads {_VERSION}: upgrade exeunt"
        )
    return header


def _lists(matrix: NDArray[Any]) -> Any:
    """Return (n, m) as n lists of m values."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _matrix(column: Any) -> NDArray[Any]:
    """Return n lists of m values as (n, m)."""
    flat = column.combine_chunks().flatten().to_numpy()
    return np.asarray(flat).reshape(len(column), column.type.list_size)
