"""NumPy archives of raw outputs, read for `ExitTrace.from_archive`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from exeunt.costs import CostModel
from exeunt.errors import InputError

__all__ = ["read_archive"]


def read_archive(path: str | Path) -> dict[str, Any]:
    """Return the fields of an .npz: `logits` or `probabilities` (n, m, k), `label` (n,), and the `cost` model.

    Raises InputError for a file that is missing, damaged or lacks an array.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{file} is not a readable .npz archive: {error}") from None
    outputs, label, cost = (
        _one_of(arrays, names, file) for names in (("logits", "probabilities"), ("labels",), ("macs", "cost"))
    )
    model = CostModel(arrays[cost], unit="MACs" if cost == "macs" else "cost", source=file.name)
    return {outputs: arrays[outputs], "label": arrays[label], "cost": model}


def _one_of(arrays: dict[str, Any], names: tuple[str, ...], file: Path) -> str:
    for name in names:
        if name in arrays:
            return name
    raise InputError(f"{file} needs an array {' or '.join(names)}, it has {', '.join(arrays) or 'none'}")
