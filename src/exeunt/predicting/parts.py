"""Answers kept in parts while a job runs, so that an interruption loses little; and one job at a time per file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from exeunt._files import locks, make_folder, read_json, remove_half_written, write_json
from exeunt._places import AnyPath, open_arrow, write_bytes
from exeunt._sealed import content_digest
from exeunt.data import Dataset
from exeunt.errors import ExeuntError, InputError
from exeunt.predicting.blocks import AnsweredBlock, Block, Job
from exeunt.predicting.tally import Tally
from exeunt.run.executors import executor_device

__all__ = ["Parts", "describe_job", "is_part", "open_parts", "part_name"]

_JOB, _LOCK, _OF, _TALLY = "job.json", "lock", b"exeunt.job", b"exeunt.tally"
_AT_ONCE, _CHUNK = 16, 4096  # footers that are read together, and how many are asked for at a time


@dataclass(frozen=True)
class Parts:
    """A folder of Parquet files, one for each block that is answered, with its tally and its job in the footer.

    `job`: the digest of what describes it. Workers of another one may still write here.
    """

    folder: AnyPath
    job: str

    def tally(self, block: Block) -> Tally | None:
        """Return what the part of a block counts; None if it is not there, not whole or of another job."""
        try:
            with open_arrow(self._file(block)) as file:
                found = pq.read_metadata(file)
            tally = Tally.from_dict(json.loads(found.metadata[_TALLY]))
            # A recording leaves out what cannot be read.
            mine = found.metadata[_OF].decode() == self.job
            if mine and tally.n == block.n and found.num_rows in (block.n, tally.n_answered):
                return tally
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            pass
        return None

    def done(self, blocks: Iterable[Block]) -> tuple[Tally, list[Block]]:
        """Return what the blocks that are there count in all, and the others."""
        there = {file.name for file in self.files}
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # of an object store each takes a while
            total, left, some = Tally(), [], iter(blocks)
            while chunk := list(islice(some, _CHUNK)):
                found = pool.map(
                    lambda block: self.tally(block) if part_name(block) in there else None, chunk
                )
                for block, tally in zip(chunk, found, strict=True):
                    if tally is None:
                        left.append(block)
                    else:
                        total += tally
        return total, left

    def keep(self, job: Job, answered: AnsweredBlock) -> None:
        """Write the part of a block, all of it or nothing."""
        table, options = job.part(answered)
        tally = json.dumps(answered.tally.to_dict())
        noted = {**(table.schema.metadata or {}), _OF: self.job, _TALLY: tally}
        content = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(noted), content, **options)
        write_bytes(self._file(answered.block), content.getvalue())

    @property
    def files(self) -> list[AnyPath]:
        """The files, in the order of the inputs."""
        return sorted(self.folder.glob("*.parquet"), key=str)

    def _file(self, block: Block) -> AnyPath:
        return self.folder / part_name(block)


def part_name(block: Block) -> str:
    """Return the name of a block's part."""
    return f"{block.start:012d}.parquet"


def is_part(name: str) -> bool:
    """Whether a file is called as the part of a block is."""
    return re.fullmatch(r"[0-9]{12,}\.parquet", name) is not None


@contextmanager
def open_parts(out: Path, job: Mapping[str, Any]) -> Iterator[Parts]:
    """Yield the parts of the job that writes `out`, without those of other jobs.

    They are removed if the block ends well, or nothing was answered.

    Raises InputError while another process has them open. That ends with the process, however it ends.
    """
    folder = out.with_name(f".{out.name}.parts")
    with _held(folder) as held:
        if not held:
            raise InputError(f"another process is writing {out}: wait until it is done, or name another file")
        parts, done = Parts(folder, content_digest(job)), False
        try:
            if not _is_of(folder, job):
                for file in folder.iterdir():
                    if file.name != _LOCK:
                        file.unlink()
                write_json(folder / _JOB, job)
            remove_half_written(out)
            yield parts
            done = True
        finally:
            if done or not parts.files:
                shutil.rmtree(
                    folder, ignore_errors=True
                )  # Windows keeps what is open: a folder with the lock


def describe_job(job: Job, inputs: Dataset, *, by_content: bool = True) -> dict[str, Any]:
    """Return everything that the answers depend on: parts of a job that differs in any of it cannot be used.

    It is what its JSON gives back. `by_content`: inputs of at most 1 GiB are told apart by what they are; else files
    are by their sizes and times.
    """
    plan = job.run.plan(job.executor, executor_device(job.executor))
    return {
        "inputs": _identity(inputs, by_content=by_content),
        "run": job.run.digest,
        "policy": None if job.policy is None else content_digest(job.policy.to_dict()),
        "executor": job.executor,
        "segments": None if plan is None else [[first, last] for first, last in plan.segments],
        "strict": job.strict,
        "columns": list(job.columns.types),
    }


def _identity(inputs: Dataset, *, by_content: bool = True) -> str:
    """Return a hash of names, content and classes of inputs; of more than 1 GiB, of sizes and times of the files."""
    digest = hashlib.sha256()
    columns: Sequence[Any] = getattr(inputs.stored, "columns", (inputs.stored,))
    if (by_content and inputs.is_small) or not all(hasattr(column, "stamps") for column in columns):
        for i, key in enumerate(inputs.stored_keys().tolist()):
            digest.update(f"{inputs.name(i)}\n{key}\n".encode())
        digest.update(repr(inputs.true_names).encode())  # parts count or hold them
        return digest.hexdigest()
    for column in columns:
        for stamp in column.stamps():
            digest.update(repr(stamp).encode())
    digest.update(b"" if inputs.is_whole else inputs.rows.tobytes())
    return digest.hexdigest()


def _is_of(folder: Path, job: Mapping[str, Any]) -> bool:
    try:
        return bool(read_json(folder / _JOB) == job)
    except ExeuntError:  # missing or damaged
        return False


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Make the folder and yield whether this process alone has it, until the block ends.

    The system frees the lock when the process ends, so that its file may stay behind.
    """
    while True:
        with _opened(folder) as file:
            held = locks(file)
            if not held or _is_there(file, folder / _LOCK):  # else a process that ended has just removed it
                yield held
                return


def _opened(folder: Path) -> IO[bytes]:
    """Open the lock, in a folder that another process may be removing."""
    while True:
        make_folder(folder)
        with suppress(FileNotFoundError):
            return (folder / _LOCK).open("ab")


def _is_there(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
