"""A policy, and what the page of a gateway shows while one answers, made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import exeunt as ex

GUARANTEES = [
    (
        "Guarantee: with probability 95% over all looks and questions together, the long-run mean grade per request is "
        "at most 5 points below that of large. For this policy alone, with the same probability, the limit is 4 points."
    ),
    "It answers the first 5 requests of a conversation; large answers later ones, and what a model does not take.",
    (
        "Tested on 412 held-out conversations in 9 periods (proposal 3, 25% of delta), read between periods. It "
        "assumes that conversations are independent and that future ones are exchangeable with these, and that what is "
        "asked does not depend on who answered."
    ),
]
FORECAST = (
    "For a chance of 80% that the next plan of proposal 3 is certified, it takes about 2,400 more conversations (1,600 "
    "to 4,100), which is about 4 periods at the pace of the latest ones."
)
FIRST = (
    "The first proposal is made once 150 drawn units fit policies: 61 do, about half of those that were drawn and have "
    "closed. With 10% of the units drawn, that is about 1,800 more conversations, which is about 3 periods at the pace "
    "of the latest ones."
)


def limit(
    text: str | None, spent: float, left: float | None = None, *, ends: float | None = None
) -> dict[str, Any]:
    """Return a limit as the state has it."""
    most = None if text is None else float(text.split()[0])
    return {
        "limit": text,
        "most": most,
        "spent": spent,
        "left": left,
        "overdrawn": 0.0,
        "ends": ends,
        "near": False,
    }


LIVE: dict[str, Any] = {
    "policy": "p2", "since": 1.8e9, "unit": "conversation", "rows": 5, "certificate": GUARANTEES,
    "promise": {"max_loss": 0.05, "budget": None, "delta": 0.05}, "limit": 0.04, "standing": [FORECAST],
    "policies": {"p1": {"certificate": ["Guarantee: 5 points."], "unfit": ""},
                 "p2": {"certificate": GUARANTEES, "unfit": ""},
                 "p3": {"certificate": None, "unfit": "policies/p3.json is not for these models"}},
    "fallen_from": None, "reference": "large",
    "shadow": {"models": ["small", "medium"], "spend": "1 usd/day", "share": 0.1, "audit": 0.05, "grader": "match",
               "cap": None, "opted_out": "reference"},
    "bill": {"requests": 18_240, "by_policy": 15_902, "opted_out": 310, "in_units": 17_036, "guessed": 383,
             "estimated": 9_000, "refused": 0,
             "retries": 12, "cost": 41.37, "compared": 2.21,
             "answered": {"large": 5156, "small": 11_212, "medium": 1872},
             "decided": {"score": 2583, "failure": 37, "request": 310, "money": 2, "unit": 2028},
             "audits": 402, "fewest": 10, "saved": [52.4, 49.8, 55.1], "lost": [0.0213, -0.004, 0.0466],
             "lost_answered": [0.0244, -0.005, 0.0535]},
    "in_all": {"since": 1.795e9, "saved": [31.02, 28.4, 33.7], "compared": 21.38, "break_even": None,
               "told": "Since 18 Nov 2026, the first start, 31.02 usd were saved (95% interval 28.40 usd to 33.70 "
                       "usd), net of 21.38 usd for comparisons, audits and judges. These are earned back."},
    "feedback": "Feedback of clients, as mean grades: large 0.90 (8). It certifies nothing.",
    "drawing": {"probability": 0.031, "since": 1.80009e9, "units": 1204, "chosen": 39, "refused": 1, "open": 38},
    "evidence": {"exits": [[0, 0], [4060, 0.4], [8120, 0.3]], "audits": [[0, 0], [201, 0.2], [402, 0.1]]},
    "alarms": [], "compared": {"compared": 897, "no money": 4, "the reference failed": 1}, "resting": [], "stopped": [],
    "disputed": {},
    "money": {"all": limit(None, 52.9), "day": limit("20 usd/day", 52.9, 8.48, ends=1801656000.0),
              "shadow": limit("1 usd/day", 21.38, 0.795),
              "clients": {"alice": limit(None, 4.2), "batch": limit("5 usd", 4.99, 0.01)}},
}  # fmt: skip
SHADOW: dict[str, Any] = {
    **LIVE, "policy": "reference", "since": 1.795e9, "rows": 0, "certificate": None, "limit": None, "policies": {},
    "standing": [FIRST],
    "bill": {**LIVE["bill"], "requests": 3010, "by_policy": 0, "opted_out": 0, "in_units": 3010, "guessed": 0,
             "retries": 0, "cost": 0.0, "compared": 1.204, "answered": {"large": 3010}, "decided": {}, "audits": 122,
             "saved": [-1.204, -1.204, -1.204], "lost": [0.0, -0.01, 0.01], "lost_answered": None},
    "in_all": {"since": 1.795e9, "saved": [-1.204, -1.204, -1.204], "compared": 1.204, "break_even": None,
               "told": "Since 18 Nov 2026, the first start, no policy has answered, and 1.20 usd for comparisons, "
                       "audits and judges were spent."},
    "drawing": {"probability": 0.1, "since": 1.79505e9, "units": 604, "chosen": 58, "refused": 0, "open": 21},
    "evidence": {},
}  # fmt: skip
LOSING: dict[str, Any] = {
    **LIVE,
    "bill": {**LIVE["bill"], "compared": 8.4, "saved": [-1.5, -2.25, 1.0], "lost": [0.071, 0.046, 0.096],
             "lost_answered": [0.08, 0.05, 0.11]},
    "in_all": {"since": 1.795e9, "saved": [-20.67, -22.4, -18.9], "compared": 29.4, "break_even": None,
               "told": "Since 18 Nov 2026, the first start, 20.67 usd were lost (95% interval 18.90 usd to 22.40 usd), "
                       "net of 29.40 usd for comparisons, audits and judges. At this pace they are not earned back."},
    "alarms": [{"time": 1.8001e9, "policy": "p2",
                "alarm": "14 of the latest 50 comparisons have no grade, because the grader failed: losses are not "
                         "seen by audits until it works again (the log says why it fails)"}],
}  # fmt: skip


def made_policy(budget: str = "60%") -> ex.Policy:
    """A cascade that asks large where small is not sure, and answers the first request of a unit."""
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
    policy = ex.cascade(fit, calibrate, budget=budget, policy="eero", order=("small", "large"))
    about = {"rows": 20, "proposal": 1, "plan": 0, "question": 1, "max_loss": 0.2, "share": 0.6, "cost": 6e-5}
    return replace(policy, notes={**policy.notes, "gateway": about})
