"""A cache of results computed from a trace, so that a policy for another budget is quick to make."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

_Options = ParamSpec("_Options")
_Learned = TypeVar("_Learned")
_Trace = TypeVar("_Trace")  # ExitTrace or CascadeTrace


def cached_on_trace(
    learn: Callable[Concatenate[_Trace, _Options], _Learned],
) -> Callable[Concatenate[_Trace, _Options], _Learned]:
    """Cache the results of a function of a trace and hashable options until the trace is freed.

    Traces are frozen, so the cache compares them by identity. A result must not refer to its trace, or neither is
    ever freed.
    """
    cache: WeakKeyDictionary[_Trace, dict[Any, _Learned]] = WeakKeyDictionary()

    @wraps(learn)
    def cached(trace: _Trace, /, *args: _Options.args, **options: _Options.kwargs) -> _Learned:
        results = cache.setdefault(trace, {})
        key = (args, tuple(sorted(options.items())))
        if key not in results:
            results[key] = learn(trace, *args, **options)
        return results[key]

    return cached
