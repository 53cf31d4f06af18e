"""A classifier with exits: heads that read the features of an unchanged backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.torch.calls import hooked, logits_of
from exeunt.torch.cutting.cut import cut
from exeunt.torch.exits.heads import Head, HeadOptions, layout_of, make_head
from exeunt.torch.exits.macs import count_macs
from exeunt.torch.exits.placement import ExitPoint, find_candidates, place_exits
from exeunt.torch.processes import seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exeunt.torch.calls import Inputs
    from exeunt.torch.cutting.stage import StagedModel
    from exeunt.torch.exits.heads import HeadFactory

__all__ = ["EarlyExitNetwork", "attach", "balanced"]


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None


def balanced(features: Tensor, *, later: int) -> tuple[Tensor, Tensor]:
    """Return the features twice, for the head and for the rest of the network, with gradients that are scaled.

    `later`: exits after this one. The head's factor is 1 / (later + 1) and the rest's later / (later + 1), so
    the gradient that reaches the backbone does not grow with the number of exits above it
    (Li et al. 2019, "Improved techniques for training adaptive deep networks", gradient equilibrium).
    """
    share = 1 / (later + 1)
    head = _Scaled.apply(features, share)  # type: ignore[no-untyped-call]
    rest = _Scaled.apply(features, 1 - share)  # type: ignore[no-untyped-call]
    return cast("Tensor", head), cast("Tensor", rest)


class EarlyExitNetwork(nn.Module):
    """A classifier with m exits: m - 1 heads on its features, and its own output as the last. Made by `attach`.

    `backbone`: the network as it was given. `heads`: one per exit but the last. `points`: the modules they read.
    `cost`: cumulative multiply-adds per exit, with all heads up to it. `backbone_macs`: of the backbone alone.
    `options`: what the heads are made of, None for heads made by a function. `gradient_balancing`: see `balanced`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        points: Sequence[ExitPoint],
        *,
        calls: Sequence[int],
        cost: CostModel,
        backbone_macs: float,
        options: HeadOptions | None,
        n_classes: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.points = tuple(points)
        self.cost = cost
        self.backbone_macs = backbone_macs
        self.options = options
        self.n_classes = n_classes
        self.gradient_balancing = False
        self._calls = tuple(calls)

    @property
    def exit_names(self) -> list[str]:
        """Names of the modules that carry a head, in order."""
        return [point.name for point in self.points]

    @property
    def n_exits(self) -> int:
        """Number of exits m, the network's own classifier included."""
        return len(self.heads) + 1

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return the logits (n, k) of every exit, the network's own last. Arguments are the network's."""
        mask = kwargs.get("attention_mask")
        logits: list[Tensor] = []

        def visit(i: int, features: Tensor) -> Tensor | None:
            passed_on = None
            if self.gradient_balancing and self.training:
                features, passed_on = balanced(features, later=self.n_exits - 1 - i)
            logits.append(self._head(i, features, mask, logits[-1] if logits else None))
            return passed_on

        with hooked(self._exit_modules(), self._calls, visit):
            final = logits_of(self.backbone(*args, **kwargs))
        return [*logits, final]

    def reduce(self, *args: Any, **kwargs: Any) -> tuple[list[Tensor], Tensor]:
        """Run the backbone on a batch; returns the reduced features of each head, and the last exit's logits (n, k)."""
        mask = kwargs.get("attention_mask")
        reduced: list[Tensor] = []

        def visit(i: int, features: Tensor) -> None:
            head = self.heads[i]
            # The next module of the backbone may change them in place.
            reduced.append(head.reduce(features, mask) if isinstance(head, Head) else features.clone())

        with hooked(self._exit_modules(), self._calls, visit):
            final = logits_of(self.backbone(*args, **kwargs))
        return reduced, final

    def classify(self, reduced: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits (n, k) of every head from the reduced features that `reduce` returns."""
        logits: list[Tensor] = []
        for head, value in zip(self.heads, reduced, strict=True):
            previous = logits[-1] if logits else None
            logits.append(head.classify(value, previous) if isinstance(head, Head) else head(value))
        return logits

    def stages(self, example: Inputs) -> StagedModel:
        """Return the backbone cut after each module that carries a head. The network stays in eval mode.

        `example`: a batch of inputs. Raises InputError if the network cannot be cut (see `cut`).
        """
        self.eval()
        return cut(self.backbone, example, at=self.exit_names)

    def config(self) -> dict[str, Any]:
        """Return the keyword arguments with which `attach` rebuilds this network, JSON-able.

        Raises InputError for heads made by a function, which cannot be written to a file.
        """
        if self.options is None:
            raise InputError(
                "heads made by your own function cannot be written to a file: rebuild the network with the "
                "same head= and load its state_dict()"
            )
        options = self.options.to_dict()
        return {"exits": self.exit_names, "head": options.pop("kind"), "n_classes": self.n_classes, **options}

    def describe(self) -> str:
        """Return a table of the exits: their modules, what they cost, and what all heads add."""
        full = self.cost.full
        width = max(4, *(len(name) for name in self.exit_names), len("(own classifier)"))
        lines = [f"exit  {'name':<{width}}  {'features':<14} {'multiply-adds':>13} {'of full':>8}"]
        for i, cost in enumerate(self.cost.cumulative):
            last = i == self.n_exits - 1
            name = "(own classifier)" if last else self.points[i].name
            shape = "" if last else "x".join(map(str, self.points[i].shape))
            lines.append(f"{i:>4}  {name:<{width}}  {shape:<14} {_si(cost):>13} {cost / full:>8.1%}")
        added = full - self.backbone_macs
        lines.append(
            f"{len(self.heads)} heads add {_si(added)} multiply-adds, {added / self.backbone_macs:.2%} of "
            f"the network's own {_si(self.backbone_macs)}"
        )
        return "\n".join(lines)

    def _exit_modules(self) -> list[nn.Module]:
        return [self.backbone.get_submodule(point.name) for point in self.points]

    def _head(self, i: int, features: Tensor, mask: Tensor | None, previous: Tensor | None) -> Tensor:
        head = self.heads[i]
        # A head made by a function may change what it reads, and the backbone goes on with it.
        logits: Tensor = head(features, mask, previous) if isinstance(head, Head) else head(features.clone())
        return logits


def attach(
    model: nn.Module,
    example: Inputs,
    exits: int | Sequence[str] = 7,
    *,
    head: str | HeadFactory = "grid",
    n_classes: int | None = None,
    grid: int = 4,
    hidden: int = 128,
    norm: str = "batch",
    dropout: float = 0.0,
    bottleneck: int = 0,
    cascade: bool = False,
    seed: int = 0,
    verbose: bool = True,
) -> EarlyExitNetwork:
    """Give a trained classifier early exits.

    `model`: a classifier that returns logits (n, k), or an object with `.logits`; it is not changed.
    `example`: a batch of its inputs (a tensor, a tuple, or a dict of tensors), of the size it will be used with.
    `exits`: how many heads, placed evenly by cumulative cost; or the names of the modules that carry them. The
    network's own classifier is one more exit, the last.
    `head` and the options after it: see `HeadOptions`; or a function (shape, n_classes) -> module.
    `n_classes`: checked against the model's own if given. `seed`: of the heads' initial weights.
    `verbose`: print where the exits are and what they cost.

    Raises InputError for an unknown name (listing those that exist) or a model that is no classifier.
    """
    options: HeadOptions | HeadFactory = (
        HeadOptions(
            kind=head,
            grid=grid,
            hidden=hidden,
            norm=norm,
            dropout=dropout,
            bottleneck=bottleneck,
            cascade=cascade,
        )
        if isinstance(head, str)
        else head
    )
    if isinstance(exits, str):
        raise InputError(f"exits must be a number or a list of names: write exits=[{exits!r}]")
    found = find_candidates(model, example, exits)
    if n_classes is not None and n_classes != found.n_classes:
        raise InputError(
            f"n_classes={n_classes}, but the model answers with {found.n_classes} classes: give it a "
            "classifier of the right width first"
        )
    points = place_exits(found.points, exits, full=found.full)
    with seeded(seed, torch.device("cpu")):
        heads = [
            make_head(options, p.shape, found.n_classes, layout_of(model.get_submodule(p.name), p.shape))
            for p in points
        ]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    head_costs = [count_macs(h, torch.zeros(2, *p.shape)) for h, p in zip(heads, points, strict=True)]
    network = EarlyExitNetwork(
        model,
        [module.to(device).train(model.training) for module in heads],
        points,
        calls=[found.calls[p.name] for p in points],
        cost=_cost_model(points, head_costs, found.full),
        backbone_macs=found.full,
        options=options if isinstance(options, HeadOptions) else None,
        n_classes=found.n_classes,
    )
    if verbose:
        print(network.describe())
    return network


def _cost_model(points: Sequence[ExitPoint], heads: Sequence[float], full: float) -> CostModel:
    """Return each exit's cost: the backbone up to it, and all heads up to and including its own."""
    heads_so_far = np.cumsum([*heads, 0.0])
    return CostModel(np.array([*(p.cost for p in points), full]) + heads_so_far, source="flop counter")


def _si(macs: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if macs >= size:
            return f"{macs / size:.2f} {unit}"
    return f"{macs:.0f}"
