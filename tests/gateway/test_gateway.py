"""A gateway as its clients and whoever administers it meet it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from exeunt.cli.app import run as exeunt
from exeunt.errors import FileError, InputError
from exeunt.gateway.certification_status import CertificationStatus, Certified
from exeunt.gateway.mock_provider import MockProvider

from .made_state import made_policy
from .running_gateway import (
    PRICES,
    TOOL,
    Running,
    answer,
    error_of,
    eventually,
    free_port,
    models,
    right_answer,
    running,
    written,
)


def test_the_client_of_openai_asks_it(standing: Running) -> None:
    with openai.OpenAI(api_key=standing.client, base_url=f"{standing.url}/v1", max_retries=0) as client:
        messages = [{"role": "user", "content": "hard 1"}]
        said = client.chat.completions.create(model="auto", messages=messages)
        assert said.choices[0].message.content == right_answer("hard 1")
        assert said.model == "large"  # nothing changes for users in the shadow
        assert client.chat.completions.create(model="small", messages=messages).model == "small"
        assert {"auto", "small", "large"} <= {model.id for model in client.models.list()}
        streamed = client.chat.completions.create(model="auto", messages=messages, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
        assert text == right_answer("hard 1")
        with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
            client.chat.completions.create(model="other", messages=messages)
        with pytest.raises(
            openai.BadRequestError, match="'web_search_options' is refused: it could cost more"
        ):
            client.chat.completions.create(model="auto", messages=messages, web_search_options={})


def test_an_answer_that_is_final_streams_as_it_comes(tmp_path: Path) -> None:
    with running(tmp_path, MockProvider(answer, PRICES, wait_s=0.5)) as run:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hard 1"}]}
        with run.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as answered:
            came = [(time.monotonic(), line) for line in answered.iter_lines() if line]
        assert came[-1][1] == "data: [DONE]"
        assert came[-1][0] - came[0][0] > 0.075  # the provider sends a chunk every twentieth of a second
        chunks = [json.loads(line[5:]) for _, line in came[:-1]]
        assert {chunk["model"] for chunk in chunks} == {"large"}
        assert all(chunk["choices"] for chunk in chunks)  # the client did not ask for the usage
        eventually(lambda: run.n_compared == 1)
        assert run.gateway.money.total.spent == pytest.approx(run.provider.spent, abs=1e-8)


def test_an_answer_that_was_held_back_keeps_the_log_probabilities_that_its_client_asked_for(
    run: Running,
) -> None:
    run.gateway.policies.add(made_policy())  # it asks small first, whose answer may be replaced
    for options, wanted in (({}, False), ({"logprobs": True}, True)):
        streamed = run.ask("easy 1", model="auto:p1", stream=True, **options)
        assert streamed.headers["x-exeunt-policy"] == "p1"
        assert "x-exeunt-cost" in streamed.headers  # it was known as a whole
        chunks = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
        choices = [chunk["choices"][0] for chunk in chunks]
        assert "".join(one["delta"].get("content", "") for one in choices) == right_answer("easy 1")
        assert any("logprobs" in one for one in choices) == wanted
    whole = run.ask("easy 1", model="auto:p1", logprobs=True).json()["choices"][0]
    assert [one["logprobs"] for one in choices if "logprobs" in one] == [whole["logprobs"]]
    for model, policy in (("auto", "reference"), ("large", "none")):
        assert run.ask("hard 1", model=model, stream=True).headers["x-exeunt-policy"] == policy


def test_shadow_records_hold_costs_and_grades_and_no_texts(run: Running) -> None:
    for i in range(4):
        assert run.ask(f"hard question {i}").status_code == 200
    eventually(lambda: run.n_compared == 4)
    for record in run.gateway.records.read():
        assert record.said["large"].grade == 1.0
        assert record.said["small"].grade in (0.0, 1.0)
        assert record.said["small"].score < 0  # a mean log-probability
        assert record.said["large"].score is None
        assert record.client == "alice"
    held = b"".join(file.read_bytes() for file in run.gateway.folder.rglob("*") if file.is_file())
    assert not any(text in held for text in (b"hard question", b"wrong small", run.client.encode()))
    assert {file.stat().st_mode & 0o77 for file in run.gateway.folder.glob("*.key")} == {0}
    assert run.gateway.money.total.spent == pytest.approx(run.provider.spent, abs=1e-8)
    assert all(run.client not in json.dumps(sent) for sent in run.provider.received)  # it goes to no provider
    run.provider.logprobs = False
    run.ask("easy 1")
    eventually(lambda: run.n_compared == 5)
    assert run.gateway.records.read()[-1].said["small"].score == -100.0  # the least sure


def test_keys(run: Running) -> None:
    with run.http("wrong") as http:
        assert http.post("/v1/chat/completions", json={}).status_code == 401
        assert http.get("/health").status_code == 200
    with run.http() as http:
        for end in ("", "%0A"):
            for path in ("/admin/state", "/metrics", "/events"):
                assert http.get(path + end).status_code == 403
            assert http.post("/admin/rollback" + end).status_code == 403
        assert http.delete("/admin/clients/alice%0A").status_code == 403
        for path in ("/chat/completions", "/v1/completions"):
            assert "their base URL ends with /v1" in error_of(http.post(path))
        assert "only POST" in error_of(http.get("/v1/chat/completions"))
    assert run.owner.post("/v1/chat/completions", json={}).status_code == 403
    assert run.state()["policy"] == "reference"
    assert "neither a key nor a record of 'bob'" in run.owner.delete("/admin/clients/bob").text
    assert "budget 'forty' is not understood" in run.take(budget="forty").text
    assert "exeunt_gateway_requests" in run.metrics()
    evil = run.owner.post("/admin/rollback", headers={"origin": "http://evil.example"})
    other = run.owner.get("/admin/state", headers={"host": "evil.example"})
    assert evil.status_code == other.status_code == 403
    assert "allowed_hosts" in error_of(other)
    run.gateway.keys.remove("alice")
    assert run.ask("easy 1").status_code == 401


def test_a_budget_takes_the_dearest_policy_that_is_certified_now(
    run: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p1 and p3 are kept, and the question that they answered has ended."""

    statuses = [CertificationStatus({}, [])]

    def certify(*names: str) -> None:
        statuses.append(CertificationStatus({name: Certified(name, [], None, {}) for name in names}, []))

    # The gateway finds its own again and again: that is not taken here.
    taken = property(lambda _: statuses[-1], lambda *_: None)
    monkeypatch.setattr(type(run.gateway), "status", taken, raising=False)
    made = made_policy()
    for share in (0.6, 0.5, 0.7):
        about = {**made.notes["gateway"], "share": share, "cost": share / 1000}
        run.gateway.policies.add(replace(made, notes={**made.notes, "gateway": about}))
    certify("p2")
    for budget in ("40%", "0.0004 usd"):
        assert f"no certified policy costs at most {budget}" in error_of(run.take(budget=budget))
    assert run.take(budget="80%").json() == {"policy": "p2"}
    certify("p1", "p2")
    assert run.take(budget="80%").json() == {"policy": "p1"}
    assert run.take(budget="0.00055 usd").json() == {"policy": "p2"}
    certify()
    assert "no certified policy" in error_of(run.take(budget="80%"))
    assert run.take(policy="p3").json() == {"policy": "p3"}  # by its name any may be taken


def test_a_policy_that_answers_already_is_not_activated_again(run: Running) -> None:
    run.gateway.policies.add(made_policy())
    for name in ("reference", "p1"):
        run.take(policy=name)
        history, span = run.gateway.policies.history, run.gateway.traffic.bill.now
        told = {"policy": name, "note": f"{name} answers already: nothing has changed"}
        assert run.take(policy=name).json() == told
        assert (run.gateway.policies.history, run.gateway.traffic.bill.now) == (history, span)
    assert run.owner.post("/admin/rollback").json() == {"policy": "reference"}


def test_limits_of_money(tmp_path: Path) -> None:
    with running(tmp_path, spend="{total: '1 usd', key: '0.008 usd'}", shadow="") as run:
        statuses = []
        while 402 not in statuses and len(statuses) < 100:
            statuses.append(run.ask(f"easy {len(statuses)}").status_code)
        spent = run.gateway.money.of(run.gateway.keys.clients[0]).spent
        refused = run.ask("easy 9")
        assert refused.status_code == 402
        told = r"this may cost [\d.]+ usd, and [\d.]+ usd of what may be spent is left: lower max_tokens, or ask .* g"
        assert re.fullmatch(told + "ateway for more", error_of(refused))
    assert (statuses[0], statuses[-1]) == (200, 402)
    assert 0.003 < spent <= 0.008  # less than a call may cost is left


def test_whether_a_unit_is_drawn_does_not_depend_on_what_its_request_reserves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long one leaves less of the day than a comparison may cost."""
    shadow = "{models: [small], share: 1, audit: 1, spend: '100 usd', cap: '0.025 usd'}"
    provider = MockProvider(answer, PRICES, wait_s=0.3)
    with running(tmp_path, provider, spend="{day: '0.03 usd'}", shadow=shadow) as run:
        is_paid_for = run.gateway.comparing.is_paid_for

        async def slowly() -> bool:
            await asyncio.sleep(0.05)
            return await is_paid_for()

        monkeypatch.setattr(run.gateway.comparing, "is_paid_for", slowly)
        assert run.ask("x " * 500).status_code == 200
        eventually(lambda: run.gateway.records.count("1") == 1)
        ((unit, _),) = run.gateway.records.of_units(refused=True)
        assert (unit.drawn, unit.refused) == (True, False)


def test_the_limit_of_a_request_holds_for_each_attempt_alone(tmp_path: Path) -> None:
    """Two attempts fail and count at their most, together more than one may cost, and a third model answers."""
    provider = MockProvider(answer, {**PRICES, "middle": PRICES["large"]}, fails=0.5)
    three = models(small="1", middle="10", large="10")
    options = {
        "models": three,
        "fallback": "[middle, small]",
        "spend": "{request: '0.0042 usd'}",
        "shadow": "",
    }
    with running(tmp_path, provider, **options) as run:
        assert run.ask("easy 1").headers["x-exeunt-model"] == "small"
        assert [sent["body"]["model"] for sent in provider.received] == ["large", "middle", "small"]
        assert run.gateway.money.total.spent > 0.0042
        provider.fails = 0.0
        long = "easy " + "x" * 100
        refused = run.ask(long, model="large")
        assert refused.status_code == 400
        assert re.match(r"large may cost 0\.00\d+ usd for this, and a request 0.0042 usd", error_of(refused))
        assert run.ask(long).headers["x-exeunt-model"] == "small"
        assert len(provider.received) == 4


def test_a_client_is_told_what_an_answer_cost_and_what_is_left_of_a_limit(
    tmp_path: Path, standing: Running
) -> None:
    without_limit = standing.ask("easy 1", model="large")  # it is not compared
    assert float(without_limit.headers["x-exeunt-cost"]) > 0
    assert "x-exeunt-left" not in without_limit.headers
    with running(tmp_path, spend="{key: '1 usd'}", shadow="") as run:
        run.ask("easy 1")
        before = run.provider.spent
        told = run.ask("hard 2")
        assert float(told.headers["x-exeunt-cost"]) == pytest.approx(run.provider.spent - before, abs=1e-9)
        assert float(told.headers["x-exeunt-left"]) == pytest.approx(1 - run.provider.spent, abs=1e-6)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_disconnects_pays_for_what_was_sent_on_its_behalf(
    tmp_path: Path, *, stream: bool
) -> None:
    body = json.dumps(
        {"model": "auto", "messages": [{"role": "user", "content": "easy 1"}], "stream": stream}
    )
    with running(tmp_path, MockProvider(answer, PRICES, wait_s=0.3), shadow="") as run:
        host, port = run.url.removeprefix("http://").split(":")
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {run.client}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall((head + body).encode())
            eventually(lambda: len(run.provider.received) == 1)
            if stream:
                assert b"200 OK" in connection.recv(1 << 16)  # and it leaves in the middle
        eventually(lambda: run.gateway.records.count() == 1)
        (record,) = run.gateway.records.read()
        assert record.answered == "large"
        assert record.cost == pytest.approx(run.provider.spent, abs=1e-8)
        spent = run.gateway.money.of(run.gateway.keys.named("alice")).spent
        assert spent == pytest.approx(run.provider.spent, abs=1e-8)
        assert spent > 0


def test_a_model_is_asked_only_for_what_it_takes(standing: Running) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    results = [
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "easy 1"},
    ]
    for asked in ({"tools": [TOOL]}, {"messages": results}):
        assert standing.ask("easy 1", **asked).json()["model"] == "large"
        assert error_of(standing.ask("easy 1", model="small", **asked)).startswith("small takes no tools")
    assert "takes no reasoning_effort" in error_of(standing.ask("x", reasoning_effort="high"))
    image: Any = [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    assert "takes no images" in error_of(standing.ask(image, model="large"))


def test_the_address_of_an_image_is_passed_on_and_asked_by_nobody_here(tmp_path: Path) -> None:
    """What lies at an address could be inside of this network."""
    with (
        socket.create_server(("127.0.0.1", 0)) as elsewhere,
        running(tmp_path, shadow="", models=models(large="10, image_tokens: 1000")) as run,
    ):
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/x.png"
        image: Any = [{"type": "image_url", "image_url": {"url": address}}]
        assert run.ask(image).status_code == 200
        assert run.provider.received[0]["body"]["messages"] == [{"role": "user", "content": image}]
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"model": "auto"}', b'{"model": "auto", "messages": []}', b"[" * 100_000,
        b'{"model": "auto", "messages": [{"role": "user", "content": NaN}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "n": 2}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}',
        b'{"model": "auto", "messages": [{"role": "user", "content": 5}]}',
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(standing: Running, body: bytes) -> None:
    before = len(standing.provider.received)
    refused = standing.post(body)
    assert refused.status_code == 400, refused.text
    assert error_of(refused)
    assert len(standing.provider.received) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--spend", "5 usd"], "give them with --add NAME"),
        (["--add", "a", "--add-admin", "b"], "at a time"),
        (["--add", "a/b"], "up to 64 letters"),
        (["--add", "a", "--spend", "5 ms"], "is in ms"),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        exeunt(["gateway", "keys", str(written(tmp_path)), *options])


def test_the_command_says_where_its_page_is(tmp_path: Path) -> None:
    file = written(tmp_path, listen="{port: 0}")
    for option in ("--add", "--add-admin"):
        exeunt(["gateway", "keys", str(file), option, option.strip("-")])
    command = [sys.executable, "-m", "exeunt", "gateway", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        late = threading.Timer(60, process.kill)  # who says nothing
        late.start()
        try:
            said = process.stdout.readline()
            told = r"the page of the gateway is at (http://127\.0\.0\.1:\d+/), with the key of who adm"
            found = re.match(told, said)
            assert found is not None, said
            assert "<title>" in httpx.get(found[1]).text
        finally:
            late.cancel()
            process.terminate()


def test_a_provider_without_its_key_is_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    providers = "{mock: {base_url: 'http://127.0.0.1:1/v1', key: NO_SUCH_KEY}}"
    file = written(tmp_path, providers=providers, listen=f"{{port: {free_port()}}}")
    for option in ("--add", "--add-admin"):
        exeunt(["gateway", "keys", str(file), option, option.strip("-")])
    with pytest.raises(InputError, match="the environment variable NO_SUCH_KEY is not set"):
        exeunt(["gateway", str(file)])


def test_a_model_whose_name_has_a_slash_is_resumed(tmp_path: Path) -> None:
    with running(tmp_path, shadow="", models=models(**{"org/small": "1"}), reference="org/small") as run:
        assert run.owner.post("/admin/models/org/small/resume").json() == {"resumed": "org/small"}
        assert run.owner.post("/admin/models/org/other/resume").status_code == 404


def test_log_probabilities_that_a_client_did_not_ask_for_are_not_returned(tmp_path: Path) -> None:
    with running(tmp_path, shadow="", models=models(large="10, logprobs: true")) as run:
        for options, wanted in (({}, False), ({"logprobs": False}, False), ({"logprobs": True}, True)):
            whole, streamed = run.ask("easy 1", **options), run.ask("easy 1", stream=True, **options)
            assert ("logprobs" in whole.json()["choices"][0]) == wanted
            assert ('"logprobs": {' in streamed.text) == wanted
            assert right_answer("easy 1") in whole.text


@pytest.mark.parametrize(("fallback", "offered"), [("[]", False), ("[wise]", True)])
def test_a_judge_is_not_offered_to_clients(tmp_path: Path, fallback: str, *, offered: bool) -> None:
    shadow = "{models: [small], share: 1, audit: 1, spend: '100 usd', grader: judge wise}"
    three = models(small="1, logprobs: true", large="10", wise="10, model: large")
    with running(tmp_path, shadow=shadow, models=three, fallback=fallback) as run, run.http() as http:
        names = [one["id"] for one in http.get("/v1/models").json()["data"]]
        assert ("wise" in names) == offered
        assert (run.ask("x", model="wise").status_code == 200) == offered


def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(*_: object) -> None:
        raise FileError("the ledger money.db cannot be read or written (database or disk is full)")

    with running(tmp_path, shadow="") as run:
        with monkeypatch.context() as patch:
            patch.setattr(run.gateway.answering, "by_policy", full)
            told = [run.ask("x") for _ in range(5)]
        assert run.ask("x").status_code == 200
    assert {one.status_code for one in told} == {503}
    assert "cannot read or write its files" in error_of(told[0])
    lines: list[Any] = [record for record in caplog.records if "failed" in record.message]
    assert [(line.exc_info, line.fields["why"][:10]) for line in lines] == [(None, "the ledger")]


def test_another_key_of_a_client_goes_on_with_what_is_spent(run: Running) -> None:
    def spent() -> float:
        (one,) = (one for one in run.gateway.keys.clients if not one.admin)
        return run.gateway.money.of(one).spent

    run.ask("easy 1")
    before = spent()
    run.client = run.gateway.keys.add("alice")
    assert spent() == before > 0
    run.ask("easy 2")
    assert spent() > before


def test_costs_are_those_of_the_provider_where_calls_fail(tmp_path: Path) -> None:
    """An attempt that fails counts at its most in limits, and nothing in what is said to have been paid."""
    provider = MockProvider(answer, PRICES, fails=0.3)
    with running(tmp_path, provider, shadow="") as run:
        told = [run.ask(f"easy {i}").headers.get("x-exeunt-cost", "0") for i in range(20)]
        eventually(lambda: run.gateway.records.count("1") == 20)
        recorded = run.gateway.records.read()
        (spent,) = re.findall(r'spent_usd_total\{model="large"\} (\S+)', run.metrics())
        charged = run.gateway.money.total.spent
    assert len(provider.received) > sum(provider.calls.values())
    said = (one.cost for record in recorded for one in record.said.values())
    for sums in (sum(map(float, told)), sum(one.cost for one in recorded), sum(said), float(spent)):
        assert sums == pytest.approx(provider.spent, abs=1e-8)
    assert charged > provider.spent
