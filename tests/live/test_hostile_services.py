"""Thousands of hostile answers to live models: each ask ends in an answer or says why not, and money is bounded."""

import asyncio
import gc
import json
import math
import time
import tracemalloc
from collections import Counter

import pyarrow.parquet as pq
import pytest

pytest.importorskip("starlette")

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

import exeunt as ex
from exeunt.data import open_inputs
from exeunt.live.recording import record_models
from gateway.hostile_answers import Hostile
from gateway.running_gateway import right_answer

from .service import served
from .test_openai_compatible import replies

CLASSES = [f"answer {k}" for k in range(1000)]
TIMEOUT_S = 10.0
LIMITS = {"text": 0.005, "classes": 0.005, "template": 80.0, "template of classes": 80.0}
"""US dollars that each model may spend for each input of a campaign: less than all attempts could cost."""


def models_of(url, retries=0):
    """Models of each kind that ask the same service."""
    options = {"retries": retries, "timeout_s": TIMEOUT_S, "max_answer": 1 << 20}
    price = {"input": 10.0, "output": 10.0}
    endpoint = {**options, "base_url": f"{url}/v1", "price": price, "prompt": "{text}", "max_tokens": 100}
    template = {
        "request": {"model": "large", "messages": [{"role": "user", "content": "{input}"}]},
        "response": {
            "answer": "choices.0.message.content",
            "confidence": "choices.0.logprobs.content.0.logprob",
            "cost": "usage.total_tokens",
        },
        "price": 100.0,
        **options,
    }
    address = f"{url}/v1/chat/completions"
    return {
        "text": ex.OpenAICompatible("large", **endpoint),
        "classes": ex.OpenAICompatible("large", classes=CLASSES, **endpoint),
        "template": ex.HTTPModel(address, **template),
        "template of classes": ex.HTTPModel(address, **template, classes=CLASSES),
    }


async def asked(name, model, i, ledger):
    """Ask a model, check what it replies, and return what came of it."""
    given, began = f"easy {i}", time.monotonic()
    reply = await model.ask(given, name=name, ledger=ledger, key=str(i))
    assert time.monotonic() - began < 2 * TIMEOUT_S
    assert 0 <= reply.bound <= reply.cost <= (model.retries + 1) * model.most(given) * (1 + 1e-9)
    if reply.answer is None:
        assert reply.failed
        assert "\n" not in reply.failed
        return reply.failed.partition(":")[0]
    assert not reply.failed
    assert isinstance(reply.answer, str)
    assert math.isfinite(reply.confidence)
    assert model.classes is None or reply.answer in model.classes
    return "right" if reply.answer == right_answer(given) else "what it said"


def campaign(n, seed):
    """Ask each model n times, every second time with a retry; return what came of it."""
    provider, found, held = Hostile(seed), Counter(), []
    ledgers = {name: ex.Ledger(total=f"{n * limit} usd") for name, limit in LIMITS.items()}

    async def batch(models, rows):
        try:
            each = [(name, model, i, ledgers[name]) for i in rows for name, model in models.items()]
            return await asyncio.gather(*(asked(*one) for one in each))
        finally:
            for model in models.values():
                await model.close()

    with served(provider.app) as url:
        for begin in range(0, n, 25):
            models = models_of(url, retries=begin // 25 % 2)
            found.update(asyncio.run(batch(models, range(begin, min(begin + 25, n)))))
            for ledger in ledgers.values():
                assert ledger.reserved == 0
                assert ledger.left >= 0
                for one in ledger.disputed:
                    one.settle()
                for name in ledger.stopped:
                    ledger.resume(name)
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    assert provider.spent <= sum(ledger.spent for ledger in ledgers.values())
    assert held[-1] < held[len(held) // 3] + (4 << 20)
    return found


pytestmark = pytest.mark.usefixtures("quick")


def test_two_hundred_hostile_answers():
    found = campaign(50, seed=1)
    assert found["right"] > 20
    assert sum(found.values()) - found["right"] > 50


@pytest.mark.slow
def test_four_thousand_hostile_answers():
    tracemalloc.start()
    try:
        found = campaign(1_000, seed=2)
    finally:
        tracemalloc.stop()
    print(found)
    assert found["right"] > 400
    assert sum(found.values()) - found["right"] > 1_000


def fixed(body, status, kind):
    """A service that always answers the same."""

    async def answer(_):
        return Response(body, status, {"content-type": kind})

    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])


@pytest.mark.parametrize(("codec", "status"), [("hex", 200), ("idna", 503), ("utf-16", 200)])
def test_an_answer_in_a_codec_that_is_none_of_texts_is_a_failure(codec, status):
    with served(fixed(b"\xff{[", status, f"text/html; charset={codec}")) as url:
        told = [reply for model in models_of(url).values() for reply in replies(model, ["easy 1"])]
    why = "its answer is no JSON" if status == 200 else f"status {status}"
    assert {reply.failed for reply in told} == {why}


def test_what_models_said_is_recorded_whatever_it_is(tmp_path):
    body = {"choices": [{"message": {"content": "a\ud83d"}, "logprobs": None}], "usage": {"total_tokens": 9}}
    (tmp_path / "texts.txt").write_text("\n".join(f"easy {i}" for i in range(20)))
    inputs = open_inputs(tmp_path / "texts.txt")
    with served(fixed(json.dumps(body).encode(), 200, "application/json")) as url:
        done = record_models({"text": models_of(url)["text"]}, inputs, tmp_path / "out", say=lambda _: None)
    assert (done.rows, done.counts["text"]["answered"]) == (20, 20)
    table = pq.read_table(tmp_path / "out" / "recording.parquet")
    assert set(table["prediction_text"].to_pylist()) == {"a\ufffd"}
