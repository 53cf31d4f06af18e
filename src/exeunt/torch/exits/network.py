"""A classifier with exits: heads that read the features of an unchanged backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from exeunt._text import counted, text_table
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.torch.calls import Inputs, first_tensor, logits_of, on_return
from exeunt.torch.cutting.cut import cut
from exeunt.torch.cutting.stage import StagedModel
from exeunt.torch.exits.heads import Head, HeadOptions
from exeunt.torch.exits.placement import ExitPoint

WHOLE = "this network runs whole: an answer at any exit costs as much as one at the last"


def balanced(features: Tensor, *, later: int) -> tuple[Tensor, Tensor]:
    """Return the features twice, for the head and for the rest of the network, with scaled gradients.

    `later`: exits after this one. The head's factor is 1 / (later + 1) and the rest's later / (later + 1), so that the
    gradient that reaches the backbone does not grow with the number of exits above it
    (Li et al. 2019, "Improved techniques for training adaptive deep networks", gradient equilibrium).
    """
    share = 1 / (later + 1)
    head, rest = features.view_as(features), features.view_as(features)
    for copy, factor in ((head, share), (rest, 1 - share)):
        if copy.requires_grad:
            copy.register_hook(lambda gradient, factor=factor: gradient * factor)  # type: ignore[no-untyped-call]
    return head, rest


class EarlyExitNetwork(nn.Module):
    """A classifier with m exits: m - 1 heads on its features, and its own output as the last. Made by `attach`.

    `backbone`: the network as it was given. `heads`: one per exit except the last. `points`: the modules they read.
    `new_classifier`: name of the backbone's module that is its classifier, if that is new and learns as the heads do;
    "" if it was trained.
    `cost`: cumulative multiply-adds per exit, with all heads up to it. `backbone_macs`: of the backbone alone.
    `runs_whole`: why the backbone cannot be cut after its exits, "" if it can. If it cannot, every exit costs the same.
    `options`: what the heads are made of, None for heads made by a function. `gradient_balancing`: see `balanced`.
    """

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
        self.runs_whole = ""
        self.gradient_balancing = False

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

        def visit(i: int, features: Tensor) -> Tensor | None:
            passed_on = None
            if self.gradient_balancing and self.training:
                features, passed_on = balanced(features, later=self.n_exits - 1 - i)
            logits.append(head_logits(self.heads[i], features, mask, logits[-1] if logits else None))
            return passed_on

        with self._hooked(visit):
            final = logits_of(self.backbone(*args, **kwargs))
        return [*logits, final]

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

    def classify(self, reduced: Sequence[Tensor]) -> list[Tensor]:
        """Return the logits (n, k) of every head, and of a new classifier, from what `reduce` returns."""
        logits: list[Tensor] = []
        for head, value in zip(self.learning_heads, reduced, strict=True):
            previous = logits[-1] if logits else None
            logits.append(head.classify(value, previous) if isinstance(head, Head) else head(value))
        return logits

    def stages(self, example: Inputs) -> StagedModel:
        """Return the backbone cut after each module that carries a head. The network stays in eval mode.

        `example`: a batch of inputs. Raises InputError if the network cannot be cut (see `cut`).
        """
        self.eval()
        return cut(self.backbone, example, at=self.exit_names)

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
        return {"exits": self.exit_names, "n_classes": self.n_classes, **asdict(self.options), **new}

    def describe(self) -> str:
        """Return a table of the exits: their modules, what they cost, and what all heads add."""
        size, unit = self.cost.scale
        last = f"({'new' if self.new_classifier else 'own'} classifier)"
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
    def _hooked(self, visit: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
        """Call `visit(i, features)` when the module of the i-th head returns from its last call inside the block.

        `visit` gets the features before later modules can change them in place. A tensor that it returns replaces them
        in the backbone.
        """
        left = [point.calls for point in self.points]

        def count(i: int, output: Any) -> Any:
            left[i] -= 1
            replacement = None if left[i] else visit(i, first_tensor(output))
            return None if replacement is None else _replaced(output, replacement)

        with on_return(dict(enumerate(map(self.backbone.get_submodule, self.exit_names))), count):
            yield


def head_logits(
    head: nn.Module, features: Tensor, mask: Tensor | None = None, previous: Tensor | None = None
) -> Tensor:
    """Return a head's logits (n, k) from features; `mask` and `previous` as in `Head`."""
    # A head made by the user's function may change what it reads, and the backbone goes on with it.
    logits: Tensor = head(features, mask, previous) if isinstance(head, Head) else head(features.clone())
    return logits


def _replaced(output: Any, tensor: Tensor) -> Any:
    """Return `output` with its first tensor replaced."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, Mapping):
        name = next(key for key, value in output.items() if isinstance(value, Tensor))
        output[name] = tensor  # type: ignore[index]
        return output
    items = list(output)
    items[next(i for i, value in enumerate(items) if isinstance(value, Tensor))] = tensor
    return type(output)(items)
