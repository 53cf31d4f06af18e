"""What was learned from a trace is kept for as long as the trace is: further budgets are then cheap."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt.trace import ExitTrace

__all__ = ["kept_with_trace"]

_Options = ParamSpec("_Options")
_Learned = TypeVar("_Learned")


def kept_with_trace(
    learn: Callable[Concatenate[ExitTrace, _Options], _Learned],
) -> Callable[Concatenate[ExitTrace, _Options], _Learned]:
    """Make a function of a trace and hashable options remember its results until the trace is freed.

    Traces are told apart by identity, as they are frozen. A result must not hold the trace that it is kept
    with, or neither is ever freed.
    """
    kept: WeakKeyDictionary[ExitTrace, dict[Any, _Learned]] = WeakKeyDictionary()

    @wraps(learn)
    def recalled(trace: ExitTrace, /, *args: _Options.args, **options: _Options.kwargs) -> _Learned:
        known = kept.setdefault(trace, {})
        key = (args, tuple(sorted(options.items())))
        if key not in known:
            known[key] = learn(trace, *args, **options)
        return known[key]

    return recalled
