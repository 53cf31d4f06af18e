"""The training loop: epochs, checkpoints, metrics. The same for every way to train."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exeunt.errors import InputError
from exeunt.torch.checkpoint import load_checkpoint, save_checkpoint
from exeunt.torch.history import EpochMetrics, History
from exeunt.torch.objectives import cross_entropies, exit_weights, objective
from exeunt.torch.processes import epoch_seed, seeded
from exeunt.torch.recipe import Recipe, make_optimiser, rate_factor
from exeunt.torch.tally import Tally
from exeunt.torch.taps import logits_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from exeunt.torch.exits.network import EarlyExitNetwork
    from exeunt.torch.progress import Progress
    from exeunt.torch.streams import Example, Stream

__all__ = ["Job", "fit"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: what learns, from what, and how.

    `learner`: module from an example's arguments to the logits of all m exits. `network`: whose heads it
    holds. `teacher`: another classifier that the exits learn from, or None. `arguments`: what must be equal
    for a checkpoint to be of this job. `folder`: for the checkpoint, or None for none.
    """

    learner: nn.Module
    network: EarlyExitNetwork
    recipe: Recipe
    training: Stream
    validation: Stream | None
    teacher: nn.Module | None
    arguments: Mapping[str, Any]
    folder: Path | None


def fit(job: Job, fabric: Any, show: Progress) -> History:
    """Train until the last epoch, going on from a checkpoint where there is one."""
    optimiser = make_optimiser(job.network, job.recipe)
    history = History(())
    checkpoint = None if job.folder is None else job.folder / "checkpoint.pt"
    state = None if checkpoint is None else load_checkpoint(checkpoint, job.arguments)
    if state is not None:
        job.learner.load_state_dict(state["learner"])
        optimiser.load_state_dict(state["optimiser"])
        history = History.from_list(state["history"])
    fabric.barrier()
    module, optimiser = fabric.setup(job.learner, optimiser)
    show.resume(len(history.epochs))
    for epoch in range(len(history.epochs), job.recipe.epochs):
        metrics = _epoch(job, fabric, show, module, optimiser, epoch)
        history = History((*history.epochs, metrics))
        if checkpoint is not None and fabric.global_rank == 0:
            state = {
                "learner": job.learner.state_dict(),
                "optimiser": optimiser.state_dict(),
                "history": history.to_list(),
            }
            save_checkpoint(checkpoint, job.arguments, state)
            history.save(checkpoint.with_name("history.jsonl"))
        show.epoch(metrics)
    fabric.barrier()
    return history


def _epoch(
    job: Job, fabric: Any, show: Progress, module: nn.Module, optimiser: Any, epoch: int
) -> EpochMetrics:
    """Train for one epoch, then measure."""
    started = time.monotonic()
    tally = Tally(job.network.n_exits, fabric.device)
    weights = exit_weights(job.recipe.exit_weights, job.network.n_exits).to(fabric.device)
    batches = show.track(job.training.epoch(epoch), f"epoch {epoch + 1}", len(job.training))
    module.train()
    rate = 0.0
    # Dropout and the like draw from the global generator: what they draw depends on seed and epoch alone.
    with seeded(epoch_seed(job.recipe.seed, epoch), fabric.device):
        for number, example in enumerate(batches):
            progress = (epoch + number / max(len(job.training), 1)) / job.recipe.epochs
            rate = job.recipe.learning_rate * rate_factor(min(progress, 1.0), job.recipe.schedule)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            _step(job, fabric, module, optimiser, example, weights, tally)
    if tally.n == 0:
        raise InputError("the loader gave no batches: there is nothing to train on")
    loss, accuracy = tally.means(fabric)
    held_out = (None, None) if job.validation is None else _measure(job, fabric, job.validation)
    return EpochMetrics(
        epoch=epoch,
        learning_rate=rate,
        seconds=time.monotonic() - started,
        train_loss=loss,
        train_accuracy=accuracy,
        validation_loss=held_out[0],
        validation_accuracy=held_out[1],
    )


def _step(
    job: Job,
    fabric: Any,
    module: nn.Module,
    optimiser: Any,
    example: Example,
    weights: Tensor,
    tally: Tally,
) -> None:
    """Take one step of the optimiser on one batch."""
    optimiser.zero_grad()
    logits: list[Tensor] = module(*example.args, **example.kwargs)
    loss, entropies = objective(
        logits,
        example.label,
        weights=weights,
        teacher=_teach(job, fabric, example),
        distill_weight=job.recipe.distill_weight,
        temperature=job.recipe.temperature,
        smoothing=job.recipe.smoothing,
    )
    fabric.backward(loss * _share(fabric, len(example.label)))
    optimiser.step()
    tally.add(entropies, logits, example.label)


def _teach(job: Job, fabric: Any, example: Example) -> Tensor | None:
    """Return the logits (n, k) of the other network that the exits learn from, if there is one."""
    if job.teacher is None:
        return None
    with torch.no_grad(), fabric.autocast():
        return logits_of(job.teacher(*example.args, **example.kwargs))


def _share(fabric: Any, n: int) -> float:
    """Return the factor that makes the mean over processes of mean losses the mean over all inputs."""
    if fabric.world_size == 1:
        return 1.0
    total = fabric.all_reduce(torch.tensor(float(n), device=fabric.device), reduce_op="sum")
    return n * float(fabric.world_size) / float(total)


def _measure(job: Job, fabric: Any, stream: Stream) -> tuple[list[float], list[float]]:
    """Return mean cross-entropy and accuracy per exit in eval mode."""
    tally = Tally(job.network.n_exits, fabric.device)
    job.learner.eval()
    with torch.no_grad(), fabric.autocast():
        for example in stream.epoch(0):
            logits = [x.float() for x in job.learner(*example.args, **example.kwargs)]
            tally.add(cross_entropies(logits, example.label), logits, example.label)
    return tally.means(fabric)
