"""A small segmenter whose depth can be chosen: four stages of convolutions, six transformer layers, a linear decoder.

`exeunt train --task segment --model experiments.segmenter:segmenter --exits own`: it returns the masks of ten exits,
one after each stage and each layer, all by decoders of one layer. Logits have a quarter of the image's height and
width, as the decoders make them: scaling up all ten, or their losses at full size, takes longer than the network.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """A residual block of two convolutions; the first may halve the size."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        same = stride == 1 and n_in == n_out
        self.short = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.short(x))


class _Layer(nn.Module):
    """A transformer layer with its norms first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Segmenter(nn.Module):
    """Images (n, 3, h, w), h and w multiples of 16, to the logits (n, k, h/4, w/4) of each exit.

    `layers`: number of transformer layers, on features of a sixteenth of the image's height and width. What is decoded
    from the third stage on is coarse: it is scaled up, and the second stage's logits, which keep the outlines, are
    added. Without them, a deeper exit is worse than one before it.
    """

    def __init__(
        self,
        n_classes: int,
        *,
        layers: int = 6,
        widths: tuple[int, ...] = (8, 16, 32, 64),
        height: int = 192,
        width: int = 256,
        first: int = 0,
    ) -> None:
        super().__init__()
        self.first = first
        self.places = height // 16, width // 16
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 7, stride=4, padding=3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        ins = (widths[0], *widths[:-1])
        strides = (1, 1, 2, 2)
        self.stages = nn.ModuleList(_Block(*one) for one in zip(ins, widths, strides, strict=True))
        deep = widths[-1]
        self.position = nn.Parameter(
            nn.init.trunc_normal_(
                nn.Linear(deep, self.places[0] * self.places[1]).weight.detach()[None], std=0.02
            )
        )
        self.layers = nn.ModuleList(_Layer(deep, 4) for _ in range(layers))
        self.decoders = nn.ModuleList(nn.Conv2d(width, n_classes, 1) for width in widths)
        self.fine = nn.Conv2d(widths[1], n_classes, 1)
        self.norm, self.decoder = nn.LayerNorm(deep), nn.Linear(deep, n_classes)

    def forward(self, images: Tensor) -> list[Tensor]:
        logits, x, outlines = [], self.stem(images), None
        for number, (stage, decoder) in enumerate(zip(self.stages, self.decoders, strict=True)):
            x = stage(x)
            logits.append(decoder(x) if outlines is None else _joined(decoder(x), outlines))
            outlines = self.fine(x) if number == 1 else outlines
        tokens = x.flatten(2).transpose(1, 2) + self.position
        for layer in self.layers:
            tokens = layer(tokens)
            coarse = self.decoder(self.norm(tokens)).transpose(1, 2).unflatten(2, self.places)
            logits.append(_joined(coarse, outlines))
        return logits[self.first :]


def _joined(coarse: Tensor, outlines: Tensor) -> Tensor:
    size = tuple(outlines.shape[2:])
    return functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False) + outlines


def segmenter(
    n_classes: int = 11, layers: int = 6, height: int = 192, width: int = 256, base: int = 8, first: int = 0
) -> Segmenter:
    """Return the segmenter of images of this size. `base`: channels of its first stage, an eighth of the last one's.

    `first`: the first exit that it returns; 3 is the last stage of convolutions, before the layers.
    """
    widths = (base, 2 * base, 4 * base, 8 * base)
    return Segmenter(n_classes, layers=layers, widths=widths, height=height, width=width, first=first)
