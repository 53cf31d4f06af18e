"""How exits learn: the options of a training, its learning-rate curve and its optimiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exeunt.errors import InputError
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_path import at_precision
from exeunt.torch.exits.network import EarlyExitNetwork

TEACHERS = ("self", "original")
"""Teachers that are no run."""

_USUAL_RATES = {"sgd": 0.1, "adamw": 2e-3}
_CHOICES = {
    "mode": ("frozen", "joint", "distill"),
    "optimiser": tuple(_USUAL_RATES),
    "schedule": ("one_cycle", "cosine", "constant"),
    "precision": ("fp32", "bf16"),
}
_RANGES = {
    "learning_rate": math.inf,
    "weight_decay": math.inf,
    "momentum": 1,
    "warm_up": 1,
    "distill_weight": 1,
    "smoothing": 1,
    "backbone_rate": math.inf,
}
_FIRST_RATE = 0.04  # of a one-cycle run, as a share of its peak


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How exits learn.

    `mode`: "frozen" trains the heads alone and leaves the backbone as it is, to the last bit. "joint" trains everything
    on the sum of the exits' cross-entropies. "distill" is joint, and the exits also learn from a teacher's soft output.
    `optimiser`: "sgd" (Nesterov `momentum`) or "adamw". `learning_rate`: the peak; by default 0.1 for sgd, 0.002 for
    adamw. `schedule`: "one_cycle", "cosine" or "constant". `warm_up`: share of a one-cycle run in which the rate rises.
    `weight_decay`: of weight matrices.
    `distill_weight`, `temperature`: weight in [0, 1] and softness of the teacher, in mode "distill". `teacher`: "self"
    (the network's own last exit as it learns), "original" (the network as it was given), or the folder of a run with
    the same classes, whose network gets the same batches.
    `unlabelled`: some or all inputs have no label. From these, exits learn the teacher's soft output and its likeliest
    class in equal parts, in mode "frozen" those of the network (self-supervised exits, Valade 2024).
    `smoothing`: of labels. `class_weights`: what each class's cross-entropies are multiplied by; () for 1.
    `backbone_rate`: the backbone's learning rate as a share of the heads'.
    `precision`: "fp32", or "bf16" for mixed precision. `seed`: of all randomness, the order of a DataLoader included.

    Raises InputError for values that do not exist or lie out of range.
    """

    mode: str = "frozen"
    epochs: int = 20
    optimiser: str = "sgd"
    learning_rate: float = None  # type: ignore[assignment]  # the usual one of the optimiser
    schedule: str = "one_cycle"
    warm_up: float = 0.25
    weight_decay: float = 5e-4
    momentum: float = 0.9
    distill_weight: float = 0.5
    temperature: float = 2.0
    teacher: str = "self"
    unlabelled: bool = False
    smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    backbone_rate: float = 1.0
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise InputError(f"{name} {value!r} is not known: choose one of {', '.join(choices)}")
        if self.learning_rate is None:
            usual = _USUAL_RATES[self.optimiser]  # type: ignore[unreachable]
            object.__setattr__(self, "learning_rate", usual)
        self._check_teacher()
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, got {self.epochs}")
        for name, high in _RANGES.items():
            value = getattr(self, name)
            if not (0 <= value <= high and math.isfinite(value)):
                raise InputError(f"{name} must lie in [0, {high}] and be finite, got {value!r}")
        object.__setattr__(self, "class_weights", tuple(self.class_weights))
        if not all(0 <= weight < math.inf for weight in self.class_weights):
            raise InputError(f"class_weights must be at least 0 and finite, got {self.class_weights!r}")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature must be above 0, got {self.temperature!r}")
        if self.mode != "distill":
            object.__setattr__(self, "distill_weight", 0.0)

    def _check_teacher(self) -> None:
        if self.unlabelled and (self.mode == "joint" or (self.mode, self.teacher) == ("distill", "self")):
            raise InputError(
                f"without labels, the last exit has nothing to learn from in mode {self.mode!r}: train the heads alone "
                "(--mode frozen), or all with another teacher (--mode distill --teacher original)"
            )
        if self.teacher in TEACHERS:
            return
        if not RunFolder.exists(at_precision(Path(self.teacher))):
            raise InputError(
                f"teacher {self.teacher!r} is not known: choose {', '.join(TEACHERS)}, or the folder of a finished run"
            )
        if self.mode != "distill":
            raise InputError(
                f"the teacher {self.teacher} teaches in mode 'distill' alone, got mode {self.mode!r}: ask for "
                "that mode, or leave the teacher out"
            )


def make_recipe(**options: Any) -> Recipe:
    """Return the recipe with these fields. Raises InputError for others, and as `Recipe` does."""
    if unknown := sorted(set(options) - {field.name for field in fields(Recipe)}):
        raise InputError(f"options of training that do not exist: {', '.join(unknown)}")
    return Recipe(**options)


def rate_factor(progress: float, schedule: str, warm_up: float = 0.25) -> float:
    """Return the learning rate as a share of its peak, after `progress` in [0, 1] of the run.

    "constant": 1. "cosine": 1 falling to 0 along half a cosine. "one_cycle": a cosine rise from 0.04 over
    the share `warm_up` of the run, then a cosine fall to 0 (Smith and Topin 2018; the shape of torch's OneCycleLR).

    >>> [round(rate_factor(p, "one_cycle"), 3) for p in (0, 0.25, 1)]
    [0.04, 1.0, 0.0]
    """
    # torch's OneCycleLR stays within 0.009 of this over 400 batches. But it needs their number beforehand, has a state,
    # wastes the last batch on a rate near 0, and fails for 4 batches (torch 2.13 divides by zero).
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if progress < warm_up:
        return _FIRST_RATE + (1 - _FIRST_RATE) * (1 - math.cos(math.pi * progress / warm_up)) / 2
    return (1 + math.cos(math.pi * (progress - warm_up) / max(1 - warm_up, 1e-9))) / 2


def make_optimiser(network: EarlyExitNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    """Return one optimiser over the heads, a new classifier included, and over the backbone unless it is frozen.

    Every group has "scale", its share of the learning rate. Weight decay applies to weight matrices alone, not to
    biases and the scales of normalisation.
    """
    heads = [p for head in network.learning_heads for p in head.parameters()]
    groups = _groups(heads, 1.0, recipe.weight_decay)
    if recipe.mode != "frozen":
        known = {id(p) for p in heads}
        backbone = [p for p in network.backbone.parameters() if id(p) not in known]
        groups += _groups(backbone, recipe.backbone_rate, recipe.weight_decay)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )


def _groups(parameters: Sequence[nn.Parameter], scale: float, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in parameters if p.requires_grad]
    parts = (
        ([p for p in trained if p.ndim > 1], weight_decay),
        ([p for p in trained if p.ndim <= 1], 0.0),
    )
    return [{"params": part, "weight_decay": decay, "scale": scale} for part, decay in parts if part]
