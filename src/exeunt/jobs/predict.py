"""`exeunt predict`: answering inputs from disk in order and resumably, and writing a row for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from exeunt._support.arrays import Floats, Integers, Keys
from exeunt._support.paths import AnyPath, place
from exeunt.data import Dataset
from exeunt.engine.engine import Engine
from exeunt.errors import InputError
from exeunt.jobs.batches import PreparedBatch
from exeunt.jobs.blocks import (
    Block,
    BlockEnd,
    DoneBlock,
    Job,
    OpenBlock,
    blocks_of,
    check_inputs,
    done_blocks,
)
from exeunt.jobs.parts import DoBlocks, do_here, fill_folder, open_parts
from exeunt.jobs.prediction_files import (
    WATCHED,
    PredictionColumns,
    check_mask_folder,
    check_out,
    csv_lines,
    write_mask_files,
    write_predictions,
)
from exeunt.jobs.summary import JobProgress, PredictionSummary, Tally
from exeunt.jobs.watching import watched_job
from exeunt.policy import Policy
from exeunt.runs.executors import chosen_executor
from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import SharedExecutor, open_shared
from exeunt.runs.streaming import Batch, answer_stream
from exeunt.score.mask_confidence import Masks
from exeunt.score.tie_breaking import row_keys

BLOCK, BLOCK_OF_MASKS = 2048, 256
"""Inputs per part. An interruption, or the death of a worker, loses the answers of the parts that are open."""
_ARRAYS = ("label", "confidence", "exit", "cost", "borderline", "score", "first_score", "tie")
_POOLS = 32  # at most so many times the rows of one call are held


def predict_inputs(
    run: RunFolder,
    inputs: Dataset,
    out: Path | TextIO,
    *,
    force: bool = False,
    masks_into: Path | None = None,
    say: Callable[[str], None] = print,
    **options: Any,
) -> PredictionSummary:
    """Answer every input with the run folder's network and policy, and write a row for each, in order.

    `out`: a file in the format that its ending names: .parquet (or none), .csv, .jsonl; or an open stream, which gets
    CSV. Columns: name, label, class_name, confidence, exit, cost, borderline, truncated, error for an input that cannot
    be read or answered (its other columns are then empty), and score and tie, which the watch needs; for `top` and
    `probabilities` see `PredictionColumns`; and last the columns that `inputs` keep (see `open_inputs`). Of a file, the
    parts that an interrupted run of the same job has answered are kept.
    `force`: replace a file that holds something else than predictions. `masks_into`: a folder that gets the masks as
    PNG files, see `write_mask_files`; `out` must be a file. `say`: gets the messages. `options`: those of
    `predict_job`.

    Raises InputError if there are no inputs, or of another kind than the network takes, or if `out` cannot be written
    or is being written by another process; UnreadableInput if `strict`.
    """
    check_inputs(run, inputs)
    if isinstance(out, Path):
        check_out(out, force=force)
    if masks_into is not None:
        check_mask_folder(run, masks_into, has_file=isinstance(out, Path))
    job = predict_job(run, kept=inputs.kept_types, **options)
    blocks = blocks_of(len(inputs), job.block_size)

    progress = partial(JobProgress, job.planned, len(inputs), block_size=job.block_size, say=say)

    def cells(shown: JobProgress) -> Iterator[Any]:
        for done in done_blocks(job, inputs, blocks, say):
            yield done.results
            shown.add(done.tally)

    if isinstance(out, Path):
        with open_parts(out, job.describe(inputs, by_content=True)) as parts:
            total, left = parts.done(blocks, whole=True)
            job = job.begin(inputs, left, folder=parts.folder, digest=parts.job, force=force)
            with progress(total) as shown:
                do_here(job, inputs, left, parts, shown, say)
            inputs.check_unchanged()
            write_predictions(out, job.written.schema, parts.files)
            if masks_into is not None:
                write_mask_files(parts.files, masks_into)
            return job.summary(shown.tally, out, parts.files)
    job = job.begin(inputs, blocks, force=force)
    with progress(Tally()) as shown:
        out.writelines(csv_lines(cells(shown)))
    return job.summary(shown.tally, None)


def predict_folder(
    run: RunFolder,
    inputs: Dataset,
    out: str,
    *,
    block_size: int | None = None,
    force: bool = False,
    say: Callable[[str], None] = print,
    do_blocks: DoBlocks = do_here,
    **options: Any,
) -> PredictionSummary:
    """Answer every input as `predict_inputs` does, and write a Parquet part per block of inputs.

    `out`: a folder, here or in an object store. It gets a manifest once all parts are there. Whatever dies, the same
    call goes on with the missing blocks. `block_size`: inputs per part, by default the job's. `do_blocks`: does the
    blocks in place of this process. `options`: those of `predict_job`.

    Raises InputError as `predict_inputs` does, or for a folder that holds something else.
    """
    check_inputs(run, inputs)
    job = predict_job(run, kept=inputs.kept_types, **options)
    size = job.block_size if block_size is None else block_size
    total = fill_folder(job, inputs, out, block_size=size, force=force, say=say, do_blocks=do_blocks)
    files: list[AnyPath] = sorted(place(out).absolute().glob("*.parquet"), key=str)
    return job.summary(total, out, files)


def predict_job(
    run: RunFolder,
    *,
    top: int = 0,
    probabilities: bool = False,
    kept: Mapping[str, Any] | None = None,
    group_column: str | None = None,
    executor: str | None = None,
    make: Callable[..., PredictJob] | None = None,
    **options: Any,
) -> PredictJob:
    """Return the job that answers inputs with a run folder's network and policy.

    `top`, `probabilities`, `kept`: see `PredictionColumns`. `group_column`: one of `kept`, which names the groups that
    inputs come in: of each the first row is watched for drift. `executor`: see `exeunt.load`. `make`: another kind
    of job, such as `exeunt.jobs.predict_live.LiveJob`. `options`: those of `Job`.

    Raises InputError as these do, for an executor that cannot run the network, or a column of groups that is not kept.
    """
    if group_column is not None and group_column not in (kept or {}):
        raise InputError(f"groups are a column that is kept: open_inputs(..., keep=[{group_column!r}])")
    written = PredictionColumns(run.manifest["class_names"], top, probabilities, kept or {}, masks=run.masks)
    executor = chosen_executor(run, executor)
    options |= {"run": run, "policy": run.policy, "written": written, "group_column": group_column}
    return (make or PredictJob)(executor=executor, **options)


@dataclass(frozen=True, kw_only=True)
class PredictJob(Job):
    """A job that answers inputs under a policy. `written`: the columns that it writes. `group_column`: one of them."""

    policy: Policy
    written: PredictionColumns
    group_column: str | None = None

    @property
    def block_size(self) -> int:
        """Inputs whose answers an interruption loses at most."""
        return BLOCK_OF_MASKS if self.written.masks else BLOCK

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are written."""
        return list(self.written.schema.names)

    def summary(
        self, total: Tally, out: Path | str | None, files: Sequence[AnyPath] = ()
    ) -> PredictionSummary:
        """Return the summary of all inputs; what is in `files` is watched for drift."""
        watched = watched_job(self.run, self.policy, files, total.n, self.group_column)
        return PredictionSummary.of_job(total, self.policy, out, watched)

    def _cost_apart(self, arrays: dict[str, Any]) -> Floats:
        """Return what answers (n,) cost if each is run alone."""
        return self.policy.cost.cumulative[arrays["exit"]]  # type: ignore[no-any-return]

    def open(self, threads: int | None = None) -> SharedExecutor:
        """Open the network for the policy."""
        return open_shared(
            self.run, {"": self.policy}, executor=self.executor, threads=threads, trusted=self.trusted
        )

    def answer(
        self,
        opened: SharedExecutor,
        arriving: Iterable[tuple[Block, PreparedBatch | BlockEnd]],
        *,
        ordered: bool = True,
    ) -> Iterator[DoneBlock]:
        """Yield each block once it is answered; see `Job.answer`.

        Rows of one block wait to be batched with rows of the next, so that late exits run full batches.
        """
        engine = Engine(
            opened.executor,
            opened.policies,
            opened.plan,
            exits=opened.exits,
            probabilities=self.written.needs_details,
        )
        blocks: dict[int, OpenBlock] = {}
        sent: dict[int, tuple[OpenBlock, Integers]] = {}  # by number of the batch

        def batches() -> Iterator[Batch]:
            numbers = count()
            for block, batch in arriving:
                into = blocks.setdefault(block.start, OpenBlock(block))
                if isinstance(batch, BlockEnd):
                    into.end = batch
                    continue
                into.take_in(batch, strict=self.strict)
                if len(batch.positions):
                    into.waits += 1
                    sent[next(numbers)] = into, batch.positions
                    yield Batch(batch.inputs, self._keys(batch, block))

        def take_done() -> Iterator[DoneBlock]:
            for start, block in list(blocks.items()):
                if block.end is not None and block.waits == 0:
                    yield self._done(blocks.pop(start), block.end, np.array(opened.places))
                elif ordered:
                    return

        for answers in answer_stream(engine, batches(), _POOLS * max(engine.plan.piece), ordered=ordered):
            into, positions = sent.pop(answers.batch)
            into.waits -= 1
            into.results.append((positions, answers))
            yield from take_done()
        yield from take_done()

    def _keys(self, batch: PreparedBatch, block: Block) -> Keys:
        """Return the keys that break ties: of the contents, or of the rows, the same whenever this job is run."""
        if self.policy is None or self.policy.ties == "content":
            return batch.keys
        return row_keys(("predict", block.start, batch.keys[:64].tolist()), batch.positions)

    def _done(self, block: OpenBlock, end: BlockEnd, places: Integers) -> DoneBlock:
        n, k = block.block.n, len(self.class_names)
        arrays = {
            "label": np.full(n, -1),
            "confidence": np.zeros(n),
            "exit": np.zeros(n, dtype=np.int64),
            "cost": np.zeros(n),
            "borderline": np.zeros(n, dtype=bool),
            "truncated": np.zeros(n, dtype=bool),
            **{name: np.full(n, np.nan) for name in WATCHED},
        }
        probabilities = np.zeros((n, k)) if self.written.needs_probabilities else None
        masks: dict[int, Masks] = {}
        for positions, answers in block.results:
            for name in _ARRAYS:
                if (values := getattr(answers, name)) is not None:
                    arrays[name][positions] = values
            if probabilities is not None and answers.probabilities is not None:
                probabilities[positions] = answers.probabilities
            if answers.masks is not None:
                rows_with_masks = zip(positions.tolist(), answers.masks, answers.valid, strict=True)
                masks |= {place: mask for place, mask, valid in rows_with_masks if valid}
        for positions in block.truncated:
            arrays["truncated"][positions] = True
        answered = arrays["label"] >= 0
        cost_apart = self._cost_apart(arrays)[answered].sum()
        arrays["exit"] = places[arrays["exit"]]  # among those of the run, whatever exits the policy asks
        errors = block.errors(np.flatnonzero(answered))
        why = [errors.get(i) for i in range(n)]
        cells = self.written.cells(end.names, arrays, why, probabilities, end.kept, masks)
        tally = Tally.of(
            block.block.start,
            cells["class_name"],
            end.truth,
            errors,
            n_borderline=int(arrays["borderline"][answered].sum()),
            n_truncated=int(arrays["truncated"][answered].sum()),
            cost=float(arrays["cost"][answered].sum()),
            cost_apart=float(cost_apart),
        )
        unreadable = [str(error) for _, error in block.unreadable]
        return DoneBlock(block.block, cells, tally, unreadable, self.written.schema)
