"""E-detectors (Shin, Ramdas, Rinaldo 2023): evidence that something has changed at some time, for a batch at once.

Let e_1, e_2, ... be at least 0, each with mean at most 1 given those before while nothing has changed. Then
R_t = e_t (1 + R_{t-1}) grows by at most 1 on average with each input, so that an alarm at R_t >= A comes after at least
A inputs on average (optional stopping). With P_t = e_1 ... e_t it is R_t = P_t (R_0 + sum_{s<=t} 1 / P_{s-1}).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exeunt._arrays import Floats, Integers
from exeunt.errors import InputError

MOST = 64
"""Inputs that are taken at a time."""
FORGETTING = np.array([0.99, 0.997])
"""Factors by which recent shares are forgotten with each input: about the last 100 and 330 inputs count."""
_PRIOR = 20.0
"""How many inputs the urn's own shares count as, among recent inputs."""
LARGEST = 1e4
"""E-values are cut off here, so that no product of `MOST` of them is too large for a float."""
MOST_EVIDENCE = 1e40
"""Evidence is cut off here, far above all thresholds, while an alarm stands."""

_steps = np.arange(MOST + 1, dtype=np.float64)
_WEIGHTS = np.append([1.0], FORGETTING) ** -_steps[1:, None]
"""Before they are forgotten, what inputs of a batch weigh, (MOST, 1 + g): in the urn, and among recent inputs."""
_KEPT = FORGETTING ** _steps[:, None]
"""What is left of a weight of 1 after so many inputs, (MOST + 1, g)."""
_ARRIVED = (1 - _KEPT) / (1 - FORGETTING)
"""What so many inputs weigh together, (MOST + 1, g)."""
_PRIOR_BEFORE, _ALL_BEFORE = _PRIOR / _KEPT, (_PRIOR + _ARRIVED) / _KEPT
"""What the prior, and the prior with so many inputs, weigh among weights that are not forgotten yet."""
_MOST_AT_STAKE = 0.9
"""A bet on the mean rank loses at most this share."""
_STATE = ("weights", "late", "evidence")


class UrnDetectors:
    """Bets on recent inputs against a Polya urn.

    `counts` (c,): calibration inputs in cells, fixed in advance, and in an order: by how sure the exits are.
    `divisions`: each names the coarser cell that a cell belongs to, (c,); bets are on the shares of these. `ranked`:
    also bet on the mean rank in the order. `evidence` (d,): R_t of each e-detector, one for each bet and factor of
    `FORGETTING`.

    The urn says that the next input falls into a cell with a probability in proportion to the calibration inputs there,
    one more in the last, plus the inputs seen there. A coarser cell has the sum of its cells, which is its probability
    given everything seen in them. So all of these are e-values for the same past, and the mean of their detectors is
    one.
    """

    def __init__(self, counts: Integers, divisions: Sequence[Integers], *, ranked: bool = False) -> None:
        self.divisions, self._ranked = list(divisions), ranked
        sizes = [int(one.max()) + 1 for one in divisions]
        starts, kinds = np.cumsum([0, *sizes]), 1 + len(FORGETTING)
        self._last = slice(starts[-2], starts[-1])
        urn = counts.astype(np.float64)
        urn[-1] += 1
        shares = urn / urn.sum()
        self._ranks = np.cumsum(shares) - shares / 2
        self._variance = max(float(shares @ self._ranks**2) - 0.25, 1e-9)
        columns = np.stack([start + one for start, one in zip(starts, divisions, strict=False)], axis=1)
        members = np.zeros((len(counts), starts[-1] + ranked))
        if ranked:
            members[:, -1] = self._ranks
        members[np.arange(len(counts))[:, None], columns] = 1.0
        width = members.shape[1]
        # Weights lie in one row: of all cells (and of ranks) in the urn, then of all cells by each factor.
        self._members = np.tile(members, kinds)
        self._per_column = np.repeat(_WEIGHTS, width, axis=1)
        self._kept = np.repeat(np.column_stack([np.ones(MOST + 1), _KEPT]), width, axis=1)
        self._mine = columns[:, None, :] + width * np.arange(kinds)[:, None]
        self._rows = (kinds * width) * np.arange(MOST)[:, None, None]
        self.total = float(urn.sum())
        """What the urn holds."""
        self._safe = LARGEST * float((urn @ members)[: starts[-1]].min())
        """Up to this total no e-value is above `LARGEST`."""
        self.weights = np.append(urn @ members, np.zeros((kinds - 1) * width))
        """Of the cells, ((1 + g) * cells,): what the urn holds of each, and the recent inputs in each, by factor."""
        self.late = np.zeros(len(FORGETTING))
        """The recent inputs in all cells, (g,)."""
        self.evidence = np.zeros(len(FORGETTING) * (len(divisions) + ranked))

    def e_values(self, cells: Integers) -> Floats:
        """Return the e-values (n, d) of the next inputs, by their cells, and take note of them; n <= `MOST`.

        e_t = q(x_t) / urn(x_t), where q mixes recent shares with the urn, so that it is never near 0.
        """
        n = len(cells)
        sums = np.empty((n + 1, len(self.weights)))
        sums[0] = self.weights
        np.multiply(self._members.take(cells, axis=0), self._per_column[:n], out=sums[1:])
        np.add.accumulate(sums, axis=0, out=sums)
        mine = sums.take(self._mine.take(cells, axis=0) + self._rows[:n])  # (n, 1 + g, divisions)
        total, late = self.total + _steps[:n, None], _ALL_BEFORE[:n] + self.late
        found: Floats = mine[:, 1:] / mine[:, :1]
        found *= total[:, :, None]
        found += _PRIOR_BEFORE[:n, :, None]
        found /= late[:, :, None]
        found = found.reshape(n, -1)
        if self._ranked:
            found = np.concatenate([found, self._by_rank(sums[:n], cells, total, late)], axis=1)
        self.weights = sums[n] * self._kept[n]
        self.late = self.late * _KEPT[n] + _ARRIVED[n]
        self.total += n
        return found if self.total < self._safe else np.minimum(found, LARGEST)

    def _by_rank(self, sums: Floats, cells: Integers, total: Floats, late: Floats) -> Floats:
        """Return the e-values (n, g) of bets on the mean rank: e_t = 1 + stake_t * (rank(x_t) - its mean in the urn).

        The stake is what would grow fastest for a small shift of the mean, the recent one.
        """
        n = len(cells)
        moments = sums.reshape(n, 1 + len(FORGETTING), -1)[:, :, -1]
        mean = moments[:, :1] / total
        stake = (moments[:, 1:] - mean * (late - _PRIOR_BEFORE[:n])) / (late * self._variance)
        most = _MOST_AT_STAKE / np.maximum(mean, 1 - mean)
        found: Floats = 1 + np.clip(stake, -most, most) * (self._ranks.take(cells)[:, None] - mean)
        return found

    @property
    def held(self) -> Floats:
        """What the urn holds of the cells of the last division."""
        held: Floats = self.weights[self._last]
        return held

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form of what changes with the inputs."""
        return {name: getattr(self, name).tolist() for name in _STATE} | {"total": self.total}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `to_dict`. Raises InputError for the state of other cells."""
        for name in _STATE:
            values = np.array(state[name], dtype=np.float64)
            if values.shape != getattr(self, name).shape:
                raise InputError(f"the state of a watch of other cells: {name} has shape {values.shape}")
            setattr(self, name, values)
        self.total = float(state["total"])


def evidence_level(evidence: float, threshold: float) -> float:
    """Return evidence on a logarithmic scale, from 0; the threshold is 1."""
    return math.log1p(evidence) / math.log1p(threshold)


def evidence_after(e_values: Floats, before: Floats) -> Floats:
    """Return R_t of several e-detectors, (n, d), from e-values (n, d) and R_0 (d,)."""
    products = np.multiply.accumulate(e_values, axis=0)
    terms = np.empty_like(products)
    terms[0] = before + 1.0
    np.divide(1.0, products[:-1], out=terms[1:])
    np.add.accumulate(terms, axis=0, out=terms)
    terms *= products
    return terms
