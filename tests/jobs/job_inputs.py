"""Runs that are written anew with something changed, and pictures to answer."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from exeunt.runs.folder import RunFolder

FACTORY = "exeunt.zoo:digits"
PARTS = ("fit", "calibrate", "test")
_WRITTEN = ("format", "version", "files", "sha256")  # by `RunFolder.create`


def quiet(_: str) -> None:
    pass


def about_of(run: RunFolder) -> dict:
    """What a run was made with."""
    return {name: value for name, value in run.manifest.items() if name not in _WRITTEN}


def traces_of(run: RunFolder) -> dict:
    return {part: run.trace(part) for part in PARTS}


def copied(run: RunFolder, folder: Path) -> RunFolder:
    return RunFolder.open(shutil.copytree(run.path, folder))


def made_anew(run: RunFolder, traces: dict | None = None, **about) -> RunFolder:
    """Write a run where it is, with other traces or other facts about it."""
    traces = traces or traces_of(run)
    return RunFolder.create(run.path, cost=run.cost, traces=traces, about=about_of(run) | about)


def of_other_inputs(run: RunFolder) -> RunFolder:
    """Write a run anew as if it had seen none of its inputs."""
    traces = {part: replace(one, id=one.id ^ np.uint64(1 << 63)) for part, one in traces_of(run).items()}
    return made_anew(run, traces, split={**run.manifest["split"], "fingerprint": "other"})


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (n, 8, 8, 3), dtype=np.uint8)


def cells(pixels: np.ndarray) -> list[dict]:
    """Pictures as cells of a table."""
    found = []
    for one in pixels:
        Image.fromarray(one).save(file := io.BytesIO(), "png")
        found.append({"bytes": file.getvalue()})
    return found


def write_pictures(folder: Path, pixels: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for i, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f"{i:03d}.bmp")
    return folder
