"""Prices in the JSON that LiteLLM publishes, as blocks for the file of a gateway."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from exeunt.cli.app import run as exeunt
from exeunt.errors import ExeuntError
from exeunt.gateway.price_list import PriceList, shown
from exeunt.live.token_price import TokenPrice, Usage

LIST: dict[str, Any] = {
    "sample_spec": {"input_cost_per_token": 0.0, "mode": "one of: chat, embedding"},
    "gpt-4.1": {
        "cache_read_input_token_cost": 5e-07, "input_cost_per_token": 2e-06, "input_cost_per_token_batches": 1e-06,
        "input_cost_per_token_priority": 3.5e-06, "output_cost_per_token": 8e-06, "litellm_provider": "openai",
        "supports_vision": True, "search_context_cost_per_query": {"search_context_size_low": 0.03},
    },
    "claude-sonnet-4": {
        "cache_creation_input_token_cost": 3.75e-06, "cache_creation_input_token_cost_above_1hr": 6e-06,
        "cache_creation_input_token_cost_above_200k_tokens": 7.5e-06, "cache_read_input_token_cost": 3e-07,
        "cache_read_input_token_cost_above_200k_tokens": 6e-07, "input_cost_per_token": 3e-06,
        "input_cost_per_token_above_200k_tokens": 6e-06, "output_cost_per_token": 1.5e-05,
        "output_cost_per_token_above_200k_tokens": 2.25e-05, "litellm_provider": "anthropic",
    },
    "thinker": {
        "input_cost_per_token": "4e-07", "input_cost_per_token_above_128k_tokens": 1.1e-6,
        "output_cost_per_token": 1.2e-06, "output_cost_per_reasoning_token": 4e-06, "input_cost_per_audio_token": 0.0,
    },
    "dall-e": {"input_cost_per_pixel": 1.9e-08, "mode": "image_generation"},
    "odd": {"input_cost_per_token": -1e-6, "output_cost_per_token": 1e-6},
    "worse": {"input_cost_per_token": "free", "output_cost_per_token": 1e-6},
}  # fmt: skip
"""An excerpt, made for this test."""


def listed(folder: Path, entries: Any = LIST, days: float = 0.0) -> str:
    file = folder / "prices.json"
    file.write_text(json.dumps(entries))
    changed = time.time() - 86400 * days
    os.utime(file, (changed, changed))
    return str(file)


def test_blocks_are_printed_that_read_as_the_prices_of_the_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["gpt-4.1", "claude-sonnet-4", "thinker"]
    exeunt(["gateway", "prices", listed(tmp_path, days=80), *names])
    text = capsys.readouterr().out
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 80 * 86400))
    assert text.startswith(f"# read from prices.json of {day} (")
    assert "WARNING" not in text
    assert "# gpt-4.1 of openai\nprice: {input: 2, cached_input: 0.5, output: 8}\n" in text
    assert "# not in this price: search_context_cost_per_query\n" in text
    assert "# not in this price: cache_creation_input_token_cost_above_1hr\n" in text
    blocks = [yaml.safe_load(line) for line in text.splitlines() if line.startswith("price: ")]
    _, claude, thinker = (TokenPrice.read(block["price"]) for block in blocks)
    assert claude.cost(Usage(200_000, 10, 1000, 500)) == pytest.approx(
        (198_500 * 3 + 1000 * 0.3 + 500 * 3.75 + 10 * 15) / 1e6
    )
    assert claude.cost(Usage(200_001, 10, 1000, 500)) == pytest.approx(
        (198_501 * 6 + 1000 * 0.6 + 500 * 7.5 + 10 * 22.5) / 1e6
    )
    assert thinker.cost(Usage(9, 5, reasoning=2)) == pytest.approx((9 * 0.4 + 3 * 1.2 + 2 * 4) / 1e6)
    assert thinker.cost(Usage(200_000, 5)) == pytest.approx((200_000 * 1.1 + 5 * 1.2) / 1e6)
    written = (PriceList.read(tmp_path / "prices.json").price(name).price for name in names)
    assert [TokenPrice.read(block["price"]) for block in blocks] == [*written]


@pytest.mark.parametrize(("days", "warned"), [(90, False), (91, True)])
def test_a_list_that_is_older_than_90_days_is_told(tmp_path: Path, days: int, warned: bool) -> None:
    prices = PriceList.read(Path(listed(tmp_path, days=100)))
    text = shown(prices, ["gpt-4.1"], prices.day + timedelta(days=days))
    assert ("# WARNING: that is 91 days ago, and prices change" in text) is ("WARNING" in text) is warned


@pytest.mark.parametrize(
    ("entries", "name", "message"),
    [
        (LIST, "gpt-4.2", r"has no model 'gpt-4\.2' \(did you mean gpt-4\.1\?\)$"),
        (LIST, "sample_spec", "has no model 'sample_spec'"),
        (
            LIST,
            "dall-e",
            "dall-e has no input_cost_per_token, so its price is not by tokens: write its price by hand$",
        ),
        (LIST, "odd", "odd: price: input: a price is .*, got -1.0$"),
        (LIST, "worse", "worse: a price is a number of US dollars, got 'free'$"),
        ([], "gpt-4.1", "is not in the form that LiteLLM publishes"),
        ({"gpt-4.1": 5}, "gpt-4.1", "is not in the form that LiteLLM publishes"),
        ({"gpt-4.1": {"input": 5}}, "gpt-4.1", "is not in the form that LiteLLM publishes"),
    ],
)
def test_what_has_no_price_is_said_in_a_line(tmp_path: Path, entries: Any, name: str, message: str) -> None:
    with pytest.raises(ExeuntError, match=message) as error:
        exeunt(["gateway", "prices", listed(tmp_path, entries), name])
    assert "\n" not in str(error.value)
