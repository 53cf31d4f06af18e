"""Recording what every exit says of blocks of inputs: a job whose parts are traces, see `exeunt.trace.parquet`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from exeunt._arrays import Integers
from exeunt.costs import CostModel
from exeunt.engine.executor import Executor
from exeunt.predicting.batches import PreparedBatch
from exeunt.predicting.blocks import NO_ANSWER, AnsweredBlock, Block, BlockEnd, Job, check_arrived
from exeunt.predicting.recording import all_logits
from exeunt.predicting.tally import Tally
from exeunt.run.executors import open_executor
from exeunt.score.confidence import MANY_CLASSES
from exeunt.trace import ExitTrace, concatenate
from exeunt.trace.log_probability import joined
from exeunt.trace.parquet import trace_table, writing_options

__all__ = ["RecordJob", "TraceColumns"]


class TraceColumns(NamedTuple):
    """What is recorded of inputs of a network with these classes. `probabilities`: those of every class as well."""

    class_names: Sequence[str]
    probabilities: bool

    @property
    def types(self) -> dict[str, str]:
        """What tells one way of recording from another."""
        kept = "top_log_probability" if len(self.class_names) > MANY_CLASSES else "log_probability"
        return {"trace": "", **({kept: ""} if self.probabilities else {})}


@dataclass(frozen=True, kw_only=True)
class RecordJob(Job):
    """A job that asks every exit, and no policy. `cost`: of the exits.

    The parts hold the inputs that could be read and led to finite values, with their names.
    """

    cost: CostModel
    columns: TraceColumns  # type: ignore[assignment]
    policy: Any = None

    def open(self, threads: int | None = None) -> Executor:  # type: ignore[override]
        """Open the network with all its exits."""
        return open_executor(self.run, self.executor, threads=threads, trusted=self.trusted)

    def answer(
        self,
        shared: Executor,  # type: ignore[override]
        arriving: Iterable[tuple[Block, PreparedBatch | BlockEnd]],
        *,
        ordered: bool = True,  # noqa: ARG002 - no row waits, so blocks are done in the order in which they arrive
    ) -> Iterator[AnsweredBlock]:
        """Record what `read` yielded of blocks; yield each of them once all of it has come."""
        heard: defaultdict[int, _Heard] = defaultdict(_Heard)
        for block, item in arriving:
            if isinstance(item, BlockEnd):
                yield self._recorded(block, heard.pop(block.start, _Heard()), item)
                continue
            if item.unreadable and self.strict:
                raise item.unreadable[0][1]
            heard[block.start].add(item, *self._trace(shared, item))

    def part(self, answered: AnsweredBlock) -> tuple[Any, dict[str, Any]]:
        """Return the table of a block's part, and the options of `pyarrow.parquet.write_table` to write it by."""
        table: Any = answered.cells["table"]
        return table, writing_options(table)

    def _trace(self, executor: Executor, batch: PreparedBatch) -> tuple[Integers, ExitTrace]:
        """Return the positions of the inputs of a batch that led to finite values, and what the exits say of them."""
        if not len(batch.positions):
            return batch.positions, self._nothing
        logits = all_logits(executor, batch)
        finite = np.isfinite(logits).all(axis=(1, 2))
        trace = ExitTrace.from_logits(logits[finite], cost=self.cost, id=batch.keys[finite])
        kept = trace if self.columns.probabilities else replace(trace, log_probability=None)
        return batch.positions[finite], kept

    @property
    def _nothing(self) -> ExitTrace:
        """The trace of no inputs."""
        logits = np.empty((0, self.cost.n_exits, len(self.columns.class_names)))
        return ExitTrace.from_logits(logits, cost=self.cost, id=np.empty(0, dtype=np.uint64))

    def _recorded(self, block: Block, heard: _Heard, end: BlockEnd) -> AnsweredBlock:
        check_arrived(block, heard.read, heard.unreadable)
        names = np.array(end.names, dtype=object)
        codes = {name: k for k, name in enumerate(self.columns.class_names)}
        truth = end.truth.names or [None] * block.n
        labels = np.array([-1 if name is None else codes.get(name, -1) for name in truth], dtype=np.int64)
        order = np.argsort(
            positions := np.concatenate([*heard.positions, np.empty(0, dtype=np.int64)]), kind="stable"
        )
        traces = heard.traces or [self._nothing]
        logs = [trace.log_probability for trace in traces if trace.log_probability is not None]
        # A trace would keep them by its size, and all parts must keep them alike.
        kept = joined(logs, axis=0)[order].astype(np.float32) if self.columns.probabilities else None
        bare = [replace(trace, log_probability=None) for trace in traces]
        rows, trace = positions[order], concatenate(bare).take(order)
        label, last = labels[rows], trace.prediction[:, -1]
        table = trace_table({**vars(trace), "label": label, "log_probability": kept})
        table = table.append_column("name", pa.array(names[rows].tolist(), type=pa.string()))
        errors = {place: str(error) for place, error in heard.unreadable}
        errors |= dict.fromkeys(set(range(block.n)) - set(rows.tolist()) - set(errors), NO_ANSWER)
        first = min(errors.items(), default=None)
        tally = Tally(
            n=block.n,
            n_unanswered=len(errors),
            n_truncated=heard.n_truncated,
            n_labelled=int(np.count_nonzero(label >= 0)),
            n_unknown=sum(truth[row] is not None and truth[row] not in codes for row in rows.tolist()),
            n_right=int(np.count_nonzero(last == label)),
            first_error=None if first is None else (block.start + first[0], first[1]),
            unknown=end.truth.unknown[:6],
            comparable=end.truth.comparable,
        )
        told = [
            f"{names[place]}: {why}" if why == NO_ANSWER else why for place, why in sorted(errors.items())
        ]
        return AnsweredBlock(block, {"table": table}, tally, told)


@dataclass
class _Heard:
    """What has come of a block so far. `read`: places of the inputs that could be read; `positions`: of the traces."""

    read: list[Integers] = field(default_factory=list)
    positions: list[Integers] = field(default_factory=list)
    traces: list[ExitTrace] = field(default_factory=list)
    unreadable: list[tuple[int, Exception]] = field(default_factory=list)
    n_truncated: int = 0

    def add(self, batch: PreparedBatch, positions: Integers, trace: ExitTrace) -> None:
        """Add what the exits say of the inputs of a batch at these positions."""
        self.read.append(batch.positions)
        self.positions.append(positions)
        self.traces.append(trace)
        self.unreadable += batch.unreadable
        self.n_truncated += int(np.count_nonzero(batch.truncated))
