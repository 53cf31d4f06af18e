"""`exeunt record`: the outputs of every exit for inputs from disk, as resumable parts; and recording in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from exeunt._support.arrays import Booleans, Floats, Keys
from exeunt.costs.cost_model import CostModel
from exeunt.data import Dataset
from exeunt.engine.executor import Executor
from exeunt.errors import InputError
from exeunt.jobs.batches import PreparedBatch
from exeunt.jobs.blocks import NOT_FINITE, Block, BlockEnd, DoneBlock, Job, OpenBlock, check_inputs
from exeunt.jobs.parts import DoBlocks, do_here, fill_folder
from exeunt.jobs.summary import Tally
from exeunt.runs.executors import chosen_executor, open_executor
from exeunt.runs.folder import RunFolder
from exeunt.score.confidence import BEFORE_EXITS, MANY_CLASSES
from exeunt.trace import ExitTrace, concatenate
from exeunt.trace.combining import GrowingTrace
from exeunt.trace.log_probability import joined, keeps_log_probability, n_kept
from exeunt.trace.mask_trace import trace_of_logits
from exeunt.trace.parquet import trace_table, writing_options

BLOCK = 8192
"""Inputs per part. An interruption loses at most the outputs of one part."""


def record_inputs(
    run: RunFolder,
    inputs: Dataset,
    out: str,
    *,
    block_size: int = BLOCK,
    force: bool = False,
    probabilities: bool = False,
    do_blocks: DoBlocks = do_here,
    executor: str | None = None,
    say: Callable[[str], None] = print,
    **options: Any,
) -> Tally:
    """Record the outputs of every exit for every input, one Parquet part per block of inputs; return the counts.

    `out`: a folder, here or in an object store. A part is a trace (`ExitTrace.load`) with an additional column "name";
    the folder is a `StoredTrace`. Inputs that cannot be read, or lead to values that are not finite, are left out and
    counted. Parts that an interrupted recording has written are kept, and a manifest is written once all are there.
    `probabilities`: keep the class probabilities, however many there are in total; by default up to 2^28, as a trace
    does. `do_blocks`: does the blocks in place of this process. `executor`: see `exeunt.load`. `options`:
    those of `Job`.

    Raises InputError if there are no inputs, or inputs of another kind than the network takes, if inputs differ in
    their costs, or if `out` holds something else; UnreadableInput if `strict`.
    """
    check_inputs(run, inputs)
    if run.cost.varies:
        raise InputError(
            f"inputs differ in what they cost under {run.path}, and only the means are known: record its models"
        )
    if run.masks and probabilities:
        raise InputError("the probabilities of each pixel's classes are not kept: leave out --probabilities")
    n_logs = n_kept(len(inputs) * run.cost.n_exits, len(run.manifest["class_names"]))
    keeps_probabilities = not run.masks and (probabilities or keeps_log_probability(n_logs))
    executor = chosen_executor(run, executor)
    job = RecordJob(run=run, probabilities=keeps_probabilities, executor=executor, **options)
    return fill_folder(job, inputs, out, block_size=block_size, force=force, say=say, do_blocks=do_blocks)


@dataclass(frozen=True, kw_only=True)
class RecordJob(Job):
    """A job that runs every exit on every input. `probabilities`: keep the probability of every class as well.

    The parts hold the inputs that could be read and led to finite values, with their names.
    """

    policy: None = None
    probabilities: bool

    @property
    def columns(self) -> list[str]:
        """Names of what is recorded: a trace, and log-probabilities if they are kept."""
        column = "top_log_probability" if len(self.class_names) > MANY_CLASSES else "log_probability"
        return ["trace", *([column] if self.probabilities else [])]

    def open(self, threads: int | None = None) -> Executor:
        """Open the network with all its exits."""
        return open_executor(self.run, self.executor, threads=threads, trusted=self.trusted)

    def answer(
        self,
        opened: Executor,
        arriving: Iterable[tuple[Block, PreparedBatch | BlockEnd]],
        *,
        ordered: bool = True,  # noqa: ARG002 - no row waits, so blocks are done in the order in which they arrive
    ) -> Iterator[DoneBlock]:
        """Yield each block once it is recorded; see `Job.answer`."""
        blocks: dict[int, OpenBlock] = {}
        for block, batch in arriving:
            into = blocks.setdefault(block.start, OpenBlock(block))
            if isinstance(batch, BlockEnd):
                yield self._done(blocks.pop(block.start), batch)
            else:
                into.take_in(batch, strict=self.strict)
                if len(batch.positions):
                    logits, gate = all_outputs(opened, batch.inputs)
                    finite = _finite(logits, gate)
                    outputs = [logit[finite] for logit in logits]
                    told = None if gate is None else gate[finite]
                    trace = self._trace(outputs, batch.keys[finite], opened.mask_scale, told)
                    into.results.append((batch.positions[finite], trace))

    def _trace(
        self, logits: list[Floats], keys: Keys, mask_scale: int = 1, gate: Floats | None = None
    ) -> ExitTrace:
        trace = trace_of_logits(logits, cost=self.run.cost, id=keys, mask_scale=mask_scale, gate=gate)
        return trace if self.probabilities else replace(trace, log_probability=None)

    def _done(self, block: OpenBlock, end: BlockEnd) -> DoneBlock:
        nothing = np.empty((0, len(self.class_names), *((1, 1) if self.run.masks else ())))
        results = block.results
        if not results:
            gate = self.run.trace("test").features[BEFORE_EXITS][:0] if self.run.has_gate else None
            none = self._trace([nothing] * self.run.cost.n_exits, np.empty(0, np.uint64), gate=gate)
            results = [(np.empty(0, np.int64), none)]
        rows = np.concatenate([positions for positions, _ in results])
        errors, order = block.errors(rows), np.argsort(rows, kind="stable")
        rows, traces = rows[order], [trace for _, trace in results]
        logs = [trace.log_probability for trace in traces if trace.log_probability is not None]
        # A trace drops or rounds log-probabilities by its size; all parts must keep them in the same form.
        log_probability = joined(logs, axis=0)[order].astype(np.float32) if self.probabilities else None
        trace = concatenate([replace(trace, log_probability=None) for trace in traces]).take(order)
        codes: dict[str | None, int] = {name: k for k, name in enumerate(self.class_names)}
        truth = end.truth.names or [None] * block.block.n
        label = np.array([codes.get(truth[row], -1) for row in rows.tolist()], dtype=np.int64)
        table = trace_table({**vars(trace), "label": label, "log_probability": log_probability})
        names = [end.names[row] for row in rows.tolist()]
        table = table.append_column("name", pa.array(names, type=pa.string()))
        last = dict(zip(rows.tolist(), trace.prediction[:, -1].tolist(), strict=True))
        answers = [self.class_names[last[row]] if row in last else None for row in range(block.block.n)]
        n_truncated = sum(map(len, block.truncated))
        tally = Tally.of(block.block.start, answers, end.truth, errors, n_truncated=n_truncated)
        why_not = sorted(errors.items())
        messages = [f"{end.names[i]}: {why}" if why == NOT_FINITE else why for i, why in why_not]
        return DoneBlock(block.block, table, tally, messages, options=writing_options(table))


def record_data(
    executor: Executor,
    data: Dataset,
    batches: Iterable[PreparedBatch],
    *,
    cost: CostModel,
    prepare: Any = None,
) -> ExitTrace:
    """Return the trace of all inputs, in the order of `data`, by their content keys.

    `batches`: the data, prepared. `prepare`: how, where they have masks. Raises UnreadableInput for the first input
    that cannot be read, InputError for one that leads to values that are not finite.
    """
    recorded, places = GrowingTrace(), []
    for batch in batches:
        if batch.unreadable:
            raise batch.unreadable[0][1]
        logits, gate = all_outputs(executor, batch.inputs)
        finite = _finite(logits, gate)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise InputError(f"the network's output for {data.name(int(batch.positions[row]))} is not finite")
        label = data.targets(batch.positions, prepare)
        scale = executor.mask_scale
        recorded.add(
            trace_of_logits(logits, cost=cost, label=label, id=batch.keys, mask_scale=scale, gate=gate)
        )
        places.append(batch.positions)
    return recorded.whole().take(np.argsort(np.concatenate(places), kind="stable"))


def _finite(logits: list[Floats], gate: Floats | None) -> Booleans:
    """Return which inputs have finite outputs at every exit and at the gate, (b,)."""
    outputs = [*logits, *([] if gate is None else [gate])]
    finite = [np.isfinite(output).all(axis=tuple(range(1, output.ndim))) for output in outputs]
    return np.asarray(np.all(finite, axis=0))


def all_outputs(executor: Executor, inputs: Any) -> tuple[list[Floats], Floats | None]:
    """Return the logits of every exit for a batch of prepared inputs, (b, k), or of masks (b, k, h, w).

    Then what the network's gate tells, (b, f); None without a gate.
    """
    state, outputs = executor.start(inputs)[0], []
    gate = [BEFORE_EXITS] if getattr(executor, "has_gate", False) else []
    for segment, (first, last) in enumerate(executor.segments):
        wanted = [*(gate if segment == 0 else ()), *range(first, last + 1)]
        logits, state = executor.run(segment, state, wanted)
        outputs += logits
    return outputs[len(gate) :], outputs[0] if gate else None
