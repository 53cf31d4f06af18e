"""A Ray cluster of this machine, started once, and a run to answer with."""

from __future__ import annotations

import pytest

from digits_run import FACTORY, trained_digits
from object_store import object_store


@pytest.fixture(scope="session")
def bucket():
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as address:
        yield address


@pytest.fixture(scope="session")
def cluster(bucket):
    """Started after the object store, so that workers find it."""
    from exeunt.cluster.session import connected

    with connected() as ray:
        yield ray


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Exported, since a worker starts faster without PyTorch."""
    pytest.importorskip("onnxscript")
    from exeunt.torch.export.to_onnx import export_run

    run = trained_digits(tmp_path_factory.mktemp("clustered") / "run")
    export_run(run, opset=18, trusted=FACTORY, say=lambda _: None)
    return run
