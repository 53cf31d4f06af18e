"""E-detectors (Shin, Ramdas, Rinaldo 2023): evidence that something has changed at some time, for a batch at once.

Let e_1, e_2, ... be at least 0, each with mean at most 1 given those before while nothing has changed. Then
R_t = e_t (1 + R_{t-1}) grows by at most 1 on average with each input, so that an alarm at R_t >= A comes after at least
A inputs on average (optional stopping). With P_t = e_1 ... e_t it is R_t = P_t (R_0 + 1 + sum_{s<=t} 1 / P_s) - 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt._support.checked_types import check_kind
from exeunt.errors import InputError

MOST = 64
"""Inputs that are taken at a time."""
FORGETTING = 0.99
"""Factor by which recent shares are forgotten with each input: about the last 100 inputs count."""
_PRIOR = 20.0
"""How many inputs the urn's own shares count as, among recent inputs."""
LARGEST = 1e4
"""E-values are cut off here, so that no product of `MOST` of them is too large for a float."""
MOST_EVIDENCE = 1e40
"""Evidence is cut off here, far above all thresholds, while an alarm stands."""

_steps = np.arange(MOST + 1, dtype=np.float64)
_KEPT = FORGETTING**_steps
"""What is left of a weight of 1 after so many inputs, (MOST + 1,)."""
_ARRIVED = (1 - _KEPT) / (1 - FORGETTING)
"""What so many inputs weigh together, (MOST + 1,)."""
_kept, _arrived = _KEPT.tolist(), _ARRIVED.tolist()
_PRIOR_BEFORE, _ALL_BEFORE = _PRIOR / _KEPT, (_PRIOR + _ARRIVED) / _KEPT
"""What the prior, and the prior with so many inputs, weigh among weights that are not forgotten yet."""
_STATE = ("weights", "evidence")


class _State(TypedDict):
    weights: list[float]
    evidence: list[float]
    total: float
    late: float


class UrnDetectors:
    """Bets on future inputs against a Polya urn.

    `counts` (c,): calibration inputs in cells, fixed in advance. `divisions`: each names the coarser cell that a cell
    belongs to, (c,); bets are on the recent shares of these. `values` (c, v): above 0; each column is a bet that cells
    come in proportion to the urn's share times their value. `evidence` (d,): R_t of each e-detector, of the divisions
    and then of the values.

    The urn says that the next input falls into a cell with a probability in proportion to the calibration inputs there,
    one more in the last, plus the inputs seen there. A coarser cell has the sum of its cells, which is its probability
    given everything seen in them. So all of these are e-values for the same past, and the mean of their detectors is
    one.
    """

    def __init__(self, counts: Integers, divisions: Sequence[Integers], values: Floats) -> None:
        self.divisions = list(divisions)
        starts = np.cumsum([0, *(int(division.max()) + 1 for division in divisions)])
        self._last, cells = slice(starts[-2], starts[-1]), int(starts[-1])
        urn = counts.astype(np.float64)
        urn[-1] += 1
        columns = np.stack([start + division for start, division in zip(starts, divisions, strict=False)])
        # Weights lie in one row: what the urn holds of all coarser cells and values, then the recent inputs by cell.
        held = cells + values.shape[1]
        self._members = np.zeros((len(counts), held + cells))
        self._members[np.arange(len(counts)), columns] = 1.0
        self._members[:, cells:held], self._members[:, held:] = values, self._members[:, :cells]
        self._bets = slice(cells, held)
        self._before_forgetting = np.ones((MOST, held + cells))
        self._before_forgetting[:, held:] /= _KEPT[1:, None]
        self._kept = np.ones((MOST + 1, held + cells))
        self._kept[:, held:] = _KEPT[:, None]
        self._mine = np.stack([columns, held + columns])
        self._rows = np.zeros((2, len(divisions), 1), dtype=np.int64) + (held + cells) * np.arange(MOST)
        self.total = float(urn.sum())
        """What the urn holds."""
        self._sums = np.empty((MOST + 1, held + cells))
        self.weights = self._sums[0]
        """Of the urn, and of recent inputs, (held + cells,)."""
        self.weights[:] = urn @ self._members
        self.weights[held:] = 0.0
        self._safe = LARGEST * float(self.weights[:held].min() / max(1.0, values.max(initial=0.0)))
        """Up to this total no e-value is above `LARGEST`."""
        self.late = 0.0
        """The recent inputs in all cells."""
        self.evidence = np.zeros(len(divisions) + values.shape[1])

    def e_values(self, cells: Integers) -> Floats:
        """Return the e-values (d, n) of the next inputs, by their cells, and take note of them; n <= `MOST`.

        e_t = q(x_t) / urn(x_t). Of divisions, q mixes recent shares with the urn, so that it is never near 0.
        """
        n, k = len(cells), len(self.divisions)
        sums = self._sums[: n + 1]
        members = self._members.take(cells, axis=0)
        np.multiply(members, self._before_forgetting[:n], out=sums[1:])
        np.add.accumulate(sums, axis=0, out=sums)
        mine = sums.take(self._mine.take(cells, axis=2) + self._rows[..., :n])  # (2, divisions, n)
        values = np.empty((len(self.evidence), n))
        shares = np.divide(mine[1], mine[0], out=values[:k])
        np.divide(members[:, self._bets].T, sums[:n, self._bets].T, out=values[k:])
        values *= _steps[:n] + self.total
        shares += _PRIOR_BEFORE[:n]
        shares /= _ALL_BEFORE[:n] + self.late
        np.multiply(sums[n], self._kept[n], out=self.weights)
        self.late = self.late * _kept[n] + _arrived[n]
        self.total += n
        return values if self.total < self._safe else np.minimum(values, LARGEST)

    @property
    def held(self) -> Floats:
        """What the urn holds of the cells of the last division."""
        held: Floats = self.weights[self._last]
        return held

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self._members)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form of what changes with the inputs."""
        return {name: getattr(self, name).tolist() for name in _STATE} | {
            "total": self.total,
            "late": self.late,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `to_dict`. Raises InputError for the state of other cells, and for what is none."""
        check_kind(state, _State, "urn")
        for name in _STATE:
            values = np.array(state[name])
            if values.shape != getattr(self, name).shape:
                raise InputError(f"the state of a watch of other cells: {name} has shape {values.shape}")
            getattr(self, name)[:] = values
        self.total, self.late = float(state["total"]), float(state["late"])
        held = self.weights[: self._bets.stop]
        if min(self.weights.min(), self.evidence.min(), self.late) < 0 or min(held.min(), self.total) <= 0:
            raise InputError("the state of a watch holds weights above 0, and evidence of 0 or above")


def evidence_level(evidence: float, threshold: float) -> float:
    """Return evidence on a logarithmic scale, from 0; the threshold is 1."""
    return math.log1p(evidence) / math.log1p(threshold)


def evidence_after(e_values: Floats, before: Floats) -> Floats:
    """Return R_t of several e-detectors, (d, n), from e-values (d, n) and R_0 (d,)."""
    products = np.multiply.accumulate(e_values, axis=1)
    sums = np.divide(1.0, products)
    np.add.accumulate(sums, axis=1, out=sums)
    sums += (before + 1.0)[:, None]
    sums *= products
    sums -= 1.0
    return sums


_MOST = 400


class _Curve(TypedDict):
    stride: int
    peaks: list[float]


class EvidenceCurve:
    """The highest evidence of every `stride` inputs, at most `_MOST` points; the stride doubles as time goes on.

    A batch counts where it ends.
    """

    def __init__(self, stride: int = 64) -> None:
        self.stride = stride
        self.peaks: list[float] = []
        """The highest evidence of inputs 1 to stride, stride + 1 to 2 stride, and so on."""

    def add(self, n: int, peak: float) -> None:
        """Take note of the highest evidence of a batch that ends with input n, from 1."""
        while (place := (n - 1) // self.stride) >= _MOST:
            pairs = zip(self.peaks[::2], [*self.peaks[1::2], 0.0], strict=False)
            self.peaks, self.stride = [max(pair) for pair in pairs], 2 * self.stride
        while place >= len(self.peaks):
            self.peaks.append(0.0)
        if peak > self.peaks[place]:
            self.peaks[place] = peak

    @property
    def points(self) -> list[tuple[int, float]]:
        """The number of the last input of each stride, and the highest evidence in it."""
        return [((k + 1) * self.stride, peak) for k, peak in enumerate(self.peaks)]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return {"stride": self.stride, "peaks": self.peaks}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> EvidenceCurve:
        """Rebuild from `to_dict`. Raises InputError for what is no curve."""
        check_kind(body, _Curve, "curve")
        curve = cls()
        curve.stride, curve.peaks = body["stride"], list(body["peaks"])
        if curve.stride < 1 or min(curve.peaks, default=0.0) < 0:
            raise InputError("a curve has points of 0 or above, each of 1 input or more")
        return curve
