"""`exeunt record`: what every exit says of inputs from disk, in a folder of parts; an interrupted recording goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from shlex import quote
from typing import TypeAlias

from exeunt._text import counted
from exeunt.data import Dataset
from exeunt.errors import InputError
from exeunt.predicting.answering import answered_blocks, check_inputs
from exeunt.predicting.blocks import Block, Job, blocks_of
from exeunt.predicting.part_folder import done_in, finish_folder, open_folder
from exeunt.predicting.parts import Parts, describe_job
from exeunt.predicting.progress import Progress
from exeunt.predicting.record_job import RecordJob, TraceColumns
from exeunt.predicting.tally import Tally
from exeunt.run.executors import chosen_executor
from exeunt.run.folder import RunFolder
from exeunt.trace.log_probability import keeps_log_probability, n_kept

Doing: TypeAlias = Callable[[Job, Dataset, Sequence[Block], Parts, Progress, Callable[[str], None]], None]
"""Does these blocks of a job, keeps their parts, counts them, and says what could not be read."""

__all__ = ["BLOCK", "Doing", "record_inputs", "recorded_text"]

BLOCK = 8192
"""Inputs of a part: an interruption loses at most so many."""


def record_inputs(
    run: RunFolder,
    inputs: Dataset,
    out: str,
    *,
    block_size: int = BLOCK,
    batch_size: int = 128,
    workers: int = 0,
    strict: bool = False,
    force: bool = False,
    probabilities: bool = False,
    executor: str | None = None,
    trusted: str | None = None,
    do_blocks: Doing | None = None,
    say: Callable[[str], None] = print,
) -> Tally:
    """Record what every exit says of every input, a Parquet part for each block of inputs; return what was counted.

    `out`: a folder, here or in an object store. A part is a trace (`ExitTrace.load`) with a column "name", the
    folder a `StoredTrace`. Inputs that cannot be read, or lead to values that are not finite, are left out and
    counted. Parts that an interrupted recording has written are kept, and a manifest is written once all are there.
    `probabilities`: keep those of the classes, however many there are in all; by default up to 2^28, as a trace does.
    `do_blocks`: what does the blocks in place of this process. The other options are those of `predict_inputs`.

    Raises InputError if there are no inputs, or of another kind than the network takes, if inputs differ in what they
    cost, or if `out` holds something else; UnreadableInput if `strict`.
    """
    job = _job(
        run, inputs, batch_size=batch_size, workers=workers, strict=strict, probabilities=probabilities,
        executor=executor, trusted=trusted,
    )  # fmt: skip
    about = {**describe_job(job, inputs, by_content=False), "block": block_size}
    parts = open_folder(out, about, force=force)
    blocks = list(blocks_of(len(inputs), block_size))
    total, left = done_in(parts, blocks)
    progress = Progress(None, len(inputs), total, block=block_size, say=say)
    (do_blocks or _here)(job, inputs, left, parts, progress, say)
    return finish_folder(parts, blocks)


def _here(
    job: Job,
    inputs: Dataset,
    blocks: Sequence[Block],
    parts: Parts,
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    for answered in answered_blocks(job, inputs, blocks, progress, say):
        parts.keep(job, answered)


def _job(
    run: RunFolder,
    inputs: Dataset,
    *,
    batch_size: int,
    workers: int,
    strict: bool,
    probabilities: bool,
    executor: str | None,
    trusted: str | None,
) -> RecordJob:
    """Return the job that records these inputs. Raises InputError as `record_inputs` does."""
    check_inputs(run, inputs)
    cost, classes = run.cost, run.manifest["class_names"]
    if cost.varies:
        raise InputError(
            f"inputs differ in what they cost under {run.path}, and only the means are known: record its models"
        )
    keeps = probabilities or keeps_log_probability(n_kept(len(inputs) * cost.n_exits, len(classes)))
    return RecordJob(
        run=run, cost=cost, columns=TraceColumns(classes, keeps), batch_size=batch_size, workers=workers,
        executor=chosen_executor(run, executor), strict=strict, trusted=trusted,
    )  # fmt: skip


def recorded_text(total: Tally, out: str, run: RunFolder) -> str:
    """Say what was recorded."""
    lines = [
        f"{total.n_answered:,} of {counted(total.n, 'input')} recorded at {counted(run.cost.n_exits, 'exit')}"
    ]
    if total.first_error is not None:
        lines.append(
            f"{counted(total.n_unanswered, 'input was', 'inputs were')} left out; the first: {total.first_error[1]}"
        )
    if total.n_labelled and total.comparable:
        lines.append(
            f"the last exit is right on {total.n_right / total.n_labelled:.2%} of "
            f"{counted(total.n_labelled, 'input')} with labels"
        )
    if total.note:
        lines.append(total.note)
    if total.n_truncated:
        lines.append(
            f"{counted(total.n_truncated, 'text was', 'texts were')} longer than the network takes and cut"
        )
    lines.append(
        f"written to {out}; next: exeunt calibrate {quote(str(run.path))} "
        f"--budget {run.cost.share_to_try(0.5):.0%} --traces {quote(str(out))}"
    )
    return "\n".join(lines)
