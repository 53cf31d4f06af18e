"""What tokens cost: the price of a model, and the usage that its provider reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from exeunt.errors import InputError
from exeunt.live.function_model import checked_price

_MILLION = 1e6
_INPUT, _OUTPUT = ("input", "cached_input", "cache_write"), ("output", "reasoning")
_RATES = (*_INPUT, *_OUTPUT)
_CACHED = ("cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens")
_WRITTEN = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
"""Names of the tokens that came from a prompt cache, and of those written to it, at different providers."""
_PART_OF_INPUT = {"text_tokens", "image_tokens", "prompt_cache_miss_tokens"}
_PART_OF_OUTPUT = {
    "text_tokens",
    "reasoning_tokens",
    "accepted_prediction_tokens",
    "rejected_prediction_tokens",
}
_DETAILS = {
    "prompt_tokens_details": {*_CACHED, *_WRITTEN, *_PART_OF_INPUT},
    "completion_tokens_details": _PART_OF_OUTPUT,
}
_COUNTED = {"prompt_tokens", "completion_tokens", "total_tokens", *_CACHED, *_WRITTEN, *_PART_OF_INPUT}
_MONEY_AND_TIME = {
    "cost", "cost_details", "cost_in_usd_ticks", "estimated_cost",
    "queue_time", "prompt_time", "completion_time", "total_time",
}  # fmt: skip
"""What a usage says that is no count: nothing is to be paid for it beside the tokens."""


@dataclass(frozen=True)
class Usage:
    """The tokens that an answer took. `input`: of the prompt, of which `cached` came from a prompt cache and `written`
    were written to it. `output`: of the answer, of which `reasoning` were its reasoning. `others`: what else was
    counted, by the names of the usage, such as "audio_tokens".
    """

    input: int
    output: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0
    others: tuple[str, ...] = ()

    @classmethod
    def read(cls, usage: Mapping[str, Any]) -> Usage:
        """Read the usage of OpenAI's protocol, whose input includes what was cached.

        Raises InputError for one that is impossible, such as more cached tokens than there are.
        """
        n_input, n_output = _count(usage, "prompt_tokens", -1), _count(usage, "completion_tokens", -1)
        total = _count(usage, "total_tokens")
        if n_input <= 0 or n_output < 0 or 0 < total < n_input + n_output:
            raise InputError(
                "a usage has prompt_tokens and completion_tokens, and total_tokens not below their sum"
            )
        of_input, of_output = (_details(usage, name) for name in _DETAILS)
        cached, written = (
            max(_count(part, name) for name in names for part in (of_input, usage))
            for names in (_CACHED, _WRITTEN)
        )
        n_output = max(n_output, total - n_input)  # some count reasoning in the total alone
        reasoning = _count(of_output, "reasoning_tokens")
        if cached + written > n_input or reasoning > n_output:
            raise InputError("a usage has more cached or reasoning tokens than tokens")
        return cls(n_input, n_output, cached, written, reasoning, tuple(sorted(set(_others(usage)))))


def _count(usage: Mapping[str, Any], name: str, missing: int = 0) -> int:
    count = missing if usage.get(name) is None else usage[name]
    if type(count) is not int or count < min(0, missing):
        raise InputError(f"{name} is a number of tokens, got {count!r:.40}")
    return count


def _details(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = usage.get(name) or {}
    if not isinstance(details, Mapping):
        raise InputError(f"{name} holds numbers of tokens, got {details!r:.40}")
    return details


def _others(counts: Any, name: str = "", known: set[str] = _COUNTED) -> Iterator[str]:
    """Yield the names of what a usage counts and `Usage` does not know: numbers, also within lists and mappings."""
    if name in known | _MONEY_AND_TIME:
        return
    if isinstance(counts, Mapping):
        for part, count in counts.items():
            yield from _others(count, part, _DETAILS.get(name, set()) if name else known)
    elif isinstance(counts, list):
        for count in counts:
            yield from _others(count, name, known)
    elif type(counts) in (int, float) and counts:
        yield name


@dataclass(frozen=True)
class TokenPrice:
    """What a model's tokens cost, in US dollars for a million.

    `input`: of the prompt. `cached_input`: of those of its tokens that come from a prompt cache, at most `input`;
    `cache_write`: of those that are written to it; both are `input` where they are not given. `output`: of the answer;
    `reasoning`: of those of its tokens that are reasoning, by default `output`. `call`: US dollars for each call.
    `above`: the price of all tokens of a request whose prompt has more than so many. `free`: what a usage may count
    beside these and costs nothing.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    reasoning: float | None = None
    call: float = 0.0
    above: tuple[tuple[int, TokenPrice], ...] = ()
    free: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in (*_RATES, "call"):
            if (rate := getattr(self, name)) is not None:
                try:
                    object.__setattr__(self, name, checked_price(rate))
                except InputError as error:
                    raise InputError(f"price: {name}: {error}") from None
        if self.cached_input is not None and self.cached_input > self.input:
            raise InputError(
                f"price: cached_input is at most input, got {self.cached_input:g} and {self.input:g}: the price of "
                "writing to a cache is cache_write"
            )
        for tokens, price in self.above:
            if type(tokens) is not int or tokens < 1:
                raise InputError(
                    f"price: above has numbers of input tokens, such as 200000, got {tokens!r:.40}"
                )
            if price.above or price.free or price.call or price.given != self.given:
                raise InputError(
                    f"price: above {tokens:,} tokens give the prices that are given below, "
                    f"{', '.join(self.given)}, got {', '.join(price.given)}"
                )
        object.__setattr__(self, "above", tuple(sorted(self.above, key=lambda tier: tier[0])))

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the prices for tokens that were given."""
        return tuple(name for name in _RATES if getattr(self, name) is not None)

    @classmethod
    def read(cls, price: Mapping[str, Any]) -> TokenPrice:
        """Read a price by name, as a file has it. Raises InputError for one that is missing, unknown or no price."""
        names = [field.name for field in fields(cls)]
        if not {"input", "output"} <= set(price) <= set(names):
            has = ", ".join(map(str, price)) or "nothing"
            raise InputError(f"a price has input, output and perhaps {', '.join(names[2:])}, got {has:.200}")
        above, free = price.get("above") or {}, price.get("free") or ()
        if not isinstance(above, Mapping) or not all(isinstance(tier, Mapping) for tier in above.values()):
            raise InputError(
                "price: above has the price above a number of input tokens, such as {200000: {input: 4, output: 12}}, "
                f"got {above!r:.40}"
            )
        if not isinstance(free, list | tuple) or not all(isinstance(name, str) for name in free):
            raise InputError(f"price: free is a list of names that a usage has, got {free!r:.40}")
        tiers = tuple((tokens, cls.read(tier)) for tokens, tier in above.items())
        return cls(**{**price, "above": tiers, "free": frozenset(free)})

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form, without what is as by default."""
        body: dict[str, Any] = {name: getattr(self, name) for name in self.given}
        if self.call:
            body["call"] = self.call
        if self.above:
            body["above"] = {str(tokens): price.to_dict() for tokens, price in self.above}
        if self.free:
            body["free"] = sorted(self.free)
        return body

    # -- what a request costs -------------------------------------------------------------------------------

    def of(self, n_input: int) -> TokenPrice:
        """Return the price of a request whose prompt has so many tokens."""
        return next((price for tokens, price in reversed(self.above) if n_input > tokens), self)

    def cost(self, usage: Usage) -> float:
        """Return what an answer cost, in US dollars, without what its usage counts beside tokens (`unpriced`)."""
        rates = self.of(usage.input).rates
        tokens = {
            "input": usage.input - usage.cached - usage.written,
            "cached_input": usage.cached,
            "cache_write": usage.written,
            "output": usage.output - usage.reasoning,
            "reasoning": usage.reasoning,
        }
        return self.call + sum(count * rates[name] for name, count in tokens.items()) / _MILLION

    def most(self, n_input: int, n_output: int) -> float:
        """Return the most that a request costs whose prompt and answer have at most so many tokens, in US dollars.

        All of its input may be written to a cache, and all of its output be reasoning. A shorter prompt may cost more.
        """
        ends = [*(tokens for tokens, _ in self.above), n_input]
        costs = [
            min(n_input, end) * price._dearest(_INPUT) + n_output * price._dearest(_OUTPUT)
            for price, start, end in zip(self._tiers, [0, *ends], ends, strict=False)
            if start < n_input or not start
        ]
        return self.call + max(costs) / _MILLION

    def saved_by_cache(self, usage: Usage) -> float:
        """Return how much more an answer costs, in US dollars, if nothing is cached and all of that is written anew."""
        price = self.of(usage.input)
        return usage.cached * (price._dearest(_INPUT) - price.rates["cached_input"]) / _MILLION

    def unpriced(self, usage: Usage) -> list[str]:
        """Return what a usage counts that has no price here."""
        return [name for name in usage.others if name not in self.free]

    def least_share(self, other: TokenPrice) -> float:
        """Return the least that a token costs here, as a share of the most that one costs by another price."""
        shares = []
        for kind in (_INPUT, _OUTPUT):
            least = min(price.rates[name] for price in self._tiers for name in kind)
            most = max(price._dearest(kind) for price in other._tiers)
            if most > 0:
                shares.append(least / most)
        return min(shares, default=0.0)

    @cached_property
    def rates(self) -> Mapping[str, float]:
        """US dollars for a million tokens of each kind, without regard to `above`."""
        given = {name: getattr(self, name) for name in self.given}
        return {"cached_input": self.input, "cache_write": self.input, "reasoning": self.output, **given}

    @property
    def _tiers(self) -> list[TokenPrice]:
        return [self, *(price for _, price in self.above)]

    def _dearest(self, kind: tuple[str, ...]) -> float:
        return max(self.rates[name] for name in kind)
