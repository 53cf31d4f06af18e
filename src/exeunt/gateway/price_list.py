"""Prices of models in the JSON that LiteLLM publishes, `model_prices_and_context_window.json`. Nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from exeunt._support.files import read_json
from exeunt._support.text import did_you_mean
from exeunt.errors import InputError
from exeunt.live.token_price import TokenPrice

OLD_DAYS = 90
"""A list that is older may be wrong."""
_NAMES = {
    "input": "input_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "output": "output_cost_per_token",
    "reasoning": "output_cost_per_reasoning_token",
}
_TIER = re.compile(r"(\w+)_above_(\d+)k_tokens")
_OTHER_SERVICE = re.compile(r"_(batches|flex|priority)\b")
"""Prices of service tiers, which the gateway does not ask for."""


@dataclass(frozen=True)
class ListedPrice:
    """The price of a model as a list has it. `others`: names of what the list also prices, and a price has not."""

    provider: str
    price: TokenPrice
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class PriceList:
    """A list of prices by model. `day`: when its file was last changed, in UTC."""

    file: Path
    day: date
    entries: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, file: Path) -> PriceList:
        """Read a file. Raises InputError or ArtefactError if it is no list of prices."""
        if not file.is_file():
            raise InputError(
                f"there is no file {file}: give the list of prices that LiteLLM publishes, as JSON"
            )
        entries = read_json(file, remedy="get the list of prices that LiteLLM publishes again")
        day = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).date()
        form = f"{file} is not in the form that LiteLLM publishes: an object of models, each with {_NAMES['input']}"
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise InputError(form)
        if not any(_NAMES["input"] in entry for entry in entries.values()):
            raise InputError(form)
        return cls(file, day, {name: entry for name, entry in entries.items() if name != "sample_spec"})

    def age_days(self, today: date) -> int:
        """Return for how many days the file has not been changed."""
        return (today - self.day).days

    def price(self, name: str) -> ListedPrice:
        """Return the price of a model. Raises InputError if the list has none for its tokens, or an impossible one."""
        if name not in self.entries:
            raise InputError(f"{self.file} has no model {name!r:.80}{did_you_mean(name, self.entries)}")
        entry, where = self.entries[name], f"{self.file}: {name}"
        costs = {key: cost for key, cost in entry.items() if "cost" in key and cost}
        if missing := [_NAMES[part] for part in ("input", "output") if entry.get(_NAMES[part]) is None]:
            raise InputError(
                f"{where} has no {missing[0]}, so its price is not by tokens: write its price by hand"
            )
        read = {part: key for part, key in _NAMES.items() if entry.get(key) is not None}
        # A tier without a price of its own has that below it.
        starts = {
            int(match[2]) * 1000
            for key in costs
            if (match := _TIER.fullmatch(key)) and match[1] in read.values()
        }
        try:
            base = {part: _per_million(entry[key]) for part, key in read.items()}
            above = {
                start: {
                    part: _per_million(costs[tier]) if (tier := _above(key, start)) in costs else base[part]
                    for part, key in read.items()
                }
                for start in starts
            }
            price = TokenPrice.read({**base, "above": above})
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        known = {*read.values(), *(_above(key, start) for key in read.values() for start in starts)}
        others = sorted(key for key in costs if key not in known and not _OTHER_SERVICE.search(key))
        return ListedPrice(str(entry.get("litellm_provider", "an unnamed provider")), price, tuple(others))


def _above(name: str, start: int) -> str:
    """Return the name of a price for prompts of more than so many tokens."""
    return f"{name}_above_{start // 1000}k_tokens"


def _per_million(cost: Any) -> float:
    """Return a price for a token as one for a million, without the rounding of 1.9999999."""
    try:
        return float(Decimal(str(cost)) * 10**6)
    except InvalidOperation:
        raise InputError(f"a price is a number of US dollars, got {cost!r:.40}") from None


def written(price: Mapping[str, Any]) -> str:
    """Return a price by name as it stands in the file of a gateway."""
    parts = (
        f"{name}: {written(part) if isinstance(part, Mapping) else f'{part:.10g}'}"
        for name, part in price.items()
    )
    return f"{{{', '.join(parts)}}}"


def shown(prices: PriceList, names: list[str], today: date) -> str:
    """Return the prices of models, as YAML to be put into the file of a gateway, with where they come from."""
    age = prices.age_days(today)
    lines = [f"# read from {prices.file.name} of {prices.day} (when the file was last changed)"]
    if age > OLD_DAYS:
        lines.append(
            f"# WARNING: that is {age} days ago, and prices change: get a list of less than {OLD_DAYS} days"
        )
    for name, listed in {name: prices.price(name) for name in names}.items():
        lines += ["", f"# {name} of {listed.provider}", f"price: {written(listed.price.to_dict())}"]
        if listed.others:
            lines.append(f"# not in this price: {', '.join(listed.others)}")
    return "\n".join(lines)
