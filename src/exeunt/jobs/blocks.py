"""A job answers or records its inputs block by block: what all jobs share.

Several blocks are open at once, so that rows of one block fill batches together with rows of the next. A block may be
read by another process than the one that answers it, and batches of several blocks may arrive mixed.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from exeunt._support.arrays import Integers
from exeunt._support.paths import AnyPath
from exeunt._support.sealed_json import content_digest
from exeunt.data import Dataset
from exeunt.data.dataset import Texts
from exeunt.data.stored_inputs import ImageFiles
from exeunt.errors import InputError, UnreadableInput
from exeunt.jobs.batches import PreparedBatch, prepared_batches
from exeunt.jobs.summary import Tally, Truth
from exeunt.policy import Policy
from exeunt.runs.executors import executor_device
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import load_preparation, text_columns

T = TypeVar("T", bound="Job")

NOT_FINITE = "the network's output for this input is not finite"


class Block(NamedTuple):
    """The number of the first input, and how many inputs there are."""

    start: int
    n: int


class BlockEnd(NamedTuple):
    """The end of a block: the names (n,) and true classes of its inputs, and columns (n,) to write beside results."""

    names: list[str]
    truth: Truth
    kept: Mapping[str, list[Any]] = MappingProxyType({})


class DoneBlock(NamedTuple):
    """A block that is done: its results, its tally, and why inputs could not be read.

    `results`: an Arrow table, or where there is a `schema` the columns of one as lists, by name: Arrow imports pandas
    to make a table of lists. `options`: of `pyarrow.parquet.write_table`.
    """

    block: Block
    results: Any
    tally: Tally
    unreadable: list[str]
    schema: Any = None
    options: Mapping[str, Any] = MappingProxyType({"write_page_checksum": True})


def blocks_of(n: int, size: int) -> list[Block]:
    """Return the blocks of n inputs, each of `size` inputs but the last."""
    return [Block(start, min(size, n - start)) for start in range(0, n, size)]


@dataclass(eq=False)
class OpenBlock:
    """The batches of a block that have arrived so far. All positions are positions in the block.

    `waits`: number of batches whose results are not there yet. `read`: positions of readable inputs; `truncated`: of
    those that were cut. `results`: positions of inputs, and their results. `unreadable`: positions of the other inputs,
    and why they could not be read. `why`: why readable inputs may have no result, where that is known.
    """

    block: Block
    end: BlockEnd | None = None
    waits: int = 0
    read: list[Integers] = field(default_factory=list)
    truncated: list[Integers] = field(default_factory=list)
    results: list[tuple[Integers, Any]] = field(default_factory=list)
    unreadable: list[tuple[int, UnreadableInput]] = field(default_factory=list)
    why: dict[int, str] = field(default_factory=dict)

    def take_in(self, batch: PreparedBatch, *, strict: bool) -> None:
        """Note a batch that arrived. Raises the first UnreadableInput if `strict`."""
        if batch.unreadable and strict:
            raise batch.unreadable[0][1]
        self.unreadable += batch.unreadable
        self.read.append(batch.positions)
        self.truncated.append(batch.positions[batch.truncated])

    def errors(self, answered: Integers) -> dict[int, str]:
        """Return why inputs have no result, by position. `answered`: positions of the inputs with a result.

        Raises ConnectionError, so that a cluster does the block again, unless each input arrived exactly once.
        """
        n, unreadable = self.block.n, {place: str(error) for place, error in self.unreadable}
        unread = np.array([place for place, _ in self.unreadable], dtype=np.int64)
        places = np.concatenate([*self.read, unread])
        if not np.array_equal(np.sort(places), np.arange(n)):
            once = len(np.unique(places))
            raise ConnectionError(
                f"of {n} inputs from {self.block.start} on, {once} arrived, and {len(places) - once} again"
            )
        silent = sorted({*range(n)} - {*answered.tolist()})
        return {row: self.why.get(row, NOT_FINITE) for row in silent} | unreadable


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """A way to answer or record inputs. A job can be sent to other machines.

    `policy`: the policy that answers; None if every exit runs on every input. `workers`: threads that decode images of
    a block while the network runs. `strict`: raise UnreadableInput for the first input that cannot be read. `trusted`:
    see `exeunt.load`.

    Raises InputError for a `batch_size` below 1.
    """

    run: RunFolder
    policy: Policy | None
    executor: str
    batch_size: int = 128
    workers: int = 0
    strict: bool = False
    trusted: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the network's classes."""
        names: Sequence[str] = self.run.manifest["class_names"]
        return names

    @cached_property
    def _preparation(self) -> Any:
        return load_preparation(self.run)

    def read(self, inputs: Dataset) -> Iterator[PreparedBatch | BlockEnd]:
        """Yield the inputs of a block in prepared batches, then its end."""
        yield from prepared_batches(
            self._preparation, inputs, batch_size=self.batch_size, workers=self.workers
        )
        names = [inputs.name(i) for i in range(len(inputs))]
        columns = {name: inputs.kept_values(name) for name in inputs.kept_types}
        inputs.check_unchanged()
        yield BlockEnd(names, _true_classes(inputs, self.class_names), columns)

    @property
    def planned(self) -> Policy | None:
        """The policy that says what inputs will cost; None where every exit runs on every input, or several answer."""
        return self.policy

    is_repeatable: ClassVar[bool] = True
    """Whether two workers may do the same block, and the first one counts. Not where answers are paid for."""

    def begin(
        self: T,
        inputs: Dataset,  # noqa: ARG002 - of jobs that begin with something
        left: Sequence[Block],  # noqa: ARG002
        *,
        folder: AnyPath | None = None,  # noqa: ARG002
        digest: str = "",  # noqa: ARG002
        force: bool = False,  # noqa: ARG002
    ) -> T:
        """Do what comes before the first answer, and return the job.

        `left`: the blocks whose parts are not in `folder` yet. `digest`: of the job's description. `force`: remove what
        another job left.
        """
        return self

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns that are written."""

    @abstractmethod
    def open(self, threads: int | None = None) -> Any:
        """Open the network, for `answer`."""

    @abstractmethod
    def answer(
        self, opened: Any, arriving: Iterable[tuple[Block, PreparedBatch | BlockEnd]], *, ordered: bool = True
    ) -> Iterator[DoneBlock]:
        """Yield each block once it is done. `arriving`: items that `read` yielded, each with its block.

        `ordered`: yield the blocks in the order in which they began to arrive. Raises UnreadableInput if `strict`.
        """

    def describe(self, inputs: Dataset, *, by_content: bool) -> dict[str, Any]:
        """Return everything that the results depend on, in JSON-able form; jobs that differ in it cannot share parts.

        `by_content`: identify inputs of at most 1 GiB by their content. Larger inputs are identified by the sizes and
        times of their files.
        """
        plan = self.run.plan(self.executor, executor_device(self.executor))
        return {
            "inputs": _identity(inputs, by_content=by_content),
            "run": self.run.digest,
            "policy": None if self.policy is None else content_digest(self.policy.to_dict()),
            "executor": self.executor,
            "segments": None if plan is None else [[first, last] for first, last in plan.segments],
            "strict": self.strict,
            "columns": self.columns,
        }


def check_inputs(run: RunFolder, inputs: Dataset) -> None:
    """Raise InputError if there are no inputs, or inputs of another kind than the run's network takes."""
    kind, columns = run.manifest["inputs"]["kind"], text_columns(run)
    if inputs.kind != kind:
        raise InputError(f"the network of {run.path} takes inputs of kind {kind!r}, got {inputs.kind!r}")
    if isinstance(inputs, Texts) and inputs.per_input != len(columns):
        words = {1: "single texts", 2: "pairs of texts"}
        raise InputError(
            f"the network of {run.path} was trained on {words[len(columns)]} ({', '.join(columns)}), these inputs are "
            f"{words[inputs.per_input]}: give a table, and name its columns (--text-column)"
        )
    if len(inputs) == 0:
        raise InputError("there are no inputs to predict")


def done_blocks(
    job: Job, inputs: Dataset, blocks: Sequence[Block], say: Callable[[str], None]
) -> Iterator[DoneBlock]:
    """Read blocks one after the other and yield each once it is done. `say`: gets messages about unreadable inputs."""
    if blocks:
        items = ((block, batch) for block in blocks for batch in job.read(inputs.block(block.start, block.n)))
        for done in job.answer(job.open(), items):
            for why in done.unreadable:
                say(why)
            yield done


def _true_classes(inputs: Dataset, class_names: Sequence[str]) -> Truth:
    """Return the true classes of inputs.

    Their names are those of the labels. Without labels, they are those of the folders that image files lie in, if all
    are classes of the network. Classes are compared by name, since data may number them differently.
    """
    known = set(class_names)
    if (names := inputs.true_names) is not None:
        return Truth(names, tuple(sorted({name for name in names if name is not None} - known)))
    if isinstance(inputs.stored, ImageFiles):
        folders = [PurePath(inputs.name(i)).parent.name for i in range(len(inputs))]
        named = known.issuperset(folders)
        return Truth(folders if named else None, comparable=named)
    return Truth(None)


def _identity(inputs: Dataset, *, by_content: bool) -> str:
    """Return a hash of names, contents and classes of inputs; above 1 GiB, of the sizes and times of their files."""
    digest = hashlib.sha256()
    columns: Sequence[Any] = getattr(inputs.stored, "columns", (inputs.stored,))
    if (by_content and inputs.is_small) or not all(hasattr(column, "stamps") for column in columns):
        for i, key in enumerate(inputs.stored_keys().tolist()):
            digest.update(f"{inputs.name(i)}\n{key}\n".encode())
        digest.update(repr(inputs.true_names).encode())
        for name in inputs.kept_types:
            digest.update(repr((name, inputs.kept_values(name))).encode())
        return digest.hexdigest()
    for column in columns:
        for stamp in column.stamps():
            digest.update(repr(stamp).encode())
    digest.update(b"" if inputs.is_whole else inputs.rows.tobytes())
    return digest.hexdigest()
