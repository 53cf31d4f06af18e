"""How good models' answers will be, predicted from features of the input.

A mixture of two predictions: ridge regression with a Gaussian kernel, and what held around the input. It can tell when
no input is like a new one.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Floats, Integers
from exeunt._support.text import counted
from exeunt.errors import InputError

_LANDMARKS, _CENTRES, _FEW_CENTRES = 4_096, 1_000, 300
"""How many inputs are kept at most, how many of them are centres of the kernel, and of one that chooses the scaling."""
_PENALTIES = (1.0, 3.0, 10.0, 30.0)
_NEAREST, _LEAST_NEAREST, _FADING = 60, 10, 2.0
"""How many inputs around one count, a tenth where there are few, in how many landmarks at least; their weights are
exp(-2 distance / mean distance)."""
_SHARES, _WORSE = (0.0, 0.5), 0.01
"""The weight of local means: half, unless they make the differences between models' errors larger by this."""
_FLOOR = 0.1
"""The weight of features that go with no value, where they are weighed: inputs may be unlike others by these alone."""
_APART = 5
"""One input in so many chooses how inputs are compared, and the penalty."""
_UNLIKE = 0.001
"""The share of inputs like those learned from that may be called unlike them."""
_FAR = 1e200
"""The distance of an input with a NaN: finite, so that means over the nearest are."""


class _Scaling(NamedTuple):
    """How features become z (n, d): less `centre`, divided by `scale`; with `direction` of the length sqrt(d)."""

    centre: Any
    scale: Any
    direction: bool

    def __call__(self, features: Any) -> tuple[Floats, Floats]:
        """Return z (n, d), and its lengths (n,) before they are made equal."""
        z: Floats = (features - self.centre) / self.scale
        length = np.sqrt(np.einsum("nd,nd->n", z, z))
        if self.direction:
            z = z * (z.shape[1] ** 0.5 / np.maximum(length, 1e-9))[:, None]
        return z, length


@dataclass(frozen=True, eq=False)
class KernelRegression:
    """q numbers per input: mean + K @ weights, K = exp(-2 |z - landmark|^2 / d), of d scaled features z.

    They are mixed with the mean of `around` over the `nearest` landmarks, the closer the more, which has the weight
    `share`.

    `landmarks` (r, d): inputs that were learned from, scaled by `centre` and `scale` (d,), and with `direction` to one
    length, as embeddings are compared. `weights` (c, q) of the first c landmarks, `mean` (q,). `around` (r, q): the
    values of the landmarks, or where there are more inputs means over those nearest to each. An input whose highest K
    is below `least`, or that is longer than `longest`, is like none that was learned from.
    """

    landmarks: NDArray[np.float32]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    mean: NDArray[np.float32]
    around: NDArray[np.float32]
    direction: bool
    nearest: int
    share: float
    least: float
    longest: float

    @classmethod
    def fit(cls, features: Floats, values: Floats, seed: int) -> KernelRegression:
        """Learn to predict `values` (n, q) from `features` (n, d)."""
        order = np.random.default_rng(seed).permutation(len(features))
        features, mean = features[order], values.mean(axis=0)
        target = values[order] - mean
        end = len(order) - len(order) // _APART
        learn, apart = slice(end), slice(end, None)

        def loss(predicted: Floats) -> float:
            error = predicted - target[apart]
            return float(((error - error.mean(axis=1, keepdims=True)) ** 2).sum())

        def judged(z: Floats, n_centres: int) -> tuple[float, float, float]:
            """Return the loss on inputs set apart, and the penalty and the share that give it."""
            kernel, solved = _ridge(z, target, n_centres)
            predicted = [kernel[apart] @ solution for solution in solved(learn, *_PENALTIES)]
            landmarks, around, nearest = _landmarks(z[learn], target[learn])
            local = _mean_around(_distance(z[apart], landmarks), around, nearest)
            judged_ways = [
                (loss((1 - share) * ridge + share * local) * (1.0 if share else 1 + _WORSE), penalty, share)
                for penalty, ridge in zip(_PENALTIES, predicted, strict=True)
                for share in _SHARES
            ]
            return min(judged_ways)

        scalings = _scalings(features, target, learn)
        chosen = min(scalings, key=lambda scaling: judged(scaling(features)[0], _FEW_CENTRES)[0])
        z, length = chosen(features)
        _, penalty, share = judged(z, _CENTRES)
        kernel, solved = _ridge(z, target, _CENTRES)
        (learned,) = solved(slice(None), penalty)
        np.fill_diagonal(kernel, 0.0)  # each centre is like itself
        landmarks, around, nearest = _landmarks(z, target)
        arrays = {
            "landmarks": landmarks,
            "centre": chosen.centre,
            "scale": chosen.scale,
            "weights": learned,
            "mean": mean,
            "around": mean + around,
        }
        return cls(
            **{name: array.astype(np.float32) for name, array in arrays.items()},
            direction=chosen.direction,
            nearest=nearest,
            share=share,
            least=float(np.quantile(kernel.max(axis=1), _UNLIKE)),
            longest=float(length.max()),
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
        z, length = _Scaling(self.centre, self.scale, self.direction)(features)
        distance = np.nan_to_num(_distance(z, self._landmarks), nan=_FAR, posinf=_FAR)
        kernel = np.exp(-distance[:, : len(self.weights)])
        predicted = kernel @ self.weights + self.mean
        if self.share:
            predicted += self.share * (_mean_around(distance, self.around, self.nearest) - predicted)
        # Rounded: a product of matrices is rounded in another way for each number of rows.
        unlike = (np.round(kernel.max(axis=1), 9) < round(self.least, 9)) | (
            self.direction & (length > self.longest)
        )
        return predicted.astype(np.float64), unlike

    @cached_property
    def _landmarks(self) -> Floats:
        return self.landmarks.astype(np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back the same predictions to the last bit."""
        return {
            **{name: getattr(self, name) for name in _NUMBERS},
            **{name: _packed(getattr(self, name)) for name in _ARRAYS},
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> KernelRegression:
        """Rebuild a regression from `to_dict`."""
        arrays: dict[str, Any] = {name: _unpacked(body[name]) for name in _ARRAYS}
        return cls(
            **arrays,
            **{name: type_(body[name]) for name, type_ in _NUMBERS.items()},
        )


_ARRAYS = ("landmarks", "centre", "scale", "weights", "mean", "around")
_NUMBERS: dict[str, Any] = {
    "direction": bool,
    "nearest": int,
    "share": float,
    "least": float,
    "longest": float,
}


def _scalings(features: Floats, target: Floats, learn: slice) -> list[_Scaling]:
    """Return ways to compare inputs: all features alike or more by those that go with the values, by length or not."""
    centre, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    z, y = (features[learn] - centre) / deviation, target[learn]
    correlation = z.T @ y / (len(y) * (y.std(axis=0) + 1e-9))
    told = (correlation**2).mean(axis=1)
    weight = np.sqrt((_FLOOR + told / max(float(told.mean()), 1e-12)) / (_FLOOR + 1))
    return [
        _Scaling(centre, scale, direction)
        for scale in (deviation, deviation / weight)
        for direction in (False, True)
    ]


def _ridge(z: Floats, target: Floats, n_centres: int) -> tuple[Floats, Callable[..., list[Any]]]:
    """Return the kernel (n, c) of inputs and centres, and a function of rows and penalties that returns weights."""
    kernel = np.exp(-_distance(z, z[:n_centres]))
    among = kernel[:n_centres] + 1e-6 * np.eye(kernel.shape[1])

    def solved(rows: slice, *penalties: float) -> list[Any]:
        gram, moments = kernel[rows].T @ kernel[rows], kernel[rows].T @ target[rows]
        return [np.linalg.solve(gram + penalty * among, moments) for penalty in penalties]

    return kernel, solved


def _landmarks(z: Floats, target: Floats) -> tuple[Floats, Floats, int]:
    """Return landmarks (r, d), the mean values (r, q) of the inputs nearest to each, and how many of them count."""
    landmarks = z[:_LANDMARKS]
    size = -(-len(z) // len(landmarks))
    nearest = max(min(_NEAREST, len(z) // _LEAST_NEAREST) // size, min(_LEAST_NEAREST, len(z)))
    if size == 1:
        return landmarks, target, nearest
    around = [
        target[_nearest(_distance(some, z), size)].mean(axis=1) for some in np.array_split(landmarks, 32)
    ]
    return landmarks, np.concatenate(around), nearest


def _mean_around(distance: Floats, around: Any, nearest: int) -> Floats:
    """Return the mean of `around` (r, q) over the nearest landmarks by their distance (rows, r), (rows, q)."""
    places = _nearest(distance, nearest)
    close = np.take_along_axis(distance, places, axis=1)
    weight = np.exp(-_FADING * close / np.maximum(close.mean(axis=1, keepdims=True), 1e-9))
    mean: Floats = np.einsum("nk,nkq->nq", weight / weight.sum(axis=1, keepdims=True), around[places])
    return mean


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
