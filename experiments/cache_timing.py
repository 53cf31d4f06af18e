"""What the feature cache saves: heads trained on the cache, and through the backbone in every epoch."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.data import Images, Preprocess, default_cache, open_source, plan_split
from exeunt.torch import EarlyExitNetwork, attach, build_model, record, train
from exeunt.torch.loaders import make_loader
from exeunt.torch.models.inputs import example_inputs, image_preparation, image_size, to_channels_last

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exeunt.torch.training.checkpoint import History
    from exeunt.torch.training.job import TrainingJob

BATCH = 256


@dataclass
class InCacheOrder:
    """Batches of images in the order in which the training on a cache takes them: both then see the same."""

    images: Images
    prepare: Preprocess
    seed: int = 0
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self) -> Iterator[Any]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.images))
        for number in range(len(self)):
            rows = order[number * BATCH : (number + 1) * BATCH]
            yield from make_loader(self.images.take(rows), self.prepare, batch_size=BATCH)


def cache_saving(job: TrainingJob, *, n: int, epochs: int, epochs_in_full: int) -> dict[str, Any]:
    """Train the heads both ways on n training images, the same batches in the same order; return the times.

    The time of `epochs_in_full` epochs on all images is extrapolated: everything that is counted grows with
    the number of images and, but for filling the cache, with the number of epochs.
    """
    network, images, test, prepare, n_all = _parts(job, n)
    seen = make_loader(test, prepare, batch_size=BATCH)
    common: dict[str, Any] = {"mode": "frozen", "epochs": epochs, "progress": False, "batch_size": BATCH}

    cached = copy.deepcopy(network)
    kept, kept_s = _timed(cached, make_loader(images, prepare, batch_size=BATCH), **common)
    direct = copy.deepcopy(network)
    _, through_s = _timed(direct, InCacheOrder(images, prepare), cache=False, **common)

    epoch_s = float(np.mean([epoch.seconds for epoch in kept.epochs]))
    fill_s = kept_s - sum(epoch.seconds for epoch in kept.epochs)
    direct_epoch_s = through_s / epochs
    scale = n_all / n
    in_full = {
        "cached_s": scale * (fill_s + epochs_in_full * epoch_s),
        "through_backbone_s": scale * epochs_in_full * direct_epoch_s,
    }
    a, b = record(cached, seen), record(direct, seen)
    return {
        "images": n,
        "images_in_full": n_all,
        "epochs": epochs,
        "epochs_in_full": epochs_in_full,
        "fill_cache_s": fill_s,
        "cached_epoch_s": epoch_s,
        "through_backbone_epoch_s": direct_epoch_s,
        "extrapolated": in_full,
        "times_faster": in_full["through_backbone_s"] / in_full["cached_s"],
        "test_images": a.n,
        "accuracy_cached": (1 - a.risk).tolist(),
        "accuracy_through_backbone": (1 - b.risk).tolist(),
        "largest_difference": float(np.abs(a.risk - b.risk).max()),
        "answers_that_differ": float((a.prediction != b.prediction).mean()),
    }


def _timed(network: EarlyExitNetwork, loader: Any, **options: Any) -> tuple[History, float]:
    started = time.monotonic()
    history = train(network, loader, **options)
    return history, time.monotonic() - started


def _parts(job: TrainingJob, n: int) -> tuple[EarlyExitNetwork, Images, Images, Preprocess, int]:
    """Return the job's network, n of its training images, its test part, and how many it trains on."""
    source = open_source(job.data)
    shape = Preprocess(size=image_size(source.dataset("train"), job.size))
    source = source.decoded(shape, cache=default_cache())
    plan = plan_split(source, fit=job.fit, calibrate=job.calibrate, pretrained=True)
    everything = plan.select(source, "train")
    prepare = image_preparation(everything, size=job.size, mean=job.mean, std=job.std)
    model = build_model(job.model, n_classes=source.n_classes, weights=job.weights)
    exits = list(job.exits) if isinstance(job.exits, tuple) else job.exits
    network = attach(
        to_channels_last(model, prepare), example_inputs(source, prepare), exits, verbose=False, **job.head
    )
    images, test = everything.take(np.arange(n)), plan.select(source, "test")
    return network, images, test, prepare, len(everything)
