"""Training exits: on a frozen backbone, jointly with it, or with a teacher."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from exeunt._files import make_folder
from exeunt.errors import InputError
from exeunt.torch.batches import length_of, shared, start_epoch
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.processes import epoch_seed, make_fabric, seeded
from exeunt.torch.progress import Progress
from exeunt.torch.training import objectives
from exeunt.torch.training.checkpoint import History, digest
from exeunt.torch.training.convex import Solver, check_linear
from exeunt.torch.training.feature_cache import FeatureCache, FeatureLoader, build_cache
from exeunt.torch.training.recipe import Recipe, make_recipe
from exeunt.torch.training.teacher import make_teacher, teacher_digest
from exeunt.torch.training.tensorboard import epoch_scalars
from exeunt.torch.training.trainer import Trainer

__all__ = ["check_options", "train"]


def train(
    network: EarlyExitNetwork,
    loader: Iterable[Any],
    *,
    mode: str = "frozen",
    epochs: int = 20,
    optimiser: str = "sgd",
    learning_rate: float | None = None,
    schedule: str = "one_cycle",
    warm_up: float = 0.25,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    exit_weights: str | Sequence[float] | None = None,
    distill_weight: float = 0.5,
    temperature: float = 2.0,
    teacher: str = "self",
    smoothing: float = 0.0,
    backbone_rate: float = 1.0,
    gradient_balancing: bool = False,
    precision: str = "fp32",
    validation: Iterable[Any] | None = None,
    checkpoint_dir: str | Path | None = None,
    tensorboard: str | Path | None = None,
    cache: bool = True,
    batch_size: int = 256,
    device: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train a network's exits in place; return what each epoch gave.

    `loader`: gives batches (inputs, label) or (inputs, label, id) each time it is iterated over.
    `mode`: "frozen" trains the heads alone: the backbone stays as it is, to the last bit, runs over the data
    once, and what the heads need of it is kept (`cache`; the loader must then give the same inputs every
    time, without random changes). "joint" trains everything on the sum of the exits' cross-entropies.
    "distill" is joint, and the exits also learn from a teacher's soft output.
    `optimiser`: "sgd" (Nesterov `momentum`), "adamw", or "lbfgs": linear heads on cached features are solved (see
    `convex`), without epochs, rates and batches. `learning_rate`: the peak; default 0.1 for sgd,
    0.002 for adamw. `schedule`: "one_cycle", "cosine" or "constant". `warm_up`: share of a
    one-cycle run in which the rate rises. `weight_decay`: of weight matrices.
    `exit_weights`: "uniform", "linear" (later exits count more), "last", or m numbers.
    `distill_weight`, `temperature`: weight, 0 to 1, and softness of the teacher, in mode "distill".
    `teacher`: "self" (the network's own last exit as it learns), "original" (the network as it was given), or the
    folder of a run with the same classes, whose network is given the same batches.
    `smoothing`: of labels. `backbone_rate`: the backbone's learning rate as a share of the heads'.
    `gradient_balancing`: keep the gradient that reaches the backbone from growing with the number of exits.
    `precision`: "fp32", or "bf16" for mixed precision. `validation`: a loader to measure on after each epoch.
    `checkpoint_dir`: a folder for a checkpoint after every epoch and `history.jsonl`. The same call, made
    again after the process was killed, resumes from there and ends with the weights of an uninterrupted run.
    `tensorboard`: a folder for the metrics of each epoch as scalars of TensorBoard.
    `batch_size`: of the training on cached features. `device`: "cpu", "cuda", "mps"; default the best.
    `seed`: of all randomness, the order of a DataLoader included. `progress`: bars, or lines off a terminal.

    Under `torchrun`, the processes share each batch and the training is the same as on one.

    Raises InputError for options that do not exist or a checkpoint of a run with other arguments.
    """
    recipe = make_recipe(
        mode=mode, epochs=epochs, optimiser=optimiser, learning_rate=learning_rate, schedule=schedule, warm_up=warm_up,
        weight_decay=weight_decay, momentum=momentum, exit_weights=exit_weights,
        distill_weight=distill_weight, temperature=temperature, teacher=teacher, smoothing=smoothing,
        backbone_rate=backbone_rate, gradient_balancing=gradient_balancing, precision=precision, seed=seed,
    )  # fmt: skip
    _check_learns(network, recipe)
    solved, cached = optimiser == "lbfgs", cache and mode == "frozen"
    if solved:
        check_linear(network, cached=cached)
    fabric = make_fabric(precision, device)
    with ExitStack() as stack:
        folder = _folder(stack, checkpoint_dir, fabric)
        steps = {"epochs": len(network.learning_heads), "unit": "exit"} if solved else {"epochs": epochs}
        show = stack.enter_context(Progress(**steps, show=progress and fabric.global_rank == 0))
        scalars = None if tensorboard is None or fabric.global_rank else Path(tensorboard)
        report = stack.enter_context(epoch_scalars(scalars))
        stack.enter_context(_on_device(network, fabric.device, recipe))
        arguments = {
            **recipe.to_dict(),
            **teacher_digest(recipe.teacher),
            "exits": network.exit_names,
            "batches": length_of(loader),
            "cached": batch_size if cached else None,
            "initial_weights": digest(network.state_dict()),
        }

        def features(source: Iterable[Any], name: str) -> FeatureCache:
            return _features(network, source, folder / "features" / name, fabric, seed, show)

        def prepared(source: Iterable[Any], name: str) -> Iterable[Any]:
            if cached:
                shuffle = name == "training"
                source = FeatureLoader(
                    features(source, name), batch_size=batch_size, seed=seed, shuffle=shuffle
                )
            return shared(source, fabric.global_rank, fabric.world_size)

        common: dict[str, Any] = {
            "learner": _HeadsAlone(network, cached=cached) if mode == "frozen" else network,
            "network": network,
            "arguments": arguments,
            "folder": None if checkpoint_dir is None else folder,
            "fabric": fabric,
            "show": show,
            "report": report,
        }
        if solved:
            held_out = None if validation is None else features(validation, "validation")
            return Solver(
                features=features(loader, "training"), validation=held_out, seed=seed, **common
            ).fit()
        return Trainer(
            recipe=recipe,
            training=prepared(loader, "training"),
            validation=None if validation is None else prepared(validation, "validation"),
            teacher=make_teacher(network, recipe),
            **common,
        ).fit()


def _check_learns(network: EarlyExitNetwork, recipe: Recipe) -> None:
    """Raise InputError for a recipe that needs heads, if the exits are the network's own."""
    if network.learning_heads:
        return
    if recipe.mode == "frozen":
        raise InputError(
            "mode 'frozen' trains heads, and this network has none: its exits are its own. Train all of it "
            "(mode 'joint' or 'distill'); exits that are trained already are recorded as they are"
        )
    if recipe.gradient_balancing:
        raise InputError(
            "gradient_balancing needs to know which features an exit reads, and is for heads that `attach` adds; this "
            "network's exits are its own"
        )


def check_options(options: Mapping[str, Any], *, n_exits: int | None) -> None:
    """Raise InputError for options that `train` would refuse, before there is a network to train.

    `n_exits`: how many there will be, the last included; None if that is not known yet.
    """
    known = inspect.signature(train).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"options of training that do not exist: {', '.join(unknown)}")
    names = [field.name for field in fields(Recipe)]
    recipe = make_recipe(**{name: options.get(name, known[name].default) for name in names})
    if n_exits is not None:
        objectives.exit_weights(recipe.exit_weights, n_exits)


class _HeadsAlone(nn.Module):
    """A network of which the heads, and a new classifier, learn: its backbone is in eval mode and gets no gradient.

    `cached`: it is called with the last exit's logits and what each head needs, as a feature cache keeps them, and
    the backbone does not run.
    """

    def __init__(self, network: EarlyExitNetwork, *, cached: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(network.learning_heads)
        self._network = (network,)  # in a tuple: the backbone is no part of what is trained
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
        logits = network.classify(reduced)
        return logits if network.new_classifier else [*logits, final]


def _folder(stack: ExitStack, checkpoint_dir: str | Path | None, fabric: Any) -> Path:
    """Return the run's folder, the same for all processes; without one a temporary folder."""
    if checkpoint_dir is None:
        own = stack.enter_context(TemporaryDirectory(prefix="exeunt-"))
        return Path(fabric.broadcast(own))
    folder = Path(checkpoint_dir)
    make_folder(folder)
    return folder


@contextmanager
def _on_device(network: EarlyExitNetwork, device: torch.device, recipe: Recipe) -> Iterator[None]:
    """Train on `device`; afterwards the network is back where it was, in eval mode."""
    before = next((p.device for p in network.parameters()), device)
    network.to(device)
    network.gradient_balancing = recipe.gradient_balancing
    try:
        with _channels_last(network):
            yield
    finally:
        network.gradient_balancing = False
        network.to(before).eval()


@contextmanager
def _channels_last(network: nn.Module) -> Iterator[None]:
    """Keep images' channels last in memory: convolutions run up to 1.4 times as fast, in bf16 on CPU 1.8."""
    ranks = {p.ndim for p in network.parameters()}
    if 4 not in ranks or 5 in ranks:
        yield
        return
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _features(
    network: EarlyExitNetwork, loader: Iterable[Any], folder: Path, fabric: Any, seed: int, show: Progress
) -> FeatureCache:
    """Run the backbone over a loader's data, once on each machine, or once where all share the folder."""
    seed = epoch_seed(seed, 0)
    start_epoch(loader, 0, seed)

    def build() -> FeatureCache:
        with seeded(seed, fabric.device):
            return build_cache(
                network, loader, folder, device=fabric.device, track=lambda b: show.track(b, folder.name)
            )

    cache = None
    for turn in (fabric.global_rank == 0, fabric.local_rank == 0, True):
        if turn and cache is None:
            cache = build()  # whoever comes later finds it complete
        fabric.barrier()
    assert cache is not None  # noqa: S101 - the last turn is everybody's
    return cache
