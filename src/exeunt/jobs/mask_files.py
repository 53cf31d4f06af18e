"""The masks of predictions as PNG files, one per image."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from exeunt._support.files import atomic_path, check_writable
from exeunt._support.paths import AnyPath
from exeunt.errors import InputError, require
from exeunt.runs.folder import RunFolder
from exeunt.score.mask_confidence import Masks, mask_of


def check_mask_folder(run: RunFolder, folder: Path, *, has_file: bool) -> None:
    """Raise InputError, before anything is computed, if a run has no masks or they cannot be written to a folder."""
    if not run.masks:
        raise InputError(f"{run.path} answers with classes, and has no masks to write to {folder}")
    if not has_file:
        raise InputError("masks are written beside a file of predictions: name one")
    check_writable(folder, f"cannot write masks to {folder}")


def write_mask_files(parts: Sequence[AnyPath], folder: Path) -> None:
    """Write the masks in these Parquet files of predictions to a folder, each under the name of its image.

    "street/17.jpg" gives "street/17.png"; where there is also "street/17.webp", it gives "street/17.jpg.png". The row
    "test.parquet#17" gives "test.parquet#17.png". Pixels are numbers of classes. Inputs without an answer have no file.
    """

    def read(part: AnyPath, *columns: str) -> list[list[Any]]:
        table = pq.read_table(part, columns=list(columns), page_checksum_verification=True)
        return [table[column].to_pylist() for column in columns]

    shared = Counter(_short(name) for part in parts for name in read(part, "name")[0])
    for part in parts:
        for name, runs in zip(*read(part, "name", "mask"), strict=True):
            if runs is not None:
                short = _short(name)
                file = folder.joinpath(*(short if shared[short] == 1 else _places(name)))
                file = file.with_name(f"{file.name}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(file) as temporary:
                    temporary.write_bytes(_png(mask_of(runs)))


def _places(name: str) -> tuple[str, ...]:
    """Return the folders and the file of a name below any folder: without a root, and without steps out of it."""
    return tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".."))


def _short(name: str) -> tuple[str, ...]:
    """Return the same without the ending of an image file. A row of a table, "test.parquet#17", has none."""
    *folders, file = _places(name)
    return (*folders, file if "#" in file else PurePosixPath(file).stem)


def _png(mask: Masks) -> bytes:
    file = io.BytesIO()
    require("PIL.Image", extra="onnx").fromarray(mask).save(file, "PNG")
    return file.getvalue()
