"""Damage that can befall a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def damage(file: Path, harm: str) -> None:
    """Flip a bit of a file, cut it in half, empty it, put a folder or a broken link in its place, or remove it."""
    content = file.read_bytes()
    file.unlink()
    middle = len(content) // 2
    if harm == "flip":
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif harm == "truncate":
        file.write_bytes(content[:middle])
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "folder":
        file.mkdir()
    elif harm == "link":
        file.symlink_to(file.parent / "nowhere")
    elif harm != "remove":
        raise ValueError(harm)
