"""Answering many inputs from disk: in order, so that an interrupted run can resume, and naming unreadable inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from exeunt.data import Dataset
from exeunt.data.dataset import Texts
from exeunt.errors import InputError
from exeunt.predicting.batches import PreparedBatch
from exeunt.predicting.blocks import AnsweredBlock, Block, BlockEnd, Job, blocks_of
from exeunt.predicting.columns import Columns
from exeunt.predicting.formats import check_out, csv_lines, write_predictions
from exeunt.predicting.parts import describe_job, open_parts
from exeunt.predicting.progress import Progress
from exeunt.predicting.summary import PredictionSummary
from exeunt.predicting.tally import Tally
from exeunt.run.executors import chosen_executor
from exeunt.run.folder import RunFolder
from exeunt.run.inputs import text_columns

__all__ = ["BLOCK", "answered_blocks", "check_inputs", "predict_inputs", "predict_job"]

BLOCK = 2048
"""Inputs of a part: an interruption, or the death of a worker, loses at most so many answers for each open part."""


def predict_inputs(
    run: RunFolder,
    inputs: Dataset,
    out: Path | TextIO,
    *,
    batch_size: int = 128,
    workers: int = 0,
    strict: bool = False,
    force: bool = False,
    top: int = 0,
    probabilities: bool = False,
    executor: str | None = None,
    trusted: str | None = None,
    say: Callable[[str], None] = print,
) -> PredictionSummary:
    """Answer every input with the run folder's network and policy, and write a row for each, in order.

    `out`: a file, whose ending says in which format: .parquet (or none), .csv, .jsonl; or an open stream, which gets
    CSV. Columns: name, label, class_name, confidence, exit, cost, borderline, truncated, and error for an input that
    cannot be read or answered (its other columns are then empty); for `top` and `probabilities` see `Columns`. Of a
    file, parts that an interrupted run of the same job has answered are kept.
    `workers`: threads that decode images while the network runs. `force`: replace a file that holds something else
    than predictions. `executor`, `trusted`: see `exeunt.run.load`.

    Raises InputError if there are no inputs, or of another kind than the network takes, or if `out` cannot be written
    or is being written by another process; UnreadableInput if `strict`.
    """
    check_inputs(run, inputs)
    if isinstance(out, Path):
        check_out(out, force=force)
    job = predict_job(
        run, batch_size=batch_size, workers=workers, strict=strict, top=top, probabilities=probabilities,
        executor=executor, trusted=trusted,
    )  # fmt: skip
    total = (
        _to_file(job, inputs, out, say) if isinstance(out, Path) else _to_stream(job, inputs, out, say)
    ).total
    if total.note:
        say(total.note)
    return total.summary(job.policy, out if isinstance(out, Path) else None)


def predict_job(
    run: RunFolder,
    *,
    top: int = 0,
    probabilities: bool = False,
    executor: str | None = None,
    **options: Any,
) -> Job:
    """Return how inputs are answered. The options are those of `predict_inputs`."""
    columns = Columns(run.manifest["class_names"], top, probabilities)
    name = chosen_executor(run, executor)
    return Job(run=run, policy=run.policy, columns=columns, executor=name, **options)


def _to_file(job: Job, inputs: Dataset, out: Path, say: Callable[[str], None]) -> Progress:
    types, n = job.columns.types, len(inputs)
    with open_parts(out, describe_job(job, inputs)) as parts:
        total, left = parts.done(blocks_of(n, BLOCK))
        progress = Progress(job.policy, n, total, block=BLOCK, say=say)
        for answered in answered_blocks(job, inputs, left, progress, say):
            parts.keep(job, answered)
        write_predictions(out, types, parts.files)
    return progress


def _to_stream(job: Job, inputs: Dataset, out: TextIO, say: Callable[[str], None]) -> Progress:
    n = len(inputs)
    progress = Progress(job.policy, n, Tally(), block=BLOCK, say=say)
    answered = answered_blocks(job, inputs, list(blocks_of(n, BLOCK)), progress, say)
    for line in csv_lines(job.columns.types, (block.cells for block in answered)):
        out.write(line)
    return progress


def answered_blocks(
    job: Job,
    inputs: Dataset,
    blocks: Sequence[Block],
    progress: Progress,
    say: Callable[[str], None],
) -> Iterator[AnsweredBlock]:
    """Read the blocks one after the other and yield them answered, counted once they were taken."""

    def arriving() -> Iterator[tuple[Block, PreparedBatch | BlockEnd]]:
        for block in blocks:
            yield from ((block, item) for item in job.read(inputs.block(block.start, block.n)))

    if blocks:
        for answered in job.answer(job.open(), arriving()):
            for why in answered.unreadable:
                say(why)
            yield answered
            progress.add(answered.tally)


def check_inputs(run: RunFolder, inputs: Dataset) -> None:
    """Raise InputError if there are no inputs, or of another kind than the run's network takes."""
    kind = run.manifest["inputs"]["kind"]
    if inputs.kind != kind:
        raise InputError(f"the network of {run.path} takes inputs of kind {kind!r}, got {inputs.kind!r}")
    if isinstance(inputs, Texts):
        _check_pairs(run, inputs)
    if len(inputs) == 0:
        raise InputError("there are no inputs to predict")


def _check_pairs(run: RunFolder, texts: Texts) -> None:
    """Raise InputError for pairs of texts where the network reads single ones, and the other way round."""
    columns = text_columns(run)
    if texts.per_input != len(columns):
        words = {1: "single texts", 2: "pairs of texts"}
        raise InputError(
            f"the network of {run.path} was trained on {words[len(columns)]} ({', '.join(columns)}), these inputs are "
            f"{words[texts.per_input]}: give a table, and name its columns (--text-column)"
        )
