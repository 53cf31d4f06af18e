"""The fields of a policy from its file, also from one that an earlier version wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.answer import OwnAnswer, answer_from_dict
from exeunt.calibration import Thresholds
from exeunt.costs import CostModel
from exeunt.law.spend_law import SpendLaw
from exeunt.policy.spend_certificate import Certificate
from exeunt.score.kinds import score_from_dict
from exeunt.trace.links import Link

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["fields_of"]

_RENAMED = {"told": "text", "worth": "most_useful_spend"}


def fields_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Policy` from its `to_dict`; KeyError, TypeError or InputError for anything else."""
    cost = CostModel.from_dict(body["cost"])
    counts = None if body["counts"] is None else np.array(body["counts"], dtype=np.int64)
    used = body["n_exits_used"]
    law = None if counts is None or used is None else SpendLaw(counts[:used], cost.cumulative[:used])
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
        "law": law,
        "certificate": None if body["certificate"] is None else Certificate(**body["certificate"]),
        "notes": _renewed(body["notes"]),
        "run": body.get("run"),
        "answer": answer_from_dict(body["answer"]) if "answer" in body else OwnAnswer(),
        "chain": tuple(Link(member, exits) for member, exits in body.get("chain", ())),
        "calibration_cost": body.get("calibration_cost"),
    }


def _renewed(notes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return notes in the names of today; that of `auto` had others until 0.1."""
    if "auto" not in notes:
        return notes
    return {**notes, "auto": {_RENAMED.get(key, key): value for key, value in notes["auto"].items()}}
