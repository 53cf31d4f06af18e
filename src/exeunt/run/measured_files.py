"""What was measured of a run's executors on this machine and device: plans and profiles, a file each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from exeunt._sealed import read_sealed, write_sealed
from exeunt.engine.executor import CPU

__all__ = ["measured_files", "read_measured", "write_measured"]

T = TypeVar("T")


def measured_files(run: Path, kind: str, executor: str) -> dict[str, str]:
    """Return the files of a "plan" or "profile" of this executor, by kind of device: {"cpu": "plan-onnx.json"}."""
    start = f"{kind}-{executor}"
    found = sorted(file.name for file in run.glob(f"{start}*.json"))
    return {name.removeprefix(start).removesuffix(".json").lstrip("-") or CPU: name for name in found}


def write_measured(
    run: Path, kind: str, executor: str, machine: Mapping[str, Any], body: Mapping[str, Any]
) -> None:
    """Write a plan or profile for its executor and kind of device; it replaces the one before."""
    file = run / _name(kind, executor, machine.get("device", CPU))
    write_sealed(file, kind, body, format_=f"exeunt-{kind}", version=1)


def read_measured(
    run: Path, kind: str, executor: str, device: str, build: Callable[[Mapping[str, Any]], T]
) -> T | None:
    """Read a plan or profile; None if there is none. Raises ArtefactError if it is damaged, edited or newer."""
    file = run / _name(kind, executor, device)
    if not os.path.lexists(file):
        return None
    return read_sealed(
        file, kind, build, kind=kind, format_=f"exeunt-{kind}", version=1, remedy="measure it again"
    )


def _name(kind: str, executor: str, device: str) -> str:
    return f"{kind}-{executor}.json" if device == CPU else f"{kind}-{executor}-{device.split()[0]}.json"
