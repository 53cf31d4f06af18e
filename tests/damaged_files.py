"""Damage that can befall a file."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEEP = b"[" * 100_000 + b"]" * 100_000


class Hangs(BaseException):
    """Something takes too long. Nothing catches it by mistake, as it is no error."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise Hangs if the block takes longer, as when it waits for a pipe."""

    def stop(*_: object) -> None:
        raise Hangs(f"no answer in {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damage(file: Path, harm: str) -> None:
    """Flip a bit of a file, cut it in half, empty it, remove it, or put something else in its place.

    That is a folder, a broken link, a pipe that nobody writes to, or JSON that is nested too deeply.
    """
    content = file.read_bytes()
    half = content[: len(content) // 2]
    do = {
        "flip": lambda: file.write_bytes(half + bytes([content[len(half)] ^ 1]) + content[len(half) + 1 :]),
        "truncate": lambda: file.write_bytes(half),
        "empty": lambda: file.write_bytes(b""),
        "folder": file.mkdir,
        "link": lambda: file.symlink_to(file.parent / "nowhere"),
        "pipe": lambda: os.mkfifo(file),
        "deep": lambda: file.write_bytes(DEEP),
        "remove": lambda: None,
    }[harm]
    file.unlink()
    do()
