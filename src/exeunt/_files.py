"""Writing files so that a reader never sees half of one: a temporary name first, then a rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from exeunt.errors import ArtefactError, FileError, InputError

# What a disk says that knows no locks, such as Lustre unless it is mounted with `flock`.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it takes the place of `path`.

    If the block raises, the temporary file is removed and `path` stays as it was. An OSError becomes a FileError.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist, create it first")
    temporary = temporary_name(target, "tmp")
    try:
        yield temporary
        os.replace(temporary, target)  # noqa: PTH105 - the atomic rename is the point
    except OSError as error:
        raise FileError(f"cannot write {target}: {why_it_failed(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; when the block ends well it takes the place of `path`.

    If the block raises, the temporary folder is removed and `path` stays as it was. An OSError becomes a FileError.
    """
    temporary, old = (temporary_name(path, word) for word in ("new", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if os.path.lexists(path):
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {why_it_failed(error)}") from error
    finally:
        if not os.path.lexists(path):
            with suppress(OSError):
                old.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):
            old.unlink()  # something else than a folder was in the place


def make_folder(folder: Path) -> Path:
    """Make a folder, and those above it, unless it exists; returns it. Raises FileError if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {why_it_failed(error)}") from error
    return folder


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether `path`, with links followed, lies in `folder`. A link to itself lies where it is."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def temporary_name(target: Path, ending: str) -> Path:
    """Return a path beside `target` that nobody else chooses: processes in two containers may have one number."""
    return target.with_name(f".{target.name}.{uuid4().hex}.{ending}")


def remove_half_written(target: Path) -> None:
    """Remove what processes left beside `target` that were killed while they wrote it."""
    for half in target.parent.glob(f".{escape(target.name)}.{'[0-9a-f]' * 32}.tmp"):
        half.unlink()


def check_writable(folder: Path, what: str) -> None:
    """Raise InputError, starting with `what`, unless `folder` exists or can be made, and can be written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(f"{what}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"{what}: {there} may not be written to, change its permissions or choose another place"
        )


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON, atomically. Non-finite floats are refused: JSON has no word for them."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, *, remedy: str = "") -> Any:
    """Read JSON; a missing, unreadable or damaged file raises an error that names it and ends with `remedy`."""
    file, mend = Path(path), f"; {remedy}" if remedy else ""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {file}{mend}") from None
    except OSError as error:
        raise FileError(f"cannot read {file}: {why_it_failed(error)}{mend}") from error
    except (ValueError, RecursionError) as error:  # also of bytes that are no text
        raise ArtefactError(
            f"{file} is not complete JSON ({error}): it is damaged or truncated{mend}"
        ) from None


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content: about 0.1 s for 100 MB."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_file(file: Path, digest: str, *, what: str, remedy: str) -> None:
    """Raise ArtefactError unless the file has this digest, FileError if it may not be read.

    `what`: what the file is. `remedy`: how to get it back.
    """
    try:
        if file_digest(file) == digest:
            return
        empty = file.stat().st_size == 0
        problem = "is empty" if empty else "is not as it was written, it is damaged or was edited"
    except FileNotFoundError:
        problem = "is missing"
    except IsADirectoryError:
        problem = "is a folder, not a file"
    except NotADirectoryError:
        problem = "is missing, a file is in place of its folder"
    except OSError as error:
        raise FileError(f"cannot read {file} ({what}): {why_it_failed(error)}") from error
    raise ArtefactError(f"{file} ({what}) {problem}: {remedy}")


def system_error(error: BaseException) -> OSError | None:
    """Return the system's error that led to this one: libraries wrap it, or keep its number in their text alone."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))  # as Rust writes it
    if number:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    inner = None if error.__context__ is None else system_error(error.__context__)
    return inner if inner is not None and inner.errno in _FULL else None


def why_it_failed(error: OSError) -> str:
    """Return what went wrong, in the words of the operating system, and what to do about it if that is known."""
    said, remedy = os.strerror(error.errno) if error.errno else str(error), _REMEDIES.get(error.errno or 0)
    return said[:1].lower() + said[1:] + (f", {remedy}" if remedy else "")


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REMEDIES = {
    errno.EACCES: "change its permissions",
    errno.EEXIST: "a file is in its place, move it away",
    errno.EPERM: "change its permissions",
    errno.EISDIR: "a folder is in its place, move it away",
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def locks(file: IO[bytes]) -> bool:
    """Lock a file, and return whether no other process has; where the disk knows no locks, none is known to."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True
