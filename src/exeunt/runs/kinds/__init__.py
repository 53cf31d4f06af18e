"""The kinds of runs: one file each, which says what holds the network, what runs it, and what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from exeunt.runs.kinds.kind import ExecutorKind, RunKind, imported

__all__ = ["KINDS", "ExecutorKind", "RunKind", "imported"]


def _kinds() -> Mapping[str, RunKind]:
    names = (module.name for module in iter_modules(__path__) if module.name != "kind")
    kinds = (import_module(f"{__name__}.{name}").KIND for name in names)
    return {kind.file: kind for kind in kinds}


KINDS = _kinds()
"""By the file that the network is in."""
