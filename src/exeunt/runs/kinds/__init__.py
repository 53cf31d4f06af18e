"""The kinds of runs: one file each, which says what holds the network, what runs it, and what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from exeunt.runs.kinds.kind import ExecutorKind, RunKind, imported

__all__ = ["KINDS", "ExecutorKind", "RunKind", "imported"]


def _kinds() -> Mapping[str, RunKind]:
    kinds: dict[str, RunKind] = {}
    for module in iter_modules(__path__):
        if module.name == "kind":
            continue
        kind = getattr(import_module(f"{__name__}.{module.name}"), "KIND", None)
        if not isinstance(kind, RunKind):
            raise TypeError(f"{__name__}.{module.name} must hold a KIND, a RunKind, got {kind!r}")
        if kind.file in kinds:
            raise ValueError(f"two kinds of runs hold their network in {kind.file}, one is {module.name}")
        kinds[kind.file] = kind
    return kinds


KINDS = _kinds()
"""By the file that the network is in."""
