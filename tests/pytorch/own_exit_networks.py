"""Networks that bring their own exits, in the three forms that such networks have."""

from __future__ import annotations

import torch
from torch import nn


class Branchy(nn.Module):
    """Branches after each of three blocks, in a tuple; the network goes on in place (as BranchyNet may)."""

    def __init__(self, n_classes: int = 3, channels: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(channels if i == 0 else 4, 4, 3, padding=1) for i in range(3))
        self.norm = nn.BatchNorm2d(4)
        self.branches = nn.ModuleList(nn.Linear(4, n_classes) for _ in range(3))

    def forward(self, x):
        found = []
        for block, branch in zip(self.blocks, self.branches, strict=True):
            x = self.norm(block(x))
            found.append(branch(x.mean((2, 3))))
            x.relu_()
        return tuple(found)


class Scales(nn.Module):
    """Two scales and what the last layer gave stay alive; the classifiers are called at the end, in a list."""

    def __init__(self, n_classes: int = 3) -> None:
        super().__init__()
        self.fine = nn.ModuleList(nn.Linear(4 + 2 * i, 2) for i in range(3))
        self.coarse = nn.ModuleList(nn.Linear(4 + 2 * i, 2) for i in range(3))
        self.classifiers = nn.ModuleList(nn.Linear(2 * (i + 1), n_classes) for i in range(3))

    def forward(self, x):
        fine, coarse, read = x, x.flip(1), []
        for one, other in zip(self.fine, self.coarse, strict=True):
            made = other(coarse).relu()
            fine, coarse = torch.cat([fine, one(fine).relu_()], 1), torch.cat([coarse, made], 1)
            read.append(coarse[:, 4:] * fine[:, 4:])
        return [classify(value) for classify, value in zip(self.classifiers, read, strict=True)]


class Named(nn.Module):
    """A cheap exit and a dear one, by name. The dear one reads what is changed in place for the cheap one."""

    def __init__(self, n_classes: int = 3) -> None:
        super().__init__()
        self.body, self.deep = nn.Linear(4, 8), nn.Linear(8, 8)
        self.cheap, self.dear = nn.Linear(8, n_classes), nn.Linear(8, n_classes)

    def forward(self, tokens):
        h = self.body(tokens)
        kept = h / 2
        h.tanh_()
        return {"cheap": self.cheap(h), "dear": self.dear(self.deep(kept).tanh())}


NETWORKS = {"tuple": (Branchy, (2, 6, 6)), "list": (Scales, (4,)), "mapping": (Named, (4,))}


def digits(n_classes: int = 10) -> Branchy:
    """A network for `exeunt train`: three exits, 8x8 images."""
    return Branchy(n_classes, channels=3)


def trained_digits(n_classes: int = 10) -> Branchy:
    """The same weights each time, as of a network that was trained."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return digits(n_classes)
