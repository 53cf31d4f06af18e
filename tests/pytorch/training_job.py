"""A training that tests run here and in other processes: `python training_job.py FOLDER MODE KILL_AT`.

Or one that several processes share: `python training_job.py WEIGHTS MODE KILL_AT FOLDER`, where "nothing" is no folder.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from exeunt.torch import attach, train
from exeunt.torch.training import trainer


class Enough(Exception):  # noqa: N818
    """The end of a process, as tests have it."""


def die_after_saving(monkeypatch):
    """Let a training end after the first checkpoint that it writes."""
    save = trainer.save_checkpoint

    def save_and_die(*args):
        save(*args)
        raise Enough

    monkeypatch.setattr(trainer, "save_checkpoint", save_and_die)


class Net(nn.Module):
    """A small network with dropout and, if asked for, BatchNorm."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(self._block(4 if i else 1, norm=norm) for i in range(3)))
        self.classifier = nn.Linear(4, 3)

    @staticmethod
    def _block(n_in: int, *, norm: bool) -> nn.Module:
        last = nn.BatchNorm2d(4) if norm else nn.Identity()
        return nn.Sequential(nn.Conv2d(n_in, 4, 3, padding=1), last, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.blocks(x).amax((2, 3)))


@cache
def data(n: int = 240) -> TensorDataset:
    """Images with a bright column, row or diagonal."""
    rng = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (n,), generator=rng)
    images = torch.randn(n, 1, 8, 8, generator=rng) * 0.5
    for image, kind in zip(images, label, strict=True):
        image[0] += [torch.eye(8), torch.eye(8)[[3] * 8], torch.eye(8)[:, [3] * 8]][int(kind)] * 1.5
    return TensorDataset(images, label)


class DiesAt(DataLoader):
    """Kills its process, as a power cut would, when it gives out batch number `at`."""

    at = -1
    given = 0

    def __iter__(self):
        for batch in super().__iter__():
            DiesAt.given += 1
            if DiesAt.given == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


@cache
def attached(*, batch_norm: bool, **options):
    """A network with exits, for copies. It is never cut here, and to look whether it can be takes long."""
    torch.manual_seed(7)
    given = {"verbose": False, "check": False, "hidden": 8, **options}
    return attach(Net(norm=batch_norm), data().tensors[0][:2], ["blocks.0", "blocks.1"], **given)


def network(*, batch_norm: bool = True, **options):
    made = copy.deepcopy(attached(batch_norm=batch_norm, **options))
    torch.manual_seed(7)
    return made


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def job(folder: Path | None, mode: str, *, kill_at: int = -1, norm: bool = True, **options):
    net = network(batch_norm=norm, dropout=0.2 if norm else 0.0, norm="batch" if norm else "none")
    loader = DiesAt(data(), batch_size=32, shuffle=True, drop_last=True)
    loader.at = kill_at
    held_out = DataLoader(data(48), batch_size=16)
    recipe = {"mode": mode, "epochs": 4, "batch_size": 32, "progress": False, "device": "cpu", **options}
    history = train(net, loader, validation=held_out, checkpoint_dir=folder, **recipe)
    return net, history


if __name__ == "__main__":
    where, kind, at, *keep = sys.argv[1:]
    if keep:  # one of several processes that train together; each keeps what it does in a folder of its own
        folder = None if keep == ["nothing"] else Path(keep[0], os.environ["RANK"])
        trained, _ = job(folder, kind, norm=False, kill_at=int(at))
        if os.environ["RANK"] == "0":
            torch.save(trained.state_dict(), where)
    else:
        job(Path(where), kind, kill_at=int(at))
