"""The network of a training job with its exits, made before the data are read, which can take long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from exeunt.data import DataSource, Preprocess
from exeunt.errors import InputError
from exeunt.torch.calls import Inputs
from exeunt.torch.exits.attach import attach
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.models.by_name import (
    PRETRAINED,
    build_model_and_report,
)
from exeunt.torch.models.inputs import (
    check_batch_memory,
    cut_long_texts,
    example_inputs,
    image_resizing,
    text_preparation,
    to_channels_last,
)
from exeunt.torch.models.pretrained import check_class_order, known_class_names, library_preprocess
from exeunt.torch.training.convex import check_linear
from exeunt.torch.training.train import check_options

if TYPE_CHECKING:
    from exeunt.torch.training.defaults import Settings
    from exeunt.torch.training.job import TrainingJob

__all__ = ["JobNetwork", "library_of", "make_network"]

_EXAMPLE = 2  # inputs of the example that a network is made on


class JobNetwork(NamedTuple):
    """What is made from a job before the data are read.

    `sizing`: how images are resized, or the tokeniser. `example`: two inputs of the data's form. `settings`: options of
    the training.
    """

    network: EarlyExitNetwork
    sizing: Any
    example: Inputs
    settings: Settings


def make_network(job: TrainingJob, source: DataSource, exits: int | Sequence[str]) -> JobNetwork:
    """Make the network with its exits, and all else that needs of the data no more than their form."""
    if source.kind == "text":
        sizing = text_preparation(job.model)
    else:
        sizing = image_resizing(source.dataset("train"), size=job.size, library=library_of(job))
        check_batch_memory(sizing, job.batch_size or _EXAMPLE)
    built = build_model_and_report(
        job.model, n_classes=source.n_classes, weights=job.weights, trained=job.is_frozen, seed=job.seed
    )
    if source.kind == "image" and getattr(built.model, "main_input_name", "") == "input_ids":
        raise InputError(f"{job.model} takes texts, and {source.name} holds images: give a network of images")
    cut_long_texts(sizing, built.model)
    # Costs are those of texts as long as the ones that the calibration part is drawn from.
    drawn_from = "test" if job.has_seen_training_data and source.test is not None else "train"
    example = example_inputs(source.dataset(drawn_from), sizing)
    network = attach(
        to_channels_last(built.model, sizing), example, exits,
        n_classes=source.n_classes, new_classifier=built.new_classifier, seed=job.seed, verbose=False,
        **job.head,
    )  # fmt: skip
    if job.brings_weights and not network.new_classifier:
        names = known_class_names(job.model, built.model, pretrained=job.weights == PRETRAINED)
        check_class_order(names, source.class_names)
    trained = job.brings_weights and not built.random
    settings = job.settings(network, inputs=source.kind, trained=trained)
    check_options(settings.recipe, n_exits=network.n_exits)  # there may be fewer exits than were asked for
    if settings.recipe.get("optimiser") == "lbfgs":
        check_linear(network, cached=job.augment == "none")
    if source.kind == "image":
        check_batch_memory(sizing, settings.run_size)
    return JobNetwork(network, sizing, example, settings)


def library_of(job: TrainingJob) -> Preprocess | None:
    """Return how the library that pretrained weights come from prepares images, if it does."""
    return library_preprocess(job.model) if job.weights == PRETRAINED else None
