"""What tokens cost, against tokens that are priced one by one, and what a request costs at most."""

from __future__ import annotations

import asyncio
import json
import logging
from fractions import Fraction
from itertools import product

import pytest

import exeunt as ex
from exeunt.live.token_price import TokenPrice, Usage

from .service import _send, served

TIERS = {"input": 2, "cached_input": 0.5, "cache_write": 2.5, "output": 8, "reasoning": 9, "call": 0.25}
ABOVE = {5: {"input": 1, "cached_input": 0.125, "cache_write": 4, "output": 16, "reasoning": 3}}


def by_token(price, usage):
    """Price each token by hand."""
    tier = price["above"][5] if "above" in price and usage.input > 5 else price
    kinds = ["cached_input"] * usage.cached + ["cache_write"] * usage.written
    kinds += ["input"] * (usage.input - len(kinds)) + ["reasoning"] * usage.reasoning
    kinds += ["output"] * (usage.output - usage.reasoning)
    otherwise = {"cached_input": "input", "cache_write": "input", "reasoning": "output"}
    each = [Fraction(tier[kind] if kind in tier else tier[otherwise[kind]]) for kind in kinds]
    return Fraction(price.get("call", 0)) + sum(each) / 10**6


def usages(n_input, n_output):
    for tokens, output in product(range(1, n_input + 1), range(n_output + 1)):
        for cached, reasoning in product(range(tokens + 1), range(output + 1)):
            for written in range(tokens - cached + 1):
                yield Usage(tokens, output, cached, written, reasoning)


PRICES = [
    {"input": 2, "output": 8},
    {"input": 2, "cached_input": 0.5, "output": 8},
    TIERS,
    {**TIERS, "above": ABOVE},
    {"input": 8, "output": 1, "above": {5: {"input": 1, "output": 2}}},  # longer prompts are cheaper
]


@pytest.mark.parametrize("body", PRICES)
def test_a_cost_is_that_of_its_tokens_one_by_one_and_the_most_is_the_highest_of_all(body):
    price, highest = TokenPrice.read(body), Fraction(0)
    for usage in usages(7, 2):
        cost = by_token(body, usage)
        assert price.cost(usage) == pytest.approx(float(cost), rel=1e-12)
        highest = max(highest, cost)
    assert price.most(7, 2) == pytest.approx(float(highest), rel=1e-12)


@pytest.mark.parametrize("here", PRICES)
@pytest.mark.parametrize("there", PRICES)
def test_no_request_costs_a_smaller_share_of_another_price(here, there):
    here, there = ({**body, "call": 0} for body in (here, there))
    share = TokenPrice.read(here).least_share(TokenPrice.read(there))
    cheapest, dearest = {}, {}
    for usage in usages(7, 2):
        request = usage.input, usage.output
        cheapest[request] = min(by_token(here, usage), cheapest.get(request, Fraction(1)))
        dearest[request] = max(by_token(there, usage), dearest.get(request, Fraction(0)))
    assert 0 < share <= min(float(cheapest[at] / dearest[at]) for at in cheapest) * (1 + 1e-9)


BASE = {"prompt_tokens": 9, "completion_tokens": 2}


def input_details(**details):
    return {"prompt_tokens_details": details}


def output_details(**details):
    return {"completion_tokens_details": details}


@pytest.mark.parametrize(
    ("more", "read"),
    [
        ({}, Usage(9, 2)),
        (input_details(cached_tokens=4, audio_tokens=0, cache_write_tokens=5), Usage(9, 2, 4, 5)),
        ({**output_details(reasoning_tokens=2, rejected_prediction_tokens=7)}, Usage(9, 2, reasoning=2)),
        ({"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5}, Usage(9, 2, 4)),
        ({"cache_read_input_tokens": 4, "cache_creation_input_tokens": 5}, Usage(9, 2, 4, 5)),
        ({"total_tokens": 20, **output_details(reasoning_tokens=9)}, Usage(9, 11, reasoning=9)),
        ({"prompt_tokens_details": None, "queue_time": 0.5, "cost": 0, "is_byok": True}, Usage(9, 2)),
        ({"cost_in_usd_ticks": 37_756_000, "cost_details": {"upstream": 1}}, Usage(9, 2)),
        (
            {"server_tool_use": {"web_search_requests": 1}, **input_details(audio_tokens=3)},
            Usage(9, 2, others=("audio_tokens", "web_search_requests")),
        ),
        (
            {"audio_seconds": 3.5, "tools": [{"n": 3, "name": "search"}, {"n": 0}], "pages": [[0, 2]]},
            Usage(9, 2, others=("audio_seconds", "n", "pages")),
        ),
        ({"cost_tokens": 4, "costly": {"cost": 1, "units": 2}}, Usage(9, 2, others=("cost_tokens", "units"))),
    ],
)
def test_usages_of_providers_are_read(more, read):
    assert Usage.read({**BASE, **more}) == read


WRONG = [
    {"prompt_tokens": 0},
    {"prompt_tokens": True},
    {"completion_tokens": -1},
    {"completion_tokens": None},
    {"total_tokens": 10},
    input_details(cached_tokens=10),
    input_details(cached_tokens=5, cache_write_tokens=5),
    input_details(cached_tokens=-1),
    input_details(cached_tokens=0.5),
    {"prompt_tokens_details": [5]},
    output_details(reasoning_tokens=3),
]


def replied(usages, **price):
    """Return the replies of a model whose service reports these usages, and the model."""
    left = iter(usages)

    async def answer(scope, receive, send):
        await receive()
        body = {"choices": [{"message": {"content": "joy"}, "finish_reason": "stop"}], "usage": next(left)}
        await _send(send, 200, json.dumps(body).encode())

    async def ask(model):
        try:
            return [await model.ask("a text") for _ in usages]
        finally:
            await model.close()

    with served(answer) as url:
        model = ex.OpenAICompatible("m", base_url=url, price=price, retries=0)
        return asyncio.run(ask(model)), model


def test_an_impossible_usage_counts_at_the_most():
    replies, model = replied([{**BASE, **more} for more in WRONG], input=1, cached_input=0.5, output=2)
    for reply in replies:
        assert (reply.cost, reply.bound, reply.lied) == (model.most("a text"), model.most("a text"), True)


def test_what_has_no_price_is_told_once_and_counts_at_the_most(caplog):
    odd = [{**BASE, name: 1} for name in ("sources", "sources", "is_last", "sk-secret of a provider\n")]
    many = [{**BASE, f"entry_{k}": 1} for k in range(50)]
    with caplog.at_level(logging.WARNING, logger="exeunt.live"):
        replies, model = replied([*odd, *many], input=1, output=2, free=["is_last"])
    most = model.most("a text")
    assert [reply.cost == most for reply in replies[:4]] == [True, True, False, True]
    assert replies[2].cost == pytest.approx(13e-6)
    assert not any(reply.lied for reply in replies)
    told = [record.getMessage() for record in caplog.records]
    assert sum("counts sources, of which there is no price" in line for line in told) == 1
    assert len(told) <= 20
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ({"input": 1}, "a price has input, output and perhaps cached_input, .*, got input$"),
        ({"input": 1, "output": -2}, "price: output: a price is a number of US dollars, 0 or more, got -2$"),
        ({"input": 1, "output": 2, "cache_write": "2"}, "price: cache_write: a price is .*, got '2'$"),
        (
            {"input": 1, "output": 2, "cached_input": 1.5},
            "cached_input is at most input, got 1.5 and 1: the price of",
        ),
        ({"input": 1, "output": 2, "cache": 1}, "a price has .*, got input, output, cache$"),
        (
            {"input": 1, "output": 2, "above": 5},
            "above has the price above a number of input tokens, .*, got 5$",
        ),
        (
            {"input": 1, "output": 2, "above": {0: {"input": 1, "output": 2}}},
            "numbers of input tokens, .*, got 0$",
        ),
        (
            {"input": 1, "output": 2, "above": {"1k": {"input": 1, "output": 2}}},
            "of input tokens, .*, got '1k'$",
        ),
        (
            {"input": 1, "output": 2, "above": {9: {"input": 1}}},
            "a price has input, output and .*, got input$",
        ),
        (
            {"input": 1, "cached_input": 0.5, "output": 2, "above": {9: {"input": 1, "output": 2}}},
            "above 9 tokens give the prices that are given below, input, cached_input, output, got input, output$",
        ),
        ({"input": 1, "output": 2, "free": "cost"}, "free is a list of names that a usage has, got 'cost'$"),
    ],
)
def test_what_is_wrong_in_a_price_is_said(price, message):
    with pytest.raises(ex.InputError, match=message):
        TokenPrice.read(price)
