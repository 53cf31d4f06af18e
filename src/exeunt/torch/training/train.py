"""Training exits: on a frozen backbone, jointly with it, or with a teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from exeunt._support.files import make_folder
from exeunt.errors import InputError
from exeunt.torch.batches import length_of, shared, start_epoch
from exeunt.torch.devices import epoch_seed, make_fabric, seeded
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.training.checkpoint import History, digest
from exeunt.torch.training.feature_cache import FeatureCache, FeatureLoader, build_cache
from exeunt.torch.training.recipe import Recipe, make_recipe
from exeunt.torch.training.teacher import make_teacher, teacher_digest
from exeunt.torch.training.trainer import Trainer


def train(
    network: EarlyExitNetwork,
    loader: Iterable[Any],
    *,
    validation: Iterable[Any] | None = None,
    checkpoint_dir: str | Path | None = None,
    cache: bool = True,
    batch_size: int = 256,
    device: str | None = None,
    progress: bool = True,
    **options: Any,
) -> History:
    """Train a network's exits in place; return the metrics of each epoch.

    `loader`: gives batches (inputs, label) or (inputs, label, id) each time it is iterated over. With `unlabelled`,
    label may be None, or -1 for some inputs: exits then learn from the network's own output. Labels of masks are
    (b, h, w), with -1 for pixels that have no class.
    `options`: how the exits learn, the fields of `Recipe`: mode, epochs, optimiser, learning_rate, unlabelled, ...
    `validation`: a loader to measure on after each epoch.
    `checkpoint_dir`: a folder for a checkpoint after every epoch and `history.jsonl`. The same call, made
    again after the process was killed, resumes from there and ends with the weights of an uninterrupted run.
    `cache`: in mode "frozen", run the backbone over the data once and keep what the heads need, unless these answer
    with masks and need whole maps. The loader must then give the same inputs every time, without random changes.
    `batch_size`: of the training on cached features.
    `device`: "cpu", "cuda", "mps"; by default the best. `progress`: bars, or lines off a terminal.

    Under `torchrun`, the processes share each batch and the training is the same as on one.

    Raises InputError for options that do not exist or a checkpoint of a run with other arguments.
    """
    recipe = make_recipe(**options)
    if recipe.mode == "frozen" and not network.learning_heads:
        raise InputError(
            "mode 'frozen' trains heads, and this network has none: its exits are its own. Train all of it "
            "(mode 'joint' or 'distill'); exits that are trained already are recorded as they are"
        )
    cached = cache and recipe.mode == "frozen" and not network.masks  # which would take a map for each exit
    fabric = make_fabric(recipe.precision, device)
    show = progress and fabric.global_rank == 0
    with ExitStack() as stack:
        if checkpoint_dir is None:
            own = stack.enter_context(TemporaryDirectory(prefix="exeunt-"))
            folder = Path(fabric.broadcast(own))  # the same for all processes
        else:
            folder = Path(checkpoint_dir)
            make_folder(folder)
        stack.enter_context(_on_device(network, fabric.device))
        arguments = {
            **asdict(recipe),
            **teacher_digest(recipe.teacher),
            "exits": network.exit_names,
            "batches": length_of(loader),
            "cached": batch_size if cached else None,
            "initial_weights": digest(network.state_dict()),
        }

        def prepared(name: str, source: Any) -> Any:
            if source is None:
                return None
            if cached:
                where = folder / "features" / name
                kept = _features(network, source, where, fabric, recipe, show=show)
                shuffle = name == "training"
                source = FeatureLoader(kept, batch_size=batch_size, seed=recipe.seed, shuffle=shuffle)
            return shared(source, fabric.global_rank, fabric.world_size)

        return Trainer(
            recipe=recipe,
            learner=_HeadsAlone(network, cached=cached) if recipe.mode == "frozen" else network,
            network=network,
            training=prepared("training", loader),
            validation=prepared("validation", validation),
            teacher=make_teacher(network, recipe),
            arguments=arguments,
            folder=None if checkpoint_dir is None or fabric.global_rank else folder,
            fabric=fabric,
            show=show,
        ).fit()


class _HeadsAlone(nn.Module):
    """The heads of a network, and a new classifier, as one module: the backbone is in eval mode and gets no gradient.

    `cached`: the module is called with the last exit's logits and the features of each head, and the backbone does
    not run.
    """

    def __init__(self, network: EarlyExitNetwork, *, cached: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(network.learning_heads)
        self._network = (network,)  # in a tuple, so that the backbone is not a submodule
        self._cached = cached

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return the logits (n, k) of every exit."""
        network = self._network[0]
        if self._cached:
            final, *reduced = args
        else:
            network.backbone.eval()
            self.heads.train(self.training)
            with torch.no_grad():
                reduced, final = network.reduce(*args, **kwargs)
        return network.classify(reduced, final)


@contextmanager
def _on_device(network: EarlyExitNetwork, device: torch.device) -> Iterator[None]:
    """Move the network to `device`; afterwards move it back, in eval mode."""
    parameters = list(network.parameters())
    before = parameters[0].device if parameters else device
    ranks = {p.ndim for p in parameters}
    # With images' channels last in memory convolutions run up to 1.4 times as fast, in bf16 on CPU 1.8.
    channels_last = 4 in ranks and 5 not in ranks
    network.to(device)
    try:
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        yield
    finally:
        if channels_last:
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        network.to(before).eval()


def _features(
    network: EarlyExitNetwork, loader: Iterable[Any], folder: Path, fabric: Any, recipe: Recipe, *, show: bool
) -> FeatureCache:
    """Run the backbone over a loader's data: once on each machine, or only once if all machines share the folder."""
    seed, options = epoch_seed(recipe.seed, 0), {"unlabelled": recipe.unlabelled, "show": show}
    start_epoch(loader, 0, seed)
    cache = None
    for turn in (fabric.global_rank == 0, fabric.local_rank == 0, True):
        if turn and cache is None:  # later processes find it complete
            with seeded(seed, fabric.device):
                cache = build_cache(network, loader, folder, device=fabric.device, **options)
        fabric.barrier()
    assert cache is not None  # noqa: S101 - the last turn is everybody's
    return cache
