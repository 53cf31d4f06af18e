"""Linear heads on cached features are solved as logistic regressions, instead of by gradient descent.

Each head is one convex problem: the mean cross-entropy plus a penalty on the squares of the weights, over standardised
features. L-BFGS (Liu and Nocedal 1989) solves it in some tens of passes. The penalty of each head is the best one on a
fifth of the training inputs, after learning from the other four fifths; then the head learns from all inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

from exeunt._arrays import Floats, Integers
from exeunt._limits import check_memory
from exeunt.errors import InputError
from exeunt.torch.exits.heads import Head
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.training.checkpoint import EpochMetrics, History
from exeunt.torch.training.feature_cache import FeatureCache, FeatureLoader
from exeunt.torch.training.trainer import Training

PENALTIES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Tried from the strongest on, until a weaker one is worse on the held-out inputs."""

_HELD_OUT = 0.2
_MOST_PASSES = 200
_ROWS = 16384  # at once, to save memory
_COPIES = 4  # of the features that are in memory at once


def check_linear(network: EarlyExitNetwork, *, cached: bool) -> None:
    """Raise InputError unless features are kept and every head that learns is one linear layer on them."""
    if not cached:
        raise InputError(
            "optimiser 'lbfgs' needs features that are kept (mode 'frozen', cache=True, no augmentation)"
        )
    if not all(linear_layer(head) for head in network.learning_heads):
        raise InputError(
            "optimiser 'lbfgs' solves linear heads: take hidden=0, without bottleneck and stacked, or another "
            "optimiser"
        )


def linear_layer(head: nn.Module) -> tuple[nn.Linear, Callable[[Tensor], Tensor]] | None:
    """Return the one layer of a linear head that learns, and what comes before it; None if the head is not linear."""
    if isinstance(head, nn.Linear):
        return head, lambda reduced: reduced
    if (
        isinstance(head, Head)
        and head.options.is_linear
        and not (head.options.stacked or head.options.bottleneck)
    ):
        return head.last, head.before_last
    return None


@dataclass(frozen=True, kw_only=True)
class Solver(Training):
    """Trains the heads of a network on cached features, one after the other, with a checkpoint after each.

    `training`, `validation`: feature caches.
    """

    seed: int

    def fit(self) -> History:
        """Solve every head that an earlier run has not, and measure."""
        state = self.resumed()
        penalties: list[float] = [] if state is None else list(state["penalties"])
        started = time.monotonic()
        heads = self.network.learning_heads
        with self.progress("exit", len(heads), len(penalties)) as show:
            for place in range(len(penalties), len(heads)):
                penalty, accuracy = self._solve(place, heads[place])
                penalties.append(penalty)
                self.keep({"penalties": penalties})
                show.step(f"penalty {penalty:g}, held-out accuracy {accuracy:.3f}")
        history = History((self._metrics(penalties, time.monotonic() - started),))
        self.keep_history(history)
        self.fabric.barrier()
        return history

    def _solve(self, place: int, head: nn.Module) -> tuple[float, float]:
        """Set the weights of one head; return its penalty, and its accuracy on the inputs held out for the choice."""
        found = linear_layer(head.eval())
        assert found is not None  # noqa: S101 - `check_linear` has seen to it
        linear, before = found
        n = len(self.training)
        check_memory(
            _COPIES * n * math.prod(self.training.shapes[place]) * 4,
            f"solving a head on the features of {n:,} inputs",
            "let the heads learn by gradients (optimiser 'adamw')",
        )
        device = self.fabric.device
        with torch.no_grad():
            inputs = before(self.training.part(place).to(device))
        label = torch.from_numpy(self.training.label).to(device)
        order = np.random.default_rng(self.seed).permutation(n)
        n_held_out = min(round(_HELD_OUT * n), n - 1)
        held_out, rest = order[:n_held_out], order[n_held_out:]
        penalty, accuracy = chosen_penalty(inputs, label, rest, held_out, linear.out_features)
        weight, bias = solve(inputs, label, linear.out_features, penalty)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        return penalty, accuracy

    def _metrics(self, penalties: list[float], seconds: float) -> EpochMetrics:
        def of(features: FeatureCache) -> tuple[list[float], list[float]]:
            return self.measured(FeatureLoader(features, batch_size=_ROWS))

        loss, accuracy = of(self.training)
        held_out = (None, None) if self.validation is None else of(self.validation)
        return EpochMetrics(
            epoch=0, learning_rate=0.0, seconds=seconds, train_loss=loss, train_accuracy=accuracy,
            validation_loss=held_out[0], validation_accuracy=held_out[1], penalties=penalties,
        )  # fmt: skip


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

    def loss(values: Floats) -> tuple[float, Floats]:
        both = torch.from_numpy(values).to(inputs).reshape(n_classes, -1).requires_grad_()
        weight, bias = both[:, :-1], both[:, -1]
        total = penalty / 2 * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        for rows, labels in zip(torch.split(standardised, _ROWS), torch.split(label, _ROWS), strict=True):
            part = functional.cross_entropy(functional.linear(rows, weight, bias), labels, reduction="sum")
            (part / len(label)).backward()  # type: ignore[no-untyped-call]
            total = total.detach() + part.detach() / len(label)
        assert both.grad is not None  # noqa: S101 - it has been computed above
        return float(total), both.grad.double().cpu().numpy().ravel()

    first = inputs.new_zeros(n_classes, inputs.shape[1] + 1)
    if start is not None:
        first = torch.cat([start[0] * scale, (start[1] + start[0] @ mean)[:, None]], dim=1)
    found = minimize(
        loss, first.double().cpu().numpy().ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": _MOST_PASSES, "gtol": 1e-4},
    )  # fmt: skip
    solution = torch.from_numpy(found.x).to(inputs).reshape(n_classes, -1)
    weight = solution[:, :-1] / scale
    return weight, solution[:, -1] - weight @ mean


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
