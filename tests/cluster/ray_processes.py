"""The processes of a Ray cluster that some process started."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def below(top: int | None = None, *, named: str = "ray::") -> list[int]:
    """Return the processes below one (by default this one), at any depth, whose command begins like that."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[pid] = (folder / "cmdline").read_bytes().decode(errors="replace")

    def is_below(pid: int) -> bool:
        while pid in parents and pid != 1:
            pid = parents[pid]
            if pid == (top or os.getpid()):
                return True
        return False

    return sorted(pid for pid in parents if commands.get(pid, "").startswith(named) and is_below(pid))
