"""Files and folders by name, on this machine or in an object store.

A `RemotePath` has those methods of `pathlib.Path` that readers of data need, so that they work with either.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs

from exeunt._support.files import atomic_path, make_folder, open_regular
from exeunt.errors import FileError, InputError, one_line, require

T = TypeVar("T")

# Errors of a disk or network that does not answer now, or of a system without resources; damaged files have others.
_NOT_NOW = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ENOTCONN,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
}
_PAUSES_S = 0.1, 1.0
_NOT_QUOTED = "%:/?#[]@!$&'()*+,;=~"
"""Characters with a meaning in an address. PyArrow wants all others, such as blanks and accents, as codes."""
_PATIENCE = "retry_limit_seconds=60"
"""Default for Google's store: PyArrow would wait a quarter of an hour for an answer."""


class _Stat(NamedTuple):
    st_size: int
    st_mtime_ns: int | None


@dataclass(frozen=True)
class RemotePath:
    """A file or folder of a PyArrow file system. `scheme`: that of its address, such as "s3".

    `listed`: size and time of a file from the listing of its folder, which saves a request per file.
    """

    system: Any
    path: PurePosixPath
    scheme: str
    listed: _Stat | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def suffix(self) -> str:
        """The ending, such as ".parquet"."""
        return self.path.suffix

    @property
    def parent(self) -> RemotePath:
        """The folder."""
        return RemotePath(self.system, self.path.parent, self.scheme)

    def __str__(self) -> str:
        return f"{self.scheme}://{str(self.path).lstrip('/')}"

    def __fspath__(self) -> str:
        raise FileError(f"{self} is not on this machine")

    def __truediv__(self, name: str | PurePosixPath) -> RemotePath:
        return RemotePath(self.system, self.path / name, self.scheme)

    def absolute(self) -> RemotePath:
        """Return itself."""
        return self

    def relative_to(self, folder: AnyPath) -> PurePosixPath:
        """Return the path below a folder."""
        return self.path.relative_to(folder.path if isinstance(folder, RemotePath) else folder)

    def is_file(self) -> bool:
        """Whether the path is a file."""
        return bool(self._info().type == pa.fs.FileType.File)

    def is_dir(self) -> bool:
        """Whether anything lies below this path."""
        return bool(self._info().type == pa.fs.FileType.Directory)

    def stat(self) -> _Stat:
        """Return size in bytes and time, as of the listing if there was one. Raises FileNotFoundError."""
        if self.listed is not None:
            return self.listed
        entry = self._info()
        if entry.type == pa.fs.FileType.NotFound:
            raise FileNotFoundError(str(self))
        return _Stat(entry.size or 0, entry.mtime_ns)

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield the files and folders in this folder."""
        if self.system.type_name != "gcs":
            return self._below(recursive=False)
        # There PyArrow lists only folders that were created, not those that exist by the names of files.
        names = dict.fromkeys(path.relative_to(self).parts[0] for path in self._below(recursive=True))
        return (self / name for name in names)

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the files in this folder whose names match."""
        return (path for path in self._below(recursive=False) if path.listed and fnmatch(path.name, pattern))

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the files below this folder at any depth whose names match."""
        return (path for path in self._below(recursive=True) if path.listed and fnmatch(path.name, pattern))

    def read_bytes(self) -> bytes:
        """Return the content. Raises FileNotFoundError."""
        with open_arrow(self) as file:
            content: bytes = file.read()
        return content

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        if not missing_ok or self.is_file():
            self.system.delete_file(str(self.path))

    def _info(self) -> Any:
        return self.system.get_file_info(str(self.path))

    def _below(self, *, recursive: bool) -> Iterator[RemotePath]:
        chosen = pa.fs.FileSelector(str(self.path), allow_not_found=True, recursive=recursive)
        for entry in self.system.get_file_info(chosen):
            is_file = entry.type == pa.fs.FileType.File
            listed = _Stat(entry.size or 0, entry.mtime_ns) if is_file else None
            yield RemotePath(self.system, PurePosixPath(entry.path), self.scheme, listed)


AnyPath: TypeAlias = "Path | RemotePath"


def unlisted(path: AnyPath) -> AnyPath:
    """Return a path that asks its store for size and time: the time in a listing may be rounded."""
    return replace(path, listed=None) if isinstance(path, RemotePath) else path


def is_remote(path: object) -> bool:
    """Whether a path, or a text, is an address in an object store."""
    return isinstance(path, RemotePath) or (isinstance(path, str) and "://" in path)


def place(name: str | Path | RemotePath) -> AnyPath:
    """Open an address such as "s3://bucket/folder", by PyArrow or fsspec; other names are paths on this machine.

    Raises InputError for an address that neither can open, MissingExtra if fsspec is needed and not installed.
    """
    if isinstance(name, RemotePath):
        return name
    text = str(name)
    if not isinstance(name, str) or not is_remote(text):
        return Path(text).expanduser()
    scheme = text.partition("://")[0]
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in text:
        text += f"{'&' if '?' in text else '?'}{_PATIENCE}"
    try:
        system, path = pa.fs.FileSystem.from_uri(quote(text, safe=_NOT_QUOTED))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        system, path = _by_fsspec(text)
    except OSError as error:
        raise InputError(f"cannot open {text}: {one_line(error)}") from error
    if isinstance(system, pa.fs.LocalFileSystem):
        return Path(path)
    return RemotePath(system, PurePosixPath(path), scheme)


def _by_fsspec(text: str) -> tuple[Any, str]:
    core = require("fsspec.core", extra="remote")
    try:
        system, path = core.url_to_fs(text)
    except Exception as error:  # each of its file systems has errors of its own
        raise InputError(
            f"cannot open {text}: {one_line(error)}; name a path, s3://, gs:// or what fsspec opens"
        ) from error
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(system)), path


def size_and_time(path: AnyPath) -> tuple[int, int]:
    """Return the size of a file and when it was written, in ns or 0 if unknown; -1 for both if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns or 0


def changed(path: AnyPath) -> InputError:
    """Return the error for a file that was changed or replaced while it was read."""
    return InputError(
        f"{path} was changed or replaced while it was read (its size, time or footer differs): leave files as they are "
        "until the command ends, and start it anew"
    )


def open_arrow(path: AnyPath) -> Any:
    """Open a file for Arrow's readers. Raises FileNotFoundError, OSError for what is no regular file."""
    if isinstance(path, RemotePath):
        return path.system.open_input_file(str(path.path))
    open_regular(path).close()
    return pa.OSFile(str(path))


def read_patiently(path: AnyPath, read: Callable[[], T]) -> T:
    """Return the result of `read`, with two more attempts if the disk or the store of `path` does not answer.

    Raises FileError if all attempts fail. Other errors, such as those of a damaged file, pass through.
    """
    pauses = iter(_PAUSES_S)
    while True:
        try:
            return read()
        except OSError as error:  # noqa: PERF203 - the loop is for errors
            if isinstance(error, FileNotFoundError) or not (is_remote(path) or error.errno in _NOT_NOW):
                raise
            if (pause := next(pauses, None)) is None:
                raise FileError(f"cannot read {path}: {one_line(error)}") from error
            time.sleep(pause)


def read_bytes(path: AnyPath) -> bytes:
    """Return the content of a file. Raises as `open_arrow` does."""
    if isinstance(path, RemotePath):
        return path.read_bytes()
    with open_regular(path) as file:
        return file.read()


def write_bytes(path: AnyPath, content: bytes | memoryview) -> None:
    """Write a file, and make its folder. A reader sees all of it or nothing: a put in a store is atomic."""
    if isinstance(path, Path):
        make_folder(path.parent)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return
    try:
        with path.system.open_output_stream(str(path.path)) as stream:
            stream.write(content)
    except OSError as error:
        raise FileError(f"cannot write {path}: {one_line(error)}") from error
