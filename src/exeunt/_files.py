"""Writing files so that a reader never sees half of one: a temporary name first, then a rename."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exeunt.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it takes the place of `path`.

    If the block raises, the temporary file is removed and `path` stays as it was.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist, create it first")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)  # noqa: PTH105 - the atomic rename is the point
    finally:
        temporary.unlink(missing_ok=True)


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
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or damaged file raises an error that names it."""
    file = Path(path)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {file}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtefactError(f"{file} is not complete JSON ({error}): it is damaged or truncated") from None


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
