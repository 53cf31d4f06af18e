"""A policy, and what the page of a gateway shows while one answers, made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import exeunt as ex

LIVE: dict[str, Any] = {
    "policy": "p2", "since": 1.8e9, "certificate": "Guarantee: 5 points.", "fallen_from": None, "reference": "large",
    "policies": {"p1": {"certificate": "Guarantee: 9 points.", "unfit": ""}, "p2": {"certificate": None, "unfit": ""},
                 "p3": {"certificate": None, "unfit": "policies/p3.json is not for these models"}},
    "shadow": {"models": ["small", "medium"], "spend": "1 usd/day", "share": 0.1, "audit": 0.05, "grader": "match"},
    "tally": {"n": 18_240, "cost": 41.37, "answered": {"large": 2818, "small": 13_112, "medium": 2310},
              "escalated": {"score": 4721, "failure": 37, "request": 310, "money": 2}, "audits": 902, "fewest": 10,
              "saved": [52.4, 49.8, 55.1], "lost": [0.0213, -0.004, 0.0466]},
    "evidence": {"exits": [[0, 0], [9120, 0.4], [18_240, 0.3]], "audits": [[0, 0], [451, 0.2], [902, 0.1]]},
    "alarms": [], "compared": {"compared": 897, "no money": 4, "the reference failed": 1},
    "records": {"shadow": 3010, "live": 17_338, "audit": 902}, "resting": [], "stopped": [],
    "money": {"all": {"limit": None, "most": None, "spent": 52.9, "left": None},
              "day": {"limit": "20 usd/day", "most": 20.0, "spent": 52.9, "left": 8.48},
              "shadow": {"limit": "1 usd/day", "most": 1.0, "spent": 2.205, "left": 0.795},
              "clients": {"alice": {"limit": None, "most": None, "spent": 4.2, "left": None},
                          "batch": {"limit": "5 usd", "most": 5.0, "spent": 4.99, "left": 0.01}}},
}  # fmt: skip


def made_policy() -> ex.Policy:
    """A cascade that asks large where small is not sure."""
    rng = np.random.default_rng(0)
    right = {"small": rng.random(200) < 0.8, "large": np.ones(200)}
    traces = {
        name: ex.ExitTrace.from_losses(
            rng.uniform(-1, 0, (200, 1)), 1.0 - right[name][:, None],
            cost=ex.CostModel([price], unit="usd"), id=np.arange(200),
        )
        for name, price in (("small", 1e-5), ("large", 1e-4))
    }  # fmt: skip
    fit, calibrate, _ = ex.CascadeTrace(traces).split()
    policy = ex.cascade(fit, calibrate, budget="60%", policy="eero", order=("small", "large"))
    about = {"rows": 20, "proposal": 1, "plan": 0, "question": 1, "max_loss": 0.2, "share": 0.6, "cost": 6e-5}
    return replace(policy, notes={**policy.notes, "gateway": about})
