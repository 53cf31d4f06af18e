"""Paths of runs: "RUN@int8" is the folder RUN/int8, "RUN@50%" RUN with a policy; and what is no run folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from exeunt.errors import ArtefactError, InputError
from exeunt.runs.file_digests import CONFIG, MANIFEST
from exeunt.runs.kinds.cascade import CASCADE
from exeunt.runs.kinds.pytorch import WEIGHTS
from exeunt.runs.manifest import read_manifest

INT8 = "int8"
PRECISIONS = (INT8, "bf16", "fp16")
_MAKE = "make one with `exeunt train --out RUN`"
_GATEWAY = "gateway.json"
_SHOWN = 3  # names in a message
_DATA_NAMES = ("train", "test", "validation", "val")
_DATA_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".png", ".jpg", ".jpeg")


def split_budget(path: Path) -> tuple[Path, str | None]:
    """Return the run and the budget of a path such as "RUN@50%"; any other path, and None."""
    run, sign, budget = path.name.rpartition("@")
    if not sign or not budget[:1].isdigit() or os.path.lexists(path):
        return path, None
    return path.parent / run, budget


def at_precision(path: Path) -> Path:
    """Return the folder that a path such as "RUN@int8" stands for; any other path as it is.

    Raises InputError for a precision that there is not, or that RUN was not exported at.
    """
    name, sign, precision = path.name.rpartition("@")
    if not sign or os.path.lexists(path):
        return path
    run = path.parent / name  # which may be "" or "."
    if precision not in PRECISIONS:
        raise InputError(
            f"{path} asks for {precision!r}: choose a precision, {', '.join(PRECISIONS)}, or a policy by its budget, "
            "such as 50%"
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


def refuse_precision(root: Path, manifest: Mapping[str, Any]) -> None:
    """Raise InputError if the run at `root` is one at another precision, which has no precisions of its own."""
    if precision := manifest["model"].get("precision"):
        raise InputError(f"{root} is a run at {precision} already: export the run that it was made from")


def refuse_masks(root: Path, manifest: Mapping[str, Any]) -> None:
    """Raise InputError if the run at `root` answers with masks: a policy in a file answers with classes alone."""
    if manifest["network"].get("masks"):
        raise InputError(
            f"{root} answers with masks, and one file, or a page, holds policies of classes alone: answer with its "
            "stages (exeunt predict, exeunt serve, exeunt.load)"
        )


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


def why_not_a_run(path: Path) -> str:
    """Return a sentence that says what is at `path`, which has no manifest, and what to do."""
    if not os.path.lexists(path):
        return f"{path} does not exist: give a run folder, or {_MAKE}"
    if not os.path.isdir(path):  # noqa: PTH112 - without an error where access is denied
        return f"{path} is not a run folder but a file, or a broken link: give the folder that `exeunt train` made"
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))  # noqa: PTH208 - names alone
    if not names:
        return f"{path} is not a run folder, it is empty: {_MAKE}"
    if MANIFEST in names:
        return f"{path} has a {MANIFEST} that is not a file: move it away and repeat the run's `exeunt train`"
    if {CONFIG, WEIGHTS, "training"} & {*names}:
        return (
            f"{path} is an unfinished run, or one that lost its {MANIFEST}: finish it with "
            f"{how_to_resume(path, names)}, or restore the file from a copy"
        )
    around = next((folder for folder in path.absolute().parents if _is_run(folder)), None)
    if around is not None:
        return f"{path} is a part of a run folder: give {around}"
    if runs := [name for name in names if _is_run(path / name)]:
        more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
        return f"{path} is not a run folder, it holds some: give one of {', '.join(runs[:_SHOWN])}{more}"
    return _what_else(path, names) or f"{path} is not a run folder (it has no {MANIFEST}): {_MAKE}"


def _what_else(path: Path, names: Collection[str]) -> str:
    """Return what a folder holds that is no run, and what to do; "" if nobody knows."""
    if _GATEWAY in names:
        return (
            f"{path} is the folder of a gateway, not a run folder: `exeunt gateway certify FILE`, with the file that "
            "names it, shows what is certified on its records"
        )
    if "config.json" in names:
        return f"{path} is a Hugging Face model, not a run folder: {_make_with('--model', f'hf:{path}')}"
    if data := [name for name in names if name in _DATA_NAMES or name.lower().endswith(_DATA_SUFFIXES)]:
        return f"{path} is not a run folder, it seems to hold data ({data[0]}): {_make_with('--data', path)}"
    return ""


def how_to_resume(path: Path, names: Collection[str]) -> str:
    """Return the command that finishes the training of a run folder that holds files of these names."""
    if CONFIG in names:
        return f"`exeunt train --config {path / CONFIG} --out {path}`"
    return "the `exeunt train` command that began it"


def _make_with(option: str, argument: object) -> str:
    return f"make one with `exeunt train {option} {quote(str(argument))} --out RUN`"


def _is_run(folder: Path) -> bool:
    return os.path.isfile(folder / MANIFEST)  # noqa: PTH113 - without an error where access is denied
