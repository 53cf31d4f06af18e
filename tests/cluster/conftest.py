"""A Ray cluster of this machine, started once, and a run to answer with."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from digits_run import exported_once
from exeunt.runs.folder import RunFolder
from object_store import google_store, object_store


@pytest.fixture(scope="session")
def bucket():
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as address:
        yield address


@pytest.fixture(scope="session")
def google_bucket():
    with pytest.MonkeyPatch.context() as patch, google_store(patch) as address:
        yield address


@pytest.fixture(scope="session")
def cluster(bucket, google_bucket):
    """Started after the object stores, so that workers find them."""
    from exeunt.jobs.cluster.jobs import connected

    with connected() as ray:
        yield ray


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Exported, since a worker starts faster without PyTorch."""
    pytest.importorskip("onnxscript")
    made = exported_once(tmp_path_factory.getbasetemp()).path
    return RunFolder.open(shutil.copytree(made, tmp_path_factory.mktemp("clustered") / "run"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Digits in folders named like their classes, of which one cannot be read."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, root = load_digits(), tmp_path_factory.mktemp("in")
    for i in range(1200, 1320):
        folder = root / str(digits.target[i])
        folder.mkdir(exist_ok=True)
        Image.fromarray((digits.images[i] * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
    (root / "3" / "bad.png").write_bytes(b"no image")
    return root
