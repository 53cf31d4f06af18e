"""The JSON form of a policy. Floats are written so that they read back bit for bit; infinities as words.

A digest over the content tells a truncated or edited file from a whole one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._sealed import read_sealed, write_sealed
from exeunt.calibration import Thresholds
from exeunt.costs import CostModel
from exeunt.errors import ArtefactError, InputError
from exeunt.law.spend_law import SpendLaw
from exeunt.planning import Certificate
from exeunt.policy import Policy
from exeunt.score_kinds import score_from_dict

if TYPE_CHECKING:
    from pathlib import Path

    from exeunt._arrays import Floats

__all__ = ["load_policy", "policy_from_dict", "policy_to_dict", "save_policy"]

_FORMAT, _VERSION = "exeunt-policy", 1
_WORDS = {math.inf: "never", -math.inf: "always"}
_NUMBERS = {word: number for number, word in _WORDS.items()}


def save_policy(policy: Policy, path: str | Path) -> None:
    """Write a policy as JSON, atomically."""
    write_sealed(path, "policy", policy_to_dict(policy), format_=_FORMAT, version=_VERSION)


def load_policy(path: str | Path) -> Policy:
    """Read a policy, or raise ArtefactError saying what is wrong with the file."""
    body = read_sealed(
        path, "policy", kind="policy", format_=_FORMAT, version=_VERSION, remedy="calibrate again"
    )
    try:
        return policy_from_dict(body)
    except (KeyError, TypeError, InputError) as error:
        raise ArtefactError(f"{path} cannot be read as a policy: {error!r}") from error


def policy_to_dict(policy: Policy) -> dict[str, Any]:
    """Return a JSON-able form of everything in a policy."""
    law, certificate = policy.law, policy.certificate
    return {
        "name": policy.name,
        "score": policy.score.to_dict(),
        "rates": policy.rates.tolist(),
        "thresholds": {"score": _words(policy.limits.score), "tie": _words(policy.limits.tie)},
        "cost": policy.cost.to_dict(),
        "budget": policy.budget,
        "calibration": policy.calibration,
        "n_calibration": policy.n_calibration,
        "seed": policy.seed,
        "counts": None if policy.counts is None else policy.counts.tolist(),
        "n_exits_used": None if law is None else len(law.counts),
        "certificate": None if certificate is None else certificate.to_dict(),
        "notes": dict(policy.notes),
    }


def policy_from_dict(body: dict[str, Any]) -> Policy:
    """Rebuild a policy from `policy_to_dict`."""
    cost = CostModel.from_dict(body["cost"])
    counts = None if body["counts"] is None else np.array(body["counts"], dtype=np.int64)
    used, law = body["n_exits_used"], None
    if counts is not None and used is not None:
        law = SpendLaw(counts[:used], cost.cumulative[:used])
    limits = body["thresholds"]
    return Policy(
        name=body["name"],
        score=score_from_dict(body["score"]),
        rates=np.array(body["rates"], dtype=np.float64),
        limits=Thresholds(_numbers(limits["score"]), _numbers(limits["tie"])),
        cost=cost,
        budget=body["budget"],
        calibration=body["calibration"],
        n_calibration=body["n_calibration"],
        seed=body["seed"],
        counts=counts,
        law=law,
        certificate=None if body["certificate"] is None else Certificate(**body["certificate"]),
        notes=body["notes"],
    )


def _words(values: Floats) -> list[float | str]:
    return [_WORDS.get(value, value) for value in values.tolist()]


def _numbers(values: list[float | str]) -> Floats:
    return np.array([_NUMBERS[v] if isinstance(v, str) else v for v in values], dtype=np.float64)
