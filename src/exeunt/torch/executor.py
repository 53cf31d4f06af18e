"""Eager PyTorch executors for the answering loop: segment by segment, or the whole network at once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from exeunt.engine.plan import check_segments
from exeunt.engine.row_dropping import moves
from exeunt.torch.cutting.batch_norm_folding import FoldedWeights, folded_layers, folded_stages
from exeunt.torch.cutting.graph import NotCuttable
from exeunt.torch.exits.heads import Head
from exeunt.torch.rows import (
    address,
    call_of,
    compacted,
    finite_rows,
    gathered,
    named_tensors,
    numpy_logits,
    padded,
    shapes,
)  # fmt: skip
from exeunt.torch.taps import first_tensor, logits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    from exeunt._arrays import Booleans, Integers
    from exeunt.engine.executor import Segments
    from exeunt.torch.cutting.stage import Stage, StagedModel
    from exeunt.torch.exits.network import EarlyExitNetwork
    from exeunt.torch.rows import Named
    from exeunt.torch.taps import Inputs

__all__ = ["StagedExecutor", "WholeExecutor", "make_executor", "uncut"]

_CUTS_KEPT = 32  # a cut shares the model's weights: it costs a few MB, and the seconds to make it


@dataclass(frozen=True)
class _Rows:
    """What is handed on between stages, with what heads ask for besides features.

    `stage`: the one that made the tensors, -1 for the inputs. `staged`: the model cut for their sizes; None
    where no row is to be run. `key`: these sizes. `borrowed`: where the caller's inputs lie in memory.
    """

    staged: StagedModel | None
    key: Hashable
    stage: int
    tensors: tuple[Tensor, ...]
    mask: Tensor | None
    previous: Tensor | None
    borrowed: frozenset[int]


class StagedExecutor:
    """Runs a network cut after each exit's module; inputs that have answered cost nothing any more.

    A cut fixes every size but the number of rows, so the network is cut once per size of its inputs, on the
    first that come; for those of `example`, at once. Texts are padded to few lengths (see `padded`). Batch
    norms are folded into the layers before them, so the network must be neither trained on nor moved meanwhile.
    `segments`: by default one per exit.

    Raises NotCuttable where the network cannot be cut.
    """

    name = "eager"

    def __init__(
        self, network: EarlyExitNetwork, example: Inputs, *, segments: Segments | None = None
    ) -> None:
        self._network = network.eval()
        self.n_exits = network.n_exits
        self.segments = _one_per_exit(self.n_exits) if segments is None else segments
        check_segments(self.segments, self.n_exits)
        self._passed_on = _passed_on(network)
        # What a head of somebody else's making does with its layers is not known.
        self.heads = [folded_layers(head) if isinstance(head, Head) else head for head in network.heads]
        self._folded: FoldedWeights = {}
        self._cuts: OrderedDict[Hashable, StagedModel] = OrderedDict()
        named = padded(named_tensors(example, _like(network)), network.backbone)
        self._cut_for(shapes(named), named)

    def start(self, inputs: Inputs) -> tuple[_Rows, Booleans]:
        """Return the inputs as the state of the first stage, and which of them are finite."""
        named = padded(named_tensors(inputs, _like(self._network)), self._network.backbone)
        valid, key = finite_rows(named), shapes(named)
        if not valid.any():
            return _Rows(None, key, -1, (), None, None, frozenset()), valid
        staged = self._cut_for(key, named if valid.all() else _only(named, valid))
        tensors = tuple(named[name] for name in staged.input_names if name in named)
        borrowed = frozenset(address(tensor) for tensor in named.values())
        mask = named.get("attention_mask")
        return _Rows(staged, key, -1, tensors or tuple(named.values()), mask, None, borrowed), valid

    def signature(self, state: _Rows) -> Hashable:
        """Return names, types and sizes of the inputs, without their number."""
        return state.key

    @torch.inference_mode()
    def run(self, segment: int, state: _Rows, wanted: Sequence[int]) -> tuple[list[NDArray[Any]], _Rows]:
        """Run the stages of a segment, and the heads whose logits are wanted."""
        first, last = self.segments[segment]
        logits = []
        for exit_ in range(first, last + 1):
            answered, state = self._run_stage(exit_, state, wanted=exit_ in wanted)
            if answered is not None and exit_ in wanted:
                logits.append(numpy_logits(answered))
        return logits, state

    def _run_stage(self, exit_: int, state: _Rows, *, wanted: bool) -> tuple[Tensor | None, _Rows]:
        """Run one stage and, if wanted by the caller or the next head, its head."""
        stage = cast("Stage", cast("StagedModel", state.staged).stages[exit_])
        made = stage.body(*state.tensors)
        if exit_ == self.n_exits - 1:
            return first_tensor(made), state
        logits = None
        if wanted or self._passed_on[exit_]:
            logits = _answer(self.heads[exit_], made[0], state.mask, state.previous)
        return logits, replace(state, stage=exit_, tensors=made, previous=logits)

    @torch.inference_mode()
    def gather(self, parts: Sequence[tuple[_Rows, Integers | slice | None]]) -> _Rows:
        """Put rows of several states together."""
        states, rows = [state for state, _ in parts], [keep for _, keep in parts]
        first = states[0]
        kinds = cast("Stage", cast("StagedModel", first.staged).stages[first.stage + 1]).inputs
        tensors = tuple(
            gathered([state.tensors[i] for state in states], rows, kind.batch_dim)
            for i, kind in enumerate(kinds)
        )
        mask, previous = (
            None if one[0] is None else gathered(cast("list[Tensor]", one), rows, 0)
            for one in ([state.mask for state in states], [state.previous for state in states])
        )
        return replace(first, tensors=tensors, mask=mask, previous=previous)

    @torch.inference_mode()
    def compact(self, state: _Rows, rows: Integers) -> tuple[_Rows, Integers]:
        """Drop rows in place, but from the caller's own tensors."""
        order = moves(rows)[2]
        kinds = cast("Stage", cast("StagedModel", state.staged).stages[state.stage + 1]).inputs
        tensors = tuple(
            gathered([tensor], [order], kind.batch_dim)
            if kind.batch_dim is None or address(tensor) in state.borrowed
            else compacted(tensor, rows, kind.batch_dim)
            for tensor, kind in zip(state.tensors, kinds, strict=True)
        )
        mask, previous = (
            None if one is None else gathered([one], [order], 0) for one in (state.mask, state.previous)
        )
        return replace(state, tensors=tensors, mask=mask, previous=previous), order

    def _cut_for(self, key: Hashable, named: Named) -> StagedModel:
        """Return the network cut for inputs of this size, made on up to two of them."""
        if key not in self._cuts:
            args, kwargs = call_of({name: tensor[:2] for name, tensor in named.items()})
            example = kwargs or (args[0] if len(args) == 1 else args)
            self._cuts[key] = folded_stages(self._network.stages(example), self._folded)
            if len(self._cuts) > _CUTS_KEPT:
                self._cuts.popitem(last=False)
        self._cuts.move_to_end(key)
        return self._cuts[key]


class WholeExecutor:
    """Runs the whole network at once and reads off the exits wanted: for models that cannot be cut."""

    name = "eager"

    def __init__(self, network: EarlyExitNetwork) -> None:
        self._network = network.eval()
        self.n_exits = network.n_exits
        self.segments: Segments = ((0, self.n_exits - 1),)
        self._passed_on = _passed_on(network)

    def start(self, inputs: Inputs) -> tuple[Named, Booleans]:
        """Return the inputs, and which of them are finite."""
        named = named_tensors(inputs, _like(self._network))
        return named, finite_rows(named)

    def signature(self, state: Named) -> Hashable:
        """Return names, types and sizes of the inputs, without their number."""
        return shapes(state)

    @torch.inference_mode()
    def run(
        self,
        segment: int,  # noqa: ARG002 - there is one
        state: Named,
        wanted: Sequence[int],
    ) -> tuple[list[NDArray[Any]], Named]:
        """Run everything but the heads that nobody wants."""
        args, kwargs = call_of(state)
        reduced, final = self._network.reduce(*args, **kwargs)
        logits: list[NDArray[Any]] = []
        before: Tensor | None = None
        for exit_, features in enumerate(reduced):
            if exit_ in wanted or self._passed_on[exit_]:
                head = self._network.heads[exit_]
                before = head.classify(features, before) if isinstance(head, Head) else head(features)
            if exit_ in wanted:
                logits.append(numpy_logits(cast("Tensor", before)))
        if self.n_exits - 1 in wanted:
            logits.append(numpy_logits(final))
        return logits, state

    @torch.inference_mode()
    def gather(self, parts: Sequence[tuple[Named, Integers | slice | None]]) -> Named:
        """Put rows of several batches of inputs together."""
        rows = [keep for _, keep in parts]
        return {name: gathered([state[name] for state, _ in parts], rows, 0) for name in parts[0][0]}

    def compact(self, state: Named, rows: Integers) -> tuple[Named, Integers]:
        """Gather the rows: the state is the caller's inputs."""
        return self.gather([(state, rows)]), rows


def _one_per_exit(n_exits: int) -> Segments:
    return tuple((exit_, exit_) for exit_ in range(n_exits))


def _passed_on(network: EarlyExitNetwork) -> list[bool]:
    """Return, per head, whether the next one reads its logits."""
    chained = [isinstance(head, Head) and head.options.chain for head in network.heads]
    return [*chained[1:], False]


def _answer(head: nn.Module, features: Tensor, mask: Tensor | None, previous: Tensor | None) -> Tensor:
    logits: Tensor = head(features, mask, previous) if isinstance(head, Head) else head(features)
    return logits


def _only(named: Named, which: Booleans) -> Named:
    rows = torch.from_numpy(np.flatnonzero(which))
    return {name: tensor[rows.to(tensor.device)] for name, tensor in named.items()}


def _like(network: EarlyExitNetwork) -> Tensor:
    """Return a tensor of the network's device and type."""
    return next(network.parameters(), torch.zeros(0))


def make_executor(
    network: EarlyExitNetwork, example: Inputs, *, segments: Segments | None = None
) -> StagedExecutor | WholeExecutor:
    """Return the executor that drops answered inputs where the network can be cut, else the other one."""
    try:
        return StagedExecutor(network, example, segments=segments)
    except NotCuttable:
        return WholeExecutor(network)


def uncut(network: EarlyExitNetwork) -> Callable[[Inputs], NDArray[Any]]:
    """Return what runs the network as it was before it had exits, to its logits (n, k): to compare with."""
    backbone = network.eval().backbone

    @torch.inference_mode()
    def forward(inputs: Inputs) -> NDArray[Any]:
        args, kwargs = call_of(named_tensors(inputs, _like(network)))
        return numpy_logits(logits_of(backbone(*args, **kwargs)))

    return forward
