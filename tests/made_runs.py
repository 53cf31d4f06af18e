"""Run folders that the tests share: a manifest, bytes in place of weights, and traces of random outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import exeunt as ex
from exeunt.runs.folder import RunFolder
from exeunt.runs.manifest import provenance

if TYPE_CHECKING:
    from pathlib import Path

ABOUT = {
    "model": {"spec": "torchvision:resnet18", "weights": None, "n_classes": 4, "macs": 16.0},
    "network": {"exits": ("layer1", "layer2"), "head": "grid"},
    "inputs": {"kind": "image"},
    "class_names": ["ant", "bee", "cow", "dog"],
    "data": {"name": "animals", "label": None, "fingerprint": "0"},
    "split": {},
    "training": {"mode": "frozen"},
    "provenance": provenance(["numpy", "no-such-package"], command="test", seed=3),
}


def made_trace(seed: int = 0, n: int = 60) -> ex.ExitTrace:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(4), size=(n, 3))
    fields = {"label": rng.integers(0, 4, n), "id": np.arange(n) + 10_000 * seed}
    return ex.ExitTrace.from_probabilities(probabilities, cost=ex.CostModel([1.0, 2.0, 3.5]), **fields)


def made_run(folder: Path, seed: int = 0, n: int = 60) -> RunFolder:
    """A run of three exits; those of different seeds have the same costs."""
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights %d" % seed)
    for name in ("model/config.json", "tokenizer/nested/words.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text('{"good": 0}')
    trace = made_trace(seed, n)
    return RunFolder.create(folder, cost=trace.cost, traces=parts_of(trace), about=ABOUT)


def parts_of(trace: ex.ExitTrace) -> dict[str, ex.ExitTrace]:
    """The parts of a run, of 30%, 30% and 40% of its inputs."""
    shares = {"fit": 0.3, "calibrate": 0.3, "test": 0.4}
    return dict(zip(shares, trace.split(**shares), strict=True))
