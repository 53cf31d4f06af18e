"""How a network is trained: a frozen set of options, its learning-rate curve and its optimiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from exeunt.errors import InputError
from exeunt.run.folder import RunFolder
from exeunt.run.run_path import at_precision

if TYPE_CHECKING:
    from exeunt.torch.exits.network import EarlyExitNetwork

__all__ = ["TEACHERS", "Recipe", "make_optimiser", "make_recipe", "rate_factor"]

_DEFAULT_RATES = {"sgd": 0.1, "adamw": 2e-3, "lbfgs": 1.0}
_CHOICES = {
    "mode": ("frozen", "joint", "distill"),
    "optimiser": ("sgd", "adamw", "lbfgs"),
    "schedule": ("one_cycle", "cosine", "constant"),
    "precision": ("fp32", "bf16"),
}
TEACHERS = ("self", "original")
"""Teachers that are no run."""
_START = 0.04  # where it starts, as a share of the peak


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options of `train`, checked. See there for what each means."""

    mode: str
    epochs: int
    optimiser: str
    learning_rate: float
    schedule: str
    warm_up: float
    weight_decay: float
    momentum: float
    exit_weights: str | Sequence[float] | None
    distill_weight: float
    temperature: float
    teacher: str
    smoothing: float
    backbone_rate: float
    gradient_balancing: bool
    precision: str
    seed: int

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise InputError(f"{name} {value!r} is not known: choose one of {', '.join(choices)}")
        if self.teacher not in TEACHERS and not RunFolder.exists(at_precision(Path(self.teacher))):
            raise InputError(
                f"teacher {self.teacher!r} is not known: choose {', '.join(TEACHERS)}, or the folder of a finished run"
            )
        if self.teacher not in TEACHERS and self.mode != "distill":
            raise InputError(
                f"the teacher {self.teacher} teaches in mode 'distill' alone, got mode {self.mode!r}: ask for "
                "that mode, or leave the teacher out"
            )
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, got {self.epochs}")
        for name, low, high in (
            ("learning_rate", 0, math.inf),
            ("weight_decay", 0, math.inf),
            ("momentum", 0, 1),
            ("warm_up", 0, 1),
            ("distill_weight", 0, 1),
            ("smoothing", 0, 1),
            ("backbone_rate", 0, math.inf),
        ):
            value = getattr(self, name)
            if not (low <= value <= high and math.isfinite(value)):
                raise InputError(f"{name} must lie in [{low}, {high}] and be finite, got {value!r}")
        if self.optimiser == "lbfgs" and self.mode != "frozen":
            raise InputError(f"optimiser 'lbfgs' is for mode 'frozen' alone, got mode {self.mode!r}")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature must be above 0, got {self.temperature!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        value = asdict(self)
        if not isinstance(self.exit_weights, (str, type(None))):
            value["exit_weights"] = [float(w) for w in self.exit_weights]
        return value


def make_recipe(
    *, mode: str, optimiser: str, learning_rate: float | None, distill_weight: float, **rest: Any
) -> Recipe:
    """Return the recipe, with the optimiser's usual rate where none is given, and a teacher only to distill."""
    recipe = Recipe(
        mode=mode,
        optimiser=optimiser,
        learning_rate=_DEFAULT_RATES.get(optimiser, 0.1) if learning_rate is None else learning_rate,
        distill_weight=distill_weight,
        **rest,
    )
    return recipe if mode == "distill" else replace(recipe, distill_weight=0.0)


def rate_factor(progress: float, schedule: str, warm_up: float = 0.25) -> float:
    """Return the learning rate as a share of its peak, after `progress` in [0, 1] of the run.

    "constant": 1. "cosine": 1 falling to 0 along half a cosine. "one_cycle": a cosine rise from 0.04 over
    the share `warm_up` of the run, then a cosine fall to 0 (Smith and Topin 2018; the shape of torch's OneCycleLR).

    >>> [round(rate_factor(p, "one_cycle"), 3) for p in (0, 0.25, 1)]
    [0.04, 1.0, 0.0]
    """
    # torch's OneCycleLR stays within 0.009 of this over 400 batches, but wants to know their number beforehand, keeps a
    # state, wastes the last batch on a rate near 0, and cannot do 4 batches (torch 2.13 divides by zero).
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if progress < warm_up:
        return _START + (1 - _START) * (1 - math.cos(math.pi * progress / warm_up)) / 2
    return (1 + math.cos(math.pi * (progress - warm_up) / max(1 - warm_up, 1e-9))) / 2


def make_optimiser(network: EarlyExitNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    """Return one optimiser over the heads, a new classifier among them, and over the backbone unless it is frozen.

    Every group has "scale", its share of the learning rate. Weight decay is for weight matrices alone:
    biases and normalisation scales are left free.
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
