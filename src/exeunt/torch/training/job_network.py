"""The network of a training job, with its exits, and the options of its training.

Options that the job does not give are chosen by what the network is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from exeunt._support.progress import Progress
from exeunt.data import DataSource, Preprocess
from exeunt.data.masked_images import MaskedImages, balanced_weights
from exeunt.errors import InputError
from exeunt.timing.exit_placement import PlacedExits
from exeunt.torch.calls import Inputs
from exeunt.torch.exits.attach import attach, encoder_features
from exeunt.torch.exits.heads import Head
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.models import preparation
from exeunt.torch.models.by_name import PRETRAINED, build_model_and_report, known_class_names
from exeunt.torch.models.image_libraries import library_preprocess
from exeunt.torch.models.weights import check_class_order, is_generic
from exeunt.torch.timed_exits import AUTO, BATCHES, exits_by_time
from exeunt.torch.training.job import TrainingJob

# Networks with batch norm, or without any norm. Measured: docs/results/exit-ingredients.md
_CONVOLUTIONAL = {
    "epochs": 20,
    "optimiser": "sgd",
    "learning_rate": 0.1,
    "schedule": "one_cycle",
    "weight_decay": 5e-4,
    "momentum": 0.9,
    "backbone_rate": 1.0,
    "precision": "fp32",
}
_CONVOLUTIONAL_TUNED = {"backbone_rate": 0.05, "teacher": "original"}

# Networks with attention or layer norms. Measured on texts: docs/results/null-results.md, docs/results/banking77.md
_TRANSFORMER = {
    "epochs": 20,
    "optimiser": "adamw",
    "learning_rate": 1e-3,
    "schedule": "one_cycle",
    "warm_up": 0.1,
    "weight_decay": 0.05,
    "backbone_rate": 1.0,
    "precision": "fp32",
}
_TRANSFORMER_TUNED = {"learning_rate": 3e-4, "weight_decay": 0.01, "backbone_rate": 0.3}
_TOKEN_HEADS = {"learning_rate": 2e-3, "weight_decay": 0.01, "warm_up": 0.25}

_OF_AN_OPTIMISER = ("optimiser", "learning_rate", "weight_decay", "momentum")
_HEADS_FIRST = 10
_TUNED_EPOCHS = {"text": 3, "image": 10}
_TUNED_BATCH = {"text": 32, "image": 128}
_BATCH = 128
_BATCH_OF_FEATURES = 256
_BATCH_OF_MASKS = 8
_HEADS_FIRST_ON_MASKS = 2  # few: what these heads read is not kept, so that each epoch runs the network
_EXAMPLE = 2  # inputs of the example that a network is made on


@dataclass(frozen=True)
class Settings:
    """The options of one training.

    `network`: what the network is made of, in words. `recipe`: options of `train`. `heads_first`: epochs in which the
    heads learn alone before the whole network does, with the options `heads_recipe`. `batch_size`: inputs per step of
    the optimiser. `run_size`: inputs that the network runs on at once; fewer where heads learn from kept features.
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
        return f"{self.network}: " + ", ".join(f"{name} {option}" for name, option in options.items())


class JobNetwork(NamedTuple):
    """The network of a job, made before the data are read, since reading can take long.

    `sizing`: how images are resized, or the tokeniser. `example`: two inputs of the shape of the data. `settings`: the
    options of the training. `class_names`: those of the data, or of the network where inputs lack labels. `placed`:
    exits that were placed by time now.
    """

    network: EarlyExitNetwork
    sizing: Any
    example: Inputs
    settings: Settings
    class_names: tuple[str, ...]
    placed: PlacedExits | None = None

    def with_class_weights(self, weights: tuple[float, ...]) -> JobNetwork:
        """Return it with what each class's losses are multiplied by, () for 1."""
        if not weights:
            return self
        recipe = {**self.settings.recipe, "class_weights": weights}
        return self._replace(settings=replace(self.settings, recipe=recipe))


def make_network(job: TrainingJob, source: DataSource, say: Callable[[str], None]) -> JobNetwork:
    """Make the network with its exits. Of the data, only kind, shape and classes are needed."""
    if source.kind == "text":
        sizing = preparation.text_preparation(job.model)
    else:
        sizing = preparation.image_resizing(source.dataset("train"), size=job.size, library=library_of(job))
        preparation.check_batch_memory(sizing, job.batch_size or _EXAMPLE)
    n_classes = None if job.unlabelled else source.n_classes
    trained = job.is_frozen or job.unlabelled
    built = build_model_and_report(
        job.model, n_classes=n_classes, weights=job.weights, trained=trained, seed=job.seed
    )
    if source.kind == "image" and getattr(built.model, "main_input_name", "") == "input_ids":
        raise InputError(f"{job.model} takes texts, and {source.name} holds images: give a network of images")
    preparation.fit_tokenizer(sizing, built.model)
    # Costs are counted for texts as long as those of the calibration part.
    drawn_from = "test" if job.has_seen_training_data and source.test is not None else "train"
    example = preparation.example_inputs(source.dataset(drawn_from), sizing)
    if job.unlabelled and (
        built.new_classifier or (not job.masks and encoder_features(built.model, example))
    ):
        raise InputError(
            f"{job.model} has no trained classifier, so that there is nothing to learn from without labels: give a "
            "trained classifier, or labels"
        )
    model, placed = preparation.to_channels_last(built.model, sizing), None
    exits, head = job.exits, dict(job.head)
    options: dict[str, Any] = {
        "n_classes": n_classes,
        "new_classifier": built.new_classifier,
        "masks": job.masks,
        "seed": job.seed,
    }
    of_gate: dict[str, Any] = {"gate": job.gate or "", "gate_features": job.gate_features or "mean"}
    if exits == AUTO:
        placed = exits_by_time(model, example, job.exit_batch or BATCHES, say=say, **options, **head)
        exits, head["hidden"] = placed.names, placed.hidden
    network = attach(model, example, cast("Any", exits), verbose=False, **options, **of_gate, **head)
    known, class_names = None, source.class_names or ()
    if job.brings_weights and not network.new_classifier:
        known = known_class_names(job.model, built.model, pretrained=job.weights == PRETRAINED)
    if job.unlabelled:
        own = tuple(known or map(str, range(network.n_classes)))
        class_names = class_names if len(class_names) == len(own) and is_generic(own) else own
    check_class_order(known, class_names)
    settings = settings_for(job, network, inputs=source.kind, trained=job.brings_weights and not built.random)
    if source.kind == "image":
        preparation.check_batch_memory(sizing, settings.run_size)
    return JobNetwork(network, sizing, example, settings, class_names, placed)


def class_weights(job: TrainingJob, source: DataSource, say: Callable[[str], None]) -> tuple[float, ...]:
    """Return what each class of masks is weighted by, () for 1. Checks all masks."""
    counts = np.zeros(0, dtype=np.int64)
    for name, data in source.datasets.items():
        if isinstance(data, MaskedImages):
            pixels = data.pixels_by_class(progress=Progress(f"{name} masks looked at", say=say).report)
            counts = pixels if name == "train" else counts
    return balanced_weights(counts) if job.balanced else ()


def library_of(job: TrainingJob) -> Preprocess | None:
    """Return how the library that offers the pretrained weights prepares images; None for other weights."""
    return library_preprocess(job.model) if job.weights == PRETRAINED else None


def settings_for(job: TrainingJob, network: EarlyExitNetwork, *, inputs: str, trained: bool) -> Settings:
    """Return the options of a job's training: those that it gives, and for the others what fits the network.

    `inputs`: "text" or "image". `trained`: no part of the network but its classifier has random weights.
    Raises InputError where a new classifier that has not learned would teach.
    """
    parts = made_of(network.backbone, apart_from=network.new_classifier)
    kind = f"{', '.join(parts) or 'no norm'}; {'trained' if trained else 'new'} weights"
    recipe: Mapping[str, Any] = job.recipe
    heads_first, heads_recipe, batch_size, run_size = 0, dict[str, Any](), _BATCH, _BATCH
    if not job.is_frozen:
        recipe, run_size = _network_recipe(network, parts, inputs=inputs, trained=trained)
        recipe, batch_size = _with(recipe, job.recipe), run_size
        heads_recipe = {**_heads_recipe(network), **({"unlabelled": True} if job.unlabelled else {})}
        heads_first = _HEADS_FIRST if trained and network.learning_heads else 0
        heads_first = heads_first if job.heads_first is None else job.heads_first
    elif network.learning_heads:
        recipe = _with(_heads_recipe(network), job.recipe)
        batch_size = _BATCH_OF_FEATURES if job.augment == "none" else _BATCH
    if network.masks:
        batch_size = run_size = _BATCH_OF_MASKS
        heads_first = min(heads_first, _HEADS_FIRST_ON_MASKS) if job.heads_first is None else heads_first
    teaches = (recipe.get("mode"), recipe.get("teacher")) == ("distill", "original")
    if teaches and network.new_classifier and not heads_first:
        raise InputError(
            "the network as it was given cannot teach: its classifier is new. Let the heads learn first "
            "(heads_first), or choose another teacher"
        )
    return Settings(
        kind, recipe, heads_first, heads_recipe, job.batch_size or batch_size, job.batch_size or run_size
    )


def _network_recipe(
    network: EarlyExitNetwork, parts: Sequence[str], *, inputs: str, trained: bool
) -> tuple[dict[str, Any], int]:
    """Return the options for a network that learns as a whole, and its batch size."""
    if not {"attention", "layer norm"} & set(parts):
        return {**_CONVOLUTIONAL, **(_CONVOLUTIONAL_TUNED if trained else {})}, _BATCH
    # bf16 only where there is hardware for it: on a CPU it gains nothing for a transformer.
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    recipe = {**_TRANSFORMER, "precision": "bf16" if bf16 else "fp32"}
    if not trained:
        return recipe, _BATCH
    teacher = {} if network.new_classifier else {"teacher": "original"}
    return {**recipe, **_TRANSFORMER_TUNED, "epochs": _TUNED_EPOCHS[inputs], **teacher}, _TUNED_BATCH[inputs]


def _heads_recipe(network: EarlyExitNetwork) -> dict[str, Any]:
    """Return the options for heads on a frozen network."""
    if any(isinstance(head, Head) and head.layout == "tokens" for head in network.learning_heads):
        return {**_TRANSFORMER, **_TOKEN_HEADS}
    return dict(_CONVOLUTIONAL)


def _with(recipe: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe in which given options win; the rates are left out for another optimiser."""
    if options.get("optimiser", recipe["optimiser"]) != recipe["optimiser"]:
        recipe = {name: setting for name, setting in recipe.items() if name not in _OF_AN_OPTIMISER}
    return {**recipe, **options}


def made_of(model: nn.Module, *, apart_from: str = "") -> list[str]:
    """Return which of attention, layer norm and batch norm a model has, apart from the module of this name."""
    own = f"{apart_from}."
    kinds = {
        type(module).__name__.lower()
        for name, module in model.named_modules()
        if not (apart_from and f"{name}.".startswith(own))
    }
    parts = ("attention", "layer norm", "batch norm")
    return [part for part in parts if any(part.replace(" ", "") in kind for kind in kinds)]
