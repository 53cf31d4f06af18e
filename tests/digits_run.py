"""A small network for digits, trained for a moment and calibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import exeunt as ex

if TYPE_CHECKING:
    from pathlib import Path

    from exeunt.run.folder import RunFolder

FACTORY = "exeunt.zoo:digits"


def trained_digits(out: Path) -> RunFolder:
    pytest.importorskip("sklearn")
    from exeunt.torch.training.job import TrainingJob
    from exeunt.torch.training.run import run_training

    job = TrainingJob(model=FACTORY, data="sklearn:digits", exits=2, recipe={"epochs": 1, "mode": "joint"})
    run = run_training(job, out, command="test", say=lambda _: None, progress=False)
    assert run is not None
    run.save_policy(ex.eero(run.trace("fit"), run.trace("calibrate"), budget="60%"))
    return run
