"""The PyTorch executor of a network that cannot be cut: it runs whole, and no input leaves it early."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from numpy.typing import NDArray

from exeunt._arrays import Booleans, Integers
from exeunt.engine.executor import BORDER, Segments
from exeunt.torch.calls import Inputs
from exeunt.torch.exits.heads import Head
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.named_inputs import (
    Named,
    TextPadding,
    arguments_of,
    check_like,
    finite_rows,
    named_tensors,
    numpy_logits,
    padded,
    size_key,
)
from exeunt.torch.processes import device_name, wait_for
from exeunt.torch.row_copying import gathered

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["WholeExecutor", "border_of", "passed_on", "tensor_like"]


class WholeExecutor:
    """Runs the whole network at once, with only the heads that are wanted: for models that cannot be cut.

    `example`: a batch of its inputs.
    """

    name, restarts = "eager", ()

    def __init__(self, network: EarlyExitNetwork, example: Inputs) -> None:
        self._network = network.eval()
        self.device = device_name(tensor_like(network).device)
        self.border = border_of(tensor_like(network).dtype)
        self._example = named_tensors(example, tensor_like(network))
        self.n_exits = network.n_exits
        self.segments: Segments = ((0, self.n_exits - 1),)
        self._passed_on = passed_on(network)
        self._padding = TextPadding.of(network.backbone)

    def start(self, inputs: Inputs) -> tuple[Named, Booleans]:
        """Return the inputs, and which of them are finite."""
        named = named_tensors(inputs, tensor_like(self._network))
        check_like(named, self._example)
        named = padded(named, self._padding)
        return named, finite_rows(named)

    def signature(self, state: Named) -> Hashable:
        """Return names, types and sizes of the inputs, without their number."""
        return size_key(state)

    @torch.inference_mode()
    def run(
        self,
        segment: int,  # noqa: ARG002 - there is one
        state: Named,
        wanted: Sequence[int],
    ) -> tuple[list[NDArray[Any]], Named]:
        """Run the backbone, and the heads whose logits are wanted or read by the next head."""
        args, kwargs = arguments_of(state)
        reduced, final = self._network.reduce(*args, **kwargs)
        logits: list[NDArray[Any]] = []
        previous: Tensor | None = None
        for exit_, (head, features) in enumerate(zip(self._network.heads, reduced, strict=False)):
            if exit_ in wanted or self._passed_on[exit_]:
                previous = head.classify(features, previous) if isinstance(head, Head) else head(features)
            if exit_ in wanted:
                logits.append(numpy_logits(cast("Tensor", previous)))
        if self.n_exits - 1 in wanted:
            logits.append(numpy_logits(final))
        return logits, state

    def wait(self) -> None:
        """Return once all that was begun is computed."""
        wait_for(tensor_like(self._network).device)

    @torch.inference_mode()
    def gather(self, parts: Sequence[tuple[Named, Integers | slice | None]]) -> Named:
        """Join rows of several batches of inputs."""
        rows = [keep for _, keep in parts]
        return {name: gathered([state[name] for state, _ in parts], rows, 0) for name in parts[0][0]}

    def compact(self, state: Named, rows: Integers) -> tuple[Named, Integers]:
        """Copy the rows, because the state is the caller's inputs."""
        return self.gather([(state, rows)]), rows


def passed_on(network: EarlyExitNetwork) -> list[bool]:
    """Return, per head, whether the next one reads its logits."""
    reads = [isinstance(head, Head) and head.options.stacked for head in network.heads]
    return [*reads[1:], False]


def tensor_like(network: EarlyExitNetwork) -> Tensor:
    """Return a tensor of the network's device and type."""
    return next(network.parameters(), torch.zeros(0))


def border_of(dtype: torch.dtype) -> float:
    """Return how far probabilities may move with the batch (see `Executor.border`): by two units in the last place.

    Kernels differ with the number of rows: bf16 probabilities of CIFAR ResNets moved by at most half of that.
    """
    return max(BORDER, float(2 * torch.finfo(dtype).eps))
