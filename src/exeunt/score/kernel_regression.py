"""How good models' answers will be, predicted from features of the input: ridge regression with a Gaussian kernel.

Like nearest neighbours it follows the inputs around a new one, and it can tell when none of them is like it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Floats

_LANDMARKS = 1_000
_PENALTIES = (1.0, 3.0, 10.0, 30.0)
_APART = 5
"""One input in so many chooses the penalty."""
_UNLIKE = 0.005
"""The share of inputs like those learned from that may be called unlike them."""


@dataclass(frozen=True, eq=False)
class KernelRegression:
    """q numbers per input: mean + K @ weights, K = exp(-2 |z - landmark|^2 / d), of d standardised features z.

    `landmarks` (r, d): inputs that were learned from, standardised by `centre` and `scale` (d,). `weights` (r, q),
    `mean` (q,). `least`: inputs whose highest K is below it are like none that was learned from.
    """

    landmarks: NDArray[np.float32]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    mean: NDArray[np.float32]
    least: float

    @classmethod
    def fit(cls, features: Floats, values: Floats, seed: int) -> KernelRegression:
        """Learn to predict `values` (n, q) from `features` (n, d)."""
        centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        order = np.random.default_rng(seed).permutation(len(features))
        z = ((features - centre) / scale)[order]
        apart, mean = np.arange(len(z)) % _APART == 0, values.mean(axis=0)
        chosen = np.flatnonzero(~apart)[:_LANDMARKS]
        landmarks = z[chosen]
        kernel, target = _kernel(z, landmarks).astype(np.float64), values[order] - mean
        among = _kernel(landmarks, landmarks).astype(np.float64) + 1e-6 * np.eye(len(landmarks))

        def solved(rows: Any, *penalties: float) -> list[Floats]:
            gram, moments = kernel[rows].T @ kernel[rows], kernel[rows].T @ target[rows]
            return [np.linalg.solve(gram + penalty * among, moments) for penalty in penalties]

        losses = [((kernel[apart] @ one - target[apart]) ** 2).sum() for one in solved(~apart, *_PENALTIES)]
        (learned,) = solved(slice(None), _PENALTIES[int(np.argmin(losses))])
        kernel[chosen, np.arange(len(chosen))] = 0.0  # each is like itself
        least = float(np.quantile(kernel.max(axis=1), _UNLIKE))
        found = {"landmarks": landmarks, "centre": centre, "scale": scale, "weights": learned, "mean": mean}
        return cls(**{name: array.astype(np.float32) for name, array in found.items()}, least=least)

    def __call__(self, features: Any) -> tuple[Floats, Any]:
        """Return the predictions (rows, q) for features (rows, d), and which inputs are like none learned from.

        An input with a NaN is like none, and has the mean.
        """
        kernel = np.nan_to_num(_kernel((features - self.centre) / self.scale, self.landmarks))
        return (kernel @ self.weights + self.mean).astype(np.float64), kernel.max(axis=1) < self.least

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same predictions to the last bit."""
        return {
            "least": self.least,
            **{name: _packed(getattr(self, name)) for name in _ARRAYS},
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> KernelRegression:
        """Rebuild a regression from `to_dict`."""
        return cls(**{name: _unpacked(body[name]) for name in _ARRAYS}, least=float(body["least"]))


_ARRAYS = ("landmarks", "centre", "scale", "weights", "mean")


def _kernel(z: Any, landmarks: Any) -> NDArray[np.float32]:
    z = z.astype(np.float32)
    squares = np.einsum("nd,nd->n", z, z)[:, None] + np.einsum("rd,rd->r", landmarks, landmarks)
    distance = squares - 2 * (z @ landmarks.T.astype(np.float32))
    found: NDArray[np.float32] = np.exp(distance.clip(0.0) * np.float32(-2 / z.shape[1]))
    return found


def _packed(array: NDArray[np.float32]) -> dict[str, Any]:
    return {"shape": list(array.shape), "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def _unpacked(body: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(body["float32"]), "<f4").reshape(body["shape"])
