"""A model behind an endpoint of OpenAI's protocol, asked over real connections with faults at random."""

import asyncio
import json
import logging
import math

import numpy as np
import pytest

import exeunt as ex
from exeunt.live import live_model

from .service import FAULTS, PRICE, MemoryLedger, Service, _send, served, unreachable

CLASSES = ["anger", "fear", "joy"]


def table(n, model="small"):
    return {model: {f"text {i}": (CLASSES[i % 3], -0.01 * (i % 50)) for i in range(n)}}


def small(url, **options):
    options = {"classes": CLASSES, "price": PRICE, "timeout_s": 60, **options}
    return ex.OpenAICompatible("small", base_url=f"{url}/v1", **options)


def replies(model, texts, **options):
    async def asked():
        try:
            return await asyncio.gather(*(model.ask(text, **options) for text in texts))
        finally:
            await model.close()

    return asyncio.run(asked())


def test_the_likeliest_tokens_give_probabilities():
    service = Service(table(2), likeliest=True)
    with served(service) as url:
        (found,) = replies(small(url), ["text 1"])
    assert (service.bodies[0]["max_tokens"], service.bodies[0]["logprobs"]) == (13, True)
    assert found.probabilities == pytest.approx([0, 1, 0], abs=1e-5)
    assert found.confidence == found.probabilities[1]


def test_a_text_has_the_mean_log_probability_or_a_score_of_ones_own():
    with served(Service(table(2))) as url:
        about = {"classes": None, "prompt": "Text: {text}"}
        (plain,) = replies(small(url, **about), ["text 1"])
        (scored,) = replies(small(url, score=lambda given, said: len(given + said), **about), ["text 1"])
    assert (plain.answer, plain.confidence, scored.confidence) == ("fear.", -0.01, len("text 1fear."))


def test_with_all_faults_at_once_money_is_what_the_service_billed_or_more(quick):
    n = 100
    service = Service(table(n), faults=dict.fromkeys(FAULTS, 0.04), delay_s=0.002, seed=1)
    ledger = MemoryLedger(1e6)
    with served(service) as url:
        model = small(url, retries=4)
        found = replies(model, service.answers["small"], ledger=ledger)
    calls = [("small", f"text {i}") for i in range(n)]
    assert {fault for call in calls for fault in service.happened[call]} == {"", *FAULTS}
    lied = sum(fault in ("negative", "huge") for call in calls for fault in service.happened[call])
    assert model.counts["lies"] == lied > 0
    certain = 0
    for i, (call, one) in enumerate(zip(calls, found, strict=True)):
        faults = service.happened[call]
        assert len(faults) == one.attempts
        if faults[-1] in ("", "negative", "huge"):
            assert (one.answer, one.confidence) == (CLASSES[i % 3], math.exp(-0.01 * (i % 50)))
        else:
            assert one.answer is None
            assert one.failed
        assert one.lied == ("negative" in faults or "huge" in faults)
        if set(faults) <= {"", "429", "refusal", "redirect"}:
            assert (one.cost, one.bound) == (pytest.approx(service.books[call], rel=1e-12), 0)
            certain += 1
        else:
            assert one.cost > service.books[call]
    assert certain > n / 2
    assert ledger.spent == pytest.approx(sum(one.cost for one in found), rel=1e-9)
    assert ledger.sent == sum(one.attempts for one in found)
    assert not ledger.held


def replied_with(fault, **options):
    """Return what a service replies of which each call has this fault, and the service."""
    service = Service(table(1), faults={fault: 1.0})
    with served(service) as url:
        (found,) = replies(small(url, **options), ["text 0"])
    return found, service


def test_a_refusal_is_paid_and_not_asked_again():
    found, service = replied_with("refusal")
    assert (found.answer, found.failed, found.attempts, found.again) == (None, "refused", 1, False)
    assert found.cost == pytest.approx(service.books["small", "text 0"])


def test_retries_wait_as_long_as_the_service_asks(quick):
    found, service = replied_with("429", retries=2)
    assert len(service.times["small", "text 0"]) == 3
    assert min(np.diff(service.times["small", "text 0"])) > 0.05
    assert (found.failed, found.cost, found.attempts) == ("status 429 (slow)", 0.0, 3)


@pytest.mark.parametrize(
    ("header", "wait"),
    [("7", 7), ("0.5", 0.5), ("-3", 0), ("inf", 60), ("soon", 0), ("Mon, 01 Jan 2001 00:00:00 GMT", 0)],
)
def test_the_wait_asked_for(header, wait):
    assert live_model.status_failure(429, {"retry-after": header}).after == wait


def test_a_slow_service_is_given_up_and_charged_in_full(quick):
    service, ledger = Service(table(1), delay_s=30), MemoryLedger(1.0)
    with served(service) as url:
        model = small(url, timeout_s=0.2, retries=1)
        (found,) = replies(model, ["text 0"], ledger=ledger)
    assert found.failed == "no answer within 0.2 s"
    assert found.cost == found.bound == pytest.approx(2 * model.most("text 0"))
    assert ledger.spent == pytest.approx(found.cost)


def test_nothing_is_charged_where_nobody_listens(quick):
    ledger = MemoryLedger(1.0)
    (found,) = replies(small("http://127.0.0.1:9", retries=1), ["text 0"], ledger=ledger)
    assert found.failed == "connection failed (ConnectError)"
    assert (found.cost, ledger.spent, found.attempts) == (0.0, 0.0, 2)


def templates(url, **options):
    return ex.HTTPModel(url, request="{input}", response={"answer": "a"}, price=0.01, **options)


@pytest.mark.parametrize("make", [small, templates])
def test_nothing_is_charged_where_nobody_can_be_reached(make):
    ledger = MemoryLedger(1.0)
    with unreachable() as url:
        (found,) = replies(make(url, timeout_s=1.0, retries=0), ["x"], ledger=ledger)
    assert (found.failed, found.cost, ledger.spent) == ("connection failed (ConnectTimeout)", 0.0, 0.0)


def test_what_the_ledger_does_not_pay_for_is_not_sent():
    service = Service(table(10))
    with served(service) as url:
        model = small(url)
        ledger = MemoryLedger(3.5 * model.most("text 0"))
        found = replies(model, [f"text {i}" for i in range(10)], ledger=ledger)
    assert ledger.sent == len(service.bodies) >= 3
    assert sum(one.failed.startswith("not asked") for one in found) == 10 - ledger.sent
    assert ledger.spent <= ledger.total


def test_the_most_that_a_call_costs_is_above_what_any_tokeniser_counts():
    model = small("http://host")
    for text in ("", "a", "ﷺ" * 9, "\N{GRINNING FACE}" * 5, '"\n' * 9):
        longest = max(len(text.encode()), 1)
        assert model.most(text) * 1e6 >= longest * PRICE["input"] + model.n_output * PRICE["output"]
    assert model.most("ﷺ" * 1000) * 1e6 > 18_000 * PRICE["input"]  # NFKC writes it with 18 letters
    counted = small("http://host", tokenizer=lambda text: len(text.split()))
    assert counted.most("a " * 1000) < model.most("a " * 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 4}, "'n' could cost more than is known before a call"),
        ({"service_tier": "priority"}, "could cost more"),
        ({"reasoning_effort": "high"}, "max_completion_tokens"),
        ({"max_tokens": 0}, "at least 1"),
    ],
)
def test_options_of_unbounded_cost_are_refused(options, message):
    with pytest.raises(ex.InputError, match=message):
        small("http://host", options=options)


@pytest.mark.parametrize("price", [{"input": 1}, {"input": 1, "output": 2, "image": 3}, {}])
def test_a_price_that_would_leave_something_unpaid_is_refused(price):
    with pytest.raises(
        ex.InputError, match=r"a price has input, output and perhaps .*, call.*, got (in|noth)"
    ):
        ex.OpenAICompatible("small", base_url="http://host", price=price)


@pytest.mark.parametrize("content", [" \n", None])
def test_an_answer_without_text_is_none_and_asked_for_again(quick, content):
    calls = []

    async def silent(scope, receive, send):
        calls.append(await receive())
        body = {"choices": [{"message": {"content": content}}], "usage": {"total_tokens": 2}}
        await _send(send, 200, json.dumps(body).encode())

    with served(silent) as url:
        (found,) = replies(small(url, classes=None, retries=1), ["text 0"])
    assert (found.answer, found.failed, len(calls)) == (None, "its answer has no text", 2)


def test_images_are_refused():
    with pytest.raises(ex.InputError, match="answers texts, or pairs of texts, got dict"):
        small("http://host").most({"type": "image_url"})


def test_redirects_are_not_followed():
    found, service = replied_with("redirect")
    assert (found.failed, found.attempts, len(service.bodies)) == ("status 307 (slow)", 1, 1)


def test_the_key_comes_from_the_environment_and_is_nowhere_else(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SMALL_KEY", "sk-secret")
    service = Service(table(2), faults={"500": 0.5})
    with served(service) as url:
        model = small(url, key="SMALL_KEY", retries=0)
        found = replies(model, ["text 0", "text 1"])
        other = small(url)
        replies(other, ["text 0"])
    assert service.headers[0][b"authorization"] == b"Bearer sk-secret"
    assert b"authorization" not in service.headers[-1]
    shown = f"{found} {model!r} {vars(model)} {model.identity}"
    assert "sk-secret" not in shown + caplog.text
    monkeypatch.delenv("SMALL_KEY")
    with pytest.raises(ex.InputError, match="SMALL_KEY is not set"):
        replies(model, ["text 0"])


@pytest.mark.parametrize("url", ["ftp://host/v1", "https://me:sk-1@host/v1", "https://host/v1?api_key=sk-1"])
def test_urls_hold_no_keys(url):
    with pytest.raises(ex.InputError) as error:
        ex.OpenAICompatible("m", base_url=url, price=PRICE)
    assert "sk-1" not in str(error.value)
