"""How many cores this process may use, which in a container is fewer than the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["usable_cores"]

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1.

    That is the least of its affinity and the limits of its control groups, rounded up: a limit of 1.5 cores is 2.
    """
    here = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(here(0)) if here is not None else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(limit) for limit in _limits())]))


def _limits() -> Iterator[float]:
    """Yield the limit in cores of each control group that this process is in, where there is one."""
    for group in _groups():
        if (group / "cpu.max").is_file():  # version 2: "200000 100000", or "max 100000"
            quota, _, period = (group / "cpu.max").read_text().partition(" ")
        elif (group / "cpu.cfs_quota_us").is_file():
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        else:
            continue
        if quota.strip().isdigit() and period.strip().isdigit():  # "max" and -1 are no limit
            yield int(quota) / max(1, int(period))


def _groups() -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those around them.

    In a container the kernel may name a path of the host; the folder at the top is then the container's.
    """
    lines = _OWN.read_text().splitlines() if _OWN.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top = _CGROUPS
        elif "cpu" in controllers.split(","):
            top = _CGROUPS / "cpu"
        else:
            continue
        own = top / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))
