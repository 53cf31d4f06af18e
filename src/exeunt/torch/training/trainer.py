"""The epochs of a training: steps of the optimiser, checkpoints, metrics. The same for every mode."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exeunt._support.files import write_text
from exeunt._support.progress import Progress
from exeunt.errors import InputError
from exeunt.torch.batches import check_labels, length_of, start_epoch, unpack
from exeunt.torch.calls import as_call, logits_of, to_device
from exeunt.torch.devices import epoch_seed, seeded
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.training.checkpoint import EpochMetrics, History, load_checkpoint, save_checkpoint
from exeunt.torch.training.losses import (
    at_pixels_of,
    cross_entropies,
    labels_or_predictions,
    mean_loss,
    objective,
)
from exeunt.torch.training.recipe import Recipe, make_optimiser, rate_factor

_CHECKPOINT = "checkpoint.pt"

_PIXELS_APART = 4
_FAR_ABOVE = 10  # times the loss of guessing: no training that works ends there


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A training by steps of an optimiser, which `recipe` describes.

    `learner`: module from a batch's inputs to the logits of all m exits. `network`: the network that it belongs to.
    `training`, `validation`: loaders of this process's share of every batch, to learn from, and to measure on or None.
    `teacher`: another classifier that the exits learn from, or None.
    `arguments`: a checkpoint with other arguments belongs to another training. `folder`: for the checkpoint; None for
    no checkpoint, and in all processes but the first. `fabric`: see `make_fabric`. `show`: show the progress.
    """

    recipe: Recipe
    learner: nn.Module
    network: EarlyExitNetwork
    training: Any
    validation: Any
    teacher: nn.Module | None
    arguments: Mapping[str, Any]
    folder: Path | None
    fabric: Any
    show: bool

    def fit(self) -> History:
        """Train until the last epoch, resuming from a checkpoint where there is one."""
        optimiser = make_optimiser(self.network, self.recipe)
        history = History(())
        if (state := self._resumed()) is not None:
            self.learner.load_state_dict(state["learner"])
            optimiser.load_state_dict(state["optimiser"])
            history = History.from_list(state["history"])
        module, optimiser = self.fabric.setup(self.learner, optimiser)
        epochs, done = self.recipe.epochs, len(history.epochs)
        with Progress("epochs", total=epochs, done=done, every_s=math.inf, show=self.show) as show:
            if done:
                show.say(f"resumes after epoch {done} of {epochs}")
            for epoch in range(done, epochs):
                metrics = self._epoch(module, optimiser, epoch)
                self._check_loss(metrics)
                history = History((*history.epochs, metrics))
                self._keep(optimiser, history)
                show.step(metrics.summary(self._shown))
        self.fabric.barrier()
        return history

    def _resumed(self) -> dict[str, Any] | None:
        """Return the state that an earlier run left; None if there is none.

        The first process reads it for all, as it alone writes it: other machines may not see its folder.
        """
        state: dict[str, Any] | None = None
        if self.folder is not None:
            state = load_checkpoint(self.folder / _CHECKPOINT, self.arguments)
        return self.fabric.broadcast(state)  # type: ignore[no-any-return]

    def _keep(self, optimiser: Any, history: History) -> None:
        """Write the state, for `_resumed`, and the metrics for people to read, a JSON object per line and epoch."""
        if self.folder is not None:
            weights, epochs = self.learner.state_dict(), history.to_list()
            state = {"learner": weights, "optimiser": optimiser.state_dict(), "history": epochs}
            save_checkpoint(self.folder / _CHECKPOINT, self.arguments, state)
            write_text(self.folder / "history.jsonl", "".join(json.dumps(epoch) + "\n" for epoch in epochs))

    @property
    def _shown(self) -> str:
        """What the accuracies of an epoch are called."""
        of = "agreement" if self.recipe.unlabelled else "accuracy"
        return f"pixel {of}" if self.network.masks else of

    def _measured(self, batches: Iterable[tuple[Any, Tensor | None]]) -> tuple[list[float], list[float]]:
        """Return mean cross-entropy and accuracy per exit (m,) in eval mode. `batches`: inputs and labels (b,)."""
        sums = _Sums(self.network.n_exits, self.fabric.device)
        self.learner.eval()
        with torch.no_grad(), self.fabric.autocast():
            for inputs, label in batches:
                args, kwargs = as_call(inputs)
                logits = [x.float() for x in self.learner(*args, **kwargs)]
                if label is None or self.recipe.unlabelled:
                    label = labels_or_predictions(label, logits[-1])
                if self.network.masks:
                    label = at_pixels_of(label, logits)
                sums.add(mean_loss(cross_entropies(logits, label), label), logits, label)
        return sums.means(self.fabric)

    def _epoch(self, module: nn.Module, optimiser: Any, epoch: int) -> EpochMetrics:
        """Train for one epoch, then measure."""
        started = time.monotonic()
        sums = _Sums(self.network.n_exits, self.fabric.device)
        length = length_of(self.training)
        batches = self._batches(self.training, epoch)
        module.train()
        rate = 0.0
        # Dropout and the like draw from the global generator: what they draw depends on seed and epoch alone.
        with seeded(epoch_seed(self.recipe.seed, epoch), self.fabric.device):
            counted = Progress(f"batches of epoch {epoch + 1}", batches, total=length, show=self.show)
            for number, (inputs, label) in enumerate(counted):
                # Without a length the rate changes between epochs only.
                done = (epoch + (number / length if length else 0.0)) / self.recipe.epochs
                share = rate_factor(min(done, 1.0), self.recipe.schedule, self.recipe.warm_up)
                rate = self.recipe.learning_rate * share
                for group in optimiser.param_groups:
                    group["lr"] = rate * group["scale"]
                self._learn(module, optimiser, inputs, label, sums)
        if sums.n == 0:
            raise InputError("the loader gave no batches: there is nothing to train on")
        loss, accuracy = sums.means(self.fabric)
        held_out = (
            (None, None) if self.validation is None else self._measured(self._batches(self.validation, 0))
        )
        return EpochMetrics(
            epoch=epoch,
            learning_rate=rate,
            seconds=time.monotonic() - started,
            train_loss=loss,
            train_accuracy=accuracy,
            validation_loss=held_out[0],
            validation_accuracy=held_out[1],
        )

    def _check_loss(self, metrics: EpochMetrics) -> None:
        """Raise InputError if the loss is not finite, or after the last epoch far above that of guessing."""
        ended = metrics.epoch + 1 == self.recipe.epochs
        guessing = math.log(max(self.network.n_classes, 2))
        all_learn = self.recipe.mode != "frozen" or bool(self.network.new_classifier)
        for exit_, loss in enumerate(metrics.train_loss):
            learns = all_learn or exit_ < self.network.n_exits - 1
            if not math.isfinite(loss) or (ended and learns and loss > _FAR_ABOVE * guessing):
                at = f"epoch {metrics.epoch + 1} of {self.recipe.epochs}"
                raise InputError(
                    f"training diverged in {at}, at a learning rate of up to {self.recipe.learning_rate:g}: "
                    f"the loss of exit {exit_} is {loss:.3g}, and guessing gives {guessing:.3g}. "
                    "Begin again with a lower learning rate, in another folder"
                )

    def _batches(self, loader: Iterable[Any], epoch: int) -> Iterator[tuple[Any, Tensor | None]]:
        """Yield inputs and labels (b,) of one epoch; order and random changes follow from seed and epoch alone."""
        seed = epoch_seed(self.recipe.seed, epoch)
        start_epoch(loader, epoch, seed)
        with seeded(seed, self.fabric.device):
            batches = iter(loader)  # a DataLoader draws its order here, from the global generator
        for batch in batches:
            inputs, label, _ = unpack(batch)
            if not self.recipe.unlabelled:
                check_labels(label)
            device = self.fabric.device
            yield to_device(inputs, device), None if label is None else label.to(device)

    def _learn(
        self, module: nn.Module, optimiser: Any, inputs: Any, label: Tensor | None, sums: _Sums
    ) -> None:
        """Update the weights by one batch."""
        optimiser.zero_grad()
        args, kwargs = as_call(inputs)
        logits: list[Tensor] = module(*args, **kwargs)
        target = None
        if self.teacher is not None:
            with torch.no_grad(), self.fabric.autocast():
                target = logits_of(self.teacher(*args, **kwargs))
        if self.network.masks:
            label, target = (
                at_pixels_of(one, logits) if one is not None else None for one in (label, target)
            )
        recipe = self.recipe
        loss, entropies = objective(
            logits,
            label,
            unlabelled=recipe.unlabelled,
            teacher=target,
            distill_weight=recipe.distill_weight,
            temperature=recipe.temperature,
            smoothing=recipe.smoothing,
            class_weights=recipe.class_weights,
        )
        self.fabric.backward(loss * self._share(len(logits[0])))
        optimiser.step()
        if label is None or recipe.unlabelled:
            label = labels_or_predictions(label, logits[-1] if target is None else target)
        sums.add(entropies, logits, label)

    def _share(self, n: int) -> float:
        """Return the factor that makes the mean over processes of mean losses the mean over all inputs."""
        if self.fabric.world_size == 1:
            return 1.0
        total = self.fabric.all_reduce(torch.tensor(float(n), device=self.fabric.device), reduce_op="sum")
        return n * float(self.fabric.world_size) / float(total)


class _Sums:
    """Sums over inputs: cross-entropy and correct answers per exit (m,), in double precision.

    `n`: inputs added so far, by this process.
    """

    def __init__(self, n_exits: int, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, n_exits, dtype=dtype, device=device)
        self.n = 0

    def add(self, losses: Tensor, logits: Sequence[Tensor], label: Tensor) -> None:
        """Add a batch: mean losses (m,), logits m x (n, k), labels (n,).

        Of masks, pixels count; whether they are right is looked up for every fourth one in each direction.
        """
        with torch.no_grad():
            if label.ndim > 1:
                label = label[:, ::_PIXELS_APART, ::_PIXELS_APART]
                logits = [logit[..., ::_PIXELS_APART, ::_PIXELS_APART] for logit in logits]
            n = int((label >= 0).sum())
            hits = torch.stack([(x.argmax(1) == label).sum() for x in logits])
            self._sums[0] += losses.to(self._sums.dtype) * n
            self._sums[1] += hits
        self.n += n

    def means(self, fabric: Any) -> tuple[list[float], list[float]]:
        """Return mean loss and accuracy per exit, over all processes."""
        n = torch.tensor(float(self.n), dtype=self._sums.dtype, device=self._sums.device)
        sums = fabric.all_reduce(self._sums, reduce_op="sum")
        count = float(fabric.all_reduce(n, reduce_op="sum"))
        loss, accuracy = (sums / max(count, 1.0)).cpu().tolist()
        return loss, accuracy
