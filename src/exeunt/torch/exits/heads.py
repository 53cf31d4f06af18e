"""Heads: small classifiers on a network's intermediate features.

A head works in two parts, so that a frozen backbone needs to run only once: `reduce` has no parameters and pools
the features (the feature cache keeps the result); `classify` turns these into logits.
Axis letters: n inputs, c channels, h x w positions, t tokens, k classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from exeunt.errors import InputError

HeadFactory: TypeAlias = Callable[[tuple[int, ...], int], nn.Module]
Layout: TypeAlias = Literal["channels_first", "channels_last", "tokens", "flat"]
"""How one input's features are laid out: a feature map (c, h, w) or (h, w, c), tokens (t, d), or a vector."""

_MOST_FEATURES = 2048
"""Pooled features that a head reads at most: a single input reads all its weights from memory, and those for 4x4 cells
of 512 channels are as large as a block of the network."""
_LEAST_VARIANCE = 1e-6  # so that the square root has a slope where all tokens are alike

_HEADS = ("grid", "paper", "global", "token", "mean", "both", "statistics", "pixels")
_PAPER = ("paper", "global")
_OF_TOKENS = ("token", "both", "statistics")
_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "none": nn.Identity,
}


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """What a head is made of.

    `head`: "grid" (average and maximum over the cells of a small grid, then one hidden layer), "paper" or its
    synonym "global" (global average, linear), "token" (first token), "mean" (mean over tokens or positions), "both"
    (first token and mean) or "statistics" (mean and standard deviation of each feature over the tokens; after
    Snyder et al. 2018, "X-Vectors"). Feature maps take "grid", "paper", "mean"; on tokens "grid" and "paper" average
    over the tokens. "pixels" is the kind for masks, see `PixelHead`, and their only one.
    `grid`: cells per side, at most: there are fewer where more than 2,048 features would result. `hidden`: units of the
    hidden layer, 0 for none ("paper" has none).
    `norm`: normalisation of the hidden layer, "batch", "layer" or "none". `input_norm`: of what is pooled from tokens,
    "layer", "batch" or "none". `dropout`: before the last layer.
    """

    head: str = "grid"
    grid: int = 4
    hidden: int = 128
    norm: str = "batch"
    input_norm: str = "layer"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("head", _HEADS), ("norm", tuple(_NORMS)), ("input_norm", tuple(_NORMS))):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is not known: choose one of {', '.join(known)}"
                )
        if self.grid < 1 or self.hidden < 0:
            raise InputError(
                f"a head needs grid >= 1 and hidden >= 0, got grid={self.grid}, hidden={self.hidden}"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must lie in [0, 1), got {self.dropout!r}")


TOKEN_HEAD = {"head": "statistics", "hidden": 256}
"""Better than the defaults of `HeadOptions` on tokens: docs/results/null-results.md."""


PIXEL_HEAD = {"head": "pixels", "hidden": 64}


def complete_options(
    options: Mapping[str, Any], layouts: Sequence[Layout], *, masks: bool = False
) -> HeadOptions:
    """Return options of heads for features of these layouts: those given (not None), and the best for the others.

    Heads on tokens read mean and standard deviation of the tokens; the rest is as in `HeadOptions`. `masks`: they
    answer with masks.
    """
    default = PIXEL_HEAD if masks else TOKEN_HEAD if set(layouts) == {"tokens"} else {}
    return HeadOptions(
        **{**default, **{name: option for name, option in options.items() if option is not None}}
    )


def layout_of(module: nn.Module, shape: Sequence[int]) -> Layout:
    """Return the layout of a module's output. `shape`: of the output for one input.

    Three axes are a feature map. Its channels are first, or last (Swin), if that axis has the width of one of the
    module's own layers; if neither has, the two equal axes are taken for positions.
    Raises InputError for other than one to three axes.
    """
    if len(shape) not in (1, 2, 3):
        raise InputError(
            f"features of shape {tuple(shape)} (without the batch axis) cannot carry a head: choose an exit "
            "whose output is a vector, a sequence of tokens or a feature map, or give head= a function"
        )
    if len(shape) < 3:
        return "flat" if len(shape) == 1 else "tokens"
    layers = list(module.modules())
    first = {layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)}
    first |= {layer.num_features for layer in layers if isinstance(layer, nn.BatchNorm2d)}
    last = {layer.out_features for layer in layers if isinstance(layer, nn.Linear)}
    last |= {layer.normalized_shape[-1] for layer in layers if isinstance(layer, nn.LayerNorm)}
    if shape[0] in first or shape[-1] in last:
        return "channels_first" if shape[0] in first else "channels_last"
    return "channels_last" if shape[0] == shape[1] != shape[2] else "channels_first"


class Head(nn.Module):
    """A classifier on features of one shape.

    `shape`: shape of one input's features, without the batch axis. `n_classes`: k.
    """

    def __init__(self, shape: Sequence[int], n_classes: int, layout: Layout, options: HeadOptions) -> None:
        super().__init__()
        self.layout = layout
        self.options = options
        width = self.reduce(torch.zeros(2, *shape)).flatten(1).shape[1]
        self.body = _body(width, n_classes, layout, options)

    def reduce(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return pooled features from features (n, ...); `mask` (n, t) is 1 where a token counts."""
        if self.layout == "flat":
            return features.flatten(1)
        if self.layout == "tokens":
            return _pooled_tokens(features, mask, self.options.head)
        if self.layout == "channels_last":
            features = features.movedim(-1, 1)
        if self.options.head != "grid":
            return features.flatten(2).mean(2)
        largest = max(1, math.isqrt(_MOST_FEATURES // (2 * features.shape[1])))
        return _grid(features, min(self.options.grid, largest))

    def classify(self, reduced: Tensor) -> Tensor:
        """Return logits (n, k) from reduced features."""
        return self.body(reduced.flatten(1))  # type: ignore[no-any-return]

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (n, k) from features (n, ...)."""
        return self.classify(self.reduce(features, mask))


GATE_FEATURES = {"mean": "mean", "spread": "statistics"}
"""What a gate tells of each channel: its mean over positions or tokens, or also its standard deviation."""


class GateFeatures(Head):
    """The features (n, f) that a gate reads of a stage's output, of a `kind` in `GATE_FEATURES`. Nothing is learned."""

    def __init__(self, shape: Sequence[int], layout: Layout, kind: str) -> None:
        nn.Module.__init__(self)
        self.layout, self.kind = layout, kind
        self.body = nn.Sequential()
        self.width: int = self.reduce(torch.zeros(2, *shape)).shape[1]

    def reduce(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the features (n, f) from a stage's output (n, ...); `mask` (n, t) is 1 where a token counts."""
        if self.layout == "flat":
            return features
        if self.layout == "channels_first":
            features = features.movedim(1, -1)
        return _pooled_tokens(features.flatten(1, -2), mask, GATE_FEATURES[self.kind])


def make_head(
    head: HeadOptions | HeadFactory, shape: Sequence[int], n_classes: int, layout: Layout
) -> nn.Module:
    """Make a head for features of one input's `shape`.

    `head`: options, or a function of (shape, n_classes) that returns a module from features (n, *shape) to logits
    (n, k). Raises InputError if the function returns anything else, or if the head reads tokens of a feature map.
    """
    if isinstance(head, HeadOptions):
        if head.head == "pixels":
            raise InputError(
                "head 'pixels' answers with masks, and this network with classes: choose another"
            )
        if head.head in _OF_TOKENS and layout in ("channels_first", "channels_last"):
            raise InputError(
                f"head {head.head!r} reads tokens, and an exit of this network has a feature map, of shape "
                f"{tuple(shape)}: choose grid, paper or mean"
            )
        return Head(shape, n_classes, layout, head)
    module = head(tuple(shape), n_classes)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"head must return a torch.nn.Module when called with (shape, n_classes), got {module!r}"
        )
    return module


def _body(width: int, n_classes: int, layout: Layout, options: HeadOptions) -> nn.Sequential:
    """Return the layers from flat features (n, width) to logits (n, k)."""
    layers: list[nn.Module] = []
    # Tokens in a residual stream grow with depth; feature maps are the output of a normalised block.
    if layout == "tokens" and options.head not in _PAPER and options.input_norm != "none":
        layers.append(_NORMS[options.input_norm](width))
    if options.hidden and options.head not in _PAPER:
        layers += [nn.Linear(width, options.hidden), _NORMS[options.norm](options.hidden), nn.ReLU()]
        width = options.hidden
    if options.dropout:
        layers.append(nn.Dropout(options.dropout))
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


def _pooled_tokens(features: Tensor, mask: Tensor | None, kind: str) -> Tensor:
    """Return the first of (n, t, d) tokens, their mean, or two statistics side by side: (n, d) or (n, 2d)."""
    if kind == "token":
        return features[:, 0]
    if kind == "statistics":
        wide = features.float()  # squares, and sums of them, are beyond what half precision holds
        mean = _mean_tokens(wide, mask)
        variance = _mean_tokens((wide - mean.unsqueeze(1)).square(), mask)
        return torch.cat([mean, (variance + _LEAST_VARIANCE).sqrt()], dim=1).to(features.dtype)
    mean = _mean_tokens(features, mask)
    return torch.cat([features[:, 0], mean], dim=1) if kind == "both" else mean


def _mean_tokens(features: Tensor, mask: Tensor | None) -> Tensor:
    """Average (n, t, d) over the tokens that count."""
    if mask is None or mask.shape != features.shape[:2]:
        return features.mean(1)
    weight = mask.to(features.dtype).unsqueeze(-1)
    return (features * weight).sum(1) / weight.sum(1).clamp_min(1)


def _grid(features: Tensor, side: int) -> Tensor:
    """Return average and maximum of (n, c, h, w) over a grid of at most side x side cells: (n, 2c, h', w').

    Features no larger than the grid are returned unchanged. Cells are equal windows that cover the map and overlap
    where its size is no multiple of their number (plain pooling, which every exporter supports).
    """
    height, width = features.shape[2:]
    if height <= side and width <= side:
        return features
    strides = (max(height // side, 1), max(width // side, 1))
    cells = (min(height, side), min(width, side))
    window = (height - (cells[0] - 1) * strides[0], width - (cells[1] - 1) * strides[1])
    average = functional.avg_pool2d(features, window, strides)
    return torch.cat([average, functional.max_pool2d(features, window, strides)], dim=1)
