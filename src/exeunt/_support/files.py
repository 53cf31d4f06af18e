"""Writing files so that a reader never sees half of one: a temporary name first, then a rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from exeunt._support.outside_json import finite_number, no_number
from exeunt.errors import ArtefactError, FileError, InputError

# Errors of a disk without locks, such as Lustre unless it is mounted with `flock`.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_UNIQUE = "[0-9a-f]" * 32  # what is unique in a temporary name


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` when the block ends without an error.

    After an error the temporary file is removed and `path` is unchanged. An OSError becomes a FileError.
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
    """Yield an empty temporary folder beside `path`, which replaces `path` when the block ends without an error.

    After an error the temporary folder is removed and `path` is unchanged; what a process that was killed left beside
    `path` is removed. An OSError becomes a FileError. Raises InputError while another process replaces `path`.
    """
    temporary, old = (temporary_name(path, word) for word in ("new", "old"))
    try:
        with locked(path.with_name(f".{path.name}.lock"), path):
            _tidy(path)
            try:
                temporary.mkdir()
                yield temporary
                if os.path.lexists(path):
                    path.rename(old)
                temporary.rename(path)
            finally:
                _tidy(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {why_it_failed(error)}") from error


def _tidy(path: Path) -> None:
    """Remove the temporary folders beside `path`; if it is missing, put back the one that was about to be replaced."""
    for left in path.parent.glob(f".{escape(path.name)}.{_UNIQUE}.*"):
        with suppress(OSError):
            if left.suffix == ".old" and not os.path.lexists(path):
                left.rename(path)
            shutil.rmtree(left, ignore_errors=True)
            left.unlink()  # it is no folder


_ATTEMPTS = 1000
_IS_WRITING = "another process is writing {}: wait until it is done, or name another place"


@contextmanager
def locked(lock: Path, written: object, *, refusal: str = _IS_WRITING) -> Iterator[None]:
    """Hold the file `lock` while the block runs; its folder is made. Raises InputError if another process holds it.

    `written`: what only one process may write. `refusal`: the message of that error, with {} for `written`. The system
    frees a lock when its process ends, so the file of a killed process may stay behind.
    """
    check_writable(lock.parent, f"cannot write {written}")
    for _ in range(_ATTEMPTS):
        is_new = not lock.parent.exists()
        make_folder(lock.parent)
        with suppress(FileNotFoundError), ExitStack() as opened:
            file = opened.enter_context(open_regular(lock, "ab"))
            if not locks(file):
                raise InputError(refusal.format(written))
            # Another process may have removed the file, or its folder, after it was opened here.
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                opened.pop_all()
                break
    else:
        raise FileError(f"cannot write {written}: no file can be made in {lock.parent}")
    _held.add(file)
    with file:
        try:
            yield
        finally:
            _held.discard(file)
            with suppress(OSError):
                lock.unlink()
                if is_new:
                    lock.parent.rmdir()  # if nothing was written


_held: set[IO[bytes]] = set()
if hasattr(os, "register_at_fork"):
    # A child that outlives its parent, such as a loader of data, must not hold a lock.
    os.register_at_fork(after_in_child=lambda: [file.close() for file in _held])


def make_folder(folder: Path) -> Path:
    """Make a folder and its parents unless they exist, and return it. Raises FileError if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {why_it_failed(error)}") from error
    return folder


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether `path` lies in `folder` once links are followed. A link to itself counts as a file."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def temporary_name(target: Path, ending: str) -> Path:
    """Return a unique path beside `target`. A process number would not do: two containers may share one."""
    return target.with_name(f".{target.name}.{uuid4().hex}.{ending}")


def remove_half_written(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files that killed processes left in `folder`, of the file `name` or of all at any depth."""
    for half in folder.glob(f"{'**/.*' if name is None else f'.{escape(name)}'}.{_UNIQUE}.tmp"):
        half.unlink()


def check_writable(folder: Path, refusal: str) -> None:
    """Raise InputError, starting with `refusal`, unless `folder` exists or can be made, and can be written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise InputError(f"{refusal}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"{refusal}: {there} is not writable, change its permissions or choose another place"
        )


def write_json(path: str | Path, document: Any) -> None:
    """Write `document` as JSON, atomically. Raises ValueError for floats that are not finite, which JSON lacks."""
    write_text(path, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, *, remedy: str = "") -> Any:
    """Read JSON. A missing, unreadable or damaged file raises an error that names it and ends with `remedy`."""
    file, mend = Path(path), f"; {remedy}" if remedy else ""
    try:
        with open_regular(file) as stream:
            return parse_json(stream.read().decode(), finite=True)
    except FileNotFoundError:
        raise InputError(f"there is no file {file}{mend}") from None
    except OSError as error:
        raise FileError(f"cannot read {file}: {why_it_failed(error)}{mend}") from error
    except ValueError as error:  # also for bytes that are no text
        raise ArtefactError(f"{file} is not complete JSON ({error}): it is damaged{mend}") from None


def parse_json(text: str | bytes, *, finite: bool = False) -> Any:
    """Return what `json.loads` does. Raises ValueError for what is no JSON, or is nested too deeply to be read.

    `finite`: also for numbers that are not finite, which `write_json` does not write.
    """
    numbers: dict[str, Any] = {"parse_constant": no_number, "parse_float": finite_number} if finite else {}
    try:
        return json.loads(text, **numbers)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def open_regular(path: str | Path, mode: str = "rb") -> IO[bytes]:
    """Open a file as `open` does. A pipe, socket or device, which may never answer, raises OSError instead."""

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # `open` refuses folders
            return descriptor
        os.close(descriptor)
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), name)

    return open(path, mode, opener=opener)


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content: about 0.1 s for 100 MB."""
    digest = hashlib.sha256()
    with open_regular(file) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_file(file: Path, digest: str, *, what: str, remedy: str) -> None:
    """Raise ArtefactError unless the file has this digest, FileError if it may not be read.

    `what`: the kind of file, for messages. `remedy`: how to restore it.
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
    """Return the system's error behind this one: libraries wrap it, or keep only its number in their message."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))  # as Rust writes it
    if number:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    inner = None if error.__context__ is None else system_error(error.__context__)
    return inner if inner is not None and inner.errno in _FULL else None


def why_it_failed(error: OSError) -> str:
    """Return the operating system's message, and the remedy if one is known."""
    message, remedy = os.strerror(error.errno) if error.errno else str(error), _REMEDIES.get(error.errno or 0)
    return message[:1].lower() + message[1:] + (f", {remedy}" if remedy else "")


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REMEDIES = {
    errno.EACCES: "change its permissions",
    errno.EEXIST: "a file is in its place, move it away",
    errno.EPERM: "change its permissions",
    errno.EISDIR: "a folder is in its place, move it away",
    errno.ENXIO: "a pipe, a socket or a device is in its place, move it away",
    errno.ENOSPC: "free some space or choose another place",
    errno.EDQUOT: "free some space or choose another place",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def locks(file: IO[bytes]) -> bool:
    """Try to lock a file, and return whether no other process holds the lock. A disk without locks returns True."""
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


def open_to_add(path: Path, mode: int) -> IO[str]:
    """Open a text file to add lines. `mode`: permissions of a new one, such as 0o600: only its owner can read it."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, mode), "a", encoding="utf-8")


_SECRET = 32


def secret_of(path: Path) -> bytes:
    """Return the secret that a file holds, 32 random bytes. It is made if it is missing, for its owner alone.

    Raises ArtefactError for a file of another size, FileError for what is no file or cannot be read.
    """
    if not os.path.lexists(path):
        with atomic_path(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_bytes(secrets.token_bytes(_SECRET))
    remedy = "restore it; without it nothing can be told from what was written before"
    try:
        with open_regular(path) as file:
            secret = file.read(_SECRET + 1)
    except OSError as error:
        raise FileError(f"cannot read {path}: {why_it_failed(error)}; {remedy}") from error
    if len(secret) != _SECRET:
        size = "more" if len(secret) > _SECRET else f"{len(secret)} bytes"
        raise ArtefactError(f"{path} holds {size}, and a secret has {_SECRET} bytes: {remedy}")
    return secret
