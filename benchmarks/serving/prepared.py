"""The runs that are served, and the images that are asked: made once in a folder of their own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.cascade import with_int8
from benchmarks.serving import wire

import exeunt as ex
from exeunt.jobs.cascade_run import make_cascade
from exeunt.jobs.timed_run import choose_by_time
from exeunt.rules.by_name import policy_set
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import InputPreparation, part_data
from exeunt.timing.bench import last_head_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL, LARGE = {"resnet8-distilled": "ResNet-8", "resnet20-distilled": "ResNet-20"}, "resnet56"
"""The runs of the cascade's networks; the small ones by what they are called, if they are asked."""
CHOSEN_FOR = {True: ["15%", "50%"], False: ["80%"]}
"""Exits are chosen for these shares of the original int8 network's time: of a cascade, and of a network alone."""
LARGEST, BUDGETS = 1.2, 16
"""So many budgets lie evenly between what the first exit takes and this share of the original int8 network's time."""
GIVEN_UP = 2.1
"""The server takes the budget no lower than where so many points of the original model's accuracy are lost, as
estimated.
"""


@dataclass(frozen=True)
class Prepared:
    """Folders of runs: `served` with policies for several budgets, the original model.

    `images` (n, h, w, 3), `labels` (n,): of the test part, which neither fit nor calibrated a policy. `whole` (n,):
    which of them the original fp32 model answers right. `original`, `exits`: what the two are called.
    """

    folder: Path
    served: Path
    fp32: Path
    int8: Path
    original: str
    exits: str
    images: np.ndarray
    labels: np.ndarray
    whole: np.ndarray

    def bodies(self, name: str, make: Callable[[np.ndarray], bytes], size: int) -> Path:
        """Return a file of requests of `size` images each, over all the images in order."""
        count = min(len(self.images) // size, 2000)
        path = self.folder / f"{name}-{size}.npz"
        return wire.write_bodies(path, (make(self.images[i * size : (i + 1) * size]) for i in range(count)))

    @property
    def least_accuracy(self) -> str:
        """The accuracy below which the server does not go."""
        return f"{self.accuracy_less(GIVEN_UP):.1%}"

    def accuracy_less(self, points: float) -> float:
        """Return the accuracy of the original fp32 model, less so many points."""
        return float(self.whole.mean()) - points / 100

    def accuracies(
        self, which: np.ndarray, labels: list[np.ndarray], size: int
    ) -> tuple[float | None, float | None]:
        """Return the accuracy of answers to the requests `which`, and the original fp32 network's on the same images.

        Rows without an answer are wrong.
        """
        if not len(which):
            return None, None
        rows = (which[:, None] * size + np.arange(size)).ravel()
        return float((np.concatenate(labels) == self.labels[rows]).mean()), float(self.whole[rows].mean())


def check_runs(runs: Path) -> None:
    """End the script, before anything is measured, if `prepare` cannot take these runs."""
    lacking = [name for name in (*SMALL, LARGE) if not RunFolder.exists(runs / name)]
    if lacking and not RunFolder.exists(runs):
        raise SystemExit(
            f"{runs} is no run and holds no run {lacking[0]}: name a run with exits, or the folder of the runs that "
            "`python -m experiments.cifar10_cascade --train` makes"
        )


def prepare(runs: Path, folder: Path, batch: int) -> Prepared:
    """Copy the runs, and calibrate what is served by time.

    `runs`: a run with exits, whose int8 run is served; or the folder of those that experiments/cifar10_cascade.py
    trains, of which a cascade in int8 is made. `batch`: rows that exits are timed at.
    """
    if RunFolder.exists(runs):
        large = _copied(runs, folder / runs.name)
        served = RunFolder.open(f"{large.path}@int8")
        original = runs.name
        int8 = RunFolder.open(f"{_copied(runs, folder / 'whole').path}@int8")
    else:
        copies = [_copied(runs / name, folder / name) for name in (*SMALL, LARGE)]
        models = dict(zip((*SMALL, LARGE), map(with_int8, copies), strict=True))
        large, int8 = copies[-1], models[LARGE]
        if not RunFolder.exists(folder / "cascade"):
            make_cascade(folder / "cascade", models)
        served = RunFolder.open(folder / "cascade")
        original = "ResNet-56"
    for run in (large, int8):
        run.save_policy(_without_exits(run))
    data = part_data(large, "test")
    images = np.stack([data.content(i) for i in range(len(data))])
    if not served.has_policy_set:
        _calibrate(served, images[:batch])
    asked = " and ".join(called for name, called in SMALL.items() if name in served.policy_set.models)
    exits = (
        f"int8 {asked} with exits, then an int8 {original}" if asked else f"int8 {original} with its exits"
    )
    return Prepared(
        folder, served.path, large.path, int8.path, original, exits, images, np.asarray(data.labels),
        large.trace("test").correct[:, -1],
    )  # fmt: skip


def _copied(run: Path, to: Path) -> RunFolder:
    """Return a copy of a run, without policies."""
    if not to.is_dir():
        shutil.copytree(run, to, ignore=shutil.ignore_patterns("training", "figures", "polic*"))
    return RunFolder.open(to)


def _calibrate(run: RunFolder, inputs: np.ndarray) -> None:
    rule = partial(ex.auto, answer="auto")
    budgets = CHOSEN_FOR[bool(run.cascade)]
    found = choose_by_time(run, rule, budgets, inputs if run.cascade else InputPreparation(run)(inputs))
    fit, calibrate = (found.trace(run.recorded(part)) for part in ("fit", "calibrate"))
    least = 1.01 * found.cost.first
    amounts = np.linspace(least, max(LARGEST * found.cost.reference, 1.1 * least), BUDGETS)
    policies = policy_set(fit, calibrate, policy=found.rule(rule), budgets=amounts.tolist())
    print(policies)
    run.save_policy_set(policies)


def _without_exits(run: RunFolder) -> Any:
    """Return the policy under which every input answers at the last exit: the network runs whole."""
    policy = replace(
        last_head_policy(run.cost.n_exits), cost=run.cost, budget=run.cost.full, name="original model"
    )
    accuracy = ex.evaluate(policy, run.trace("test")).accuracy
    print(f"{run.path}: {accuracy:.4f} with original model")
    return policy
