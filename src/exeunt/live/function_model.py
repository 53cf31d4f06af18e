"""Any Python function as a model."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np

from exeunt.errors import InputError, one_line
from exeunt.live.live_model import FailedAttempt, LiveModel, Reply
from exeunt.live.own_functions import Signature

_LOOK_S = 0.05


class FunctionModel(LiveModel):
    """A function of an input as a model; a coroutine function is awaited, another runs in a thread.

    The function returns an answer and its confidence, such as ("joy", 0.9); or, with `classes`, their probabilities; or
    None for no answer. `price`: what a call costs in US dollars, or a function of the input that gives it. A call that
    raises an error is made again, up to `retries` times, by default never. Other options: see `LiveModel`.
    """

    signature: ClassVar = Signature(
        "given",
        'an answer and its confidence, such as ("joy", 0.9), the probabilities of the classes, or None',
    )

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        price: float | Callable[[Any], float],
        retries: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(retries=retries, **options)
        if not callable(function):
            raise InputError(f"give a function, such as one of your module, got {function!r:.80}")
        self.signature.check(function)
        self.function, self.price = function, price
        self._running, self._turn = 0, threading.Lock()
        if not callable(price):
            checked_price(price)

    @property
    def identity(self) -> str:
        """What tells models apart whose answers differ."""
        return f"{super().identity} {named(self.function)}"

    def most(self, content: Any) -> float:
        """Return what a call costs."""
        return checked_price(self.price(content) if callable(self.price) else self.price)

    async def _in_thread(self, content: Any) -> Any:
        """Call the function in a thread of its own. One that hangs does not keep the process from ending."""
        loop, done = asyncio.get_running_loop(), asyncio.Future[Any]()
        while self._running >= self.concurrency:  # of attempts that were given up
            await asyncio.sleep(_LOOK_S)

        def tell(result: Any, error: Exception | None) -> None:
            if done.done():  # nobody waits any more
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def call() -> None:
            result: Any = None
            error: Exception | None = None
            try:
                result = self.function(content)
            except StopIteration as raised:  # a future takes none
                error = RuntimeError(repr(raised))
            except Exception as raised:
                error = raised
            except BaseException as raised:  # SystemExit would end this thread alone
                error = RuntimeError(repr(raised))
            with self._turn:
                self._running -= 1
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, result, error)

        with self._turn:
            self._running += 1
        threading.Thread(target=call, daemon=True, name="exeunt-function").start()
        return await done

    async def _call(self, content: Any, client: Any) -> Reply:  # noqa: ARG002 - it needs none
        cost = self.most(content)
        try:
            if inspect.iscoroutinefunction(self.function):
                result = await self.function(content)
            else:
                result = await self._in_thread(content)
        except Exception as error:
            raise FailedAttempt(one_line(error), again=True, cost=cost) from error
        return self._reply(result, cost)

    def _reply(self, result: Any, cost: float) -> Reply:
        return reply_of(result, self.classes, cost)


class FeatureModel(FunctionModel):
    """A function that tells a router (`exeunt.router`) features of an input: a list of numbers, such as an embedding.

    It answers nothing. `price`: what a call costs in US dollars.
    """

    signature: ClassVar = Signature("given", "a list of numbers")

    def __init__(self, function: Callable[[Any], Any], *, price: float, **options: Any) -> None:
        super().__init__(function, price=price, **options)

    def _reply(self, result: Any, cost: float) -> Reply:
        try:
            values = np.asarray(result, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise FailedAttempt(
                f"it returned {result!r:.60}, not a list of finite numbers", again=True, cost=cost
            )
        return Reply(None, cost=cost, features=tuple(values.tolist()))


def named(function: Any) -> str:
    """Return the name of a function with its module, and with what is bound to it; or its own `identity`."""
    if hasattr(function, "identity"):
        return str(function.identity)
    if isinstance(function, functools.partial):
        return f"{named(function.func)} {function.args} {function.keywords}"
    of = function if hasattr(function, "__qualname__") else type(function)
    return f"{of.__module__}:{of.__qualname__}"


def checked_price(price: Any) -> float:
    """Return a price. Raises InputError unless it is a finite number of US dollars, 0 or more."""
    if not isinstance(price, int | float) or isinstance(price, bool) or not 0 <= price < math.inf:
        raise InputError(f"a price is a number of US dollars, 0 or more, got {price!r}")
    return float(price)


def reply_of(result: Any, classes: tuple[str, ...] | None, cost: float) -> Reply:
    """Return the reply for (answer, confidence), for the probabilities of the classes, or for None."""
    if result is None:
        return Reply(None, cost=cost)
    try:
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], str):
            return Reply(result[0], float(result[1]), cost)
        values = np.asarray(result, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if classes is None or values.shape != (len(classes),) or abs(values.sum() - 1) > 1e-3:
        wanted = "(answer, confidence)" + ("" if classes is None else f", or {len(classes)} probabilities")
        raise FailedAttempt(f"it returned {type(result).__name__}, not {wanted}", again=True, cost=cost)
    best = int(values.argmax())
    return Reply(classes[best], float(values[best]), cost, tuple(values.tolist()))
