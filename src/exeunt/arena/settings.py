"""What an arena does to one trace: everything that its results depend on, and the digest that names them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import exeunt
from exeunt._sealed import content_digest

if TYPE_CHECKING:
    from exeunt.trace import ExitTrace

__all__ = ["Settings", "trace_digest"]

# Modules that change no number: files, tables, text, and promises that no comparison makes.
_NO_RESULTS = {
    "__init__", "__main__", "_files", "_sealed", "budget_grid", "bundle", "display", "errors", "manifest",
    "policy_file", "trace_archive", "trace_file", "trace_pool", "trace_table", "cheapest", "loss_certificate",
    "policy_set",
}  # fmt: skip
_OF_ARENA = ("mixture.py", "one_split.py")


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
        return content_digest({**self.to_dict(), "trace": trace, "code": _code_digest()})


def trace_digest(trace: ExitTrace) -> str:
    """Return the digest of all that a trace holds."""
    digest = hashlib.sha256(repr((trace.cost.to_dict(), sorted(trace.scores))).encode())
    arrays = [trace.prediction, trace.id, *(trace.scores[name] for name in sorted(trace.scores))]
    for array in arrays if trace.label is None else [*arrays, trace.label]:
        digest.update(repr((array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Return the digest of version and source of what computes results.

    The version alone would let a development checkout read results of code that has changed since.
    """
    root = Path(exeunt.__file__).parent
    files = [*root.glob("*.py"), *root.glob("policies/*.py"), *(root / "arena" / name for name in _OF_ARENA)]
    digest = hashlib.sha256(exeunt.__version__.encode())
    for file in sorted(file for file in files if file.stem not in _NO_RESULTS):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
