"""What a policy has saved and lost, counted from records."""

from __future__ import annotations

import numpy as np
import pytest

from exeunt.gateway.records import Record, Said
from exeunt.gateway.tally import Tally


def record(loss: float = 0.0, *, kind: str = "audit", cost: float = 0.001, escalated: str = "") -> Record:
    """A request that small answers; large, the reference, would have cost .01."""
    said = {"small": Said(cost, 0.5, 1 - loss if kind == "audit" else None)}
    if kind == "audit":
        said["large"] = Said(0.01, None, 1.0)
    return Record(1.0, kind, "alice", "0", "0", "", said, None, "p1", "small", None, cost, escalated)


def test_too_few_audits_have_no_interval() -> None:
    tally = Tally("large", [record() for _ in range(9)] + [record(kind="live") for _ in range(20)])
    found = tally.to_dict()
    assert (found["saved"], found["lost"], found["audits"], found["fewest"]) == (None, None, 9, 10)
    tally.add(record())
    assert tally.saved == pytest.approx((30 * 0.009,) * 3)  # every request, also those without an audit
    assert tally.lost is not None


def test_reasons_are_counted() -> None:
    reasons = ("score", "score", "", "failure")
    tally = Tally("large", [record(escalated=why) for why in reasons])
    assert tally.to_dict()["escalated"] == {"score": 2, "failure": 1}
    assert tally.to_dict()["answered"] == {"small": 4}


@pytest.mark.parametrize(("n", "loss"), [(10, 0.03), (30, 0.03), (100, 0.2)])
def test_the_interval_of_the_loss_covers_it(n: int, loss: float) -> None:
    rng, runs = np.random.default_rng(0), 300
    covered = 0
    for _ in range(runs):
        lost = Tally("large", map(record, rng.random(n) < loss)).lost
        assert lost is not None
        covered += lost[1] <= loss <= lost[2]
    assert covered >= 0.9 * runs  # of 95%, below 90% would come by chance once in some 5,000 times


def test_the_interval_of_the_loss_gets_narrow() -> None:
    mean, low, high = Tally("large", [record(float(i % 20 == 0)) for i in range(1000)]).lost or (0, 0, 0)
    assert mean == pytest.approx(0.05)
    assert high - low < 0.03
