"""A small network for digits, trained for a moment and calibrated: fixtures for those who import them."""

from __future__ import annotations

import fcntl
import os
import shutil
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import exeunt as ex
from cut_once import cut_once
from exeunt.runs.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


FACTORY = "exeunt.zoo:digits"


class Brightness:
    """Ten classes by the mean of an image: mostly wrong, but it is asked."""

    def predict_proba(self, images):
        mean = images.reshape(len(images), -1).mean(axis=1)
        away = np.abs(mean[:, None] / 25.5 - np.arange(10))
        return np.exp(-away) / np.exp(-away).sum(axis=1, keepdims=True)


def trained_digits(out: Path) -> RunFolder:
    pytest.importorskip("sklearn")
    from exeunt.torch.training.job import TrainingJob
    from exeunt.torch.training.run import run_training

    job = TrainingJob(model=FACTORY, data="sklearn:digits", exits=2, recipe={"epochs": 1, "mode": "joint"})
    run = run_training(job, out, command="test", say=lambda _: None, progress=False)
    assert run is not None
    run.save_policy(ex.eero(run.trace("fit"), run.trace("calibrate"), budget="60%"))
    return run


def made_once(temporary: Path, name: str, make: Callable[[Path], Any]) -> RunFolder:
    """Return the run that `make` makes in a folder: of the processes that test, the first makes it for all."""
    made = (temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / name
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(temporary / "making" / name)
            (temporary / "making" / name).rename(made)
    return RunFolder.open(made)


@cache
def trained_once(temporary: Path) -> RunFolder:
    """Every folder of tests that imports the fixtures has its own, and they all get the same run."""
    return made_once(temporary, "digits", trained_digits)


@cache
def exported_once(temporary: Path) -> RunFolder:
    from exeunt.torch.to_onnx import export_run

    def export(out: Path) -> None:
        shutil.copytree(trained_once(temporary).path, out)
        export_run(RunFolder.open(out), trusted=FACTORY, say=lambda _: None)

    return made_once(temporary, "exported digits", export)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> RunFolder:
    return trained_once(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True, scope="module")
def _cut_once():
    """Runs here are copies of one."""
    with cut_once(lambda run: run.weights.read_bytes()):
        yield


@pytest.fixture
def run(trained, tmp_path) -> RunFolder:
    locks = shutil.ignore_patterns("*.lock")
    return RunFolder.open(shutil.copytree(trained.path, tmp_path / "run", ignore=locks))


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> RunFolder:
    pytest.importorskip("onnxscript")
    return exported_once(tmp_path_factory.getbasetemp())
