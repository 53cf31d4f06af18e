from __future__ import annotations

import numpy as np
import pytest

import exeunt as ex
from exeunt.rules import baselines


def make_trace(m: int, *, n: int = 600, seed: int = 0, unit: str = "MACs") -> ex.ExitTrace:
    """Outputs that get better with depth, but for the last exit, which is worse than the one before it."""
    rng = np.random.default_rng(seed)
    label, hardness = rng.integers(0, 5, n), rng.normal(size=n)
    strength = np.linspace(0.8, 3.0, m)
    strength[-1] -= 1.2 if m > 2 else 0.0
    logits = rng.normal(size=(n, m, 5))
    logits[np.arange(n)[:, None], np.arange(m), label[:, None]] += strength - hardness[:, None]
    cost = ex.CostModel(np.cumsum(np.linspace(1e6, 2e6, m)), unit=unit)
    return ex.ExitTrace.from_logits(logits, cost=cost, label=label)


@pytest.fixture(scope="session")
def trace() -> ex.ExitTrace:
    return make_trace(4)


@pytest.fixture(scope="session")
def parts(trace: ex.ExitTrace) -> tuple[ex.ExitTrace, ex.ExitTrace, ex.ExitTrace]:
    return trace.split(seed=0)


@pytest.fixture(scope="session")
def policy(parts: tuple[ex.ExitTrace, ex.ExitTrace, ex.ExitTrace]) -> ex.Policy:
    return ex.eero(parts[0], parts[1], budget="60%")


@pytest.fixture(scope="session")
def found(trace: ex.ExitTrace) -> ex.Frontier:
    presets = {"mine": ex.eero, "theirs": baselines.msdnet}
    return ex.frontier(presets, trace, ["30%", "60%", "90%"], splits=3)
