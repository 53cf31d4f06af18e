"""The masks of predictions as PNG files, one per image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq

from exeunt._files import atomic_path, check_writable
from exeunt._paths import AnyPath
from exeunt.errors import InputError, require
from exeunt.run.folder import RunFolder
from exeunt.score.masks import Masks, mask_of


def check_mask_folder(run: RunFolder, folder: Path, *, has_file: bool) -> None:
    """Raise InputError, before anything is computed, if a run has no masks or they cannot be written to a folder."""
    if not run.masks:
        raise InputError(f"{run.path} answers with classes, and has no masks to write to {folder}")
    if not has_file:
        raise InputError("masks are written beside a file of predictions: name one")
    check_writable(folder, f"cannot write masks to {folder}")


def write_mask_files(parts: Sequence[AnyPath], folder: Path) -> None:
    """Write the masks in these Parquet files of predictions to a folder, each under the name of its image.

    "street/17.jpg" gives "street/17.png", and the row "test.parquet#17" gives "test.parquet#17.png". Pixels are numbers
    of classes. Inputs without an answer have no file.
    """
    for part in parts:
        table = pq.read_table(part, columns=["name", "mask"], page_checksum_verification=True)
        for name, runs in zip(table["name"].to_pylist(), table["mask"].to_pylist(), strict=True):
            if runs is not None:
                file = folder / _file_name(name)
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(file) as temporary:
                    temporary.write_bytes(_png(mask_of(runs)))


def _file_name(name: str) -> Path:
    """Return a path below the folder: without a root, and without steps out of it."""
    places = [one for one in PurePosixPath(name.replace("\\", "/")).parts if one not in ("/", "..")]
    last = places[-1] if "#" in places[-1] else str(PurePosixPath(places[-1]).with_suffix(""))
    return Path(*places[:-1], f"{last}.png")


def _png(mask: Masks) -> bytes:
    file = io.BytesIO()
    require("PIL.Image", extra="onnx").fromarray(mask).save(file, "PNG")
    return file.getvalue()
