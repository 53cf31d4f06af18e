"""A run folder of an untrained network of digits, and inputs for it."""

from __future__ import annotations

from pathlib import Path

import torch

from exeunt.data import Preprocess
from exeunt.runs.folder import RunFolder
from exeunt.torch import attach, record
from exeunt.torch.models.preparation import save_preparation
from exeunt.torch.models.weights import save_weights
from exeunt.zoo import digits


def noise(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def run_of_noise(
    folder: Path, spec: str = "exeunt.zoo:digits", n: int = 30, cost_factor: float = 1.0
) -> tuple[RunFolder, list[torch.Tensor]]:
    """A run folder whose manifest says that `spec` makes its network, and the network's logits."""
    torch.manual_seed(0)
    images = noise(n)
    network = attach(digits(), images[:2], 3, verbose=False).eval()
    save_weights(network, folder / "weights.safetensors")
    trace = record(network, [(images, torch.zeros(n, dtype=torch.int64), torch.arange(n))])
    about = {
        "model": {"spec": spec, "n_classes": 10, "macs": network.backbone_macs},
        "network": network.config(),
        "inputs": save_preparation(Preprocess(size=(8, 8)), folder, images[:2]),
        "class_names": list("0123456789"),
        "data": {"name": "noise"}, "split": {}, "training": {}, "provenance": {},
    }  # fmt: skip
    parts = dict(zip(("fit", "calibrate", "test"), trace.split(), strict=True))
    cost = type(network.cost)(network.cost.cumulative * cost_factor, unit=network.cost.unit)
    RunFolder.create(folder, cost=cost, traces=parts, about=about)
    with torch.no_grad():
        return RunFolder.open(folder), network(images)
