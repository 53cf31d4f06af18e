"""Answers of services that have no end, or grow when they are unpacked."""

import asyncio
import gzip
import json
import threading

import pytest

import exeunt as ex
from exeunt._support.outside_json import outside_json
from exeunt.errors import InputError

from .service import MemoryLedger, served
from .test_openai_compatible import replies

MOST = 200_000
PACKED = gzip.compress(b" " * 50_000_000)


class Endless:
    """Sends 64 KiB again and again, or what is packed. `sent`: bytes so far."""

    def __init__(self, status=200, packed=False):
        self.status, self.packed, self.sent, self.wanted = status, packed, 0, b""

    async def __call__(self, scope, receive, send):
        await receive()
        self.wanted = dict(scope["headers"])[b"accept-encoding"]
        about = [(b"content-encoding", b"gzip")] if self.packed else []
        await send({"type": "http.response.start", "status": self.status, "headers": about})
        block = PACKED if self.packed else b"x" * (1 << 16)
        left = asyncio.ensure_future(receive())  # comes once the client has left
        for _ in range(1 if self.packed else 1_000):
            if left.done():
                return
            self.sent += len(block)
            await send({"type": "http.response.body", "body": block, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})


def says(body):
    """A service that always answers this."""

    async def service(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return service


def templates(url):
    said = {"request": {"text": "{input}"}, "response": {"answer": "a"}}
    return ex.HTTPModel(url, **said, price=0.01, retries=0, max_answer=MOST)


def endpoint(url):
    price = {"input": 1.0, "output": 1.0}
    return ex.OpenAICompatible("m", base_url=url, price=price, retries=0, max_answer=MOST)


@pytest.mark.parametrize(
    ("make", "service", "why"),
    [
        (templates, Endless(), "its answer has more than 200,000 bytes"),
        (endpoint, Endless(status=500), "its answer has more than 200,000 bytes"),
        (endpoint, Endless(packed=True), "its answer is compressed, which it was not asked for"),
    ],
)
def test_an_answer_that_is_too_large_is_cut_off_and_counts_at_its_most(make, service, why):
    ledger, service.sent = MemoryLedger(1.0), 0
    with served(service) as url:
        model = make(url)
        (found,) = replies(model, ["x"], ledger=ledger)
    assert (found.answer, found.failed, found.again) == (None, why, True)
    assert ledger.spent == found.cost == found.bound == pytest.approx(model.most("x"))
    assert service.sent < 20 << 20  # what lies in sockets
    assert service.wanted == b"identity"


def test_a_service_may_send_as_much_as_is_stated():
    with served(says(b'{"a": "%b"}' % (b"x" * (MOST - 9)))) as url:
        (found,) = replies(templates(url), ["x"])
    assert len(found.answer) == MOST - 9


@pytest.mark.parametrize(
    ("make", "length", "beside"),
    [(templates, 9, False), (templates, 300_000, True), (endpoint, 300_000, True)],
)
def test_a_large_answer_is_read_beside_the_event_loop(make, length, beside, monkeypatch):
    text, threads = "x" * length, []

    def noted(data):
        threads.append(threading.get_ident())
        return outside_json(data)

    monkeypatch.setattr("exeunt.live.http_model.outside_json", noted)
    body = {"a": text, "choices": [{"message": {"content": text}}]}
    with served(says(json.dumps(body).encode())) as url:
        model = make(url)
        model.max_answer = 1 << 20
        (found,) = replies(model, ["x"])
    assert (found.answer, threads != [threading.get_ident()]) == (text, beside)


def test_an_answer_has_at_least_a_byte():
    with pytest.raises(InputError, match="max_answer must be above 0, got 0"):
        ex.HTTPModel("http://a/b", request={}, response={"answer": "a"}, price=0.1, max_answer=0)
