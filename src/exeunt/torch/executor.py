"""The PyTorch executors (see `exeunt.engine.executor`): segment by segment, or the whole network at once."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from exeunt._arrays import Booleans, Integers
from exeunt.engine.executor import Segments
from exeunt.engine.plan import check_segments
from exeunt.engine.row_dropping import moves
from exeunt.errors import NotCuttable, RunsWhole
from exeunt.torch.calls import Inputs, first_tensor, logits_of
from exeunt.torch.cutting.batch_norm_folding import FoldedWeights, folded_layers, folded_stages
from exeunt.torch.cutting.stage import Stage, StagedModel
from exeunt.torch.exits.heads import Head
from exeunt.torch.exits.network import WHOLE, EarlyExitNetwork
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
from exeunt.torch.row_copying import compacted, gathered, memory_address
from exeunt.torch.whole_executor import WholeExecutor, border_of, passed_on, tensor_like

__all__ = ["StagedExecutor", "WholeExecutor", "make_executor", "original"]

_CUTS_KEPT = 32  # a cut shares the model's weights, so it takes a few MB, and seconds to make


@dataclass(frozen=True)
class _State:
    """What one stage hands to the next, with what heads read besides features.

    `stage`: the one that computed the tensors, -1 for the inputs. `staged`: the model cut for their sizes; None
    where no row is to be run. `key`: these sizes. `borrowed`: memory addresses of the caller's inputs.
    """

    staged: StagedModel | None
    key: Hashable
    stage: int
    tensors: tuple[Tensor, ...]
    mask: Tensor | None
    previous: Tensor | None
    borrowed: frozenset[int]


class StagedExecutor:
    """Runs a network cut after each exit's module, so that inputs that have answered cost nothing more.

    A cut fixes every size but the number of rows, and the length of texts where it can stay open. So the network is cut
    once for each size of its inputs, when the first such inputs arrive; for the size of `example` at once. Texts are
    padded to few lengths (see `padded`).
    Batch norms are folded into the layers before them, so the network must not be trained or moved meanwhile.
    `segments`: by default one per exit.

    Raises NotCuttable if the network cannot be cut.
    """

    name, restarts = "eager", ()

    def __init__(
        self, network: EarlyExitNetwork, example: Inputs, *, segments: Segments | None = None
    ) -> None:
        self._network = network.eval()
        self.device = device_name(tensor_like(network).device)
        self.border = border_of(tensor_like(network).dtype)
        self.n_exits = network.n_exits
        self.segments = tuple((i, i) for i in range(self.n_exits)) if segments is None else segments
        check_segments(self.segments, self.n_exits)
        self._passed_on = passed_on(network)
        # A head made by the user's function may use its layers in any way, so it is not folded.
        self.heads = [folded_layers(head) if isinstance(head, Head) else head for head in network.heads]
        self._folded: FoldedWeights = {}
        self._cuts: OrderedDict[Hashable, StagedModel] = OrderedDict()
        self._padding = TextPadding.of(network.backbone)
        self._example = named_tensors(example, tensor_like(network))
        self._cut_for(padded(self._example, self._padding))

    def start(self, inputs: Inputs) -> tuple[_State, Booleans]:
        """Return the inputs as the state of the first stage, and which of them are finite."""
        named = named_tensors(inputs, tensor_like(self._network))
        check_like(named, self._example)
        named = padded(named, self._padding)
        valid, key = finite_rows(named), size_key(named)
        if not valid.any():
            return _State(None, key, -1, (), None, None, frozenset()), valid
        staged = self._cut_for(named if valid.all() else _only(named, valid))
        tensors = tuple(named[name] for name in staged.input_names if name in named)
        borrowed = frozenset(memory_address(tensor) for tensor in named.values())
        mask = named.get("attention_mask")
        return _State(staged, key, -1, tensors or tuple(named.values()), mask, None, borrowed), valid

    def signature(self, state: _State) -> Hashable:
        """Return names, types and sizes of the inputs, without their number."""
        return state.key

    @torch.inference_mode()
    def run(self, segment: int, state: _State, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], _State]:
        """Run the stages of a segment, and the heads whose logits are wanted."""
        first, last = self.segments[segment]
        logits = []
        for exit_ in range(first, last + 1):
            computed, state = self._run_stage(exit_, state, wanted=exit_ in wanted)
            if computed is not None and exit_ in wanted:
                logits.append(numpy_logits(computed))
        return logits, state

    def _run_stage(self, exit_: int, state: _State, *, wanted: bool) -> tuple[Tensor | None, _State]:
        """Run one stage, and its head if the caller or the next head needs it."""
        stage = cast("Stage", cast("StagedModel", state.staged).stages[exit_])
        made = stage.body(*state.tensors)
        if exit_ == self.n_exits - 1:
            return first_tensor(made), state
        logits = None
        if wanted or self._passed_on[exit_]:
            logits = _head_logits(self.heads[exit_], made[0], state.mask, state.previous)
        return logits, replace(state, stage=exit_, tensors=made, previous=logits)

    def wait(self) -> None:
        """Return once all that was begun is computed."""
        wait_for(tensor_like(self._network).device)

    @torch.inference_mode()
    def gather(self, parts: Sequence[tuple[_State, Integers | slice | None]]) -> _State:
        """Join rows of several states."""
        states, rows = [state for state, _ in parts], [keep for _, keep in parts]
        first = states[0]
        tensors = tuple(
            gathered([state.tensors[i] for state in states], rows, dim)
            for i, dim in enumerate(_batch_dims(first))
        )
        mask, previous = (
            None if one[0] is None else gathered(cast("list[Tensor]", one), rows, 0)
            for one in ([state.mask for state in states], [state.previous for state in states])
        )
        return replace(first, tensors=tensors, mask=mask, previous=previous)

    @torch.inference_mode()
    def compact(self, state: _State, rows: Integers) -> tuple[_State, Integers]:
        """Drop rows in place, except from the caller's tensors, which are copied."""
        order = moves(rows)[2]
        tensors = tuple(
            gathered([tensor], [order], dim)
            if dim is None or memory_address(tensor) in state.borrowed
            else compacted(tensor, rows, dim)
            for tensor, dim in zip(state.tensors, _batch_dims(state), strict=True)
        )
        mask, previous = (
            None if one is None else gathered([one], [order], 0) for one in (state.mask, state.previous)
        )
        return replace(state, tensors=tensors, mask=mask, previous=previous), order

    def _cut_for(self, named: Named) -> StagedModel:
        """Return the network cut for inputs of this size, using up to two of them."""
        keys = [size_key(named, any_length=any_length) for any_length in (True, False)]
        key = next((key for key in keys if key in self._cuts), None)
        if key is None:
            args, kwargs = arguments_of({name: tensor[:2] for name, tensor in named.items()})
            example = kwargs or (args[0] if len(args) == 1 else args)
            staged = folded_stages(self._network.stages(example), self._folded)
            key = keys[0] if staged.length_is_open else keys[1]
            self._cuts[key] = staged
            if len(self._cuts) > _CUTS_KEPT:
                self._cuts.popitem(last=False)
        self._cuts.move_to_end(key)
        return self._cuts[key]


def _batch_dims(state: _State) -> list[int | None]:
    """Return the axis of the rows of each of the state's tensors."""
    stage = cast("Stage", cast("StagedModel", state.staged).stages[state.stage + 1])
    return [tensor.batch_dim for tensor in stage.inputs]


def _head_logits(head: nn.Module, features: Tensor, mask: Tensor | None, previous: Tensor | None) -> Tensor:
    # A head made by a function may change what it reads, and the next stage goes on with it.
    logits: Tensor = head(features, mask, previous) if isinstance(head, Head) else head(features.clone())
    return logits


def _only(named: Named, which: Booleans) -> Named:
    rows = torch.from_numpy(np.flatnonzero(which))
    return {name: tensor[rows.to(tensor.device)] for name, tensor in named.items()}


def make_executor(
    network: EarlyExitNetwork, example: Inputs, *, segments: Segments | None = None
) -> StagedExecutor | WholeExecutor:
    """Return a StagedExecutor if the network can be cut, else a WholeExecutor, with a warning that says why."""
    try:
        return StagedExecutor(network, example, segments=segments)
    except NotCuttable as error:
        warnings.warn(f"{WHOLE}. {error}", RunsWhole, stacklevel=2)
        return WholeExecutor(network, example)


def original(network: EarlyExitNetwork) -> Callable[[Inputs], NDArray[Any]]:
    """Return a function that runs the network without exits and returns its logits (n, k), to compare times with."""
    backbone = network.eval().backbone

    @torch.inference_mode()
    def forward(inputs: Inputs) -> NDArray[Any]:
        args, kwargs = arguments_of(named_tensors(inputs, tensor_like(network)))
        return numpy_logits(logits_of(backbone(*args, **kwargs)))

    return forward
