"""The parts of a job: one Parquet file per block, written while the job runs, so that an interrupted job resumes.

A job either fills a folder of parts, on this machine or in an object store, or writes one file at the end, from parts
in a hidden folder beside it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from exeunt._support.files import locked, parse_json, remove_half_written
from exeunt._support.paths import AnyPath, RemotePath, open_arrow, place, read_bytes, write_bytes
from exeunt._support.sealed_json import content_digest
from exeunt._support.text import counted
from exeunt.data import Dataset
from exeunt.errors import FileError, InputError, one_line
from exeunt.jobs.blocks import Block, DoneBlock, Job, blocks_of, done_blocks
from exeunt.jobs.summary import JobProgress, Tally
from exeunt.runs.folder import RunFolder

# Readers of folders of Parquet files skip names that begin with an underscore or a dot.
_JOB, _MANIFEST, _LOCK = "_job.json", "_manifest.json", ".lock"
_HALF = ".*.tmp"  # files of processes that were killed while they wrote them
JOURNAL = "_answers-{}.jsonl"
"""Answers of a block as they come, where each was paid for; by the number of its first input."""
_OF, _TALLY, _SEAL = b"exeunt.job", b"exeunt.tally", b"exeunt.seal"
_AT_ONCE, _CHUNK = 16, 4096  # footers that are read in parallel, and that are queued for reading


@dataclass(frozen=True)
class Parts:
    """A folder of Parquet files, one for each block that is done, with its tally and its job in the footer, and their
    seal; rows have checksums.

    `job`: the digest of the job's description. Workers of another job may still write to the folder.
    """

    folder: AnyPath
    job: str

    def done(self, blocks: Sequence[Block], *, whole: bool = False) -> tuple[Tally, list[Block]]:
        """Return the tally of the blocks that are there, and the other blocks. `whole`: read their rows, too, as of
        parts that an earlier run left: a damaged one is not there.

        Raises InputError for a folder in the place of a part.
        """
        there, total, left = {file.name: file for file in self.files}, Tally(), list[Block]()
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # an object store takes a while to answer
            for first in range(0, len(blocks), _CHUNK):
                chunk = blocks[first : first + _CHUNK]
                tallies = pool.map(
                    lambda block: self._tally(block, whole=whole) if _name(block) in there else None, chunk
                )
                for block, tally in zip(chunk, tallies, strict=True):
                    if tally is None:
                        left.append(block)
                    else:
                        total += tally
        for block in left:
            if (blocking := there.get(_name(block))) is not None and blocking.is_dir():
                raise InputError(
                    f"{blocking} is a folder, where a part of this job belongs: move it away, and the same command "
                    "goes on"
                )
        return total, left

    def _tally(self, block: Block, *, whole: bool) -> Tally | None:
        """Return the tally of a block's part; None if the part is not there, not whole or of another job."""
        with (
            suppress(pa.ArrowException, OSError, KeyError, TypeError, ValueError),
            open_arrow(self.folder / _name(block)) as file,
            pq.ParquetFile(file, page_checksum_verification=True) as part,
        ):
            footer, noted = part.metadata, part.metadata.metadata
            tally = Tally.from_dict(parse_json(noted[_TALLY]))
            mine = noted[_OF].decode() == self.job
            # Parts of earlier versions have no seal.
            sealed = noted.get(_SEAL) in (None, _seal(block, noted, part.schema_arrow))
            if whole:  # raises for a page that was changed
                sealed &= sum(batch.num_rows for batch in part.iter_batches()) == footer.num_rows
            # A recording has no rows for inputs that could not be read.
            if mine and sealed and tally.n == block.n and footer.num_rows in (block.n, tally.n_answered):
                return tally
        return None

    def keep(self, done: DoneBlock) -> None:
        """Write the part of a block, all of it or nothing."""
        table = done.results
        if done.schema is not None:
            table = pa.Table.from_pydict(done.results, schema=done.schema)
        noted = {_OF: self.job.encode(), _TALLY: json.dumps(asdict(done.tally)).encode()}
        noted[_SEAL] = _seal(done.block, noted, table.schema)
        content = pa.BufferOutputStream()
        pq.write_table(
            table.replace_schema_metadata({**(table.schema.metadata or {}), **noted}), content, **done.options
        )
        write_bytes(self.folder / _name(done.block), content.getvalue())

    @property
    def files(self) -> list[AnyPath]:
        """The files, in the order of the inputs."""
        return sorted(self.folder.glob("*.parquet"), key=str)


_Say: TypeAlias = Callable[[str], None]
DoBlocks: TypeAlias = Callable[[Job, Dataset, Sequence[Block], Parts, JobProgress, _Say], None]
"""Does blocks of a job, writes their parts, counts them, and says which inputs could not be read."""


def do_here(
    job: Job, inputs: Dataset, blocks: Sequence[Block], parts: Parts, progress: JobProgress, say: _Say
) -> None:
    """Do blocks in this process; see `DoBlocks`."""
    for done in done_blocks(job, inputs, blocks, say):
        parts.keep(done)
        progress.add(done.tally)


def fill_folder(
    job: Job,
    inputs: Dataset,
    out: str,
    *,
    block_size: int,
    force: bool,
    say: _Say,
    do_blocks: DoBlocks = do_here,
) -> Tally:
    """Fill a folder with the parts of a job, and return its tally. Parts of the same job that are there are kept.

    Raises as `locked`, `open_folder` and `finish_folder` do.
    """
    about = {**job.describe(inputs, by_content=False), "block": block_size}
    folder = place(out).absolute()
    _left_by_others(
        folder, out, about, force=force
    )  # here also, since the lock would touch a folder that is refused
    # Stores have no locks.
    with nullcontext() if isinstance(folder, RemotePath) else locked(folder / _LOCK, out):
        parts, blocks = open_folder(out, about, force=force), blocks_of(len(inputs), block_size)
        total, left = done_in(parts, blocks, whole=True)
        job = job.begin(inputs, left, folder=parts.folder, digest=parts.job, force=force)
        with JobProgress(job.planned, len(inputs), total, block_size=block_size, say=say) as progress:
            do_blocks(job, inputs, left, parts, progress, say)
        inputs.check_unchanged()
        return finish_folder(parts, blocks)


def open_folder(out: str, job: Mapping[str, Any], *, force: bool = False) -> Parts:
    """Return the parts in a folder, which is made. Parts of the job with this description are kept.

    `force`: remove the parts that another job left. Raises InputError for a folder that holds anything else.
    """
    folder = place(out).absolute()
    gone = _left_by_others(folder, out, job, force=force)
    for file in sorted(gone, key=lambda file: file.name != _MANIFEST):  # the manifest says "complete"
        file.unlink()
    # If it is the same, it is not written again: a crash could leave it empty.
    if _json(folder / _JOB) != job:
        write_bytes(folder / _JOB, _text(job))
    return Parts(folder, content_digest(job))


def _left_by_others(folder: AnyPath, out: str, job: Mapping[str, Any], *, force: bool) -> list[AnyPath]:
    """Return the files of another job, which are to be removed. Raises InputError as `open_folder` does."""
    there: list[AnyPath] = sorted(folder.iterdir(), key=str) if folder.is_dir() else []
    of_another_job = [file for file in there if file.name != _LOCK and not fnmatch(file.name, _HALF)]
    before = _json(folder / _JOB)
    if before == job or not of_another_job:
        return []
    if before is None and not force:
        raise InputError(
            f"{out} holds other files, such as {of_another_job[0].name}: name another folder, or --force"
        )
    if not force:
        differs = ", ".join(name for name in job if before.get(name) != job[name])
        raise InputError(
            f"{out} holds answers of another job (it differs in {differs or 'its version'}): name another folder, "
            "or replace them with --force"
        )
    data = [file for file in of_another_job if file.suffix == ".parquet"]
    if foreign := [file.name for file in data if not re.fullmatch(r"[0-9]{12,}\.parquet", file.name)]:
        raise InputError(
            f"{out} holds {foreign[0]}, which is no part of a job and not removed by --force: name another folder"
        )
    return [*data, *(file for file in of_another_job if file.name in (_JOB, _MANIFEST))]


def done_in(parts: Parts, blocks: Sequence[Block], *, whole: bool = False) -> tuple[Tally, list[Block]]:
    """Return the tally of the blocks that are there, and the other blocks; if any is left, the manifest is removed.
    `whole`: see `Parts.done`.

    Raises InputError if Parquet files are there that belong to none of the blocks.
    """
    total, left = parts.done(blocks, whole=whole)
    if left:
        (parts.folder / _MANIFEST).unlink(missing_ok=True)
    if foreign := {file.name for file in parts.files} - {_name(block) for block in blocks}:
        raise InputError(
            f"{parts.folder} holds {min(foreign)}, which is no part of this job: remove it, and the same command "
            "goes on"
        )
    return total, left


def finish_folder(parts: Parts, blocks: Sequence[Block]) -> Tally:
    """Write a manifest, which says that the folder is complete, and return the tally of all blocks.

    Raises FileError if parts were lost or replaced meanwhile, InputError as `done_in` does.
    """
    total, left = done_in(parts, blocks)
    if left:
        raise FileError(
            f"{counted(len(left), 'part')} of {parts.folder}, such as {_name(left[0])}, were lost, or "
            "replaced by a worker of another job that still runs: end it, the same command goes on"
        )
    files = [_name(block) for block in blocks]
    write_bytes(parts.folder / _MANIFEST, _text({"complete": True, "tally": asdict(total), "parts": files}))
    for pattern in (_HALF, JOURNAL.format("*")):
        for rest in parts.folder.glob(pattern):
            with suppress(OSError):
                rest.unlink()
    return total


def check_complete(folder: AnyPath, run: RunFolder) -> None:
    """Raise InputError for a recording that is incomplete, or of another run. Folders without a job are not checked."""
    if (job := _json(folder / _JOB)) is None:
        return
    if job.get("run") != run.digest:
        raise InputError(f"{folder} was recorded with another network than {run.path}: record it anew")
    if _json(folder / _MANIFEST) is None:
        raise InputError(f"the recording in {folder} is not complete: run its command again, which goes on")


@contextmanager
def open_parts(out: Path, job: Mapping[str, Any]) -> Iterator[Parts]:
    """Yield the parts of the job that writes the file `out`, in a hidden folder beside it; remove parts of other jobs.

    The folder is removed if the block ends well, or nothing was done. Raises InputError while another process has it
    open; the lock ends with that process, however it ends.
    """
    folder = out.with_name(f".{out.name}.parts")
    with locked(folder / _LOCK, out):
        done = False
        try:
            parts = open_folder(str(folder), job, force=True)
            remove_half_written(out.parent, out.name)
            yield parts
            done = True
        finally:
            if done or not [file for file in folder.iterdir() if file.name not in (_JOB, _LOCK)]:
                shutil.rmtree(folder, ignore_errors=True)  # on Windows the open lock stays, and its folder


def _seal(block: Block, noted: Mapping[bytes, bytes], schema: pa.Schema) -> bytes:
    """Return the digest of what a footer says, which has no checksum of its own, and of which block it is."""
    # Parquet calls the elements of lists otherwise than Arrow does.
    columns = [[field.name, str(field.type).replace("<element: ", "<item: ")] for field in schema]
    return content_digest([block.start, noted[_OF].decode(), noted[_TALLY].decode(), columns]).encode()


def _name(block: Block) -> str:
    return f"{block.start:012d}.parquet"


def _text(document: Any) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _json(file: AnyPath) -> Any:
    """Return the content of a JSON file; None if it is missing or damaged. Raises FileError if it cannot be read."""
    try:
        return parse_json(read_bytes(file))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:  # a store out of reach does not mean that the folder has no job
        raise FileError(f"cannot read {file}: {one_line(error)}") from error
