"""Whether answers lose more than was certified, by labels, grades or audits that come late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support import arrays
from exeunt._support.arrays import Floats
from exeunt._support.checked_types import check_kind
from exeunt.errors import InputError
from exeunt.policy.certificates import CERTAIN
from exeunt.watch.e_detectors import LARGEST, MOST, MOST_EVIDENCE, evidence_after

if TYPE_CHECKING:
    from exeunt.policy import LossCertificate

_STAKES = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
"""Shares of the capital that are staked on the loss being larger than certified."""
_STATE = ("n", "since", "_sum", "_capital", "_lowest")


class _State(TypedDict):
    n: int
    since: int
    _sum: float
    _capital: float
    _lowest: float
    evidence: list[float]


class LossDetector:
    """Bets that the mean of losses is above what was certified: e_t = 1 + stake * (loss_t - certified) / most.

    `certified`: the mean loss at most; `agreement`: whether losses are disagreements, which are never below 0.
    `evidence` (d,): R_t for each stake; `n`: losses so far. The mean of e_t is at most 1 while the mean loss is at most
    as certified, whatever the losses before.
    """

    def __init__(self, certified: float, *, agreement: bool = False) -> None:
        self.certified, self._agreement = certified, agreement
        self.evidence, self.n, self.since = np.zeros(len(_STAKES)), 0, 0
        self._sum = self._capital = self._lowest = 0.0

    @classmethod
    def of(cls, certificate: LossCertificate | None) -> LossDetector:
        """Return the detector for a policy's certificate. Raises InputError without a certified loss, and for a policy
        that loses nothing for certain.
        """
        if certificate is None or certificate.bound == CERTAIN:
            raise InputError(
                "losses are watched against what was certified, and this policy has no certified loss: certify one "
                "with ex.cheapest or ex.risk_controlled"
            )
        return cls(certificate.max_loss, agreement=certificate.measure == "agreement")

    def losses(self, loss: ArrayLike, reference: ArrayLike | None) -> Floats:
        """Return by how much answers lose, (n,), each in [-1, 1]. Raises InputError for anything else."""
        own = _checked(loss, "loss")
        if reference is None:
            if not self._agreement:
                raise InputError(
                    "the certificate is about the loss against that of the full network or the reference: give its "
                    "losses on the same inputs as reference="
                )
            return own
        other = _checked(reference, "reference")
        arrays.check_length(other, "reference", len(own))
        return own - other

    def update(self, losses: Floats, threshold: float) -> tuple[int, int, float] | None:
        """Take note of losses. Return the number of the one that raises an alarm, of the first since, and the mean."""
        lowest = 0.0 if self._agreement else -1.0
        unit, alarm = max(self.certified - lowest, 1 / LARGEST), None
        for start in range(0, len(losses), MOST):
            some = losses[start : start + MOST]
            bets = np.minimum(1 + _STAKES[:, None] * ((some - self.certified) / unit), LARGEST)
            evidence = evidence_after(bets, self.evidence)
            over = np.flatnonzero(evidence.mean(axis=0) >= threshold)
            end = int(over[0]) + 1 if len(over) and alarm is None else len(some)
            for part in (slice(end), slice(end, None)) if end < len(some) else (slice(None),):
                self._follow(some[part], bets[:, part])
                if len(over) and alarm is None:
                    alarm = self.n, self.since + 1, self._sum / (self.n - self.since)
            self.evidence = np.minimum(evidence[:, -1], MOST_EVIDENCE)
        return alarm

    def _follow(self, losses: Floats, bets: Floats) -> None:
        """Take note of losses. A change most likely began where the capital of the middle stake was lowest."""
        capital = self._capital + np.cumsum(np.log(bets[len(_STAKES) // 2]))
        place = int(np.argmin(capital))
        since = 0
        if capital[place] < self._lowest:
            self._lowest, self.since, self._sum, since = (
                float(capital[place]),
                self.n + place + 1,
                0.0,
                place + 1,
            )
        self._sum += float(losses[since:].sum())
        self._capital = float(capital[-1])
        self.n += len(losses)

    def restart(self) -> None:
        """Begin anew with the next loss."""
        self.evidence, self.since = np.zeros(len(_STAKES)), self.n
        self._sum = self._capital = self._lowest = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form of the state."""
        return {name: getattr(self, name) for name in _STATE} | {"evidence": self.evidence.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `to_dict`. Raises InputError for what is no such state."""
        check_kind(state, _State, "losses")
        if len(state["evidence"]) != len(_STAKES) or min(state["evidence"]) < 0:
            raise InputError(f"the state of losses has {len(_STAKES)} amounts of evidence of 0 or above")
        if not 0 <= state["since"] <= state["n"]:
            raise InputError(f"losses since number {state['since']} are among {state['n']}")
        for name in _STATE:
            setattr(self, name, state[name])
        self.evidence = np.array(state["evidence"], dtype=np.float64)


def _checked(loss: ArrayLike, name: str) -> Floats:
    values = arrays.floats(loss, name, ndim=1)
    if len(values) and not 0 <= values.min() <= values.max() <= 1:
        raise InputError(
            f"{name} must lie in [0, 1], 1 being a wrong answer, got {values.min():g} to {values.max():g}"
        )
    return values
