"""Traces that the tests share: small synthetic ones of known distribution, and a recorded network."""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before NumPy is imported: on arrays this small, threads that wait for each other take up to eight times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test speaks TLS: else each HTTP client reads the certificates of 140 authorities, for 5 to 14 ms.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import exeunt as ex
from chromium import browser, chromium
from cut_once import exported_once
from exeunt._support.limits import usable_cores

__all__ = ["browser", "chromium"]

# Examples are drawn the same way on every run: a failing test fails for everybody.
settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("reproducible")
# To kill a mutant one failing example will do, however long.
settings.register_profile(
    "mutants", settings.get_profile("reproducible"), phases=[Phase.explicit, Phase.generate]
)

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "traces" / "resnet20_cifar10.npz"

MakeTrace = Callable[..., ex.ExitTrace]

NEEDS = {
    "cli": ("typer", "matplotlib"),
    "cluster": ("ray", "moto", "torch", "torchvision", "sklearn"),
    "data": ("PIL",),
    "figures": ("matplotlib", "PIL"),
    "gateway": ("msgspec",),
    "jobs": ("torch", "torchvision", "sklearn"),
    "language": ("torch", "transformers", "lightning_fabric", "typer"),
    "live": ("httpx", "uvicorn"),
    "one_file": ("onnx", "onnxruntime"),
    "serve": ("fastapi", "uvicorn", "msgspec", "prometheus_client", "httpx", "PIL"),
    "pytorch": ("torch", "torchvision", "timm", "transformers", "sklearn"),
}
"""Packages without which the tests of a folder are skipped; the others run with NumPy, SciPy and PyArrow alone."""


TOGETHER = ("cluster", "language")
"""Folders that one process tests: their files share a cluster, and a language model that was trained."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return a quarter more processes than cores: while one waits for a server, another one computes."""
    return usable_cores() + math.ceil(usable_cores() / 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder, _, file = super()._split_scope(nodeid).rpartition("/")
            return folder if Path(folder).name in TOGETHER else f"{folder}/{file}"

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep what is imported out of the garbage collector: to look through it takes a tenth of the suite's time.

    Then it looks seldom: traced networks are many small objects that stay.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        # Hypothesis makes its generator at first use, and warns if the collector knows nobody who holds it.
        given(st.none())(lambda _: None)()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


class _Skipped(pytest.Module):
    missing: str

    def collect(self) -> Any:
        pytest.skip(f"not installed: {self.missing}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    missing = [package for package in NEEDS.get(module_path.parent.name, ()) if find_spec(package) is None]
    if not missing:
        return None
    module: _Skipped = _Skipped.from_parent(parent, path=module_path)
    module.missing = ", ".join(missing)
    return module


def synthetic_trace(
    n: int = 400, m: int = 4, *, seed: int = 0, labelled: bool = True, cost: Any = None, ties: bool = False
) -> ex.ExitTrace:
    """Exits that get better with depth; sure inputs are more often right. `ties`: scores of few values."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 10, n)
    ease = rng.random(n)[:, None]
    skill = np.linspace(0.3, 0.9, m)
    right = rng.random((n, m)) < np.clip(skill + 0.5 * (ease - 0.5), 0, 1)
    prediction = np.where(right, label[:, None], (label[:, None] + 1) % 10)
    score = np.clip(0.6 * ease + 0.4 * rng.random((n, m)) * (0.5 + right), 0, 1)
    if ties:
        score = np.round(score * 3) / 3
    model = ex.CostModel(np.arange(1, m + 1) ** 1.3 if cost is None else cost, unit="MMACs")
    return ex.ExitTrace.from_scores(
        score, prediction, cost=model, label=label if labelled else None, id=rng.permutation(n) + n * seed
    )


def synthetic_logits(n: int, m: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, m, k) whose true class stands out more and more, and labels (n,)."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    ease = rng.exponential(1.0, n)
    signal = ease[:, None] * np.linspace(0.8, 4.0, m)
    logits = rng.standard_normal((n, m, k))
    logits[np.arange(n), :, label] += signal
    return logits, label


def logit_trace(n: int = 400, m: int = 4) -> ex.ExitTrace:
    """A trace of logits of five classes: with margin, highest probability and entropy."""
    logits, label = synthetic_logits(n, m, 5, seed=0)
    return ex.ExitTrace.from_logits(logits, cost=ex.CostModel(np.arange(1.0, m + 1)), label=label)


@pytest.fixture(scope="session")
def refuses() -> Callable[[dict[str, Callable[[], object]]], None]:
    """Return a check that each of these calls is refused, with the text that it is given under."""

    def check(refusals: dict[str, Callable[[], object]]) -> None:
        for told, call in refusals.items():
            with pytest.raises(ex.InputError, match=told):
                call()

    return check


@pytest.fixture(autouse=True, scope="session")
def _exported_once() -> Iterator[None]:
    with exported_once() if "torch" in sys.modules else nullcontext():
        yield


@pytest.fixture(autouse=True, scope="session")
def _postgresql_ends() -> Iterator[None]:
    yield
    if started := sys.modules.get("postgresql_server"):
        started.stop_server()


@pytest.fixture(scope="session")
def make_trace() -> MakeTrace:
    return synthetic_trace


@pytest.fixture(scope="session")
def make_logit_trace() -> MakeTrace:
    return logit_trace


@pytest.fixture(scope="session")
def parts() -> tuple[ex.ExitTrace, ex.ExitTrace, ex.ExitTrace]:
    """Disjoint synthetic parts to fit (600), calibrate (800) and test (2,000) on."""
    whole = synthetic_trace(3400)
    return whole.take(slice(0, 600)), whole.take(slice(600, 1400)), whole.take(slice(1400, 3400))


@pytest.fixture(scope="session")
def recorded() -> ex.ExitTrace:
    """A frozen ResNet-20 on CIFAR-10 where its recording is at hand, else a synthetic stand-in."""
    if RECORDED.is_file():
        with np.load(RECORDED) as file:
            logits, label, macs = file["logits"], file["labels"], file["macs"]
    else:
        logits, label = synthetic_logits(10_000, 9, 10, seed=20)
        macs = np.linspace(5e6, 41e6, 9)
    cost = ex.CostModel(macs, unit="MACs", source="counted")
    return ex.ExitTrace.from_logits(logits, cost=cost, label=label, id=np.arange(len(label)))
