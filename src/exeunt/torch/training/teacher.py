"""The teacher of distilled exits: the network as it was given, or the network of another run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from exeunt._support.text import counted, listed
from exeunt.data import Preprocess
from exeunt.data.splits import SplitPlan
from exeunt.errors import InputError
from exeunt.runs.file_digests import TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import load_preparation, split_of
from exeunt.torch.calls import Inputs, logits_of, to_device
from exeunt.torch.exits.multiply_adds import output_of
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.models.by_name import runs_custom_code
from exeunt.torch.open_run import load_network
from exeunt.torch.training.recipe import TEACHERS, Recipe

_PREPARE = "train this network with the teacher's --size, --mean and --std, or its tokeniser"


def make_teacher(network: EarlyExitNetwork, recipe: Recipe) -> nn.Module | None:
    """Return the frozen teacher; None where the network's own last exit teaches, or nothing does.

    Raises InputError as `check_can_teach` does.
    """
    learns = recipe.mode == "distill" and (recipe.distill_weight > 0 or recipe.unlabelled)
    if not learns or recipe.teacher == "self":
        return None
    if recipe.teacher == "original":
        return copy.deepcopy(network.backbone).eval().requires_grad_(False)
    return _opened(recipe.teacher, network)


def teacher_digest(teacher: str) -> dict[str, str]:
    """Return {"teacher_digest": digest of the run that teaches}; empty for a teacher that is no run."""
    return {} if teacher in TEACHERS else {"teacher_digest": RunFolder.open(teacher).digest}


def check_can_teach(
    teacher: str, network: EarlyExitNetwork, example: Inputs, class_names: Sequence[str] | None
) -> None:
    """Raise InputError unless a run answers with these classes, and its network takes a batch such as `example`.

    PyTorch must also be able to open it without running code of its own. `teacher`: that of a recipe.
    """
    if teacher in TEACHERS:
        return
    theirs, ours = RunFolder.open(teacher).manifest["class_names"], list(class_names or ())
    if theirs != ours:
        raise InputError(
            f"the teacher {teacher} has the classes {listed(theirs, 3)}, the data {listed(ours, 3)}: they must be the "
            "same"
        )
    opened = _opened(teacher, network)
    try:
        logits_of(output_of(opened, to_device(example, next(opened.parameters()).device)))
    except InputError as error:
        raise InputError(
            f"the teacher {teacher} cannot be given this network's inputs: {error}; both get the same batches, "
            f"so {_PREPARE}"
        ) from error


def check_teacher(
    teacher: str, plan: SplitPlan, prepare: Any, *, say: Callable[[str], None] = lambda _: None
) -> None:
    """Raise InputError unless a run can teach a network that is trained and measured on these data.

    The run must take inputs that are prepared alike, since both networks get the same batches. It must not have learned
    from an input that the network is measured on; for a run on other data, `say` reports that this is not known.
    `teacher`: that of a recipe.
    """
    if teacher in TEACHERS:
        return
    run = RunFolder.open(teacher)
    learned = split_of(run)
    if learned.fingerprint != plan.fingerprint:
        say(
            f"the teacher {teacher} was trained on other data, {learned.source}: it is not known whether they include "
            "inputs that this network is measured on\n"
        )
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
    theirs = load_preparation(run)
    own, other = (_of_preparation(one) for one in (prepare, theirs))
    if own != other:
        raise InputError(
            f"the teacher {teacher} takes inputs that are prepared differently ({_apart(other, own)}): both get the "
            f"same batches, so {_PREPARE}"
        )
    if not isinstance(prepare, Preprocess) and prepare.model_max_length > theirs.model_max_length:
        raise InputError(
            f"the teacher {teacher} reads {theirs.model_max_length:,} tokens of a text, this network "
            f"{prepare.model_max_length:,}: both get the same batches, so take a teacher that reads as many"
        )


def _opened(teacher: str, network: EarlyExitNetwork) -> nn.Module:
    """Return the frozen classifier of a run, on the device of the network that it teaches."""
    run = RunFolder.open(teacher)
    about, _ = run.manifest["model"], run.weights  # raises for a run without weights for PyTorch
    if precision := about.get("precision"):
        raise InputError(
            f"the teacher {teacher} is a run at {precision}, for answering alone: name the run that it was made from"
        )
    if runs_custom_code(about["spec"]):
        raise InputError(
            f"the teacher {teacher} is a network of {about['spec']}, and opening it would run that code: a teacher "
            "must be one of torchvision, timm, hf or exeunt.zoo"
        )
    theirs = load_network(run)
    if theirs.n_classes != network.n_classes:
        raise InputError(
            f"the teacher {teacher} has {theirs.n_classes} classes, the network {network.n_classes}: they must be "
            "the same"
        )
    if theirs.masks != network.masks:
        raise InputError(f"the teacher {teacher} answers with {'masks' if theirs.masks else 'classes'} alone")
    return theirs.backbone.to(next(network.parameters()).device).eval().requires_grad_(False)


def _of_preparation(prepare: Any) -> dict[str, Any]:
    """Return how inputs are prepared: equal for two networks that can get the same batches."""
    return prepare.to_dict() if isinstance(prepare, Preprocess) else {"vocabulary": prepare.get_vocab()}


def _apart(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    if theirs.keys() != ours.keys() or "vocabulary" in theirs:
        return "another kind of input, or another vocabulary"
    return ", ".join(
        f"{name} {theirs[name]} instead of {ours[name]}" for name in theirs if theirs[name] != ours[name]
    )
