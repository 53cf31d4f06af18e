"""Recorded outputs that do not fit in memory: Parquet files in a folder, read a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exeunt._support.arrays import Keys
from exeunt._support.paths import (
    AnyPath,
    changed,
    is_remote,
    open_arrow,
    place,
    read_patiently,
    size_and_time,
    unlisted,
)
from exeunt._support.text import counted
from exeunt.costs.cost_model import CostModel
from exeunt.errors import ArtefactError, FileError, InputError, one_line
from exeunt.score.confidence import LOG_PROBABILITY
from exeunt.score.tie_breaking import row_keys
from exeunt.trace.cascade_trace import CascadeTrace
from exeunt.trace.exit_trace import ExitTrace
from exeunt.trace.fields import digest_of_ids, first_rows
from exeunt.trace.parquet import FEATURES_OF, LOGS, ROW, SCORE, Header, read_header, trace_of

if TYPE_CHECKING:
    from exeunt.trace.cascade_step import CascadeStep

_Change: TypeAlias = Callable[[ExitTrace], ExitTrace]

_BYTES, _MOST_ROWS = 1 << 25, 1 << 16
"""Size of a chunk as stored, about, and the most inputs of a chunk."""

_AT_ONCE = 16  # footers that are read at the same time

_READ = ("id", ROW, "prediction", *LOGS)


@dataclass(frozen=True, eq=False)
class StoredTrace:
    """The recorded outputs in `files` written by `ExitTrace.save`, of `n` inputs in all; `open` finds them.

    Policies made by an allocation accept one as their calibration part, and get the same thresholds as from an
    `ExitTrace`. `models`: for the trace of a cascade of all its models in a row, the exits of each model; such a
    trace takes the place of a `CascadeTrace`. `changes` are applied to each chunk when it is read. `say` reports the
    progress of a calibration.
    """

    groups: ClassVar[None] = None
    """None: inputs that come in groups must fit in memory, see `open`."""

    files: tuple[AnyPath, ...]
    n: int
    cost: CostModel
    columns: tuple[str, ...] = ()
    models: tuple[CascadeStep, ...] = ()
    changes: tuple[_Change, ...] = ()
    say: Callable[[str], None] = field(default=lambda _: None)
    _found: tuple[tuple[int, int], ...] = ()
    _shared: dict[bytes, int] = field(default_factory=dict)
    _some: list[int] = field(default_factory=list)
    _digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        models: Sequence[CascadeStep] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> StoredTrace:
        """Open the Parquet files in a folder or at an address, in the order of their names.

        Raises InputError if there are none, they differ in their costs or columns, inputs differ in cost, or
        rows come in groups;
        ArtefactError for a file that is damaged, foreign or newer.
        """
        path = place(folder)
        listed: Iterator[AnyPath] = path.glob("*.parquet") if path.is_dir() else iter(())
        if not (files := tuple(map(unlisted, sorted(listed, key=str)))):
            raise InputError(
                f"{folder} is no folder of recorded outputs: it has no .parquet file; `exeunt record` or "
                "ExitTrace.save writes them"
            )
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # an object store answers slowly
            footers, stamps = list(pool.map(_footer, files)), tuple(pool.map(size_and_time, files))
        first, cost = footers[0], footers[0].header.cost
        if any(footer.header.rows_per_group for footer in footers):
            raise InputError(
                f"the inputs in {folder} come in groups: such a trace must fit in memory, see ExitTrace.load"
            )
        for file, footer in zip(files, footers, strict=True):
            if footer.header.cost != cost:
                raise InputError(
                    f"{file} has other costs than {files[0]}: keep traces of other networks elsewhere"
                )
            if footer.columns != first.columns:
                raise InputError(f"{file} has other columns than {files[0]}: record both in one way")
        if cost.varies:
            raise InputError(
                f"inputs differ in what they cost in {folder}: such a trace must fit in memory, see ExitTrace.load"
            )
        n, columns = sum(footer.rows for footer in footers), tuple(first.schema.names)
        opened = cls(files, n, cost, columns, tuple(models), say=say, _found=stamps)
        if models and sum(step.n_exits for step in models) != opened.n_exits:
            raise InputError(
                f"{folder} holds the outputs of {counted(opened.n_exits, 'exit')}, and the models have "
                f"{', '.join(f'{step.model} {step.n_exits}' for step in models)}: record all of them in a row, as "
                "`exeunt record` does for a cascade"
            )
        return opened

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return self.cost.n_exits

    @property
    def has_log_probability(self) -> bool:
        """Whether the files hold log-probabilities."""
        return LOG_PROBABILITY in self.columns

    def chunks(self, scores: Collection[str] | None = None) -> Iterator[ExitTrace]:
        """Yield the inputs in order, a chunk at a time, without labels.

        `scores`: names of the scores to read, by default all. All are read as well if the files lack one of them, or
        if there are changes, which may need any. Log-probabilities are read together with all scores.
        Raises ArtefactError for a damaged file, InputError for one that has changed, FileError if its store does not
        answer.
        """
        for file in self._each():
            footer = _footer(file)
            schema, named = footer.schema, {SCORE + name for name in scores or ()}
            wanted = [name for name in schema.names if name in _READ or name.startswith((SCORE, FEATURES_OF))]
            if scores is not None and not self.changes and named <= {*wanted}:
                wanted = [name for name in wanted if name in {"id", ROW, "prediction", *named}]
            width = sum(getattr(schema.field(name).type, "list_size", 1) for name in wanted)
            width += footer.header.classes * (LOG_PROBABILITY in wanted)  # one exit is made dense at a time
            max_rows = max(1, min(_MOST_ROWS, _BYTES // (8 * width)))
            for table in self._with_rows(file, footer, wanted, max_rows):
                chunk = trace_of(table, footer.header, file, ExitTrace)
                for change in self.changes:
                    chunk = change(chunk)
                yield chunk

    def n_shared(self, rows: Keys) -> int:
        """Return how many rows have one of these keys."""
        name = rows.tobytes()
        if name not in self._shared:
            blocks = (self._with_rows(file, _footer(file), ["id"], _MOST_ROWS) for file in self._each())
            shared, some = 0, np.empty(0, dtype=np.uint64)
            for block in (table[ROW].to_numpy() for tables in blocks for table in tables):
                shared += int(np.isin(block, rows).sum())
                some = first_rows(np.concatenate([some, block]))
            self._shared[name] = shared
            self._some[:] = some.tolist()
        return self._shared[name]

    @property
    def some_rows(self) -> list[int]:
        """The keys of some rows, as those of an `ExitTrace`."""
        if not self._some:
            self.n_shared(np.empty(0, dtype=np.uint64))
        return list(self._some)

    def _each(self) -> Iterator[AnyPath]:
        """Yield the files. Raises InputError after one whose size or time differs from when it was opened."""
        for file, stamp in zip(self.files, self._found, strict=True):
            yield file
            if size_and_time(file) != stamp:
                raise changed(file)

    def _with_rows(
        self, file: AnyPath, footer: _Footer, columns: Sequence[str], max_rows: int
    ) -> Iterator[Any]:
        """Yield columns of a file and the keys of its rows, which a file of a whole trace does not hold."""
        if ROW in footer.schema.names:  # not all files of a folder need hold them
            yield from _tables(file, [*dict.fromkeys([*columns, ROW])], max_rows)
            return
        if str(file) not in self._digests:
            ids = (table["id"].to_numpy() for table in _tables(file, ["id"], _MOST_ROWS))
            self._digests[str(file)] = digest_of_ids(ids)
        start = 0
        for table in _tables(file, columns, max_rows):
            rows = row_keys(self._digests[str(file)], np.arange(start, start + table.num_rows))
            yield table.append_column(ROW, pa.array(rows))
            start += table.num_rows

    def mapped(self, change: _Change, cost: CostModel | None = None) -> StoredTrace:
        """Return a trace that applies `change` to each chunk. `cost`: of the changed chunks, if it differs."""
        return replace(self, changes=(*self.changes, change), cost=self.cost if cost is None else cost)

    def along(self, cascade: Sequence[CascadeStep], *, reference: str | None = None) -> StoredTrace:
        """Return the trace of the exits that a cascade runs, as `along` of `ExitTrace` or `CascadeTrace` does."""

        def change(chunk: ExitTrace) -> ExitTrace:
            if not self.models:
                return chunk.along(cascade)
            return CascadeTrace.of(chunk, self.models).along(cascade, reference=reference)

        nothing = np.empty((0, self.n_exits))
        empty = ExitTrace.from_scores(nothing, nothing, cost=self.cost, name="margin")
        return replace(self.mapped(change, change(empty).cost), models=())

    def with_cost(self, cost: CostModel) -> StoredTrace:
        """Return the same outputs with other costs."""
        return self.mapped(lambda chunk: chunk.with_cost(cost), cost)

    def __repr__(self) -> str:
        return f"StoredTrace({self.n:,} inputs in {len(self.files):,} files, {self.n_exits} exits)"


class _Footer(NamedTuple):
    rows: int
    schema: Any
    header: Header

    @property
    def columns(self) -> tuple[int, dict[str, Any]]:
        """The number of many classes, and the type of each column that all files of a folder must have."""
        return self.header.classes, {field.name: field.type for field in self.schema if field.name != ROW}


def _footer(file: AnyPath) -> _Footer:
    def read() -> _Footer:
        with open_arrow(file) as source, pq.ParquetFile(source) as opened:
            schema = opened.schema_arrow
            return _Footer(opened.metadata.num_rows, schema, read_header(schema, file))

    try:
        return read_patiently(file, read)
    except FileError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ArtefactError(f"{file} is not a readable Parquet file: {one_line(error)}") from None


def _tables(file: AnyPath, columns: Sequence[str], rows: int) -> Iterator[Any]:
    """Yield columns of a file, at most `rows` rows at a time."""
    try:
        with open_arrow(file) as source, pq.ParquetFile(source, page_checksum_verification=True) as opened:
            for batch in opened.iter_batches(batch_size=rows, columns=list(columns)):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and is_remote(file):  # a store that does not answer is no damage
            raise FileError(f"cannot read {file}: {one_line(error)}") from error
        raise ArtefactError(f"{file} is damaged: {one_line(error)}") from error
