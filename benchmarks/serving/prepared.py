"""The runs that are served, and the images that are asked: made once in a folder of their own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import wire

import exeunt as ex
from exeunt.derived.chain_run import make_chain
from exeunt.derived.timed_exits import choose_by_time
from exeunt.policies.chain import policy_set
from exeunt.run.folder import RunFolder
from exeunt.run.part_data import part_data
from exeunt.timing.forced_exits import last_head_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL, LARGE = "resnet20-tuned", "resnet56"
CALLED, MIDDLE, LARGEST, BUDGETS = 32, 0.5, 1.2, 16
"""Rows of a batch that exits are timed at. Shares of the uncut int8 ResNet-56's time: exits are chosen for the one in
the middle, and so many budgets lie evenly between the first exit's and the largest."""
LEAST_ACCURACY = "91.5%"
"""The server takes the budget no lower than where this is estimated."""


@dataclass(frozen=True)
class Prepared:
    """Folders of runs: the `chain` with policies for several budgets, the uncut networks with exits off.

    `images` (n, 32, 32, 3), `labels` (n,): of the test part, which neither fit nor calibrated a policy. `whole` (n,):
    which of them the uncut fp32 network answers right.
    """

    folder: Path
    chain: Path
    fp32: Path
    int8: Path
    images: np.ndarray
    labels: np.ndarray
    whole: np.ndarray

    def bodies(self, name: str, make: Callable[[np.ndarray], bytes], size: int) -> Path:
        """Return a file of requests of `size` images each, over all the images in order."""
        count = min(len(self.images) // size, 2000)
        path = self.folder / f"{name}-{size}.npz"
        return wire.write_bodies(path, (make(self.images[i * size : (i + 1) * size]) for i in range(count)))

    def accuracies(
        self, which: np.ndarray, labels: list[np.ndarray], size: int
    ) -> tuple[float | None, float | None]:
        """Return the accuracy of answers to the requests `which`, and the uncut fp32 network's on the same images.

        Rows without an answer are wrong.
        """
        if not len(which):
            return None, None
        rows = (which[:, None] * size + np.arange(size)).ravel()
        return float((np.concatenate(labels) == self.labels[rows]).mean()), float(self.whole[rows].mean())


def prepare(runs: Path, folder: Path) -> Prepared:
    """Copy the runs that experiments/cifar10_chain.py trains, chain their int8 runs, and calibrate that by time."""
    for name in (SMALL, LARGE):
        if not (folder / name).is_dir():
            shutil.copytree(
                runs / name, folder / name, ignore=shutil.ignore_patterns("training", "figures", "policy*")
            )
    members = {name: RunFolder.open(f"{folder / run}@int8") for name, run in (("r20", SMALL), ("r56", LARGE))}
    chain = folder / "chain"
    if not RunFolder.exists(chain):
        make_chain(chain, members)
    large = RunFolder.open(folder / LARGE)
    for run in (large, members["r56"]):
        run.save_policy(_exits_off(run))
    data = part_data(large, "test")
    images = np.stack([data.content(i) for i in range(len(data))])
    if not RunFolder.open(chain).has_policy_set:
        _calibrate(RunFolder.open(chain), images[:CALLED])
    return Prepared(
        folder,
        chain,
        large.path,
        members["r56"].path,
        images,
        np.asarray(data.labels),
        large.trace("test").correct[:, -1],
    )


def _calibrate(chain: RunFolder, inputs: np.ndarray) -> None:
    rule = partial(ex.auto, answer="auto")
    found = choose_by_time(chain, rule, f"{MIDDLE:.0%}", inputs)
    fit, calibrate = (found.trace(chain.recorded(part)) for part in ("fit", "calibrate"))
    least = 1.01 * found.cost.first
    budgets = np.linspace(least, max(LARGEST * found.cost.reference, 1.1 * least), BUDGETS)
    policies = policy_set(fit, calibrate, policy=found.rule(rule), budgets=budgets.tolist())
    print(policies)
    chain.save_policy_set(policies)


def _exits_off(run: RunFolder) -> Any:
    """Return the policy under which every input answers at the last exit: the network runs whole."""
    policy = replace(
        last_head_policy(run.cost.n_exits), cost=run.cost, budget=run.cost.full, name="exits off"
    )
    accuracy = ex.evaluate(policy, run.trace("test")).accuracy
    print(f"{run.path}: {accuracy:.4f} with exits off")
    return policy
