"""Blocks of inputs: reading one in batches, and answering many of them with one engine.

Rows of a block wait for company from the next ones, so that late exits run full. Blocks may be read by other processes
than the one that answers them, and their batches may arrive mixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from exeunt._arrays import Integers
from exeunt.data import Dataset, UnreadableInput
from exeunt.engine.answers import Answers
from exeunt.engine.engine import Engine
from exeunt.engine.stream import Batch
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.predicting.batches import PreparedBatch, batches_by
from exeunt.predicting.columns import Cells, Columns
from exeunt.predicting.formats import arrow_table
from exeunt.predicting.tally import Tally, Truth, true_classes
from exeunt.run.folder import RunFolder
from exeunt.run.inputs import load_preparation
from exeunt.run.shared_executor import SharedExecutor, open_shared
from exeunt.run.streaming import answer_stream

__all__ = ["NO_ANSWER", "AnsweredBlock", "Block", "BlockEnd", "Job", "blocks_of", "check_arrived"]

NO_ANSWER = "the network's output for this input is not finite"
"""What is said of an input that could be read."""
_COLUMNS = ("label", "confidence", "exit", "cost", "borderline")
_POOLS = 32  # rows that are held, in times the rows of a call


class Block(NamedTuple):
    """The number of the first input, and how many inputs there are."""

    start: int
    n: int


class BlockEnd(NamedTuple):
    """What is known of a block's inputs besides their content: their names (n,) and true classes."""

    names: list[str]
    truth: Truth


class AnsweredBlock(NamedTuple):
    """A block's rows, what they count, and why inputs of it could not be read."""

    block: Block
    cells: Cells
    tally: Tally
    unreadable: list[str]


def blocks_of(n: int, size: int) -> Iterator[Block]:
    """Yield the blocks of n inputs, each of `size` but the last."""
    return (Block(start, min(size, n - start)) for start in range(0, n, size))


def check_arrived(
    block: Block, read: Iterable[Integers], unreadable: Sequence[tuple[int, Exception]]
) -> None:
    """Raise ConnectionError, so that a cluster does the block again, unless each input of it arrived once."""
    places = np.concatenate([*read, np.array([place for place, _ in unreadable], dtype=np.int64)])
    if not np.array_equal(np.sort(places), np.arange(block.n)):
        once = len(np.unique(places))
        raise ConnectionError(
            f"of {block.n} inputs from {block.start} on, {once} arrived, and {len(places) - once} again"
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """How inputs are answered, whichever they are.

    `workers`: threads that decode images of a block. `strict`: raise the first UnreadableInput.

    Raises InputError for a `batch_size` below 1.
    """

    run: RunFolder
    policy: Policy
    columns: Columns
    executor: str
    batch_size: int = 128
    workers: int = 0
    strict: bool = False
    trusted: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")

    @cached_property
    def _preparation(self) -> Any:
        return load_preparation(self.run)

    def read(self, inputs: Dataset) -> Iterator[PreparedBatch | BlockEnd]:
        """Yield the inputs of a block in batches, prepared, then what else is known of them."""
        yield from batches_by(self._preparation, inputs, batch_size=self.batch_size, workers=self.workers)
        names = [inputs.name(i) for i in range(len(inputs))]
        yield BlockEnd(names, true_classes(inputs, self.columns.class_names))

    def open(self, threads: int | None = None) -> SharedExecutor:
        """Open the network for the policy."""
        return open_shared(
            self.run, {"": self.policy}, executor=self.executor, threads=threads, trusted=self.trusted
        )

    def answer(
        self,
        shared: SharedExecutor,
        arriving: Iterable[tuple[Block, PreparedBatch | BlockEnd]],
        *,
        ordered: bool = True,
    ) -> Iterator[AnsweredBlock]:
        """Answer what `read` yielded of blocks; yield each of them once it is answered.

        `ordered`: yield them in the order in which they began to arrive. Raises UnreadableInput if `strict`.
        """
        engine = Engine(
            shared.executor,
            shared.policies,
            shared.plan,
            exits=shared.exits,
            probabilities=self.columns.needs_probabilities,
        )
        open_ = _OpenBlocks(self.strict, ordered)
        batches = (batch for block, item in arriving for batch in open_.take_in(block, item))
        for answers in answer_stream(engine, batches, _POOLS * max(engine.plan.piece), ordered=ordered):
            open_.keep(answers)
            yield from (block.answered(self) for block in open_.take_done())
        yield from (block.answered(self) for block in open_.take_done())

    def part(self, answered: AnsweredBlock) -> tuple[Any, dict[str, Any]]:
        """Return the table of a block's part, and the options of `pyarrow.parquet.write_table` to write it by."""
        return arrow_table(self.columns.types, answered.cells), {}


class _OpenBlocks:
    """The blocks that are not answered yet, in the order in which they began to arrive."""

    def __init__(self, strict: bool, ordered: bool) -> None:
        self._strict, self._ordered = strict, ordered
        self._blocks: dict[int, _OpenBlock] = {}
        self._sent: dict[int, tuple[_OpenBlock, Integers]] = {}  # by number of the batch
        self._numbers = count()

    def take_in(self, block: Block, item: PreparedBatch | BlockEnd) -> Iterator[Batch]:
        """Note what arrived of a block, and yield what is to be answered of it."""
        into = self._blocks.setdefault(block.start, _OpenBlock(block))
        if isinstance(item, BlockEnd):
            into.end = item
            return
        if item.unreadable and self._strict:
            raise item.unreadable[0][1]
        into.unreadable += item.unreadable
        if len(item.positions):
            into.truncated.append(item.positions[item.truncated])
            into.waits += 1
            self._sent[next(self._numbers)] = into, item.positions
            yield Batch(item.inputs, item.keys)

    def keep(self, answers: Answers) -> None:
        """Put the answers of a batch where they belong."""
        into, positions = self._sent.pop(answers.batch)
        into.waits -= 1
        into.answers.append((positions, answers))

    def take_done(self) -> Iterator[_OpenBlock]:
        """Take out the blocks that are answered; in order, if that is asked for."""
        for start, block in list(self._blocks.items()):
            if block.is_done:
                yield self._blocks.pop(start)
            elif self._ordered:
                return


@dataclass(eq=False)
class _OpenBlock:
    """What has come of a block so far. `waits`: batches whose answers are awaited."""

    block: Block
    end: BlockEnd | None = None
    waits: int = 0
    answers: list[tuple[Integers, Answers]] = field(default_factory=list)
    truncated: list[Integers] = field(default_factory=list)
    unreadable: list[tuple[int, UnreadableInput]] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return self.end is not None and self.waits == 0

    def answered(self, job: Job) -> AnsweredBlock:
        check_arrived(self.block, [positions for positions, _ in self.answers], self.unreadable)
        n, k = self.block.n, len(job.columns.class_names)
        end = BlockEnd([], Truth(None)) if self.end is None else self.end
        columns = {
            "label": np.full(n, -1), "confidence": np.zeros(n), "exit": np.zeros(n, dtype=np.int64),
            "cost": np.zeros(n), "borderline": np.zeros(n, dtype=bool), "truncated": np.zeros(n, dtype=bool),
        }  # fmt: skip
        errors: list[str | None] = [None] * n
        probabilities = np.zeros((n, k)) if job.columns.needs_probabilities else None
        for positions, answers in self.answers:
            for name in _COLUMNS:
                columns[name][positions] = getattr(answers, name)
            if probabilities is not None and answers.probabilities is not None:
                probabilities[positions] = answers.probabilities
            for place in positions[~answers.valid].tolist():
                errors[place] = NO_ANSWER
        for positions in self.truncated:
            columns["truncated"][positions] = True
        for place, error in self.unreadable:
            errors[place] = str(error)
        cells = job.columns.cells(end.names, columns, errors, probabilities)
        tally = Tally.of(self.block.start, cells, end.truth, job.policy)
        return AnsweredBlock(self.block, cells, tally, [str(error) for _, error in self.unreadable])
