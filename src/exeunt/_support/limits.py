"""The cores and the memory that this process may use, in a container less than the machine has; and what its processor
can do.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from exeunt.errors import InputError

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_PROCESSOR, _VNNI = Path("/proc/cpuinfo"), ("avx512_vnni", "avx_vnni")
_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1.

    It is the least of its affinity and the limits of its control groups, rounded up: a limit of 1.5 cores is 2.
    """
    here = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(here(0)) if here is not None else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(limit) for limit in _core_limits())]))


def usable_memory() -> int:
    """Return how many bytes of memory this process may use: the machine's, or the least limit of its control groups.

    A system that does not tell has a limit that is never reached.
    """
    names = getattr(os, "sysconf_names", {})
    known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 2**63
    return min([machine, *_memory_limits()])


def adds_products_in_16_bits() -> bool:
    """Whether the processor adds products of 8-bit integers in 16 bits, where they may overflow: x86 without VNNI.

    Where the system does not tell, it does not.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not _PROCESSOR.is_file():
        return False
    flags = _PROCESSOR.read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split()
    return not any(flag in flags for flag in _VNNI)


def return_large_blocks() -> None:
    """Let glibc return blocks of 4 MiB or more to the system once they are freed.

    By itself it raises that limit to 32 MiB, and then each thread that has decoded large images keeps their memory.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_MMAP_THRESHOLD, 4 << 20)


def check_memory(n_bytes: float, what: str, remedy: str) -> None:
    """Raise InputError if `what`, such as "a batch", takes more bytes than this process may use."""
    usable = usable_memory()
    if n_bytes > usable:
        needed, there = (f"{number / 2**30:.3g} GiB" for number in (n_bytes, usable))
        raise InputError(f"{what} takes {needed} of memory, and there are {there}: {remedy}")


def _memory_limits() -> Iterator[int]:
    """Yield the limit in bytes of each control group of this process, if it has one."""
    for group in _groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):  # versions 2 and 1
            file = group / name
            text = file.read_text().strip() if file.is_file() else ""
            if text.isdigit():  # "max" is no limit
                yield int(text)


def _core_limits() -> Iterator[float]:
    """Yield the limit in cores of each control group of this process, if it has one."""
    for group in _groups("cpu"):
        if (group / "cpu.max").is_file():  # version 2: "200000 100000", or "max 100000"
            quota, _, period = (group / "cpu.max").read_text().partition(" ")
        elif (group / "cpu.cfs_quota_us").is_file():
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        else:
            continue
        if quota.strip().isdigit() and period.strip().isdigit():  # "max" and -1 are no limit
            yield int(quota) / max(1, int(period))


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups of a controller, and their parents.

    In a container the kernel may name a path of the host; the top folder is then the container's group.
    """
    lines = _OWN.read_text().splitlines() if _OWN.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top = _CGROUPS
        elif controller in controllers.split(","):
            top = _CGROUPS / controller
        else:
            continue
        own = top / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))
