"""A folder of parts that is the result itself, here or in an object store: whoever goes on with the job finds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from typing import Any

from exeunt._files import check_writable
from exeunt._places import AnyPath, RemotePath, place, write_bytes
from exeunt._sealed import content_digest
from exeunt._text import counted
from exeunt.errors import FileError, InputError, one_line
from exeunt.predicting.blocks import Block
from exeunt.predicting.parts import Parts, is_part, part_name
from exeunt.predicting.tally import Tally
from exeunt.run.folder import RunFolder

__all__ = ["JOB", "MANIFEST", "check_complete", "done_in", "finish_folder", "open_folder"]

# Readers of folders of Parquet files leave out what begins so.
JOB, MANIFEST = "_job.json", "_manifest.json"
_HALF = ".*.tmp"  # what processes leave that were killed while they wrote


def open_folder(out: str, job: Mapping[str, Any], *, force: bool = False) -> Parts:
    """Return the parts in a folder of a job that is described so; it is made, or those of this very job are kept.

    `force`: remove the parts that another job left. Raises InputError for a folder that holds anything else.
    """
    folder = place(out).absolute()
    if not isinstance(folder, RemotePath):
        check_writable(folder, f"cannot write {out}")
    there: list[AnyPath] = sorted(folder.iterdir(), key=str) if folder.is_dir() else []
    found = [file for file in there if not fnmatch(file.name, _HALF)]
    before = _json(folder / JOB)
    if before != job and found:
        if before is None and not force:
            raise InputError(
                f"{out} holds other files, such as {found[0].name}: name another folder, or --force"
            )
        if not force:
            differs = ", ".join(name for name in job if before is not None and before.get(name) != job[name])
            raise InputError(
                f"{out} holds answers of another job (it differs in {differs or 'its version'}): name another folder, "
                "or replace them with --force"
            )
        if foreign := [file.name for file in found if file.suffix == ".parquet" and not is_part(file.name)]:
            raise InputError(
                f"{out} holds {foreign[0]}, which is no part of a job and not removed by --force: name another folder"
            )
        for file in sorted(found, key=lambda file: file.name != MANIFEST):  # it is complete no more
            if file.suffix == ".parquet" or file.name in (JOB, MANIFEST):
                file.unlink()
    if before != job:  # else a crash of the machine could still empty what tells whose the parts are
        write_bytes(folder / JOB, _text(job))
    return Parts(folder, content_digest(job))


def done_in(parts: Parts, blocks: Sequence[Block]) -> tuple[Tally, list[Block]]:
    """Return what the blocks of a job that are there count in all, and the others: with any, it is complete no more.

    Raises InputError if Parquet files are there that belong to none of the blocks.
    """
    total, left = parts.done(blocks)
    if left:
        (parts.folder / MANIFEST).unlink(missing_ok=True)
    if foreign := {file.name for file in parts.files} - {part_name(block) for block in blocks}:
        raise InputError(
            f"{parts.folder} holds {min(foreign)}, which is no part of this job: remove it, and the same command "
            "goes on"
        )
    return total, left


def finish_folder(parts: Parts, blocks: Sequence[Block]) -> Tally:
    """Say in the folder that it is complete, what lies in it, and what that counts in all; return that.

    Raises FileError if parts were lost or replaced meanwhile, InputError as `done_in` does.
    """
    total, left = done_in(parts, blocks)
    if left:
        raise FileError(
            f"{counted(len(left), 'part')} of {parts.folder}, such as {part_name(left[0])}, were lost, or "
            "replaced by a worker of another job that still runs: end it, the same command goes on"
        )
    files = [part_name(block) for block in blocks]
    write_bytes(parts.folder / MANIFEST, _text({"complete": True, "tally": total.to_dict(), "parts": files}))
    for half in parts.folder.glob(_HALF):
        with suppress(OSError):
            half.unlink()
    return total


def check_complete(folder: AnyPath, run: RunFolder) -> None:
    """Raise InputError for a folder of a job that is not done, or of another run; one without a job may be anything."""
    if (job := _json(folder / JOB)) is None:
        return
    if job.get("run") != run.digest:
        raise InputError(
            f"{folder} was recorded with another network than that of {run.path}: record it anew"
        )
    if _json(folder / MANIFEST) is None:
        raise InputError(f"the recording in {folder} is not complete: run its command again, which goes on")


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _json(file: AnyPath) -> Any:
    """Return what a file holds; None if it is not there, or damaged. Raises FileError where that is not known."""
    try:
        return json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:  # a store out of reach must not pass for a folder without a job
        raise FileError(f"cannot read {file}: {one_line(error)}") from error
