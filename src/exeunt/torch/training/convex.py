"""Linear heads on cached features, solved: the logistic regressions that gradient descent approaches.

Each head is one convex problem: the mean cross-entropy plus a penalty on the squares of the weights, over standardised
features. L-BFGS (Liu and Nocedal 1989) solves it in some tens of passes. The penalty of each head is chosen on a fifth
of the training inputs, which that choice does not learn from; then the head learns from all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exeunt._arrays import Integers
from exeunt._limits import check_memory
from exeunt.errors import InputError
from exeunt.torch.exits.heads import Head
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.training.checkpoint import EpochMetrics, History
from exeunt.torch.training.feature_cache import FeatureCache, FeatureLoader
from exeunt.torch.training.trainer import Training, measured

__all__ = ["Solver", "check_linear", "chosen_penalty", "solve"]

PENALTIES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Tried from the strongest on, until a weaker one is worse on the inputs held out."""

_HELD_OUT = 0.2
_MOST_PASSES = 200
_ROWS = 16384  # at once: more would only fill the memory
_COPIES = 4  # of the features that are in memory at once


def check_linear(network: EarlyExitNetwork, *, cached: bool) -> None:
    """Raise InputError unless features are kept and every head that learns is one linear layer on them."""
    if not cached:
        raise InputError(
            "optimiser 'lbfgs' needs features that are kept (mode 'frozen', cache=True, no augmentation)"
        )
    for head in network.learning_heads:
        if isinstance(head, Head):
            linear = not (head.options.stacked or head.options.bottleneck) and head.options.is_linear
        else:
            linear = isinstance(head, nn.Linear)
        if not linear:
            raise InputError(
                "optimiser 'lbfgs' solves linear heads: take hidden=0, without bottleneck and stacked, or another "
                "optimiser"
            )


@dataclass(frozen=True, kw_only=True)
class Solver(Training):
    """Trains all heads of a network on cached features, one after the other: the checkpoint is written after each."""

    features: FeatureCache
    validation: FeatureCache | None
    seed: int

    def fit(self) -> History:
        """Solve every head that an earlier run has not, and measure."""
        state = self.resumed()
        penalties: list[float] = [] if state is None else list(state["penalties"])
        started = time.monotonic()
        self.show.resume(len(penalties))
        heads = self.network.learning_heads
        for place in range(len(penalties), len(heads)):
            began = time.monotonic()
            penalty, accuracy = self._solve(place, heads[place])
            penalties.append(penalty)
            self.keep({"penalties": penalties})
            said = f"penalty {penalty:g}  held-out accuracy {accuracy:.3f}"
            self.show.epoch(place, said, time.monotonic() - began)
        metrics = self._metrics(penalties, time.monotonic() - started)
        history = History((metrics,))
        self.keep_history(history)
        self.report(metrics)
        self.fabric.barrier()
        return history

    def _solve(self, place: int, head: nn.Module) -> tuple[float, float]:
        """Set the weights of one head; returns its penalty, and its accuracy on the inputs held out for the choice."""
        linear, before = _parts(head)
        n = len(self.features)
        check_memory(
            _COPIES * n * math.prod(self.features.shapes[place]) * 4,
            f"solving a head on the features of {n:,} inputs",
            "let the heads learn by gradients (optimiser 'adamw')",
        )
        device = self.fabric.device
        with torch.no_grad():
            inputs = before(self.features.part(place).to(device))
        label = torch.from_numpy(self.features.label).to(device)
        order = np.random.default_rng(self.seed).permutation(len(label))
        n_held_out = min(round(_HELD_OUT * len(label)), len(label) - 1)
        held_out, rest = order[:n_held_out], order[n_held_out:]
        penalty, accuracy = chosen_penalty(inputs, label, rest, held_out, linear.out_features)
        weight, bias = solve(inputs, label, linear.out_features, penalty)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        return penalty, accuracy

    def _metrics(self, penalties: list[float], seconds: float) -> EpochMetrics:
        loss, accuracy = self._measured(self.features)
        held_out = (None, None) if self.validation is None else self._measured(self.validation)
        return EpochMetrics(
            epoch=0, learning_rate=0.0, seconds=seconds, train_loss=loss, train_accuracy=accuracy,
            validation_loss=held_out[0], validation_accuracy=held_out[1], penalties=penalties,
        )  # fmt: skip

    def _measured(self, features: FeatureCache) -> tuple[list[float], list[float]]:
        batches = FeatureLoader(features, batch_size=_ROWS)
        return measured(self.learner, batches, self.network.n_exits, self.fabric)


def solve(
    inputs: Tensor, label: Tensor, n_classes: int, penalty: float, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return weights (k, d) and biases (k,) of the logistic regression of labels (n,) on inputs (n, d).

    They minimise the mean cross-entropy plus penalty / 2 times the sum of the squares of the weights that belong to
    standardised inputs (scikit-learn's C is 1 / (n penalty)). `start`: a solution to begin from.
    """
    mean, scale = inputs.mean(0), inputs.std(0, unbiased=False)
    scale = torch.where(scale > 1e-6 * mean.abs().clamp_min(1e-30), scale, torch.ones_like(scale))
    standardised = (inputs - mean) / scale
    if start is None:
        weight = inputs.new_zeros(n_classes, inputs.shape[1])
        bias = inputs.new_zeros(n_classes)
    else:
        weight, bias = start[0] * scale, start[1] + start[0] @ mean
    weight.requires_grad_()
    bias.requires_grad_()
    search = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_PASSES, history_size=10, tolerance_grad=1e-4, tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        search.zero_grad()
        total = penalty / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        for rows in range(0, len(label), _ROWS):
            logits = functional.linear(standardised[rows : rows + _ROWS], weight, bias)
            part = functional.cross_entropy(logits, label[rows : rows + _ROWS], reduction="sum") / len(label)
            part.backward()  # type: ignore[no-untyped-call]
            total = total.detach() + part.detach()
        return total

    search.step(loss)  # type: ignore[no-untyped-call]
    weight = weight.detach() / scale
    return weight, bias.detach() - weight @ mean


def chosen_penalty(
    inputs: Tensor, label: Tensor, rest: Integers, held_out: Integers, n_classes: int
) -> tuple[float, float]:
    """Return the penalty whose solution on `rest` has the least cross-entropy on `held_out`, and its accuracy there."""
    best, chosen, accuracy, solution = float("inf"), PENALTIES[0], 0.0, None
    learned, asked = (torch.from_numpy(rows).to(label.device) for rows in (rest, held_out))
    for penalty in PENALTIES if len(held_out) else ():
        solution = solve(inputs[learned], label[learned], n_classes, penalty, solution)
        logits = functional.linear(inputs[asked], *solution)
        loss = float(functional.cross_entropy(logits, label[asked]))
        if loss >= best:
            break
        best, chosen = loss, penalty
        accuracy = float((logits.argmax(1) == label[asked]).float().mean())
    return chosen, accuracy


def _parts(head: nn.Module) -> tuple[nn.Linear, Callable[[Tensor], Tensor]]:
    """Return a linear head's one layer that learns, and what comes before it."""
    if isinstance(head, nn.Linear):
        return head, lambda reduced: reduced
    if not isinstance(head, Head):
        raise TypeError(f"{type(head).__name__} is no linear head")
    head.eval()
    return head.last, head.before_last
