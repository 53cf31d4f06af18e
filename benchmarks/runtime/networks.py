"""The networks that are timed: random weights, real run folders, and policies that release what is asked for.

Time does not depend on what the weights are, but exits must be driven. So the batch normalisations are settled on
the images that will be timed, every exit's outputs on them are recorded, and thresholds are calibrated on just these
images: the mean cost is then the share that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import exeunt as ex
from exeunt._support.files import write_json
from exeunt.data import Preprocess
from exeunt.policy.calibration import Thresholds
from exeunt.rules import baselines
from exeunt.runs.file_digests import TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.manifest import provenance
from exeunt.torch import attach, record
from exeunt.torch.models.by_name import build_model
from exeunt.torch.models.preparation import save_preparation, to_channels_last
from exeunt.torch.models.weights import save_weights
from exeunt.torch.timed_exits import AUTO, exits_by_time

if TYPE_CHECKING:
    from pathlib import Path

    from exeunt.torch.exits.network import EarlyExitNetwork

FIT, POOL = 64, 512  # images for the rates; images that thresholds are calibrated on, and that are timed
UNREACHABLE = 2.0  # a score that no margin reaches


@dataclass(frozen=True)
class Case:
    """A network by name: `spec` as `exeunt train --model` takes it, images of `side` pixels, `n_heads` early exits."""

    title: str
    spec: str
    n_classes: int
    side: int
    n_heads: int


CASES = {
    "resnet20": Case("ResNet-20, 4 heads, 32 px", "exeunt.zoo:resnet20", 10, 32, 4),
    "resnet18": Case("ResNet-18, 3x3 stem, 32 px", "exeunt.zoo:resnet18", 100, 32, 7),
    "resnet56": Case("ResNet-56, 32 px", "exeunt.zoo:resnet56", 10, 32, 26),
    "resnet18-224": Case("ResNet-18, 224 px", "torchvision:resnet18", 1000, 224, 7),
}
MEASURED = ("resnet20", "resnet18", "resnet56", "resnet18-224")


def images(n: int, side: int, seed: int) -> torch.Tensor:
    """Return n smooth random images, (n, 3, side, side), as a network takes them; they differ in contrast."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, 6, 6, generator=generator)
    contrast = 0.3 + 1.4 * torch.rand(n, 1, 1, 1, generator=generator)
    smooth = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return contrast * (smooth + 0.2 * torch.randn(n, 3, side, side, generator=generator))


def keys(n: int, start: int = 0) -> np.ndarray:
    """Return the keys of n images, from `start` on: they break ties and tell calibration images from others."""
    return np.arange(start, start + n, dtype=np.uint64)


def run_of(case: Case, folder: Path, *, n_heads: int | str | None = None, **head: Any) -> RunFolder:
    """Return the run folder of a network with random weights, made if it is not there. `head`: options of `attach`.

    `n_heads`: "auto" for exits that are placed by the time of a lone input.
    """
    if RunFolder.exists(folder):
        return RunFolder.open(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prepare = Preprocess(size=(case.side, case.side))
    model = to_channels_last(build_model(case.spec, n_classes=case.n_classes), prepare)
    example = images(2, case.side, 0)
    places: Any = n_heads or case.n_heads
    if n_heads == AUTO:
        placed = exits_by_time(model, example, (1,), **head)
        print(placed.describe())
        places, head = placed.names, {**head, "hidden": placed.hidden}
    network = attach(model, example, places, verbose=False, **head)
    pool = images(FIT + POOL, case.side, 1)
    _settle(network, pool[:FIT])
    parts = dict(zip(TRACED, _recorded(network, pool, case.n_classes), strict=True))
    return write_run(network, folder, case.spec, prepare, parts)


def write_run(
    network: EarlyExitNetwork, folder: Path, spec: str, prepare: Preprocess, parts: dict[str, ex.ExitTrace]
) -> RunFolder:
    """Return a finished run folder of a network and its traces; what the original model costs lies beside them."""
    save_weights(network, folder / "weights.safetensors")
    write_json(folder / "backbone.json", {"macs": network.backbone_macs})
    about: dict[str, Any] = {
        "model": {
            "spec": spec,
            "weights": None,
            "n_classes": network.n_classes,
            "macs": network.backbone_macs,
        },
        "network": network.config(),
        "inputs": save_preparation(prepare, folder, torch.zeros(1)),
        "class_names": [],
        "data": {"name": "of a benchmark", "label": None},
        "split": {},
        "training": {},
        "provenance": provenance(("torch",), command="benchmarks/runtime", seed=0),
    }
    return RunFolder.create(folder, cost=network.cost, traces=parts, about=about)


def _settle(network: EarlyExitNetwork, inputs: torch.Tensor) -> None:
    """Set the running averages of every batch normalisation to those of these images."""
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.momentum = None  # a plain average over the batches to come
            layer.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(inputs)
    network.eval()


def _recorded(network: EarlyExitNetwork, pool: torch.Tensor, n_classes: int) -> list[ex.ExitTrace]:
    """Return the traces of fit, calibrate and test; the last is the end of the one before: a run folder has three."""
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, n_classes, len(pool)))
    ids = torch.arange(len(pool))
    batches = [(pool[i : i + 32], labels[i : i + 32], ids[i : i + 32]) for i in range(0, len(pool), 32)]
    trace = record(network, batches)
    return [trace.take(slice(FIT)), trace.take(slice(FIT, None)), trace.take(slice(FIT + POOL // 2, None))]


def policy_for(run: RunFolder, share: float, backbone_macs: float) -> ex.Policy:
    """Return a policy whose mean cost, heads included, is `share` of the original model's multiply-adds.

    Rates fall geometrically or rise along the exits: all of them are in use.
    """
    fit, calibrate = run.trace("fit"), run.trace("calibrate")
    return baselines.msdnet(fit, calibrate, budget=share * backbone_macs, score="margin")


def nobody_leaves(policy: ex.Policy) -> ex.Policy:
    """Return the policy with thresholds that no input reaches: every head runs, everything is answered last."""
    score = np.where(policy.active, UNREACHABLE, policy.limits.score)
    score[-1] = policy.limits.score[-1]
    return replace(policy, limits=Thresholds(score, policy.limits.tie))
