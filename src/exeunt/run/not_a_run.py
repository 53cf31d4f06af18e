"""What a path is that is no run folder, and what to give instead."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote

from exeunt.run.file_digests import CONFIG, MANIFEST, WEIGHTS

__all__ = ["kept_of_training", "why_not_a_run"]

_MAKE = "make one with `exeunt train --out RUN`"
_SHOWN = 3
_DATA_NAMES = ("train", "test", "validation", "val")
_DATA_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".png", ".jpg", ".jpeg")


def why_not_a_run(path: Path) -> str:
    """Return a sentence that says what is at `path`, where there is no manifest, and how to go on."""
    if not os.path.lexists(path):
        return f"{path} does not exist: give a run folder, or {_MAKE}"
    if not os.path.isdir(path):  # noqa: PTH112 - without an error where access is denied
        return f"{path} is not a run folder but a file, or a broken link: give the folder that `exeunt train` made"
    names = sorted(name for name in os.listdir(path) if not name.startswith("."))  # noqa: PTH208 - names alone
    if not names:
        return f"{path} is not a run folder, it is empty: {_MAKE}"
    if MANIFEST in names:
        return (
            f"{path} has a {MANIFEST} that is not a file: move it away, and repeat the run's `exeunt train`"
        )
    if {CONFIG, WEIGHTS, "training"} & {*names}:
        return (
            f"{path} is an unfinished run, or one that lost its {MANIFEST}: finish it with {_again(path, names)}, or "
            "restore the file from a copy"
        )
    around = next((folder for folder in path.absolute().parents if _is_run(folder)), None)
    if around is not None:
        return f"{path} is a part of a run folder: give {around}"
    if runs := [name for name in names if _is_run(path / name)]:
        more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
        return f"{path} is not a run folder, it holds some: give one of {', '.join(runs[:_SHOWN])}{more}"
    if "config.json" in names:
        return f"{path} is a Hugging Face model, not a run folder: {_make_with('--model', f'hf:{path}')}"
    if data := [name for name in names if _is_data(name)]:
        return f"{path} is not a run folder, it seems to hold data ({data[0]}): {_make_with('--data', path)}"
    return f"{path} is not a run folder (it has no {MANIFEST}): {_MAKE}"


def kept_of_training(path: Path) -> str:
    """Return what an interrupted training has left in the folder `path`, and how to go on with it."""
    if not os.path.isfile(path / CONFIG):  # noqa: PTH113 - without an error where access is denied
        return "the training had not begun, and nothing was written"
    return f"{path} keeps what was finished: go on with {_again(path, [CONFIG])}"


def _make_with(option: str, value: object) -> str:
    return f"make one with `exeunt train {option} {quote(str(value))} --out RUN`"


def _again(path: Path, names: list[str]) -> str:
    if CONFIG in names:
        return f"`exeunt train --config {path / CONFIG} --out {path}`"
    return "the `exeunt train` command that began it"


def _is_run(folder: Path) -> bool:
    return os.path.isfile(folder / MANIFEST)  # noqa: PTH113 - without an error where access is denied


def _is_data(name: str) -> bool:
    return name in _DATA_NAMES or name.lower().endswith(_DATA_SUFFIXES)
