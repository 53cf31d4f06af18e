"""Clients grade answers of their own: once, whatever protocol they speak, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from exeunt.cli.app import run as exeunt
from exeunt.gateway.mock_provider import MockProvider

from .running_gateway import PRICES, Running, answer, error_of, eventually, running
from .test_hostile import Raw, choice_of

SAID: Any = [{"role": "user", "content": "easy 1"}]
MISSING = "there is no answer '{}' to you that is still kept"


def grade(run: Running, identity: Any, number: Any, key: str = "", **headers: str) -> httpx.Response:
    with run.http(key or run.client) as http:
        return http.post("/v1/feedback", json={"id": identity, "grade": number}, headers=headers)


def asked(run: Running, text: str = "easy 1", **options: Any) -> str:
    return str(run.ask(text, **options).json()["id"])


def recorded(run: Running, n: int) -> None:
    eventually(lambda: run.gateway.records.count() == n)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, shadow="") as one:
        yield one


def test_an_answer_is_graded_once(plain: Running) -> None:
    run = plain
    first, second = asked(run), asked(run, model="small")
    recorded(run, 2)
    told = grade(run, first, 0.25)
    assert (told.status_code, told.json()) == (200, {"id": first, "grade": 0.25})
    for again in (0.25, 1):
        twice = grade(run, first, again)
        assert twice.status_code == 409
        assert error_of(twice) == f"the answer '{first}' has a grade already, which stays"
    assert grade(run, second, 0).status_code == 200
    assert {record.answered: record.feedback for record in run.gateway.records.read()} == {
        "large": 0.25, "small": 0.0,
    }  # fmt: skip
    held = b"".join(file.read_bytes() for file in run.gateway.folder.rglob("*") if file.is_file())
    assert first.encode() not in held  # HMACs in place of ids
    assert 'requests_total{path="/v1/feedback",status="409"} 2.0' in run.metrics()


def test_an_id_that_is_unknown_and_that_of_another_client_are_the_same(plain: Running) -> None:
    run = plain
    of_alice = asked(run)
    recorded(run, 1)
    bob = run.gateway.keys.add("bob")
    others, unknown = grade(run, of_alice, 1, key=bob), grade(run, "chatcmpl-none", 1, key=bob)
    assert others.status_code == unknown.status_code == 404
    assert error_of(others) == MISSING.format(of_alice)
    assert others.text == unknown.text.replace("chatcmpl-none", of_alice)
    for headers in (others.headers, unknown.headers):
        assert set(headers) == {"date", "server", "content-length", "content-type"}
    assert grade(run, of_alice, 1).status_code == 200  # nobody has taken its place
    assert grade(run, of_alice, 1, key=bob).text == others.text  # nor does it tell that it has a grade
    assert grade(run, of_alice, 1, key=run.admin).status_code == 403
    assert grade(run, of_alice, 1, key="wrong").status_code == 401


@pytest.mark.parametrize("stream", [False, True])
def test_each_protocol_has_ids_that_can_be_graded(plain: Running, stream: bool) -> None:
    run = plain
    with openai.OpenAI(api_key=run.client, base_url=f"{run.url}/v1") as ours:
        if stream:
            chat = next(iter([*ours.chat.completions.create(model="auto", messages=SAID, stream=True)])).id
            response = next(
                iter(ours.responses.create(model="auto", input="easy 2", stream=True))
            ).response.id
        else:
            chat = ours.chat.completions.create(model="auto", messages=SAID).id
            response = ours.responses.create(model="auto", input="easy 2").id
    with anthropic.Anthropic(api_key=run.client, base_url=run.url) as theirs:
        if stream:
            events = theirs.messages.create(model="auto", messages=SAID, max_tokens=50, stream=True)
            message = next(event.message.id for event in [*events] if event.type == "message_start")
        else:
            message = theirs.messages.create(model="auto", messages=SAID, max_tokens=50).id
    recorded(run, 3)
    assert (response[:5], message[:4]) == ("resp_", "msg_")
    for identity in (chat, response, message):
        assert grade(run, identity, 0.5).status_code == 200
        assert grade(run, identity, 0.5).status_code == 409
    assert [record.feedback for record in run.gateway.records.read()] == [0.5] * 3


def test_errors_have_the_form_of_the_client_that_asked(plain: Running) -> None:
    run = plain
    with anthropic.Anthropic(api_key=run.client, base_url=run.url, max_retries=0) as theirs:
        with pytest.raises(anthropic.NotFoundError) as unknown:
            theirs.post("/v1/feedback", body={"id": "msg_x", "grade": 1}, cast_to=object)
        assert unknown.value.response.json() == {
            "type": "error",
            "error": {"type": "not_found_error", "message": MISSING.format("msg_x")},
        }
        with pytest.raises(anthropic.BadRequestError, match="grade is a number from 0 to 1, got 2"):
            theirs.post("/v1/feedback", body={"id": "msg_x", "grade": 2}, cast_to=object)
        wrong = theirs.with_options(api_key="wrong")
        with pytest.raises(anthropic.AuthenticationError) as no_key:
            wrong.post("/v1/feedback", body={}, cast_to=object)
        assert no_key.value.response.json()["type"] == "error"
    with openai.OpenAI(api_key=run.client, base_url=f"{run.url}/v1", max_retries=0) as ours:
        with pytest.raises(openai.NotFoundError) as unknown_to_us:
            ours.post("/feedback", body={"id": "x", "grade": 1}, cast_to=object)
        assert unknown_to_us.value.response.json() == {
            "error": {"message": MISSING.format("x"), "type": "invalid_request_error", "code": 404}
        }
        headers = {"anthropic-version": "2023-06-01"}
        with pytest.raises(openai.BadRequestError) as chat:  # this path says itself which protocol it is
            ours.chat.completions.create(model="auto", messages=[], extra_headers=headers)
        assert chat.value.response.json()["error"]["code"] == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, 'send {"id": ..., "grade": ...}: the id of an answer, and a number from 0 to 1'),
        ({"id": "x"}, "send {"),
        ({"grade": 1}, "send {"),
        ({"id": "", "grade": 1}, "send {"),
        ({"id": 5, "grade": 1}, "send {"),
        ({"id": "x", "grade": 1, "text": "good"}, "send {"),
        ({"id": "x", "grade": -0.1}, "grade is a number from 0 to 1, got -0.1"),
        ({"id": "x", "grade": 1.1}, "grade is a number from 0 to 1, got 1.1"),
        ({"id": "x", "grade": True}, "grade is a number from 0 to 1, got True"),
        ({"id": "x", "grade": "1"}, "grade is a number from 0 to 1, got '1'"),
        ({"id": "x", "grade": None}, "grade is a number from 0 to 1, got None"),
        ([], "a request is a JSON object"),
        (b'{"id": "x", "grade": NaN}', "the request is no JSON"),
        (b'{"id": "x", "grade": 1e999}', "the request"),
    ],
)
def test_what_is_no_feedback_is_refused(standing: Running, body: Any, message: str) -> None:
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    with standing.http() as http:
        refused = http.post("/v1/feedback", **sent)
        assert http.get("/v1/feedback").status_code == 405
    assert refused.status_code == 400
    assert message in error_of(refused)


@pytest.mark.parametrize("identity", ["resp_", "msg_", "resp_msg_"])
def test_an_answer_without_an_id_cannot_be_graded(tmp_path: Path, identity: str) -> None:
    body = {"choices": [choice_of("a", "stop")], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    for made in ({}, {"id": None}, {"id": 5}):
        folder = tmp_path / str(made.get("id", "none"))
        folder.mkdir()
        with running(folder, Raw({**body, **made}), shadow="") as run:
            assert run.ask("x").status_code == 200
            recorded(run, 1)
            assert grade(run, identity, 1).status_code == 404


class Slow(MockProvider):
    """Waits with the answer of small until `go`."""

    def __init__(self) -> None:
        super().__init__(self.said, PRICES)
        self.go, self.begun = threading.Event(), threading.Event()

    def said(self, model: str, text: str) -> str:
        if model == "small":
            self.begun.set()
        return answer(model, text)

    async def _completions(self, request: Any) -> Any:
        while b'"model":"small"' in await request.body() and not self.go.is_set():
            self.begun.set()
            await asyncio.sleep(0.01)
        return await super()._completions(request)


def test_an_answer_is_graded_while_it_is_still_compared(tmp_path: Path) -> None:
    provider = Slow()
    with running(tmp_path, provider) as run:
        identity = asked(run)
        assert provider.begun.wait(10)
        assert run.gateway.records.count() == 0
        assert grade(run, identity, 0.75).status_code == 200
        assert grade(run, identity, 1).status_code == 409
        assert grade(run, "chatcmpl-none", 1).status_code == 404
        provider.go.set()
        recorded(run, 1)
        assert [record.feedback for record in run.gateway.records.read()] == [0.75]
        assert run.gateway.records.read()[0].said["small"].grade is not None
        assert grade(run, identity, 1).status_code == 409
        assert run.gateway.feedback._waiting == {}


def test_of_a_client_that_is_forgotten_meanwhile_no_grade_is_left(tmp_path: Path) -> None:
    provider = Slow()
    with running(tmp_path, provider) as run:
        identity = asked(run)
        assert provider.begun.wait(10)
        assert grade(run, identity, 0.75).status_code == 200
        assert run.owner.delete("/admin/clients/alice").status_code == 200
        provider.go.set()
        eventually(lambda: run.gateway.feedback._waiting == {})
        assert run.gateway.records.count() == 0


def test_a_grade_that_comes_while_the_answer_is_written_is_kept(
    plain: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, writing, go = plain, threading.Event(), threading.Event()
    add = run.gateway.records.add

    def slow(*arguments: Any, **documents: Any) -> None:
        writing.set()
        assert go.wait(10)
        add(*arguments, **documents)

    monkeypatch.setattr(run.gateway.records, "add", slow)
    identity = asked(run)
    assert writing.wait(10)
    assert grade(run, identity, 0.75).status_code == 200
    assert grade(run, identity, 0.5).status_code == 409
    go.set()
    eventually(lambda: run.gateway.records.feedback() == {"large": (1, 0.75)})


def test_it_is_forgotten_with_its_client_and_with_time(plain: Running) -> None:
    run = plain
    old, new = asked(run), asked(run)
    recorded(run, 2)
    assert grade(run, old, 1).status_code == 200
    run.gateway.records.expire(time.time() + 1)
    assert run.gateway.records.feedback() == {}
    assert [grade(run, identity, 1).status_code for identity in (old, new)] == [404, 404]
    of_bob = run.gateway.keys.add("bob")
    with run.http(of_bob) as http:
        identity = http.post("/v1/chat/completions", json={"model": "auto", "messages": SAID}).json()["id"]
    recorded(run, 1)
    assert grade(run, identity, 1, key=of_bob).status_code == 200
    assert "large 1.00 (1)" in run.state()["feedback"]
    assert run.owner.delete("/admin/clients/bob").json() == {"removed": 1}
    assert run.state()["feedback"] == ""
    assert run.gateway.records.feedback() == {}
    again = run.gateway.keys.add("bob")
    assert grade(run, identity, 1, key=again).status_code == 404


def test_the_page_asks_the_file_only_after_something_has_changed(
    plain: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, reads = plain, list[int]()
    read = run.gateway.records.feedback
    eventually(lambda: run.gateway.status is not None)
    monkeypatch.setattr(run.gateway.records, "feedback", lambda: (reads.append(1), read())[1])
    identity = asked(run)
    recorded(run, 1)
    [run.state() for _ in range(5)]
    at_most = len(reads) + 1
    assert len(reads) <= 1  # once an hour, what is too old is removed
    grade(run, identity, 0.5)
    assert {run.state()["feedback"][:53] for _ in range(5)} == {
        "Feedback of clients, as mean grades: large 0.50 (1). "
    }
    assert len(reads) <= at_most


def test_the_page_the_report_and_the_command_say_it_and_that_it_certifies_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(tmp_path, promise="{max_loss: 5%}") as run:
        assert run.state()["feedback"] == ""
        for text, model, number in (("easy 1", "auto", 1), ("easy 2", "auto", 0.5), ("easy 3", "small", 0)):
            assert grade(run, asked(run, text, model=model), number).status_code == 200
        told = (
            "Feedback of clients, as mean grades: large 0.75 (2), small 0.00 (1). It certifies nothing, since who "
            "gives feedback is no random part of the requests."
        )
        eventually(lambda: run.state()["feedback"] == told)
        run.gateway.find_status()
        assert told in (run.gateway.folder / "report.html").read_text()
        exeunt(["gateway", "certify", str(tmp_path / "gateway.yaml")])
        assert told in " ".join(capsys.readouterr().out.split())
        # No grade of a comparison, and nothing that bets, has changed.
        graded = [record for record in run.gateway.records.read() if record.compared == "compared"]
        assert {said.grade for record in graded for said in record.said.values()} <= {0.0, 1.0}
        assert json.dumps(run.gateway.status.to_dict()).count("eedback") == 0
