"""A small trained and calibrated run, and pictures for it."""

from __future__ import annotations

import shutil

import pytest

from cut_once import cut_once
from digits_run import trained_digits
from exeunt.run.folder import RunFolder


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> RunFolder:
    return trained_digits(tmp_path_factory.mktemp("work") / "run")


@pytest.fixture(autouse=True, scope="module")
def _cut_once():
    """Runs here are copies of one."""
    with cut_once(lambda run: run.weights.read_bytes()):
        yield


@pytest.fixture
def run(trained, tmp_path) -> RunFolder:
    return RunFolder.open(shutil.copytree(trained.path, tmp_path / "run"))


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> RunFolder:
    pytest.importorskip("onnxscript")
    from exeunt.torch.export.to_onnx import export_run

    run = RunFolder.open(shutil.copytree(trained.path, tmp_path_factory.mktemp("exported") / "run"))
    export_run(run, opset=18, trusted="exeunt.zoo:digits", say=lambda _: None)
    return run
