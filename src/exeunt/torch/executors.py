"""Eager PyTorch executors for the answering loop: stage by stage, or the whole network at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from exeunt.torch.graph import NotCuttable
from exeunt.torch.heads import Head
from exeunt.torch.taps import as_call, first_tensor, to_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exeunt._arrays import Integers
    from exeunt.torch.network import EarlyExitNetwork
    from exeunt.torch.stage import Stage
    from exeunt.torch.taps import Inputs

__all__ = ["StagedExecutor", "WholeExecutor", "make_executor"]


@dataclass(frozen=True)
class _Rows:
    """What is handed on between stages, with what heads ask for besides features."""

    stage: int  # the stage that made the tensors; -1 for the inputs
    tensors: tuple[Tensor, ...]
    mask: Tensor | None
    previous: Tensor | None


class StagedExecutor:
    """Runs a network cut after each exit's module; inputs that have answered cost nothing any more."""

    def __init__(self, network: EarlyExitNetwork, example: Inputs) -> None:
        self._network = network.eval()
        self._device = _device_of(network)
        self._staged = network.stages(to_device(example, self._device))

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return self._network.n_exits

    def start(self, inputs: Inputs) -> tuple[_Rows, int]:
        """Return the inputs as the state of the first stage, and their number."""
        args, named = as_call(to_device(inputs, self._device))
        names = self._staged.input_names[len(args) :]
        tensors = (*args, *(named[name] for name in names))
        return _Rows(-1, tensors, named.get("attention_mask"), None), len(tensors[0])

    @torch.inference_mode()
    def run(self, exit_: int, state: _Rows) -> tuple[NDArray[Any], _Rows]:
        """Run one stage and its head."""
        stage = cast("Stage", self._staged.stages[exit_])
        made = stage(*state.tensors)
        if exit_ == self.n_exits - 1:
            return _numpy(first_tensor(made)), state
        tensors = cast("tuple[Tensor, ...]", made)
        head = self._network.heads[exit_]
        features = tensors[stage.feature_index]
        logits = head(features, state.mask, state.previous) if isinstance(head, Head) else head(features)
        return _numpy(logits), _Rows(exit_, tensors, state.mask, logits)

    def take(self, state: _Rows, keep: Integers) -> _Rows:
        """Drop the rows that have answered."""
        rows = torch.from_numpy(keep).to(state.tensors[0].device)
        stage = cast("Stage", self._staged.stages[state.stage])
        return _Rows(
            state.stage,
            stage.take(state.tensors, rows),
            None if state.mask is None else state.mask[rows],
            None if state.previous is None else state.previous[rows],
        )


class WholeExecutor:
    """Runs the whole network at the first exit and reads the others off: for models that cannot be cut."""

    def __init__(self, network: EarlyExitNetwork) -> None:
        self._network = network.eval()
        self._device = _device_of(network)

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return self._network.n_exits

    @torch.inference_mode()
    def start(self, inputs: Inputs) -> tuple[list[Tensor], int]:
        """Run everything; the state is every exit's logits."""
        args, named = as_call(to_device(inputs, self._device))
        logits = self._network(*args, **named)
        return logits, len(logits[0])

    def run(self, exit_: int, state: list[Tensor]) -> tuple[NDArray[Any], list[Tensor]]:
        """Read an exit's logits."""
        return _numpy(state[exit_]), state

    def take(self, state: list[Tensor], keep: Integers) -> list[Tensor]:
        """Drop the rows that have answered."""
        rows = torch.from_numpy(keep).to(state[0].device)
        return [logits[rows] for logits in state]


def _device_of(network: EarlyExitNetwork) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _numpy(logits: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = logits.detach().float().cpu().numpy()
    return array


def make_executor(network: EarlyExitNetwork, example: Inputs) -> StagedExecutor | WholeExecutor:
    """Return the executor that drops answered inputs where the network can be cut, else the other one."""
    if not isinstance(example, Tensor):
        return WholeExecutor(
            network
        )  # texts differ in length from batch to batch, and a cut fixes the length
    try:
        return StagedExecutor(network, example)
    except NotCuttable:
        return WholeExecutor(network)
