"""The run of a run at another precision: "RUN@int8" is the run folder RUN/int8, made from RUN."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from exeunt.errors import ArtefactError, InputError
from exeunt.run.file_digests import CASCADE, MANIFEST, WEIGHTS
from exeunt.run.manifest import read_manifest

__all__ = [
    "INT8",
    "PRECISIONS",
    "at_precision",
    "check_precision",
    "check_precision_name",
    "refuse_precision",
]

INT8 = "int8"
PRECISIONS = (INT8, "bf16", "fp16")


def at_precision(path: Path) -> Path:
    """Return the folder that a path such as "RUN@int8" stands for; any other path as it is.

    Raises InputError for a precision that there is not, or that RUN was not exported at.
    """
    name, at, precision = path.name.rpartition("@")
    if not at or os.path.lexists(path):
        return path
    run = path.parent / name  # which may be "" or "."
    if precision not in PRECISIONS:
        raise InputError(
            f"{path} asks for the precision {precision!r}: choose one of {', '.join(PRECISIONS)}"
        )
    folder = run / precision
    if not os.path.lexists(folder) and os.path.isfile(run / MANIFEST):  # noqa: PTH113 - without an error
        if os.path.isfile(run / CASCADE):  # noqa: PTH113
            raise InputError(
                f"{run} is a cascade, which has the precisions of its models: export these with --precision "
                f"{precision}, and make a cascade of them, `exeunt cascade A@{precision} B@{precision}`"
            )
        raise InputError(
            f"{run} has no {precision} yet: run `exeunt export {quote(str(run))} --precision {precision}` first"
        )
    return folder


def check_precision_name(precision: str) -> None:
    """Raise InputError for a precision that there is not."""
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def refuse_precision(root: Path, manifest: Mapping[str, Any]) -> None:
    """Raise InputError if the run at `root` is one at another precision, of which no further ones are made."""
    if precision := manifest["model"].get("precision"):
        raise InputError(f"{root} is a run at {precision} already: export the run that it was made from")


def check_precision(root: Path, manifest: Mapping[str, Any]) -> None:
    """Raise ArtefactError if the run at `root` was made from other weights than those of the run around it, if any."""
    precision, around = manifest["model"].get("precision"), root.parent / MANIFEST
    if precision is None or not around.is_file():
        return
    weights = read_manifest(around, files=(WEIGHTS,), one_of=(WEIGHTS,))["files"][WEIGHTS]
    if manifest["model"].get("weights_digest") != weights:
        raise ArtefactError(
            f"{root} was made from other weights than {root.parent} has: run `exeunt export {quote(str(root.parent))} "
            f"--precision {precision}` again"
        )
