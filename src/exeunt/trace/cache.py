"""A cache of results computed from a trace, so that a policy for another budget is quick to make."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

_Function = TypeVar("_Function", bound=Callable[..., Any])


def cached_on_trace(learn: _Function) -> _Function:
    """Cache the results of a function of a trace and hashable options until the trace is freed.

    Traces are frozen, so the cache compares them by identity. A result must not refer to its trace, or neither is
    ever freed.
    """
    cache: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

    @wraps(learn)
    def cached(trace: Any, /, *args: Any, **options: Any) -> Any:
        results = cache.setdefault(trace, {})
        key = (args, tuple(sorted(options.items())))
        if key not in results:
            results[key] = learn(trace, *args, **options)
        return results[key]

    return cast("_Function", cached)
