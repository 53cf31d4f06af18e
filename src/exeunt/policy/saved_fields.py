"""The fields of a policy from its file, also from one that an earlier version wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from exeunt.answer import OwnAnswer, answer_from_dict
from exeunt.calibration import Thresholds
from exeunt.costs import CostModel
from exeunt.mean_cost.distribution import MeanCostDistribution
from exeunt.policy.cost_certificate import Certificate
from exeunt.score.kinds import score_from_dict
from exeunt.trace.cascade_step import CascadeStep

__all__ = ["fields_of"]

_RENAMED = {"told": "text", "worth": "most_useful_spend"}


def fields_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Policy` from its `to_dict`; KeyError, TypeError or InputError for anything else."""
    cost = CostModel.from_dict(body["cost"])
    counts = None if body["counts"] is None else np.array(body["counts"], dtype=np.int64)
    used = body["n_exits_used"]
    distribution = (
        None
        if counts is None or used is None
        else MeanCostDistribution(counts[:used], cost.cumulative[:used])
    )
    return {
        "name": body["name"],
        "score": score_from_dict(body["score"]),
        "rates": np.array(body["rates"], dtype=np.float64),
        "limits": Thresholds.from_dict(body["thresholds"]),
        "cost": cost,
        "budget": body["budget"],
        "calibration": body["calibration"],
        "n_calibration": body["n_calibration"],
        "seed": body["seed"],
        "counts": counts,
        "distribution": distribution,
        "certificate": None if body["certificate"] is None else Certificate(**body["certificate"]),
        "notes": _renewed(body["notes"]),
        "run": body.get("run"),
        "answer": answer_from_dict(body["answer"]) if "answer" in body else OwnAnswer(),
        "cascade": tuple(CascadeStep(model, exits) for model, exits in body.get("cascade", ())),
        "calibration_cost": body.get("calibration_cost"),
    }


def _renewed(notes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return notes in the names of today; that of `auto` had others until 0.1."""
    if "auto" not in notes:
        return notes
    return {**notes, "auto": {_RENAMED.get(key, key): value for key, value in notes["auto"].items()}}
