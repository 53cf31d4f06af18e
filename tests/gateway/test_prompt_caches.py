"""Prompt caches: what providers bill is what headers, counts, records and the books of money say."""

from __future__ import annotations

import itertools
import json
import random
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from exeunt.errors import InputError
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import read_config
from exeunt.gateway.mock_provider import MockProvider, PromptCache
from exeunt.live.token_price import TokenPrice

from .running_gateway import Running, answer, eventually, running, written

LARGE = {"input": 2.0, "cached_input": 0.5, "output": 8.0}
SMALL = {"input": 0.3, "cached_input": 0.03, "cache_write": 0.375, "output": 1.5}
PRICES = {"large": TokenPrice.read(LARGE), "small": TokenPrice.read(SMALL)}
OF_LARGE, OF_SMALL = (str(price).replace("'", "") for price in (LARGE, SMALL))
MODELS = (
    f"{{large: {{provider: mock, price: {OF_LARGE}, max_tokens: 100, retries: 0, prompt_cache_key: true}},"
    f" small: {{provider: mock, price: {OF_SMALL}, max_tokens: 100, retries: 0, logprobs: true}}}}"
)
SECONDS = 20.0
"""Between two calls of the provider, by its clock."""


def provider() -> MockProvider:
    calls = itertools.count()
    return MockProvider(answer, PRICES, cache=PromptCache(lambda: SECONDS * next(calls)))


def talk(run: Running, n: int, seed: int = 0, **options: Any) -> float:
    """Hold conversations of one to six turns, ten at a time, and return the sum of the costs in headers."""
    lots, headers = random.Random(seed), 0.0
    systems = [f"You are helper {k}. " + "Be short and polite. " * 240 for k in range(3)]
    waiting = [
        ([{"role": "system", "content": lots.choice(systems)}], 1 + lots.randrange(6), i) for i in range(n)
    ]
    talking, waiting = waiting[:10], waiting[10:]
    while talking:
        messages, turns, i = talking.pop(0)
        messages.append({"role": "user", "content": f"easy question {i}.{turns} " + "and so on " * 40})
        answered = run.post({"model": "auto", "messages": messages, **options})
        assert answered.status_code == 200, answered.text
        headers += float(answered.headers.get("x-exeunt-cost", 0.0))
        messages.append(answered.json()["choices"][0]["message"])
        if turns > 1:
            talking.append((messages, turns - 1, i))
        elif waiting:
            talking.append(waiting.pop(0))
    return headers


def billed(mock: MockProvider) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
    """Return the bill of each model in US dollars, and what it would be more without a cache, by hand: a prefix is
    cached if a prompt of the five minutes before began with it.
    """
    bill, more = ({"large": Fraction(0), "small": Fraction(0)} for _ in range(2))
    before = list[tuple[float, str, str]]()
    for k, sent in enumerate(mock.received):
        name, prompt = sent["body"]["model"], json.dumps(sent["body"]["messages"])
        scope, now = f"{name} {sent['body'].get('prompt_cache_key')}", SECONDS * k
        before = [past for past in before if now - past[0] <= 300]
        last, cached = len(prompt) // 512 * 128, 0
        for _, other, earlier in before:
            while other == scope and (longer := max(cached + 128, 1024)) <= last:
                if earlier[: 4 * longer] != prompt[: 4 * longer]:
                    break
                cached = longer
        before.append((now, scope, prompt))
        rates = {kind: Fraction(str(rate)) for kind, rate in (LARGE if name == "large" else SMALL).items()}
        written = max(last - cached, 0) if name == "small" and last >= 1024 else 0
        bill[name] += (len(prompt) // 4 - cached - written) * rates["input"] + cached * rates["cached_input"]
        said = answer(name, sent["body"]["messages"][-1]["content"])
        bill[name] += written * rates.get("cache_write", 0) + len(said) // 4 * rates["output"]
        more[name] += cached * (rates.get("cache_write", rates["input"]) - rates["cached_input"])
    return tuple({name: amount / 10**6 for name, amount in amounts.items()} for amounts in (bill, more))


@pytest.mark.parametrize("n", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_bill_the_headers_the_counts_the_records_and_the_books_are_the_same(
    tmp_path: Path, n: int
) -> None:
    mock = provider()
    with running(tmp_path, mock, models=MODELS, unit_rows="100") as run:
        headers = talk(run, n)
        requests = sum(sent["body"]["model"] == "large" for sent in mock.received)
        eventually(lambda: run.n_compared == requests)
        records = run.gateway.records.read("1 = 1", ())
        counts, books = run.metrics(), run.gateway.money.total.spent
    bill, more = ({name: float(amount) for name, amount in amounts.items()} for amounts in billed(mock))
    (counted,) = re.findall(r'^exeunt_gateway_spent_usd_total{model="large"} (\S+)$', counts, re.M)
    assert headers == pytest.approx(bill["large"], abs=1e-9 * requests)
    assert float(counted) == pytest.approx(bill["large"], rel=1e-9)
    assert sum(record.cost for record in records) == pytest.approx(bill["large"], rel=1e-9)
    assert sum(record.said["small"].cost for record in records) == pytest.approx(bill["small"], rel=1e-9)
    for name, amount in more.items():
        assert sum(record.said[name].cached for record in records) == pytest.approx(amount, rel=1e-9)
    assert books == pytest.approx(sum(bill.values()), abs=2e-9 * requests)  # which it rounds up
    assert mock.spent == pytest.approx(sum(bill.values()), rel=1e-9)
    letters = sum(len(json.dumps(sent["body"]["messages"])) // 4 for sent in mock.received[::2])
    assert bill["large"] < 0.6 * letters * LARGE["input"] / 1e6  # most of it came from the cache


def test_clients_share_no_cache_by_its_name_and_only_models_that_take_one_get_it(tmp_path: Path) -> None:
    mock = provider()
    with running(tmp_path, mock, models=MODELS) as run:
        talk(run, 2, prompt_cache_key="shop", stream=False)
        other = run.gateway.keys.add("bob")
        message = {"role": "user", "content": "easy"}
        body = {"messages": [message]}
        for model, key, cache in (
            ("large", run.client, "shop"), ("large", run.client, "news"),
            ("large", other, "shop"), ("small", other, "shop"),
        ):  # fmt: skip
            with run.http(key) as client:
                client.post("/v1/chat/completions", json={**body, "model": model, "prompt_cache_key": cache})
        eventually(lambda: run.n_compared > 0)
        streamed = run.ask("easy", stream=True, prompt_cache_key="shop")
        assert streamed.text.endswith("[DONE]\n\n")
        eventually(lambda: run.gateway.money.total.spent == pytest.approx(mock.spent, abs=1e-7))
    sent = [(sent["body"]["model"], sent["body"].get("prompt_cache_key", "")) for sent in mock.received]
    keys = {key for model, key in sent if model == "large"}
    assert len(keys) == 3  # one for each name of each client
    assert all(re.fullmatch("[0-9a-f]{32}", key) for key in keys)
    assert {key for model, key in sent if model == "small"} == {""}


def test_what_is_reserved_takes_the_dearest_price_and_a_limit_is_never_exceeded(tmp_path: Path) -> None:
    dear = MODELS.replace("cached_input: 0.5,", "cached_input: 0.5, cache_write: 20.0,")
    mock = provider()
    with running(tmp_path, mock, models=dear, shadow="", spend="{total: '0.12 usd'}") as run:
        model = run.gateway.config.models["large"]
        request = ChatRequest.read(
            json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x"}]}).encode()
        )
        n_input = request.n_bytes + model.template_tokens
        assert model.most(request) == pytest.approx((20 * n_input + 8 * 100) / 1e6)
        statuses = [run.ask("easy " + "word " * 1000).status_code for _ in range(20)]
        assert run.gateway.money.total.spent <= 0.12
    assert statuses.count(402) == 20 - statuses.count(200) > 0


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("{output: 8}", "a price has input, output and perhaps .*, got output$"),
        ("{input: -2, output: 8}", "price: input: a price is a number of US dollars, 0 or more, got -2$"),
        ("{input: 2, cached_input: 3, output: 8}", "price: cached_input is at most input, got 3 and 2: "),
    ],
)
def test_a_wrong_price_in_the_file_is_told_in_a_line(tmp_path: Path, price: str, message: str) -> None:
    models = f"{{large: {{provider: mock, price: {price}}}}}"
    with pytest.raises(InputError, match=rf"gateway\.yaml: model 'large': {message}") as error:
        read_config(written(tmp_path, models=models, shadow=""))
    assert "\n" not in str(error.value)
