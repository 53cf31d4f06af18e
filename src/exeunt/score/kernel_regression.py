"""How good models' answers will be, predicted from features of the input.

A mixture of two predictions: ridge regression with a Gaussian kernel, and what held around the nearest inputs. It can
tell when no input is like a new one.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Floats, Integers
from exeunt._support.text import counted
from exeunt.errors import InputError

_LANDMARKS = 1_000
_PENALTIES = (1.0, 3.0, 10.0, 30.0)
_NEAREST, _AROUND = 10, 40
"""How many landmarks around an input count, and how many inputs around a landmark."""
_WORSE = 0.01
"""Local means have half of the weight, unless they make the differences between models' errors larger by this."""
_APART = 5
"""One input in so many chooses the penalty."""
_UNLIKE = 0.005
"""The share of inputs like those learned from that may be called unlike them."""


@dataclass(frozen=True, eq=False)
class KernelRegression:
    """q numbers per input: mean + K @ weights, K = exp(-2 |z - landmark|^2 / d), of d standardised features z.

    They are mixed with the mean of `around` over the nearest landmarks, which has the weight `share`.

    `landmarks` (r, d): inputs that were learned from, standardised by `centre` and `scale` (d,). `weights` (r, q),
    `mean` (q,). `around` (r, q): means over the inputs nearest to each landmark. `least`: inputs whose highest K is
    below it are like none that was learned from.
    """

    landmarks: NDArray[np.float32]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    mean: NDArray[np.float32]
    around: NDArray[np.float32]
    share: float
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
        distance, target = _distance(z, landmarks), values[order] - mean
        kernel = np.exp(-distance)
        among = kernel[chosen] + 1e-6 * np.eye(len(landmarks))

        def solved(rows: Any, *penalties: float) -> list[Floats]:
            gram, moments = kernel[rows].T @ kernel[rows], kernel[rows].T @ target[rows]
            return [np.linalg.solve(gram + penalty * among, moments) for penalty in penalties]

        def around(rows: Any) -> Floats:
            means: Floats = target[rows][_nearest(distance[rows].T, _AROUND)].mean(axis=1)
            return means

        def loss(predicted: Floats) -> float:
            error = predicted - target[apart]
            return float(((error - error.mean(axis=1, keepdims=True)) ** 2).sum())

        predicted = [kernel[apart] @ solution for solution in solved(~apart, *_PENALTIES)]
        best = int(np.argmin([((prediction - target[apart]) ** 2).sum() for prediction in predicted]))
        near = around(~apart)[_nearest(distance[apart], _NEAREST)].mean(axis=1)
        share = 0.5 if loss((predicted[best] + near) / 2) < loss(predicted[best]) * (1 + _WORSE) else 0.0
        (learned,) = solved(slice(None), _PENALTIES[best])
        local = mean + around(slice(None))
        kernel[chosen, np.arange(len(chosen))] = 0.0  # each is like itself
        least = float(np.quantile(kernel.max(axis=1), _UNLIKE))
        arrays = {
            "landmarks": landmarks,
            "centre": centre,
            "scale": scale,
            "weights": learned,
            "mean": mean,
            "around": local,
        }
        return cls(
            **{name: array.astype(np.float32) for name, array in arrays.items()}, share=share, least=least
        )

    def __call__(self, features: Any) -> tuple[Floats, Any]:
        """Return the predictions (rows, q) for features (rows, d), and which inputs are like none learned from.

        An input with a NaN is like none. Raises InputError for another number of features.
        """
        if features.shape[1] != len(self.centre) and not np.isnan(features).all():
            raise InputError(
                f"this router looks at {counted(len(self.centre), 'feature')} of an input, got {features.shape[1]}: "
                "give those that it has learned from"
            )
        distance = _distance((features - self.centre) / self.scale, self.landmarks)
        distance = np.nan_to_num(distance, nan=np.inf, posinf=np.inf)
        kernel = np.exp(-distance)
        predicted = kernel @ self.weights + self.mean
        predicted += self.share * (self.around[_nearest(distance, _NEAREST)].mean(axis=1) - predicted)
        return predicted.astype(np.float64), kernel.max(axis=1) < self.least

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same predictions to the last bit."""
        return {
            "share": self.share,
            "least": self.least,
            **{name: _packed(getattr(self, name)) for name in _ARRAYS},
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> KernelRegression:
        """Rebuild a regression from `to_dict`."""
        return cls(
            **{name: _unpacked(body[name]) for name in _ARRAYS},
            share=float(body["share"]),
            least=float(body["least"]),
        )


_ARRAYS = ("landmarks", "centre", "scale", "weights", "mean", "around")


def _nearest(distance: Any, k: int) -> Integers:
    """Return the places of the k smallest values in each row; all, if there are fewer."""
    places = np.arange(distance.shape[1])
    if distance.shape[1] <= k:
        return np.broadcast_to(places, distance.shape)
    # Of equal ones the first: a product of matrices is rounded in another way for each number of rows.
    return np.argpartition(np.round(distance, 9) + 1e-9 * places / len(places), k - 1, axis=1)[:, :k]


def _distance(z: Any, landmarks: Any) -> Floats:
    """Return 2 |z - landmark|^2 / d."""
    z, landmarks = z.astype(np.float64), landmarks.astype(np.float64)
    squares = np.einsum("nd,nd->n", z, z)[:, None] + np.einsum("rd,rd->r", landmarks, landmarks)
    distances: Floats = (squares - 2 * (z @ landmarks.T)).clip(0.0) * (2 / z.shape[1])
    return distances


def _packed(array: NDArray[np.float32]) -> dict[str, Any]:
    return {"shape": list(array.shape), "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def _unpacked(body: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(body["float32"]), "<f4").reshape(body["shape"])
