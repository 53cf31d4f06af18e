"""Options of training that fit a network, chosen from what it is made of. An option that is given wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from exeunt.torch.exits.heads import TOKENS, Head
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.training.convex import linear_layer

__all__ = ["Settings", "made_of", "settings_for"]

# Networks with batch norm, or without any norm. Measured: docs/results/exit-ingredients.md
_CONVOLUTIONAL = {
    "epochs": 20, "optimiser": "sgd", "learning_rate": 0.1, "schedule": "one_cycle", "weight_decay": 5e-4,
    "momentum": 0.9, "backbone_rate": 1.0, "precision": "fp32",
}  # fmt: skip
_CONVOLUTIONAL_TUNED = {"backbone_rate": 0.05, "teacher": "original"}

# Networks with attention or layer norms. Measured on texts: docs/results/token-heads.md, docs/results/banking77.md
_TRANSFORMER = {
    "epochs": 20, "optimiser": "adamw", "learning_rate": 1e-3, "schedule": "one_cycle", "warm_up": 0.1,
    "weight_decay": 0.05, "backbone_rate": 1.0, "precision": "fp32",
}  # fmt: skip
_TRANSFORMER_TUNED = {"learning_rate": 3e-4, "weight_decay": 0.01, "backbone_rate": 0.3}
_TOKEN_HEADS = {"learning_rate": 2e-3, "weight_decay": 0.01, "warm_up": 0.25}
_SOLVED = {"optimiser": "lbfgs"}

_OF_GRADIENTS = ("epochs", "learning_rate", "schedule", "warm_up", "weight_decay", "momentum", "smoothing")
_OF_AN_OPTIMISER = ("optimiser", "learning_rate", "weight_decay", "momentum")
_HEADS_FIRST = 10
_TUNED_EPOCHS = {"text": 3, "image": 10}
_TUNED_BATCH = {"text": 32, "image": 128}
_BATCH = 128
_BATCH_OF_FEATURES = 256


@dataclass(frozen=True)
class Settings:
    """The options of one training.

    `network`: what it is made of, in words. `recipe`: options of `train`. `heads_first`: epochs in which heads learn
    alone before everything does, and `heads_recipe`: the options of these. `batch_size`: inputs per batch that is
    learned from, and `run_size`: inputs that the network is run on at once, fewer where heads learn from its features.
    """

    network: str
    recipe: Mapping[str, Any]
    heads_first: int
    heads_recipe: Mapping[str, Any]
    batch_size: int
    run_size: int

    def describe(self) -> str:
        """Return them in one line."""
        options = {**self.recipe, "batch_size": self.batch_size}
        if self.heads_first:
            options["heads_first"] = self.heads_first
        return f"{self.network}: " + ", ".join(f"{name} {value}" for name, value in options.items())


def settings_for(
    network: EarlyExitNetwork, given: Mapping[str, Any], *, trained: bool, inputs: str, cached: bool
) -> Settings:
    """Return the options for a network with exits.

    `given`: options of `train`, which win. `trained`: the network brings weights. `inputs`: "text" or "image".
    `cached`: heads can learn on features that are kept.
    """
    parts = made_of(network.backbone, apart_from=network.new_classifier)
    transformer = "attention" in parts or "layer norm" in parts
    kind = f"{', '.join(parts) or 'no norm'}; {'trained' if trained else 'new'} weights"
    if given.get("mode", "frozen") == "frozen":
        if not network.learning_heads:  # nothing learns
            return Settings(kind, given, 0, {}, _BATCH, _BATCH)
        recipe = _with(_heads_recipe(network, given, cached=cached), given)
        learned = _BATCH_OF_FEATURES if cached and recipe["optimiser"] != "lbfgs" else _BATCH
        return Settings(kind, recipe, 0, {}, learned, _BATCH)
    heads = _heads_recipe(network, {}, cached=True)
    heads_first = (1 if heads == _SOLVED else _HEADS_FIRST) if trained and network.learning_heads else 0
    batch_size = _BATCH
    if not transformer:
        recipe = {**_CONVOLUTIONAL, **(_CONVOLUTIONAL_TUNED if trained else {})}
    else:
        recipe = {**_TRANSFORMER, "precision": _precision()}
        if trained:
            recipe |= {**_TRANSFORMER_TUNED, "epochs": _TUNED_EPOCHS[inputs]}
            recipe |= {} if network.new_classifier else {"teacher": "original"}
            batch_size = _TUNED_BATCH[inputs]
    return Settings(kind, _with(recipe, given), heads_first, heads, batch_size, batch_size)


def _with(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe in which given options win; another optimiser has rates of its own."""
    optimiser = given.get("optimiser", recipe["optimiser"])
    if optimiser == "lbfgs":
        return dict(given) | {"optimiser": optimiser}
    if optimiser != recipe["optimiser"]:
        recipe = {name: value for name, value in recipe.items() if name not in _OF_AN_OPTIMISER}
    return {**recipe, **given}


def made_of(model: nn.Module, *, apart_from: str = "") -> list[str]:
    """Return which of attention, layer norm and batch norm a model has, apart from the module of this name."""
    own = f"{apart_from}."
    modules = [m for name, m in model.named_modules() if not (apart_from and f"{name}.".startswith(own))]
    found = {
        "attention": any("attention" in type(module).__name__.lower() for module in modules),
        "layer norm": any("layernorm" in type(module).__name__.lower() for module in modules),
        "batch norm": any("batchnorm" in type(module).__name__.lower() for module in modules),
    }
    return [part for part, has in found.items() if has]


def _heads_recipe(network: EarlyExitNetwork, given: Mapping[str, Any], *, cached: bool) -> dict[str, Any]:
    """Return the options for heads on a frozen network: on tokens, linear heads are solved.

    Unless an option is given that says how to descend by gradients.
    """
    heads = network.learning_heads
    on_tokens = any(isinstance(head, Head) and head.layout == TOKENS for head in heads)
    if not on_tokens:
        return dict(_CONVOLUTIONAL)
    solvable = cached and all(linear_layer(head) for head in heads)
    if solvable and not any(name in given for name in _OF_GRADIENTS):
        return dict(_SOLVED)
    return {**_TRANSFORMER, **_TOKEN_HEADS}


def _precision() -> str:
    """Return bf16 where there is hardware for it: on a CPU it gains nothing for a transformer."""
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
