"""Which machine this is: what is measured on one says little about another."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["describe_machine", "is_here"]

_CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, Any]:
    """Return what tells this machine from another, JSON-able."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "node": platform.node(),
        "cores": os.cpu_count(),
    }


def is_here(machine: Mapping[str, Any]) -> bool:
    """Whether what `describe_machine` said is true of this machine.

    Names of nodes do not count: equal machines take equal time, and a container has a new name each time.
    """
    here = describe_machine()
    return all(machine.get(name) == here[name] for name in here if name != "node")


def _processor() -> str:
    """Return the name of the processor; on Linux Python itself does not know it."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor()
