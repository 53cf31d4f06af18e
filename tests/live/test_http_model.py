"""Services with templates of their own, and functions."""

import asyncio
import json
import re
import threading

import numpy as np
import pytest

import exeunt as ex

from .service import MemoryLedger, served
from .test_openai_compatible import replies

ANSWERS = {
    "glad": {"results": [{"label": "joy", "score": 0.75}], "billed": 0.002},
    "none": {"results": [{"label": None, "score": 0.75}], "billed": 0.002},
    "lies": {"results": [{"label": "joy", "score": "0.5"}], "billed": -1},
    "more": {"results": [{"label": "joy", "score": 0.5}], "billed": 9.0},
    "nan": {"results": [{"label": "joy", "score": float("nan")}], "billed": 0.001},
    "odd": {"results": []},
}


class Echo:
    def __init__(self):
        self.sent = []

    async def __call__(self, scope, receive, send):
        body = json.loads((await receive())["body"])
        self.sent.append((body, dict(scope["headers"])))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(ANSWERS[body["doc"]["text"]]).encode()})


def test_templates_say_what_is_sent_and_where_the_answer_is(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    app, ledger = Echo(), MemoryLedger(10.0)
    with served(app) as url:
        model = ex.HTTPModel(
            f"{url}/classify",
            request={"doc": {"text": "{input}"}, "note": "about {input}", "k": [1, "{input}"]},
            response={"answer": "results.0.label", "confidence": "results.0.score", "cost": "billed"},
            price=0.003,
            headers={"Authorization": "Bearer $MY_KEY"},
            retries=0,
        )
        found = dict(zip(ANSWERS, replies(model, ANSWERS, ledger=ledger), strict=True))
    body, headers = next(sent for sent in app.sent if sent[0]["doc"]["text"] == "glad")
    assert body == {"doc": {"text": "glad"}, "note": "about glad", "k": [1, "glad"]}
    assert headers[b"authorization"] == b"Bearer sk-secret"
    assert "sk-secret" not in str(vars(model))
    glad = found["glad"]
    assert (glad.answer, glad.confidence, glad.cost, glad.bound) == ("joy", 0.75, 0.002, 0.0)
    assert (found["none"].answer, found["none"].failed, found["none"].cost) == (None, "gave no answer", 0.002)
    assert (found["lies"].answer, found["lies"].cost, found["lies"].bound) == ("joy", 0.003, 0.003)
    assert (found["more"].cost, found["more"].lied, found["lies"].lied) == (0.003, True, True)
    assert found["nan"].failed == "its answer is no JSON"
    assert (found["odd"].failed, model.counts["lies"]) == ("its answer has no results.0.label", 2)
    assert ledger.spent == pytest.approx(0.002 + 0.002 + 0.003 + 0.003 + 0.003 + 0.003)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"headers": {"X-Api-Key": "sk-1"}}, "belongs in the environment"),
        ({"response": {"confidence": "score"}}, "at least that of the answer"),
        ({"price": -1}, "a price is a number of US dollars"),
        ({"url": "https://host/?token=sk-1"}, "may hold no key"),
    ],
)
def test_wrong_services(options, message):
    given = {"url": "https://host", "request": "{input}", "response": {"answer": "a"}, "price": 1, **options}
    with pytest.raises(ex.InputError, match=message) as error:
        ex.HTTPModel(**given)
    assert "sk-1" not in str(error.value)


def test_functions_sync_and_async():
    async def later(text):
        await asyncio.sleep(0)
        return text.upper(), 0.5

    by_length = ex.FunctionModel(lambda text: (text[::-1], 1), price=lambda text: 0.001 * len(text))
    (first,) = replies(by_length, ["abc"])
    (second,) = replies(ex.FunctionModel(later, price=0), ["abc"])
    shares = ex.FunctionModel(lambda _: np.array([0.3, 0.7]), price=1, classes=["no", "yes"])
    (third,) = replies(shares, ["a"])
    assert (first.answer, first.confidence, first.cost) == ("cba", 1.0, 0.003)
    assert (second.answer, second.cost) == ("ABC", 0.0)
    assert (third.answer, third.probabilities) == ("yes", (0.3, 0.7))


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        (None, "gave no answer"),
        (("other", 0.5), "its answer is none of the classes"),
        (0.5, r"it returned float, not \(answer, confidence\), or 2 probabilities"),
        (("no", "sure"), "it returned tuple"),
        ([0.5, 0.6], "it returned list"),
    ],
)
def test_what_functions_may_not_return(returned, why):
    (found,) = replies(ex.FunctionModel(lambda _: returned, price=1, classes=["no", "yes"]), ["a"])
    assert found.answer is None
    assert (re.match(why, found.failed) is not None, found.cost) == (True, 1.0)


def test_a_function_that_fails_is_called_again_and_paid():
    calls = []

    def unsteady(text):
        calls.append(text)
        if len(calls) < 3:
            raise OSError("the disk is away")
        return "a", 0.5

    model = ex.FunctionModel(unsteady, price=0.25, retries=1)
    (failed,) = replies(model, ["x"])
    (found,) = replies(model, ["x"])
    assert (failed.failed, failed.cost, failed.attempts) == ("OSError: the disk is away", 0.5, 2)
    assert (found.answer, found.cost) == ("a", 0.25)


def test_sync_functions_run_at_the_same_time():
    barrier = threading.Barrier(20)

    def meet(_):
        barrier.wait(60)
        return "a", 0.5

    assert all(one.answer == "a" for one in replies(ex.FunctionModel(meet, price=0), range(20)))
