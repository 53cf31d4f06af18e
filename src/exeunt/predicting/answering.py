"""Answering many inputs from disk: in order, so that an interrupted run can resume, and naming unreadable inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from exeunt._words import counted
from exeunt.data.dataset import Texts
from exeunt.engine.stream_pool import Batch
from exeunt.errors import InputError
from exeunt.predicting.batches import prepared_batches
from exeunt.predicting.columns import Columns
from exeunt.predicting.formats import arrow_table, check_out, csv_lines, read_cells, write_predictions
from exeunt.predicting.parts import describe_job, open_parts
from exeunt.predicting.summary import COUNTED, PredictionSummary, Tally, true_classes
from exeunt.run.executors import default_executor
from exeunt.run.preparation import text_columns
from exeunt.run.runner import Runner, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exeunt._arrays import Floats, Integers
    from exeunt.data import Dataset, UnreadableInput
    from exeunt.predicting.batches import PreparedBatch
    from exeunt.predicting.columns import Cells
    from exeunt.run.folder import RunFolder

__all__ = ["predict_inputs"]

_CHUNK = 2048  # inputs per part: an interruption loses at most so many answers
_NO_ANSWER = "the network's output for this input is not finite"


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
    kind = run.manifest["inputs"]["kind"]
    if inputs.kind != kind:
        raise InputError(f"the network of {run.path} takes inputs of kind {kind!r}, got {inputs.kind!r}")
    if isinstance(inputs, Texts):
        _check_pairs(run, inputs)
    if len(inputs) == 0:
        raise InputError("there are no inputs to predict")
    if isinstance(out, Path):
        check_out(out, force=force)
    columns = Columns(run.manifest["class_names"], top, probabilities)
    executor = default_executor(run) if executor is None else executor
    answering = _Answering(
        run=run, inputs=inputs, columns=columns, batch_size=batch_size, workers=workers, strict=strict,
        executor=executor, trusted=trusted, say=say,
    )  # fmt: skip
    truth, note = true_classes(inputs, columns.class_names)
    tally = Tally(run.policy, truth)
    if isinstance(out, Path):
        _to_file(answering, out, tally)
    else:
        for line in csv_lines(columns.types, _counted(answering, tally)):
            out.write(line)
    if note:
        say(note)
    return tally.summary(out if isinstance(out, Path) else None)


def _check_pairs(run: RunFolder, texts: Texts) -> None:
    """Raise InputError for pairs of texts where the network reads single ones, and the other way round."""
    columns = text_columns(run)
    if texts.per_input != len(columns):
        words = {1: "single texts", 2: "pairs of texts"}
        raise InputError(
            f"the network of {run.path} was trained on {words[len(columns)]} ({', '.join(columns)}), these inputs are "
            f"{words[texts.per_input]}: give a table, and name its columns (--text-column)"
        )


def _to_file(answering: _Answering, out: Path, tally: Tally) -> None:
    types = answering.columns.types
    job = describe_job(
        answering.inputs, answering.run, answering.executor, list(types), strict=answering.strict
    )
    with open_parts(out, job) as parts:
        for start, n in answering.chunks:
            if not parts.has(start, n):
                parts.write(start, arrow_table(types, answering.cells(start, n)))
                answering.say_done(start + n)
        for file in parts.files:
            tally.add(read_cells(file, COUNTED))
        write_predictions(out, types, parts.files)


def _counted(answering: _Answering, tally: Tally) -> Iterator[Cells]:
    for start, n in answering.chunks:
        cells = answering.cells(start, n)
        tally.add(cells)
        yield cells
        answering.say_done(start + n)


@dataclass(frozen=True, kw_only=True)
class _Answering:
    """Answers a range of the inputs after the other."""

    run: RunFolder
    inputs: Dataset
    columns: Columns
    batch_size: int
    workers: int
    strict: bool
    executor: str
    trusted: str | None
    say: Callable[[str], None]

    @cached_property
    def _runner(self) -> Runner:
        """The runner, loaded when the first input is answered."""
        wanted = self.columns.needs_probabilities
        return load(self.run, executor=self.executor, trusted=self.trusted, probabilities=wanted)

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """First input and number of inputs of each range."""
        n = len(self.inputs)
        return [(start, min(_CHUNK, n - start)) for start in range(0, n, _CHUNK)]

    def cells(self, start: int, n: int) -> Cells:
        """Answer n inputs from this one on, and say which of them cannot be read."""
        chunk = self.inputs.take(np.arange(start, start + n))
        unreadable: list[tuple[int, UnreadableInput]] = []
        batches = prepared_batches(self.run, chunk, batch_size=self.batch_size, workers=self.workers)
        answers, errors, probabilities = self._answered(self._readable(batches, unreadable), n)
        for position, error in unreadable:
            errors[position] = str(error)
            self.say(str(error))
        return self.columns.cells([chunk.name(i) for i in range(n)], answers, errors, probabilities)

    def say_done(self, n: int) -> None:
        """Say that n inputs are done, unless that is soon said of all."""
        if len(self.inputs) > _CHUNK:
            self.say(f"{n:,} of {counted(len(self.inputs), 'input')} done")

    def _readable(
        self, batches: Iterator[PreparedBatch], unreadable: list[tuple[int, UnreadableInput]]
    ) -> Iterator[PreparedBatch]:
        """Yield the batches that have inputs, and note what could not be read; raise it if strict."""
        for batch in batches:
            if batch.unreadable and self.strict:
                raise batch.unreadable[0][1]
            unreadable += batch.unreadable
            if len(batch.positions):
                yield batch

    def _answered(
        self, batches: Iterator[PreparedBatch], n: int
    ) -> tuple[dict[str, Any], list[str | None], Floats | None]:
        """Return the columns of n inputs, with label -1 where there is no answer; why; and all probabilities (n, k)."""
        columns: dict[str, Any] = {
            "label": np.full(n, -1),
            "confidence": np.zeros(n),
            "exit": np.zeros(n, dtype=np.int64),
            "cost": np.zeros(n),
            "borderline": np.zeros(n, dtype=bool),
        }
        truncated = np.zeros(n, dtype=bool)
        errors: list[str | None] = [None] * n
        k = len(self.columns.class_names)
        probabilities = np.zeros((n, k)) if self.columns.needs_probabilities else None
        places: list[Integers] = []

        def keyed() -> Iterator[Batch]:
            for batch in batches:
                places.append(batch.positions)
                truncated[batch.positions] = batch.truncated
                yield Batch(batch.inputs, batch.keys)

        for answers in self._runner.stream(keyed()):
            place = places[answers.batch]
            for name, column in columns.items():
                column[place] = getattr(answers, name)
            if probabilities is not None and answers.probabilities is not None:
                probabilities[place] = answers.probabilities
            for unanswered in place[~answers.valid].tolist():
                errors[unanswered] = _NO_ANSWER
        return {**columns, "truncated": truncated}, errors, probabilities
