"""A training job before it trains: its network with exits, and its data, read and split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from exeunt._progress import Progress
from exeunt._text import counted
from exeunt.data import DataSource, Images, Preprocess, SplitPlan, plan_split
from exeunt.errors import InputError
from exeunt.torch.calls import Inputs
from exeunt.torch.exits.attach import attach
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.loaders import ImageLoader, TextLoader, make_loader
from exeunt.torch.models.by_name import PRETRAINED, build_model_and_report, known_class_names
from exeunt.torch.models.image_libraries import library_preprocess
from exeunt.torch.models.inputs import (
    check_batch_memory,
    cut_long_texts,
    example_inputs,
    image_preparation,
    image_resizing,
    text_preparation,
    to_channels_last,
)
from exeunt.torch.models.weights import check_class_order
from exeunt.torch.training.convex import check_linear
from exeunt.torch.training.defaults import Settings, settings_for
from exeunt.torch.training.job import TrainingJob, check_recipe

_EXAMPLE = 2  # inputs of the example that a network is made on
_SHOWN = 20  # unreadable images; the manifest names all


class JobNetwork(NamedTuple):
    """The network of a job, made before the data are read, since reading can take long.

    `sizing`: how images are resized, or the tokeniser. `example`: two inputs of the shape of the data. `settings`: the
    options of the training.
    """

    network: EarlyExitNetwork
    sizing: Any
    example: Inputs
    settings: Settings


def make_network(job: TrainingJob, source: DataSource, exits: int | Sequence[str]) -> JobNetwork:
    """Make the network with its exits. Of the data, only kind, shape and classes are needed."""
    if source.kind == "text":
        sizing = text_preparation(job.model)
    else:
        sizing = image_resizing(source.dataset("train"), size=job.size, library=_library_of(job))
        check_batch_memory(sizing, job.batch_size or _EXAMPLE)
    built = build_model_and_report(
        job.model, n_classes=source.n_classes, weights=job.weights, trained=job.is_frozen, seed=job.seed
    )
    if source.kind == "image" and getattr(built.model, "main_input_name", "") == "input_ids":
        raise InputError(f"{job.model} takes texts, and {source.name} holds images: give a network of images")
    cut_long_texts(sizing, built.model)
    # Costs are counted for texts as long as those of the calibration part.
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
    settings = settings_for(job, network, inputs=source.kind, trained=trained)
    check_recipe(settings.recipe, n_exits=network.n_exits)  # there may be fewer exits than were asked for
    if settings.recipe.get("optimiser") == "lbfgs":
        check_linear(network, cached=job.augment == "none")
    if source.kind == "image":
        check_batch_memory(sizing, settings.run_size)
    return JobNetwork(network, sizing, example, settings)


@dataclass(frozen=True)
class JobData:
    """The data of a job, split into parts.

    `prepare`: how inputs are resized and normalised, or the tokeniser. `unreadable`: names of the images left out.
    `workers`: processes that decode images. `run_size`: inputs that the network runs on at once.
    """

    source: DataSource
    plan: SplitPlan
    prepare: Any
    unreadable: Sequence[str]
    workers: int
    run_size: int

    def loader(self, part: str, **options: Any) -> ImageLoader | TextLoader:
        """Return the loader of one part."""
        data = self.plan.select(self.source, part)
        kind = {"workers": self.workers} if isinstance(data, Images) else {"by_length": True}
        return make_loader(data, self.prepare, batch_size=self.run_size, **kind, **options)


def read_data(
    job: TrainingJob, made: JobNetwork, source: DataSource, *, cache: Path | None, say: Callable[[str], None]
) -> JobData:
    """Read the data of a job and split them; say what was left out, and the split.

    `cache`: folder of decoded images.
    """
    unreadable: list[str] = []
    if source.kind == "image":
        if job.skip_unreadable:
            source, unreadable = _without_unreadable(source, say)
        source = source.decoded(made.sizing, cache=cache, progress=Progress("images decoded", say=say).report)
    plan = plan_split(
        source, fit=job.fit, calibrate=job.calibrate, test=job.test, seed=job.seed,
        pretrained=job.has_seen_training_data,
    )  # fmt: skip
    say(f"data: {job.data} ({source.n_classes} classes)\n{plan.describe()}\n")
    plan.check_every_part()
    prepare = made.sizing
    if source.kind == "image":
        learned = plan.select(source, "train")
        prepare = image_preparation(
            learned, size=job.size, mean=job.mean, std=job.std, library=_library_of(job)
        )
    return JobData(source, plan, prepare, unreadable, job.workers, made.settings.run_size)


def _library_of(job: TrainingJob) -> Preprocess | None:
    """Return how the library that offers the pretrained weights prepares images; None for other weights."""
    return library_preprocess(job.model) if job.weights == PRETRAINED else None


def _without_unreadable(source: DataSource, say: Callable[[str], None]) -> tuple[DataSource, list[str]]:
    """Return the source without images that cannot be read, and the names of these; say how many, and why."""
    rest, refused = source.without_unreadable(progress=Progress("images looked at", say=say).report)
    for part, errors in refused.items():
        if errors:
            n = len(source.dataset(part))
            left_out = "is left out" if len(errors) == 1 else "are left out"
            lines = [f"{len(errors):,} of {counted(n, f'{part} image')} cannot be read and {left_out}:"]
            lines += [f"  {error.name}: {error.reason}" for error in errors[:_SHOWN]]
            lines += [f"  and {len(errors) - _SHOWN:,} more"] if len(errors) > _SHOWN else []
            say("\n".join(lines))
    return rest, [error.name for errors in refused.values() for error in errors]
