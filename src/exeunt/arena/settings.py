"""What an arena does to one trace: everything that its results depend on, and the digest that names them."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._sealed import content_digest
from exeunt._version import __version__

if TYPE_CHECKING:
    from exeunt.trace import ExitTrace

__all__ = ["Settings", "code_digest", "imported_files", "trace_digest"]


@dataclass(frozen=True)
class Settings:
    """How one trace is compared: `policies` by name, `amounts` in the unit of its costs, and how it is split.

    Split number s is drawn with seed + s. How many splits there are changes none of them, so it is not here.
    """

    policies: tuple[str, ...]
    amounts: tuple[float, ...]
    seed: int
    fit: float
    calibrate: float
    test: float
    delta: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Settings:
        """Rebuild settings from `to_dict`."""
        lists = {name: tuple(value[name]) for name in ("policies", "amounts")}
        return cls(**{**value, **lists})

    def digest(self, trace: str) -> str:
        """Return what names the results of these settings on the trace of this digest, by this very code."""
        return content_digest({**self.to_dict(), "trace": trace, "code": code_digest()})


def trace_digest(trace: ExitTrace) -> str:
    """Return the digest of all that a trace holds."""
    digest = hashlib.sha256(repr((trace.cost.to_dict(), sorted(trace.scores))).encode())
    arrays = [trace.prediction, trace.id, *(trace.scores[name] for name in sorted(trace.scores))]
    for array in arrays if trace.label is None else [*arrays, trace.label]:
        digest.update(repr((array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def code_digest(root: Path = Path(__file__).parents[1]) -> str:
    """Return the digest of the package's version and of all its source files that decide what a split measures.

    The version alone would let a development checkout read results of code that has changed since. The files are
    those that `one_split` imports, directly or through others: wherever a file moves, its importer leads there.
    """
    digest = hashlib.sha256(__version__.encode())
    for name, file in sorted(imported_files(root, "arena.one_split").items()):
        digest.update(name.encode() + file.read_bytes())
    return digest.hexdigest()


def imported_files(root: Path, module: str) -> dict[str, Path]:
    """Return the files of `module` and of all that it imports from the package in `root`, by dotted name.

    Every import statement counts, also inside functions and for types alone. The `__init__` of a package counts
    where something is imported from it that is no module.
    """
    found: dict[str, Path] = {}
    unread = [f"{root.name}.{module}"]
    while unread:
        name = unread.pop()
        file = _source(root, name)
        if file is None or name in found:
            continue
        found[name] = file
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                unread += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                origin = resolve_name("." * node.level + (node.module or ""), package)
                names = [f"{origin}.{alias.name}" for alias in node.names]
                unread += [name if _source(root, name) else origin for name in names]
    return found


def _source(root: Path, name: str) -> Path | None:
    """Return the file of a module or package, or None if the package in `root` has none of this name."""
    package, *inner = name.split(".")
    path = root.joinpath(*inner)
    files = (path / "__init__.py", path.with_suffix(".py")) if package == root.name else ()
    return next((file for file in files if file.is_file()), None)
