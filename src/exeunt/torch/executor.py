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
from torch import Tensor

from exeunt._support.arrays import Booleans, Integers
from exeunt.engine.dropping_finished_rows import moves
from exeunt.engine.executor import BORDER, Segments
from exeunt.engine.plan import check_segments
from exeunt.errors import NotCuttable, RunsWhole
from exeunt.torch import named_inputs
from exeunt.torch.calls import Inputs, first_tensor, logits_of
from exeunt.torch.cutting import stage
from exeunt.torch.cutting.batch_norm_folding import FoldedWeights, folded_layers, folded_stages
from exeunt.torch.devices import device_name, wait_for
from exeunt.torch.exits.heads import Head
from exeunt.torch.exits.network import WHOLE, EarlyExitNetwork, classified, head_logits
from exeunt.torch.models.hugging_face import longest_text

_CUTS_KEPT = 32  # a cut shares the model's weights, so it takes a few MB, and seconds to make


class _Executor:
    """What both executors do: they read inputs, and know which heads must run."""

    name, restarts = "eager", ()

    def __init__(self, network: EarlyExitNetwork, example: Inputs) -> None:
        self._network = network.eval()
        self._like = next(network.parameters(), torch.zeros(0))  # of the network's device and type
        self.device = device_name(self._like.device)
        # Kernels differ with the number of rows: probabilities in bf16 of CIFAR ResNets moved by up to one unit in
        # the last place. Two are allowed.
        self.border = max(BORDER, float(2 * torch.finfo(self._like.dtype).eps))
        self.n_exits, self.mask_scale = len(network.stage_heads) + 1, network.mask_scale
        self._example = named_inputs.named_tensors(example, self._like)
        config = getattr(network.backbone, "config", None)
        self._longest, self._pad_token = longest_text(network.backbone), getattr(config, "pad_token_id", 0)

    def _read(self, inputs: Inputs) -> named_inputs.Named:
        """Return a batch's inputs as the network takes them; texts are padded to few lengths."""
        named = named_inputs.named_tensors(inputs, self._like)
        named_inputs.check_like(named, self._example)
        return self._padded(named)

    def _padded(self, named: named_inputs.Named) -> named_inputs.Named:
        return named_inputs.padded(named, longest=self._longest, token=self._pad_token or 0)

    def wait(self) -> None:
        """Return once all that was begun is computed."""
        wait_for(self._like.device)


@dataclass(frozen=True)
class _State:
    """The tensors between two stages, and the mask that heads read besides features.

    `key`: sizes of the inputs. `staged`: the model cut for these sizes; None if no row can be answered. `kinds`: what
    is known of `tensors`. `mask`: the attention mask, which heads read, if there is one. `borrowed`: addresses of the
    caller's inputs in memory.
    """

    key: Hashable
    staged: stage.StagedModel | None = None
    kinds: tuple[stage.StateTensor, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    mask: Tensor | None = None
    borrowed: frozenset[int] = frozenset()


class StagedExecutor(_Executor):
    """Runs a network cut after each exit's module, so that inputs that have answered cost nothing more.

    A cut fixes every size except the number of rows, and the length of texts where it can stay open. So the network is
    cut once for each size of its inputs: for the size of `example` at once, for others when they arrive.
    Batch norms are folded into the layers before them, so the network must not be trained or moved meanwhile.
    `segments`: by default one per exit. The gate of a network that has one counts as its exit 0 here.

    Raises NotCuttable if the network cannot be cut.
    """

    def __init__(
        self, network: EarlyExitNetwork, example: Inputs, *, segments: Segments | None = None
    ) -> None:
        super().__init__(network, example)
        self.segments = tuple((i, i) for i in range(self.n_exits)) if segments is None else segments
        check_segments(self.segments, self.n_exits)
        # A head made by the user's function may use its layers in any way, so it is not folded.
        self.heads = [folded_layers(head) if isinstance(head, Head) else head for head in network.stage_heads]
        self._folded: FoldedWeights = {}
        self._cuts: OrderedDict[Hashable, stage.StagedModel] = OrderedDict()
        self._cut_for(self._padded(self._example), slice(2))

    def start(self, inputs: Inputs) -> tuple[_State, Booleans]:
        """Return the inputs as the state of the first stage, and which of them are finite."""
        named = self._read(inputs)
        valid, key = named_inputs.finite_rows(named), named_inputs.size_key(named)
        if not valid.any():
            return _State(key), valid
        staged = self._cut_for(named, np.flatnonzero(valid)[:2].tolist())
        tensors = tuple(named[name] for name in staged.input_names if name in named) or tuple(named.values())
        borrowed = frozenset(stage.memory_address(tensor) for tensor in named.values())
        mask = named.get("attention_mask")
        return _State(key, staged, staged.stages[0].inputs, tensors, mask, borrowed), valid

    def signature(self, state: _State) -> Hashable:
        """Return names, types and sizes of the inputs, without their number."""
        return state.key

    @torch.inference_mode()
    def run(self, segment: int, state: _State, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], _State]:
        """Run the stages of a segment, and the heads whose logits are wanted."""
        stages = cast("stage.StagedModel", state.staged).stages
        first, last = self.segments[segment]
        outputs = []
        for exit_ in range(first, last + 1):
            body, passing = stages[exit_].body, stages[exit_].passing
            tensors = (body if passing is None or exit_ in wanted else passing)(*state.tensors)
            is_last = exit_ == self.n_exits - 1
            if exit_ in wanted:
                logits = (
                    first_tensor(tensors)
                    if is_last
                    else head_logits(self.heads[exit_], tensors[0], state.mask)
                )
                outputs.append(_numpy(logits))
            if not is_last:
                state = replace(state, kinds=stages[exit_ + 1].inputs, tensors=tensors)
        return outputs, state

    @torch.inference_mode()
    def gather(self, parts: Sequence[tuple[_State, Integers | slice | None]]) -> _State:
        """Join rows of several states."""
        states, rows = [state for state, _ in parts], [keep for _, keep in parts]
        tensors = tuple(
            stage.gathered([state.tensors[i] for state in states], rows, kind.batch_dim)
            for i, kind in enumerate(states[0].kinds)
        )
        masks = [state.mask for state in states if state.mask is not None]
        mask = stage.gathered(masks, rows, 0) if masks else None
        return replace(states[0], tensors=tensors, mask=mask)

    @torch.inference_mode()
    def compact(self, state: _State, rows: Integers) -> tuple[_State, Integers]:
        """Drop rows in place, except from the caller's tensors, which are copied."""
        order = moves(rows)[2]
        tensors = tuple(
            stage.gathered([tensor], [order], kind.batch_dim)
            if kind.batch_dim is None or stage.memory_address(tensor) in state.borrowed
            else stage.compacted(tensor, rows, kind.batch_dim)
            for tensor, kind in zip(state.tensors, state.kinds, strict=True)
        )
        mask = None if state.mask is None else stage.gathered([state.mask], [order], 0)
        return replace(state, tensors=tensors, mask=mask), order

    def _cut_for(self, named: named_inputs.Named, rows: slice | list[int]) -> stage.StagedModel:
        """Return the network cut for inputs of this size. `rows`: two that can be answered, to cut it on."""
        keys = [named_inputs.size_key(named, any_length=any_length) for any_length in (True, False)]
        key = next((key for key in keys if key in self._cuts), None)
        if key is None:
            args, kwargs = named_inputs.arguments_of({name: tensor[rows] for name, tensor in named.items()})
            staged = folded_stages(self._network.stages(kwargs or args), self._folded)
            key = keys[0] if staged.length_is_open else keys[1]
            self._cuts[key] = staged
            if len(self._cuts) > _CUTS_KEPT:
                self._cuts.popitem(last=False)
        self._cuts.move_to_end(key)
        return self._cuts[key]


class WholeExecutor(_Executor):
    """Runs the whole network at once, with only the heads that are wanted: for models that cannot be cut.

    `example`: a batch of its inputs.
    """

    def __init__(self, network: EarlyExitNetwork, example: Inputs) -> None:
        super().__init__(network, example)
        self.segments: Segments = ((0, self.n_exits - 1),)

    def start(self, inputs: Inputs) -> tuple[named_inputs.Named, Booleans]:
        """Return the inputs, and which of them are finite."""
        named = self._read(inputs)
        return named, named_inputs.finite_rows(named)

    def signature(self, state: named_inputs.Named) -> Hashable:
        """Return names, types and sizes of the inputs, without their number."""
        return named_inputs.size_key(state)

    @torch.inference_mode()
    def run(
        self,
        segment: int,  # noqa: ARG002 - there is one
        state: named_inputs.Named,
        wanted: Sequence[int],
    ) -> tuple[list[NDArray[Any]], named_inputs.Named]:
        """Run the backbone, and the heads whose logits are wanted."""
        args, kwargs = named_inputs.arguments_of(state)
        reduced, final = self._network.reduce(*args, **kwargs)
        logits: list[NDArray[Any]] = []
        for exit_, (head, features) in enumerate(zip(self._network.heads, reduced, strict=False)):
            if exit_ in wanted:
                logits.append(_numpy(classified(head, features)))
        if self.n_exits - 1 in wanted:
            logits.append(_numpy(final))
        return logits, state

    @torch.inference_mode()
    def gather(
        self, parts: Sequence[tuple[named_inputs.Named, Integers | slice | None]]
    ) -> named_inputs.Named:
        """Join rows of several batches of inputs."""
        rows = [keep for _, keep in parts]
        return {name: stage.gathered([state[name] for state, _ in parts], rows, 0) for name in parts[0][0]}

    def compact(self, state: named_inputs.Named, rows: Integers) -> tuple[named_inputs.Named, Integers]:
        """Copy the rows, because the state is the caller's inputs."""
        return self.gather([(state, rows)]), rows


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
    backbone, like = network.eval().backbone, next(network.parameters(), torch.zeros(0))

    @torch.inference_mode()
    def forward(inputs: Inputs) -> NDArray[Any]:
        args, kwargs = named_inputs.arguments_of(named_inputs.named_tensors(inputs, like))
        return _numpy(logits_of(backbone(*args, **kwargs)))

    return forward


def _numpy(logits: Tensor) -> NDArray[Any]:
    """Return logits as float32 in NumPy."""
    return logits.detach().float().cpu().numpy()  # type: ignore[no-any-return]
