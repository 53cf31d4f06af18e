"""A network with exits, heads that read features of an unchanged backbone; and recording what all exits return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exeunt._support.arrays import Keys
from exeunt._support.progress import Progress
from exeunt._support.text import counted, text_table
from exeunt.costs.cost_model import CostModel
from exeunt.engine.inputs import input_keys
from exeunt.errors import InputError
from exeunt.torch.batches import rows_of, unpack
from exeunt.torch.calls import Inputs, as_call, evaluating, first_tensor, logits_of, on_return, to_device
from exeunt.torch.cutting.cut import cut
from exeunt.torch.cutting.stage import StagedModel
from exeunt.torch.devices import limit_threads
from exeunt.torch.exits.heads import GateFeatures, Head, HeadOptions
from exeunt.torch.exits.placement import ExitPoint
from exeunt.trace import ExitTrace
from exeunt.trace.combining import GrowingTrace
from exeunt.trace.mask_trace import trace_of_logits

WHOLE = "this network runs whole: an answer at any exit costs as much as one at the last"


class EarlyExitNetwork(nn.Module):
    """A classifier with m exits: m - 1 heads on its features, and its own output as the last. Made by `attach`.

    `backbone`: the network as it was given. `heads`: one per exit except the last. `points`: the modules they read.
    `new_classifier`: name of the backbone's module that is its classifier, if that is new and learns as the heads do;
    "" if it was trained.
    `cost`: cumulative multiply-adds per exit, with all heads up to it. `backbone_macs`: of the backbone alone.
    `runs_whole`: why the backbone cannot be cut after its exits, "" if it can. If it cannot, every exit costs the same.
    `options`: what the heads are made of, None for heads made by a function.
    `masks`: it answers with masks: where logits are said to be (n, k), they are (n, k, h, w). `mask_scale`: how many
    times as high and wide masks are as these.
    """

    answers_with = "classifier"
    """What the last exit is."""

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        points: Sequence[ExitPoint],
        *,
        cost: CostModel,
        backbone_macs: float,
        options: HeadOptions | None,
        n_classes: int,
        new_classifier: str = "",
        masks: bool = False,
        mask_scale: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.points = tuple(points)
        self.cost = cost
        self.backbone_macs = backbone_macs
        self.options = options
        self.n_classes = n_classes
        self.new_classifier = new_classifier
        self.masks, self.mask_scale = masks, mask_scale
        if masks:
            self.answers_with = "mask decoder"
        self.runs_whole = ""
        self.gate_point: ExitPoint | None = None
        self.gate: GateFeatures | None = None

    def look_at(self, point: ExitPoint, features: GateFeatures) -> None:
        """Give the network a gate: these features of the module `point`, which runs before the first exit."""
        self.gate_point, self.gate = point, features

    @property
    def exit_names(self) -> list[str]:
        """Names of the modules that carry a head, in order."""
        return [point.name for point in self.points]

    @property
    def n_exits(self) -> int:
        """Number of exits m, including the network's own classifier."""
        return len(self.heads) + 1

    @property
    def learning_heads(self) -> list[nn.Module]:
        """The heads, and the network's own classifier if it is new."""
        own = [self.backbone.get_submodule(self.new_classifier)] if self.new_classifier else []
        return [*self.heads, *own]

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return the logits (n, k) of every exit, the network's own last. Arguments are the network's."""
        mask = kwargs.get("attention_mask")
        logits: list[Tensor] = []

        def visit(i: int, features: Tensor) -> None:
            logits.append(head_logits(self.heads[i], features, mask))

        with self._hooked(visit):
            final = logits_of(self.backbone(*args, **kwargs))
        return [*logits, final]

    def sample(self, inputs: Inputs) -> Tensor:
        """Return four logits of each exit, (m, 4), by which changed code is noticed: it has the weights of before."""
        args, kwargs = as_call(inputs)
        with evaluating(self), torch.inference_mode():
            return torch.stack([logits.flatten()[:4].double() for logits in self(*args, **kwargs)])

    def reduce(self, *args: Any, **kwargs: Any) -> tuple[list[Tensor], Tensor]:
        """Run the backbone on a batch; returns the reduced features of each head, and the last exit's logits (n, k).

        The features that a new classifier reads come after those of the heads.
        """
        mask = kwargs.get("attention_mask")
        reduced: list[Tensor] = []

        def read(head: nn.Module, *args: Any) -> None:
            # The next module of the backbone may change the features in place.
            reduced.append(head.reduce(*args) if isinstance(head, Head) else first_tensor(args).clone())

        with self._hooked(lambda i, features: read(self.heads[i], features, mask)), ExitStack() as stack:
            for module in self.learning_heads[len(self.heads) :]:
                hook = module.register_forward_pre_hook(lambda head, args: read(head, *args[:2]))
                stack.callback(hook.remove)
            final = logits_of(self.backbone(*args, **kwargs))
        return reduced, final

    def classify(self, reduced: Sequence[Tensor], final: Tensor) -> list[Tensor]:
        """Return the logits (n, k) of every exit from what `reduce` returns."""
        logits = [
            classified(head, reduced_features)
            for head, reduced_features in zip(self.learning_heads, reduced, strict=True)
        ]
        return logits if self.new_classifier else [*logits, final]

    def stages(self, example: Inputs) -> StagedModel:
        """Return the backbone cut after each module that carries a head. The network stays in eval mode.

        `example`: a batch of inputs. Raises InputError if the network cannot be cut (see `cut`).
        """
        self.eval()
        return cut(self.backbone, example, at=self.stage_names)

    @property
    def stage_names(self) -> list[str]:
        """Names of the modules after which the backbone is cut: the gate, if any, and all that carry a head."""
        return [*([] if self.gate_point is None else [self.gate_point.name]), *self.exit_names]

    @property
    def stage_heads(self) -> list[nn.Module]:
        """What reads the output of each module in `stage_names`."""
        return [*([] if self.gate is None else [self.gate]), *self.heads]

    @contextmanager
    def reading_gate(self, mask: Tensor | None) -> Iterator[list[Tensor]]:
        """Yield a list that holds the gate's features (n, f) once the network has run; nothing without a gate.

        `mask` as in `Head`.
        """
        told: list[Tensor] = []
        with ExitStack() as stack:
            if (gate := self.gate) is not None and self.gate_point is not None:
                module = self.backbone.get_submodule(self.gate_point.name)
                read = lambda _, output: told.append(gate(first_tensor(output), mask))  # noqa: E731
                stack.enter_context(on_return({0: module}, read))
            yield told

    def run_whole(self, why: str) -> None:
        """Note that the backbone cannot be cut, and `why`: an answer at any exit costs as much as one at the last."""
        self.runs_whole = why
        self.cost = self.cost.run_whole(why)

    def config(self) -> dict[str, Any]:
        """Return the keyword arguments with which `attach` rebuilds this network, JSON-able.

        Raises InputError for heads made by a function, which cannot be written to a file.
        """
        if self.options is None:
            raise InputError(
                "heads made by your own function cannot be written to a file: rebuild the network with the "
                "same head= and load its state_dict()"
            )
        new = {"new_classifier": self.new_classifier} if self.new_classifier else {}
        own = {"exits": self.exit_names, "n_classes": self.n_classes, **self._further}
        return {**own, **asdict(self.options), **new}

    @property
    def _further(self) -> dict[str, Any]:
        """What a network of masks, or with a gate, is rebuilt with besides."""
        further: dict[str, Any] = {"masks": True} if self.masks else {}
        if self.gate is not None and self.gate_point is not None:
            further |= {"gate": self.gate_point.name, "gate_features": self.gate.kind}
        return further

    def describe(self) -> str:
        """Return a table of the exits: their modules, what they cost, and what all heads add."""
        size, unit = self.cost.scale
        last = f"({'new' if self.new_classifier else 'own'} {self.answers_with})"
        shapes = ["x".join(map(str, point.shape)) for point in self.points]
        rows = [
            [str(exit_), name, shape, f"{cost / size:.4g}", f"{cost / self.cost.full:.1%}"]
            for exit_, (name, shape, cost) in enumerate(
                zip([*self.exit_names, last], [*shapes, ""], self.cost.cumulative, strict=True)
            )
        ]
        lines = [
            text_table(["exit", "after", "features", f"cost ({unit})", "of full"], rows),
            self._about_heads(),
        ]
        if self.new_classifier:
            lines.append(f"the classifier ({self.new_classifier}) is new: it learns as the heads do")
        if self.gate is not None and self.gate_point is not None:
            told = {"mean": "mean", "spread": "mean and spread"}[self.gate.kind]
            lines.append(f"gate: {told} of each channel after {self.gate_point.name}")
        if self.runs_whole:
            lines.append(WHOLE)
        return "\n".join(lines)

    def _about_heads(self) -> str:
        added = self.cost.full - self.backbone_macs
        return (
            f"{counted(len(self.heads), 'head adds', 'heads add')} {self.cost.show(added)}, "
            f"{added / self.backbone_macs:.2%} of the network's own {self.cost.show(self.backbone_macs)}"
        )

    @contextmanager
    def _hooked(self, visit: Callable[[int, Tensor], None]) -> Iterator[None]:
        """Call `visit(i, features)` when the module of the i-th head returns from its last call inside the block.

        `visit` gets the features before later modules can change them in place.
        """
        left = [point.calls for point in self.points]

        def count(i: int, output: Any) -> None:
            left[i] -= 1
            if not left[i]:
                visit(i, first_tensor(output))

        with on_return(dict(enumerate(map(self.backbone.get_submodule, self.exit_names))), count):
            yield


def classified(head: nn.Module, reduced: Tensor) -> Tensor:
    """Return a head's logits (n, k) from what `EarlyExitNetwork.reduce` returns for it."""
    return head.classify(reduced) if isinstance(head, Head) else head(reduced)  # type: ignore[no-any-return]


def head_logits(head: nn.Module, features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return a head's logits (n, k) from features; `mask` as in `Head`."""
    # A head made by the user's function may change what it reads, and the backbone goes on with it.
    return head(features, mask) if isinstance(head, Head) else head(features.clone())  # type: ignore[no-any-return]


def record(
    network: EarlyExitNetwork,
    loader: Iterable[Any],
    *,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> ExitTrace:
    """Run a network in eval mode over a loader's data and record the outputs of every exit.

    `loader`: an iterable of batches (inputs, label) or (inputs, label, id), where label may be None. If it has an
    attribute `positions`, the places of the latest batch in its data set, the trace is in the order of the data set.
    Ids are 64-bit keys; by default they are the keys from which a runner breaks ties (see `exeunt.engine.inputs`).
    `device`: where to run the network, which stays there; by default its present device.
    Probabilities are the softmax of the logits in double precision. Costs are `network.cost`.

    Raises InputError for a loader without batches, or with labels in some batches only.
    """
    limit_threads()
    if device is not None:
        network.to(device)
    where = next((p.device for p in network.parameters()), torch.device("cpu"))
    recorded = GrowingTrace()
    positions: list[Any] = []
    with evaluating(network), torch.inference_mode():
        for batch in Progress("batches recorded", loader, show=progress):
            recorded.add(_recorded(network, batch, where))
            positions.append(getattr(loader, "positions", None))
    trace = recorded.whole()
    if any(place is None for place in positions):
        return trace
    return trace.take(np.argsort(np.concatenate(positions), kind="stable"))


def _recorded(network: EarlyExitNetwork, batch: Any, device: torch.device) -> ExitTrace:
    inputs, label, id_ = unpack(batch)
    args, kwargs = as_call(to_device(inputs, device))
    with network.reading_gate(kwargs.get("attention_mask")) as told:
        logits = [x.float().cpu().numpy() for x in network(*args, **kwargs)]
    truth = None if label is None else label.cpu().numpy()
    keys = input_keys(inputs, rows_of(inputs)) if id_ is None else _keys(id_)
    gate = told[-1].float().cpu().numpy() if told else None
    return trace_of_logits(
        logits, cost=network.cost, label=truth, id=keys, mask_scale=network.mask_scale, gate=gate
    )


def _keys(id_: Any) -> Keys:
    """Return ids as unsigned 64-bit keys. Signed ids, as torch has them, keep their bits."""
    values = id_.cpu().numpy() if isinstance(id_, Tensor) else np.asarray(id_)
    if values.dtype.kind not in "iu":
        raise InputError(f"ids must be integers (64-bit keys), got {values.dtype}")
    return values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)
