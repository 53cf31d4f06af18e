"""What clients and providers send that does harm, or that only some of them send."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from exeunt.errors import InputError
from exeunt.gateway.answering import Active, Answering
from exeunt.gateway.breaker import Breaker
from exeunt.gateway.chat_model import ChatReply
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.completion_chunks import Sink
from exeunt.gateway.mock_provider import MockProvider
from exeunt.live.live_cascade import LiveAnswer

from .running_gateway import PRICES, Running, answer, error_of, models, running


def request(**options: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x"}], **options}).encode()


class Raw(MockProvider):
    """Answers with `body`: an object, or the bytes of a stream."""

    def __init__(self, body: Any) -> None:
        super().__init__(answer, PRICES)
        self.body = body

    async def _completions(self, request: Request) -> Response:
        self.received.append({"body": json.loads(await request.body())})
        if not isinstance(self.body, bytes):
            return Response(json.dumps(self.body), media_type="application/json")

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(self.body), 7):
                yield self.body[start : start + 7]

        return StreamingResponse(pieces(), media_type="text/event-stream")


def stream(*chunks: Any) -> bytes:
    return "".join(f"data: {json.dumps(one, ensure_ascii=False)}\n\n" for one in chunks).encode()


def said(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def choice_of(text: str, finish: str) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}


@pytest.mark.parametrize(
    "data",
    [
        request(temperature="_").replace(b'"_"', b"1e999"),
        request(tool_choice="_").replace(b'"_"', b"[" * 150 + b"]" * 150),
        request(tools=[{"type": "web_search"}]),
        request(tools={"type": "function"}),
        request(modalities=["text", "audio"]),
        request(messages=[{"role": "assistant", "audio": {"id": "audio_1"}}]),
    ],
)
def test_what_could_not_be_sent_or_priced_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        ChatRequest.read(data)


def test_many_marks_do_not_hold_up_others() -> None:
    marks = "a" + "\u0301" * 100_000 + "\u0323" * 100_000  # minutes, if all are normalised at once
    begun = time.monotonic()
    assert ChatRequest.read(request(messages=[{"role": "user", "content": marks}])).n_bytes >= 400_000
    assert time.monotonic() - begun < 5


def test_what_clients_send_besides_is_taken(standing: Running) -> None:
    more: dict[str, Any] = {
        "prompt_cache_key": "k", "safety_identifier": "s", "verbosity": "low", "modalities": ["text"], "store": False,
        "max_completion_tokens": 50, "stream_options": None, "response_format": {"type": "text"},
    }  # fmt: skip
    assert standing.ask("easy 1", model="large", **more).status_code == 200
    sent = standing.provider.received[-1]["body"]
    assert sent["verbosity"] == "low"
    assert sent["max_tokens"] == 50
    assert not {"prompt_cache_key", "safety_identifier", "modalities", "store"} & sent.keys()


@pytest.mark.parametrize("text", ["", "\ud83d"])
def test_an_empty_answer_or_half_a_character_is_an_answer(tmp_path: Path, text: str) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 100, "total_tokens": 105}
    with running(tmp_path, Raw({"choices": [choice_of(text, "length")], "usage": usage}), shadow="") as run:
        answered = run.ask("x")
    assert answered.json()["choices"][0]["finish_reason"] == "length"
    assert f'"content":{json.dumps(text)}' in answered.text.replace(": ", ":")


@pytest.mark.parametrize(
    "chunk", [{"choices": [5]}, {"choices": [{"delta": {"tool_calls": [{"index": []}]}}]}]
)
def test_a_stream_that_is_not_understood_is_settled(tmp_path: Path, chunk: Any) -> None:
    with running(tmp_path, Raw(stream(chunk)), shadow="") as run:
        assert run.ask("x", stream=True).status_code == 502
        (held,) = run.gateway.money.total.unsettled()
        assert held.state == "charged"  # at once, and not when its lease ends


@pytest.mark.parametrize(
    "last", [{"error": {"message": "secret of the provider"}, "choices": []}, {"choices": []}]
)
def test_a_stream_that_ends_early_says_so_without_the_words_of_the_provider(
    tmp_path: Path, last: Any
) -> None:
    retries = models(large="10, retries: 1")
    with running(tmp_path, Raw(stream(said("begin"), last)), shadow="", models=retries) as run:
        for _ in range(3):
            text = run.ask("x", stream=True, stream_options={"include_usage": True}).text
            assert "begin" in text
            assert "the answer was cut off" in text
            assert "secret" not in text
        assert run.gateway.config.models["large"].breaker.rests  # a retry that cannot be made is no success


def test_a_stream_may_hold_other_ends_of_lines(tmp_path: Path) -> None:
    with running(tmp_path, Raw(stream(said("a\u2028b\x85c"), said("", "stop"))), shadow="") as run:
        first, *_ = run.ask("x", stream=True).content.split(b"\n\n")
    assert json.loads(first[6:])["choices"][0]["delta"]["content"] == "a\u2028b\x85c"


def test_after_a_pause_one_request_at_a_time_tries() -> None:
    now = [0.0]
    breaker = Breaker("small", failures=2, pause_s=5.0, clock=lambda: now[0])
    for call in [breaker.begin() for _ in range(50)]:
        call.end("down")
    assert breaker.opened == 1  # those that fail together begin one pause
    for pause in (5.0, 10.0, 20.0):
        while not breaker.rests:
            breaker.begin().end("down")
        assert breaker.rests_s == pause
        now[0] += pause
        assert not breaker.rests
        trying = breaker.begin()
        now[0] += 1_000.0
        assert breaker.rests  # however long that takes
        trying.end("down")
    now[0] += 1_000.0
    breaker.begin().end(None)  # its client left: another one may try
    assert not breaker.rests
    breaker.begin().end("")
    assert [breaker.rests or (breaker.begin() and breaker.rests) for _ in range(3)] == [False] * 3


def test_others_ask_once_the_request_that_tries_was_sent() -> None:
    now = [0.0]
    breaker = Breaker("mock", failures=2, pause_s=5.0, clock=lambda: now[0])
    for _ in range(2):
        breaker.begin().end("down")
    now[0] += 5.0
    trying = breaker.begin()
    assert breaker.rests
    trying.reached()
    others = [breaker.begin() for _ in range(3)]
    assert not breaker.rests
    others[0].end("down")
    assert (breaker.rests_s, breaker.opened) == (10.0, 2)  # as of one that tries
    now[0] += 10.0
    again = breaker.begin()
    trying.end(None)
    assert breaker.rests  # another one tries now
    again.end("")
    again.end("down")  # it has ended
    assert not breaker.rests
    breaker.begin().end("down")
    assert not breaker.rests


def test_an_earlier_answer_does_not_end_a_stream_that_was_cut_off() -> None:
    async def ask(asked: list[ChatRequest], **_: Any) -> list[LiveAnswer]:
        assert asked[0].sink is not None
        asked[0].sink.put(said("begin"))
        told: dict[str, Any] = {"failed": {"large": "down"}, "replies": {"small": ChatReply("yes", body={})}}
        return [LiveAnswer("", "yes", "large", 0.0, given_by="small", **told)]

    large: Any = SimpleNamespace(refusal=lambda _: "")
    cascade: Any = SimpleNamespace(ask=ask)
    asked = replace(ChatRequest.read(request()), sink=Sink())
    ledger: Any = None
    work = Answering({"large": large}, "large", ()).by_policy(Active("p1", None, cascade), asked, "", ledger)
    assert asyncio.run(work).reply is None


@pytest.mark.parametrize("data", [b"null", b"[1]", b"[" * 60_000, b'{"a":' * 15_000])
def test_a_policy_that_is_chosen_by_no_object_is_refused(standing: Running, data: bytes) -> None:
    told = standing.owner.put("/admin/policy", content=data)
    assert (told.status_code, error_of(told)[:5]) == (400, "send ")
