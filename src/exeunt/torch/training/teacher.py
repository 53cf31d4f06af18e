"""Who the exits learn from besides the labels: the network as it was given, or that of another run."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._words import counted
from exeunt.data import Preprocess
from exeunt.data.splits import SplitPlan
from exeunt.errors import InputError
from exeunt.run.file_digests import TRACED
from exeunt.run.folder import RunFolder
from exeunt.run.preparation import load_preparation
from exeunt.torch.open_run import load_network
from exeunt.torch.training.recipe import TEACHERS

if TYPE_CHECKING:
    from torch import nn

    from exeunt.data import DataSource
    from exeunt.torch.exits.network import EarlyExitNetwork
    from exeunt.torch.training.recipe import Recipe

__all__ = ["check_teacher", "make_teacher"]


def make_teacher(network: EarlyExitNetwork, recipe: Recipe) -> nn.Module | None:
    """Return the classifier that teaches, frozen; None if there is none but the network's own last exit.

    Raises InputError if it has other classes, or its run other than PyTorch's weights.
    """
    if recipe.distill_weight == 0 or recipe.teacher == "self":
        return None
    if recipe.teacher == "original":
        return copy.deepcopy(network.backbone).eval().requires_grad_(False)
    taught = load_network(RunFolder.open(recipe.teacher))
    if taught.n_classes != network.n_classes:
        raise InputError(
            f"the teacher {recipe.teacher} knows {taught.n_classes} classes, the network {network.n_classes}: both "
            "must answer the same question"
        )
    device = next(network.parameters()).device
    return taught.backbone.to(device).eval().requires_grad_(False)


def check_teacher(teacher: str, source: DataSource, plan: SplitPlan, prepare: Any) -> None:
    """Raise InputError unless a run can teach a network that is trained and measured on these data.

    It must answer with the same classes, take inputs prepared alike, since both are given the same batches, and have
    learned from no input that the network is measured on. `teacher`: that of a recipe.
    """
    if teacher in TEACHERS:
        return
    run = RunFolder.open(teacher)
    theirs = run.manifest["class_names"]
    if theirs != list(source.class_names or ()):
        raise InputError(
            f"the teacher {teacher} has the classes {_few(theirs)}, the data {_few(source.class_names or ())}: both "
            "must answer the same question"
        )
    learned = SplitPlan.from_dict(run.manifest["split"])
    train = learned.parts["train"]
    for part in TRACED if learned.fingerprint == plan.fingerprint else ():
        mine = plan.parts[part]
        common = np.intersect1d(mine.indices(), train.indices())
        if mine.dataset == train.dataset and common.size:
            raise InputError(
                f"the teacher {teacher} has learned from {counted(common.size, 'input')} of the part {part!r}, which "
                "the network is measured on: train both with the same --seed, --fit and --calibrate, or take another "
                "teacher"
            )
    own, other = (_of_preparation(one) for one in (prepare, load_preparation(run)))
    if own != other:
        raise InputError(
            f"the teacher {teacher} takes inputs that are prepared differently ({_apart(other, own)}): both are given "
            "the same batches, so train this network with the teacher's --size, --mean and --std, or its tokeniser"
        )


def _of_preparation(prepare: Any) -> dict[str, Any]:
    """Return what tells whether two networks take the same batches."""
    return prepare.to_dict() if isinstance(prepare, Preprocess) else {"vocabulary": prepare.get_vocab()}


def _apart(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    if theirs.keys() != ours.keys() or "vocabulary" in theirs:
        return "another kind of input, or another vocabulary"
    return ", ".join(
        f"{name} {theirs[name]} instead of {ours[name]}" for name in theirs if theirs[name] != ours[name]
    )


def _few(names: Any) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} ({len(names)})"
