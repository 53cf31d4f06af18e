"""A multi-scale dense network for 32x32 images: a network that brings its own exits.

After Huang, Chen, Li, Wu, van der Maaten and Weinberger (2018), "Multi-Scale Dense Networks for Resource Efficient
Image Classification". Every layer keeps features at three scales; each scale reads all earlier layers of its own and,
by a stride, of the next finer one. Classifiers read the coarsest scale, so an early one sees the whole image. Finer
scales end early, because only the coarsest is read (the paper's network reduction).

`forward` returns a list of logits, the first exit first: `exeunt train --model msdnet:cifar --exits own`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCALES = 3


class MSDNet(nn.Module):
    """Input (n, 3, 32, 32), normalised; output a list of m logits (n, k).

    `layers`: how many follow the first, with an exit after every `step`-th. `channels`: of the finest scale at first;
    `growth`: channels that a layer adds to it. Each coarser scale has twice as many.
    """

    def __init__(
        self, n_classes: int = 100, *, layers: int = 8, step: int = 1, channels: int = 16, growth: int = 8
    ) -> None:
        super().__init__()
        widths = [channels * 2**scale for scale in range(SCALES)]
        sources = [3, *widths[:-1]]
        self.first = nn.ModuleList(
            _conv(before, width, 3, stride=1 if scale == 0 else 2)
            for scale, (before, width) in enumerate(zip(sources, widths, strict=True))
        )
        self.layers = nn.ModuleList()
        self.classifiers = nn.ModuleDict()
        for layer in range(layers):
            finest = SCALES * layer // layers  # the finest scale that is still needed
            self.layers.append(_Layer(widths, growth, finest))
            widths = [width + growth * 2**scale * (scale >= finest) for scale, width in enumerate(widths)]
            if (layer + 1) % step == 0:
                self.classifiers[str(layer)] = _Classifier(widths[-1], n_classes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the logits (n, k) of every exit."""
        scales = []
        for conv in self.first:
            x = conv(x)
            scales.append(x)
        logits = []
        for number, layer in enumerate(self.layers):
            scales = layer(scales)
            if str(number) in self.classifiers:
                logits.append(self.classifiers[str(number)](scales[-1]))
        return logits


class _Layer(nn.Module):
    """Adds `growth` channels to the finest scale in use, twice as many to the next, and so on.

    `widths`: channels of each scale so far. `finest`: the finest scale that later layers need.
    """

    def __init__(self, widths: list[int], growth: int, finest: int) -> None:
        super().__init__()
        self.finest = finest
        self.same, self.down = nn.ModuleDict(), nn.ModuleDict()
        for scale in range(finest, SCALES):
            new = growth * 2**scale
            if scale > 0:
                new //= 2
                self.down[str(scale)] = _bottleneck(widths[scale - 1], new, factor=2 ** (scale - 1), stride=2)
            self.same[str(scale)] = _bottleneck(widths[scale], new, factor=2**scale, stride=1)

    def forward(self, scales: list[Tensor]) -> list[Tensor]:
        """Return the features of every scale, with the new channels last."""
        made = list(scales)
        for scale in range(self.finest, SCALES):
            new = [self.same[str(scale)](scales[scale])]
            if scale > 0:
                new.append(self.down[str(scale)](scales[scale - 1]))
            made[scale] = torch.cat([scales[scale], *new], dim=1)
        return made


class _Classifier(nn.Module):
    """Two convolutions with a stride, a mean over positions, and a linear layer."""

    def __init__(self, width: int, n_classes: int, hidden: int = 128) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, hidden, 3, stride=2),
            _conv(hidden, hidden, 3, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(hidden, n_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, k)."""
        logits: Tensor = self.body(x)
        return logits


def _conv(before: int, after: int, size: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def _bottleneck(before: int, after: int, *, factor: int, stride: int) -> nn.Sequential:
    """Return a 1x1 convolution to at most `factor` times the new channels, then a 3x3 one."""
    narrow = min(before, factor * after)
    return nn.Sequential(_conv(before, narrow, 1), _conv(narrow, after, 3, stride=stride))


def cifar(n_classes: int = 100, **options: int) -> MSDNet:
    """Return the network of docs/results/msdnet-cifar100."""
    return MSDNet(n_classes, **options)
