"""The evidence of a watch over time, as few points as a picture needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from exeunt._support.checked_types import check_kind
from exeunt.errors import InputError

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
