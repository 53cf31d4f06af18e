"""Estimators of scikit-learn on disk, in the format of `skops`: reading one executes nothing that the file brings."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from exeunt.errors import ArtefactError, InputError, require
from exeunt.run.file_digests import ESTIMATOR
from exeunt.run.folder import RunFolder

__all__ = ["check_estimator", "load_estimator", "save_estimator"]

EXTRA = "tfidf"


def save_estimator(estimator: Any, file: Path) -> None:
    """Write a fitted estimator. Raises InputError if it could not be read again: types that are not trusted."""
    io = _skops()
    content = io.dumps(estimator)
    if unknown := io.get_untrusted_types(data=content):
        raise InputError(
            f"{type(estimator).__name__} holds {', '.join(unknown)}, which no file should bring: give an estimator "
            "made of scikit-learn's own, without functions, or an object of your own that holds it"
        )
    file.write_bytes(content)


def load_estimator(run: RunFolder) -> Any:
    """Return the estimator of a run. Raises ArtefactError if it holds types that are not trusted."""
    io = _skops()
    file = run.files.path(ESTIMATOR)
    _check_types(io, file)
    return io.load(file)


def check_estimator(run: RunFolder) -> str:
    """Check the file; returns what it is. Raises ArtefactError as `load_estimator`, where skops is installed."""
    file = run.files.path(ESTIMATOR)
    if find_spec("skops") is None:
        return "not read: skops is not installed"
    _check_types(_skops(), file)
    return "nothing but trusted types"


def _check_types(io: Any, file: Path) -> None:
    if unknown := io.get_untrusted_types(file=file):
        raise ArtefactError(
            f"{file} holds {', '.join(unknown)}, which exeunt does not write: it is not opened"
        )


_NEEDS_TORCH = "sklearn.externals.array_api_compat.torch"


def _skops() -> Any:
    """Import `skops.io`, which imports all of scikit-learn, without the part of it that imports PyTorch."""
    kept_out = _NEEDS_TORCH not in sys.modules and "torch" not in sys.modules
    if kept_out:
        sys.modules[_NEEDS_TORCH] = None  # type: ignore[assignment]
    try:
        return require("skops.io", extra=EXTRA)
    finally:
        if kept_out:
            del sys.modules[_NEEDS_TORCH]
