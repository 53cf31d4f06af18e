"""What files hold, mutated: what reads it says exactly what stands there, or refuses it in a line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import exeunt as ex
from exeunt._support.files import parse_json
from exeunt._support.sealed_json import built
from exeunt.costs.cost_model import CostModel
from exeunt.data.splits import PartRows, SplitPlan
from exeunt.engine.plan import Plan
from exeunt.errors import ArtefactError
from exeunt.policy import Policy
from exeunt.watch import Watch
from mutated_json import mutated

N = 200
KINDS = ("policy", "certified policy", "costs", "split", "watch", "plan")


@pytest.fixture(scope="module")
def written(parts) -> dict[str, tuple[Any, Any]]:
    """By kind, what is written and what reads that."""
    fit, calibrate, _ = parts
    policy, rows = ex.eero(fit, calibrate, budget="60%"), PartRows.of("train", 9, np.array([0, 2, 5]))
    watch = Watch(policy)
    watch.update(np.zeros(9, dtype=int), np.full(9, 0.9), np.full(9, 0.9))
    facts = {"source": "mine", "fingerprint": "0", "seed": 0, "pretrained": False, "matched_by": "content"}
    split = SplitPlan(**facts, dropped=0, parts={"fit": rows})
    plan = Plan("eager", ((0, 0), (1, 2)), (64, 64), (8, 16), ((2, 4), (2, 4)))
    return {
        "policy": (policy, Policy.from_dict),
        "certified policy": (ex.cheapest(fit, calibrate, max_loss=0.5), Policy.from_dict),
        "costs": (CostModel([1.0, 2.0, 3.5], heads=[0.5, 0.5, 0.5]), CostModel.from_dict),
        "split": (split, SplitPlan.from_dict),
        "watch": (watch, lambda body: Watch.from_dict(body, policy)),
        "plan": (plan, Plan.from_dict),
    }


def says(read: Any, body: Any) -> bool:
    """Whether what was read is what stands in a file. It may have more, which older files lack."""
    if isinstance(body, dict):
        return isinstance(read, dict) and all(key in read and says(read[key], body[key]) for key in body)
    if isinstance(body, list):
        return isinstance(read, list | tuple) and len(read) == len(body) and all(map(says, read, body))
    if type(read) is float and type(body) is int:
        return read == float(body)
    return (type(read) is type(body) or (type(read), type(body)) == (int, float)) and read == body


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("plan", {"machine": 0.5}, "machine must be values by name"),
        ("plan", {"piece": [64, "64"]}, r"piece\[1\] cannot be '64': it would be read as 64"),
        ("policy", {"n_calibration": True}, "n_calibration must be a whole number"),
        ("policy", {"counts": [800, None, 0, 0]}, "counts must be"),
        ("policy", {"cascade": [["first", 1, None]]}, "the steps of the cascade have 1 exits"),
        ("costs", {"heads": None}, "heads must be a list"),
        ("costs", {"headss": [0.5, 0.5, 0.5]}, "cost has 'headss'"),
        ("split", {"seed": "0"}, "seed must be a whole number"),
        ("watch", {"n": 2.5}, "n must be a whole number"),
    ],
)
def test_a_value_of_another_kind_is_named(written, kind, changes, reason):
    whole, read = written[kind]
    with pytest.raises(ex.InputError, match=reason):
        read({**whole.to_dict(), **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_values_are_refused_in_a_line_or_read_as_they_stand(written, kind):
    (whole, read), rng, refused, read_n = written[kind], np.random.default_rng(61), 0, 0

    def of_text(text: str) -> Any:
        return read(parse_json(text, finite=True))

    assert says(read(whole.to_dict()).to_dict(), whole.to_dict())
    for _ in range(N):
        how, body = mutated(whole.to_dict(), rng)
        try:
            found = built("file.json", json.dumps(body), of_text, kind=kind, remedy="make it anew")
        except ArtefactError as error:
            refused += "\n" not in str(error)
            continue
        read_n += 1
        assert says(found.to_dict(), body), how
        assert str(found), how
    assert refused > N / 3
    assert refused + read_n == N
