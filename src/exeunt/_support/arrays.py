"""Checked NumPy arrays and numbers from a caller's values, with errors that name the culprit."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch, wraps
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exeunt.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Booleans: TypeAlias = NDArray[np.bool_]
Keys: TypeAlias = NDArray[np.uint64]

_SHARE = "write a share, such as 0.05 for 5%"
_SHARES = {
    "delta": "it is the probability that a guarantee fails, such as 0.05 for one of 95%",
    "max_loss": "write a share, such as 0.05 for 5 points of accuracy",
}
"""What numbers between 0 and 1 mean, for messages."""


def floats(value: ArrayLike, name: str, *, ndim: int | tuple[int, ...]) -> Floats:
    """Return `value` as a float64 array of `ndim` dimensions without NaN; raise InputError otherwise."""
    try:
        if np.iscomplexobj(value):
            raise TypeError("complex")
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers, got {short(value)}") from error
    _check_ndim(array, name, ndim)
    bad = np.isnan(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{name} has {int(bad.sum())} NaN, the first at index {where}: drop or repair these inputs"
        )
    return array


def integers(value: ArrayLike, name: str, *, ndim: int) -> Integers:
    """Return `value` as an int64 array; whole-numbered floats pass, anything else raises InputError."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name} must be a regular array of whole numbers, got {short(value)}") from error
    _check_ndim(array, name, ndim)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iub":
        is_whole = array.dtype.kind == "f" and bool(
            np.all((np.abs(array) < 2.0**63) & (array == np.floor(array)))
        )
        if not is_whole:
            is_text = array.dtype.kind in "US" or isinstance(array.flat[0], str)
            mended = ": number the classes, predictions and labels alike" if is_text else ""
            raise InputError(f"{name} must be whole numbers, got {short(value)}{mended}")
    return array.astype(np.int64)


def dispatched(function: F) -> F:
    """Dispatch on the type of the first argument as `functools.singledispatch` does, but at once for NumPy arrays."""
    others = singledispatch(function)

    @wraps(function)
    def called(array: Any, *more: Any) -> Any:
        return function(array, *more) if type(array) is np.ndarray else others(array, *more)

    called.register = others.register  # type: ignore[attr-defined]
    return cast("F", called)


def keys(value: ArrayLike, name: str, *, n: int, kind: str = "integers") -> Keys:
    """Return `value` as n unsigned 64-bit keys; signed integers keep their bits, others raise InputError."""
    array = np.asarray(value)
    check_length(array, name, n)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} must be {n} {kind} (64-bit keys), got {short(value)}")
    return array.astype(np.uint64)


def places_of(values: Keys, wanted: Keys) -> Integers:
    """Return the places of the wanted keys, all of which are among the values, in their order."""
    order = np.argsort(values, kind="stable")
    return order[np.searchsorted(values[order], wanted)]  # type: ignore[no-any-return]


def check_length(array: NDArray[Any], name: str, n: int) -> None:
    """Raise InputError unless `array` is one-dimensional with n entries."""
    if array.shape != (n,):
        raise InputError(f"{name} must have shape ({n},), got {array.shape}")


def check_between(value: float, name: str, low: float, high: float, *, inclusive: bool = False) -> float:
    """Return `value` as a float if it lies in (low, high), or [low, high] if inclusive."""
    number = finite(value, name)
    inside = low <= number <= high if inclusive else low < number < high
    if not inside:
        brackets = "[]" if inclusive else "()"
        mended = f": {_SHARES.get(name, _SHARE)}" if high == 1 and not inclusive else ""
        raise InputError(
            f"{name} must lie in {brackets[0]}{low:g}, {high:g}{brackets[1]}, got {value!r}{mended}"
        )
    return number


def check_delta(value: float, *, low: float = 0.0) -> float:
    """Return `value` as a float if it can be the probability that a guarantee fails: in (low, 0.5]."""
    delta = finite(value, "delta")
    if not low < delta <= 0.5:
        confidence = delta if 0.5 < delta < 1 else 0.95
        raise InputError(
            f"delta is the probability that the guarantee fails, above {low:g} and at most 0.5, got {value!r}: for "
            f"{100 * confidence:.6g}% confidence write {1 - confidence:.6g}"
        )
    return delta


def check_positive(value: float, name: str) -> float:
    """Return `value` as a float if it is finite and above 0."""
    number = finite(value, name)
    if number <= 0:
        raise InputError(f"{name} must be above 0, got {value!r}")
    return number


def finite(value: float, name: str) -> float:
    """Return `value` as a float if it is a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        mended = f": {_SHARES.get(name, _SHARE)}" if str(value).endswith("%") else ""
        raise InputError(f"{name} must be a number, got {short(value)}{mended}") from error
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{name} must be finite, got {short(value)}")
    return number


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view, so that a frozen object cannot be changed through it. The array is not copied."""
    view = array.view()
    view.flags.writeable = False
    return view


def _check_ndim(array: NDArray[Any], name: str, ndim: int | tuple[int, ...]) -> None:
    allowed = ndim if isinstance(ndim, tuple) else (ndim,)
    if array.ndim not in allowed:
        shown = " or ".join(map(str, allowed))
        mended = ": of a single column write [:, None]" if array.ndim == 1 and ndim == 2 else ""
        mended = ": write [:, 0]" if ndim == 1 and array.shape[1:] == (1,) else mended
        raise InputError(f"{name} must have {shown} dimension(s), got shape {array.shape}{mended}")


def short(value: object) -> str:
    """Return what a message shows of a value, in a line of at most 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of more digits than Python writes
        return "a number of too many digits"
    return text if len(text) <= 80 else text[:77] + "..."
