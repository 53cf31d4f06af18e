"""Small networks for small images (`exeunt train --model exeunt.zoo:NAME`), and one for tables."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "CifarResNet",
    "DigitsNet",
    "TableNet",
    "digits",
    "resnet8_wide",
    "resnet18",
    "resnet20",
    "resnet56",
]


class _Block(nn.Module):
    """Basic residual block with the parameter-free shortcut (option A of He et al. 2015)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride = stride
        self.pad = (n_out - n_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Return every `stride`-th position, with zero channels added in equal number before and after."""
        if self.stride == 1 and not self.pad:
            return x
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


class CifarResNet(nn.Module):
    """Residual network for 32x32 images (He et al. 2015, section 4.2): 6 * `blocks` + 2 layers.

    Input (n, 3, h, w), normalised; output logits (n, k). `widths`: the channels of the three groups. `stride`: of the
    first convolution.
    """

    def __init__(
        self,
        blocks: int,
        n_classes: int = 10,
        *,
        widths: tuple[int, int, int] = (16, 32, 64),
        stride: int = 1,
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = self._group(first, first, blocks, 1)
        self.layer2 = self._group(first, second, blocks, 2)
        self.layer3 = self._group(second, third, blocks, 2)
        self.linear = nn.Linear(third, n_classes)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight)

    @staticmethod
    def _group(n_in: int, n_out: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [_Block(n_out, n_out, 1) for _ in range(blocks - 1)]
        return nn.Sequential(_Block(n_in, n_out, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, k)."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits


def resnet8_wide(n_classes: int = 10) -> CifarResNet:
    """Return a ResNet-8 of twice the channels on half the resolution: 12.0 million multiply-adds at 32x32.

    Convolutions of more channels use a processor better.
    """
    return CifarResNet(1, n_classes, widths=(32, 64, 128), stride=2)


def resnet20(n_classes: int = 10) -> CifarResNet:
    """Return the CIFAR ResNet-20: 40.6 million multiply-adds at 32x32."""
    return CifarResNet(3, n_classes)


def resnet56(n_classes: int = 10) -> CifarResNet:
    """Return the CIFAR ResNet-56: 125.5 million multiply-adds at 32x32."""
    return CifarResNet(9, n_classes)


def resnet18(n_classes: int = 100) -> nn.Module:
    """Return ResNet-18 with a stem for small images: 3x3, stride 1, no max-pool (torchvision's names)."""
    from torchvision.models import resnet18 as imagenet_resnet18

    network: nn.Module = imagenet_resnet18(num_classes=n_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


class DigitsNet(nn.Module):
    """Four convolutional blocks for 8x8 digits; three of them can carry an exit.

    Input (n, c, 8, 8) with c = `channels`, normalised; output logits (n, k). The first two blocks have `width`
    channels, the last two twice as many.
    """

    def __init__(self, n_classes: int = 10, *, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        widths = [channels, width, width, 2 * width, 2 * width]
        strides = [1, 1, 2, 1]
        self.blocks = nn.Sequential(*(_conv_block(widths[i], widths[i + 1], strides[i]) for i in range(4)))
        self.classifier = nn.Linear(2 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, k)."""
        logits: Tensor = self.classifier(torch.flatten(self.blocks(x).mean((2, 3)), 1))
        return logits


def _conv_block(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    )


def digits(n_classes: int = 10, *, width: int = 16) -> DigitsNet:
    """Return the network of the demo, which has places for three exits besides its own classifier.

    `width`: channels of the first two blocks, half of those of the last two.
    """
    return DigitsNet(n_classes, width=width)


class TableNet(nn.Module):
    """Three blocks of units for rows of numbers, each several times as wide as the block before.

    A block reads the row and all earlier units. So the first block is cheap, whatever the number of columns.
    Input (n, d), standardised; output logits (n, k).
    """

    def __init__(self, n_features: int, n_classes: int, *, widths: tuple[int, ...] = (24, 64, 160)) -> None:
        super().__init__()
        blocks, known = [], n_features
        for width in widths:
            blocks.append(_Widening(known, width))
            known += width
        self.blocks = nn.ModuleList(blocks)
        self.classifier = nn.Linear(known, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, k)."""
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classifier(x)
        return logits


class _Widening(nn.Module):
    """Units computed from the input, and concatenated with it."""

    def __init__(self, known: int, width: int) -> None:
        super().__init__()
        self.units = nn.Linear(known, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, functional.relu(self.units(x))], dim=1)
