"""Heads that answer with masks: small decoders from a network's features to the class of each pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from exeunt.errors import InputError
from exeunt.torch.exits.heads import Head, HeadFactory, HeadOptions, Layout, make_head

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda width: nn.GroupNorm(1, width),
    "none": lambda _: nn.Identity(),
}


class PixelHead(Head):
    """A decoder of masks on features of one shape: layers of one pixel each, then bilinear scaling to `size`.

    `shape`: of one input's features, without the batch axis: a feature map, or tokens (t, d) that cover the image in
    rows, with or without a token before them. `size`: height and width of a mask.
    Raises InputError for tokens whose number does not fit the image or that shall be normalised over the batch, and for
    features without places.
    """

    def __init__(
        self,
        shape: Sequence[int],
        n_classes: int,
        layout: Layout,
        options: HeadOptions,
        size: tuple[int, int],
    ) -> None:
        nn.Module.__init__(self)
        self.layout, self.options, self.size = layout, options, size
        self.places = places_of_tokens(shape, size) if layout == "tokens" else None
        if layout == "flat":
            raise InputError(
                f"features of shape {tuple(shape)} have no places in the image, and masks need some: choose an exit "
                "whose output is a feature map or tokens"
            )
        if layout == "tokens" and options.input_norm == "batch":
            raise InputError("a head of masks normalises tokens one by one: choose input_norm layer or none")
        width = shape[0] if layout == "channels_first" else shape[-1]
        tokens = layout == "tokens" and options.input_norm == "layer"
        self.input_norm = nn.LayerNorm(width) if tokens else nn.Identity()
        layers: list[nn.Module] = []
        if options.hidden:
            layers += [nn.Conv2d(width, options.hidden, 1), _NORMS[options.norm](options.hidden), nn.ReLU()]
            width = options.hidden
        if options.dropout:
            layers.append(nn.Dropout2d(options.dropout))
        self.body = nn.Sequential(*layers, nn.Conv2d(width, n_classes, 1))

    def reduce(self, features: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 - images have none
        """Return the features as they are: nothing can be pooled."""
        return features.clone()

    def classify(self, reduced: Tensor) -> Tensor:
        """Return logits (n, k, h, w) from features."""
        features = self.input_norm(reduced)
        if self.places is not None:
            height, width = self.places
            tokens = features[:, features.shape[1] - height * width :]
            features = tokens.transpose(1, 2).unflatten(2, (height, width))
        elif self.layout == "channels_last":
            features = features.movedim(-1, 1)
        return functional.interpolate(
            self.body(features), size=self.size, mode="bilinear", align_corners=False
        )

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 - images have none
        """Return logits (n, k, h, w) from features."""
        return self.classify(features)


def make_pixel_head(
    head: HeadOptions | HeadFactory,
    shape: Sequence[int],
    n_classes: int,
    layout: Layout,
    *,
    size: tuple[int, int],
) -> nn.Module:
    """Make a head of masks for features of one input's `shape`, see `make_head`.

    Raises InputError for another kind of head, and as `make_head` and `PixelHead` do.
    """
    if not isinstance(head, HeadOptions):
        return make_head(head, shape, n_classes, layout)
    if head.head != "pixels":
        raise InputError(
            f"head {head.head!r} answers with classes, and this network with masks: choose pixels"
        )
    if head.grid != HeadOptions().grid:
        raise InputError(f"a head of masks pools to no grid: leave grid={head.grid} out")
    return PixelHead(shape, n_classes, layout, head, size)


def places_of_tokens(shape: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the tokens (t, d) that cover an image, perhaps after one that stands for all of it.

    >>> places_of_tokens((193, 64), (192, 256))
    (12, 16)
    """
    for tokens in (shape[0], shape[0] - 1):
        rows = round((tokens * size[0] / size[1]) ** 0.5)
        if rows and tokens % rows == 0 and rows * size[1] == tokens // rows * size[0]:
            return rows, tokens // rows
    raise InputError(
        f"{shape[0]} tokens do not cover an image of {size[0]}x{size[1]} pixels evenly: choose an exit with a feature "
        "map, or give head= a function"
    )
