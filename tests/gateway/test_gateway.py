"""A gateway as its clients and whoever administers it meet it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
pytest.importorskip("typer")
pytest.importorskip("starlette")

import httpx
import openai

from exeunt.cli.app import run as exeunt
from exeunt.errors import FileError, InputError
from exeunt.gateway.certification_status import CertificationStatus, Certified
from exeunt.gateway.mock_provider import MockProvider

from .made_state import made_policy
from .running_gateway import PRICES, Running, answer, config_text, free_port, right_answer, running


def eventually(what: Callable[[], bool], *, tries: int = 200) -> None:
    for _ in range(tries):
        if what():
            return
        time.sleep(0.02)
    raise AssertionError(f"it did not happen within {tries / 50:g} s")


def test_the_client_of_openai_asks_it(run: Running) -> None:
    with openai.OpenAI(api_key=run.client, base_url=f"{run.url}/v1", max_retries=0) as client:
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
        with pytest.raises(openai.BadRequestError, match="'web_search_options' could cost more"):
            client.chat.completions.create(model="auto", messages=messages, web_search_options={})


def test_an_answer_that_is_final_streams_as_it_comes(tmp_path: Path) -> None:
    with running(tmp_path, MockProvider(answer, PRICES, wait_s=1.0)) as run:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hard 1"}]}
        with run.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as answered:
            came = [(time.monotonic(), line) for line in answered.iter_lines() if line]
        assert came[-1][1] == "data: [DONE]"
        assert came[-1][0] - came[0][0] > 0.15  # the provider sends a chunk every tenth of a second
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
    assert b"hard question" not in held
    assert b"wrong small" not in held
    assert run.client.encode() not in held
    assert {file.stat().st_mode & 0o77 for file in run.gateway.folder.glob("*.key")} == {0}
    spent = run.gateway.money
    assert spent.total.spent == pytest.approx(run.provider.spent, abs=1e-8)


def test_the_key_of_a_client_goes_to_no_provider(run: Running) -> None:
    run.ask("easy 1")
    assert all(run.client not in json.dumps(sent) for sent in run.provider.received)


def test_keys(run: Running) -> None:
    with run.http("wrong") as http:
        assert http.post("/v1/chat/completions", json={}).status_code == 401
        assert http.get("/health").status_code == 200
    with run.http() as http:
        for path in ("/admin/state", "/metrics", "/events", "/admin/state%0A", "/metrics%0A", "/events%0A"):
            assert http.get(path).status_code == 403
        assert "their base URL ends with /v1" in http.post("/chat/completions").json()["error"]["message"]
        assert "their base URL ends with /v1" in http.post("/v1/embeddings").json()["error"]["message"]
        assert "only POST" in http.get("/v1/chat/completions").json()["error"]["message"]
        for path in ("/admin/rollback", "/admin/rollback%0A"):
            assert http.post(path).status_code == 403
        assert http.delete("/admin/clients/alice%0A").status_code == 403
    with run.http(run.admin) as http:
        assert http.post("/v1/chat/completions", json={}).status_code == 403
        assert http.get("/admin/state").json()["policy"] == "reference"
        assert "neither a key nor a record of 'bob'" in http.delete("/admin/clients/bob").text
        assert "budget 'forty' is not understood" in http.put("/admin/policy", json={"budget": "forty"}).text
        assert b"exeunt_gateway_requests" in http.get("/metrics").content
        assert http.post("/admin/rollback", headers={"origin": "http://evil.example"}).status_code == 403
        other = http.get("/admin/state", headers={"host": "evil.example"})
        assert other.status_code == 403
        assert "allowed_hosts" in other.json()["error"]["message"]
    run.gateway.keys.remove("alice")
    assert run.ask("easy 1").status_code == 401


def test_a_budget_takes_the_dearest_policy_that_is_certified_now(
    run: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p1 and p3 are kept, and the question that they answered has ended."""

    def told(**wanted: str) -> Any:
        with run.http(run.admin) as http:
            return http.put("/admin/policy", json=wanted).json()

    def certify(*names: str) -> None:
        found = {name: Certified(name, [], None, {}) for name in names}
        monkeypatch.setattr(run.gateway, "status", CertificationStatus(found, []))

    eventually(lambda: run.gateway.status is not None)  # it is found once at the start
    for share in (0.6, 0.5, 0.7):
        made = made_policy()
        about = {**made.notes["gateway"], "share": share, "cost": share / 1000}
        run.gateway.policies.add(replace(made, notes={**made.notes, "gateway": about}))
    certify("p2")
    for budget in ("40%", "0.0004 usd"):
        assert f"no certified policy costs at most {budget}" in told(budget=budget)["error"]["message"]
    assert told(budget="80%") == {"policy": "p2"}
    certify("p1", "p2")
    assert told(budget="80%") == {"policy": "p1"}
    assert told(budget="0.00055 usd") == {"policy": "p2"}
    certify()
    assert "no certified policy" in told(budget="80%")["error"]["message"]
    assert told(policy="p3") == {"policy": "p3"}  # by its name any may be taken


def test_a_policy_that_answers_already_is_not_activated_again(run: Running) -> None:
    run.gateway.policies.add(made_policy())
    with run.http(run.admin) as http:
        for name in ("reference", "p1"):
            http.put("/admin/policy", json={"policy": name})
            history, span = run.gateway.policies.history, run.gateway.traffic.bill.now
            again = http.put("/admin/policy", json={"policy": name}).json()
            assert again == {"policy": name, "note": f"{name} answers already: nothing has changed"}
            assert (run.gateway.policies.history, run.gateway.traffic.bill.now) == (history, span)
        assert http.post("/admin/rollback").json() == {"policy": "reference"}


def test_limits_of_money(tmp_path: Path) -> None:
    with running(tmp_path, spend="{total: '1 usd', key: '0.008 usd'}", shadow="") as run:
        statuses = []
        while 402 not in statuses and len(statuses) < 100:
            statuses.append(run.ask(f"easy {len(statuses)}").status_code)
        spent = run.gateway.money.of(run.gateway.keys.clients[0]).spent
        refused = run.ask("easy 9")
        assert refused.status_code == 402
        left = r"[\d.]+ usd of what may be spent is left"
        told = f"this may cost [\\d.]+ usd, and {left}: lower max_tokens, or ask .* gateway for more"
        assert re.fullmatch(told, refused.json()["error"]["message"])
    assert 200 in statuses
    assert statuses[-1] == 402
    assert spent > 0.003  # less than a call may cost is left
    assert spent <= 0.008


def test_what_a_rate_allows_again_is_said(tmp_path: Path) -> None:
    with running(tmp_path, spend="{key: '0.006 usd/minute'}", shadow="") as run:
        for i in range(100):
            if (refused := run.ask(f"easy {i}")).status_code != 200:
                break
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_whether_a_unit_is_drawn_does_not_depend_on_what_its_request_reserves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long one leaves less of the day than a comparison may cost."""
    shadow = "{models: [small], share: 1, audit: 1, spend: '100 usd', cap: '0.025 usd'}"
    for name, text in (("short", "x"), ("long", "x " * 500)):
        folder = tmp_path / name
        folder.mkdir()
        provider = MockProvider(answer, PRICES, wait_s=0.3)
        with running(folder, provider, spend="{day: '0.03 usd'}", shadow=shadow) as run:
            is_paid_for = run.gateway.comparing.is_paid_for

            async def slowly(of: Callable[[], Any] = is_paid_for) -> bool:
                await asyncio.sleep(0.05)
                return bool(await of())

            monkeypatch.setattr(run.gateway.comparing, "is_paid_for", slowly)
            assert run.ask(text).status_code == 200
            eventually(lambda: run.gateway.records.count("1") == 1)
            ((unit, _),) = run.gateway.records.of_units(refused=True)
            assert (unit.drawn, unit.refused) == (True, False), name


def test_a_provider_that_fails_is_left_alone_and_another_answers(tmp_path: Path) -> None:
    bad = MockProvider(answer, PRICES, fails=1.0)
    with running(tmp_path, bad, shadow="") as run:
        for i in range(5):
            assert run.ask(f"easy {i}").status_code == 502
        assert len(bad.received) == 3  # then its breaker opened
        assert "rests" in run.ask("easy 9").json()["error"]["message"]


def test_a_model_is_asked_only_for_what_it_takes(run: Running) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    assert run.ask("easy 1", tools=[tool]).status_code == 200
    assert (
        run.ask("easy 1", model="small", tools=[tool])
        .json()["error"]["message"]
        .startswith("small takes no tools")
    )
    assert "at most 100 tokens" in run.ask("easy 1", max_tokens=101).json()["error"]["message"]
    image = [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    with run.http() as http:
        body = {"model": "large", "messages": [{"role": "user", "content": image}]}
        assert "takes no images" in http.post("/v1/chat/completions", json=body).json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"{}", b'{"model": "auto"}', b'{"model": "auto", "messages": []}', b"[" * 100_000,
        b'{"model": "auto", "messages": [{"role": "user", "content": NaN}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "n": 2}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}',
        b'{"model": "auto", "messages": [{"role": "user", "content": 5}]}',
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(run: Running, body: bytes) -> None:
    with run.http() as http:
        refused = http.post("/v1/chat/completions", content=body)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["message"]
    assert run.provider.received == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["forget", "bob"], "there is no folder .* yet: the first key makes it"),
        (["keys", "--spend", "5 usd"], "give them with --add NAME"),
        (["keys", "--add", "a", "--add-admin", "b"], "at a time"),
        (["keys", "--add", "a/b"], "up to 64 letters"),
        (["keys", "--add", "a", "--spend", "5"], "unit"),
        (["keys", "--add", "a", "--spend", "5 ms"], "is in ms"),
        (
            ["serve"],
            "clients have no key yet: make one with `exeunt gateway keys FILE --add NAME`; who administers .*-admin",
        ),
    ],
)
def test_what_the_command_refuses(tmp_path: Path, options: list[str], message: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(config_text("http://127.0.0.1:1", listen=f"{{port: {free_port()}}}"))
    with pytest.raises(InputError, match=message):
        exeunt(["gateway", options[0], str(file), *options[1:]])


def test_the_command_says_where_its_page_is(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(config_text("http://127.0.0.1:1", listen="{port: 0}"))
    for option in ("--add", "--add-admin"):
        exeunt(["gateway", "keys", str(file), option, option.strip("-")])
    command = [sys.executable, "-m", "exeunt", "gateway", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        late = threading.Timer(60, process.kill)  # who says nothing
        late.start()
        try:
            said = process.stdout.readline()
            found = re.match(
                r"the page of the gateway is at (http://127\.0\.0\.1:\d+/), with the key of who adm", said
            )
            assert found is not None, said
            assert "<title>" in httpx.get(found[1]).text
        finally:
            late.cancel()
            process.terminate()


def test_a_provider_without_its_key_is_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    file = tmp_path / "gateway.yaml"
    providers = "{mock: {base_url: 'http://127.0.0.1:1/v1', key: NO_SUCH_KEY}}"
    file.write_text(config_text("", providers=providers, listen=f"{{port: {free_port()}}}"))
    for option in ("--add", "--add-admin"):
        exeunt(["gateway", "keys", str(file), option, option.strip("-")])
    with pytest.raises(InputError, match="the environment variable NO_SUCH_KEY is not set"):
        exeunt(["gateway", str(file)])


def test_an_answer_without_the_log_probabilities_that_were_asked_for_is_the_least_sure(
    tmp_path: Path,
) -> None:
    provider = MockProvider(answer, PRICES)
    provider.logprobs = False
    with running(tmp_path, provider) as run:
        run.ask("easy 1")
        eventually(lambda: run.n_compared == 1)
        (record,) = run.gateway.records.read()
    assert record.said["small"].score == -100.0
    assert record.said["large"].score is None  # it was asked for none


def test_a_model_that_bills_too_much_is_stopped_until_it_is_resumed(tmp_path: Path) -> None:
    provider = MockProvider(lambda model, text: "x" * 8000, PRICES)
    with running(tmp_path, provider, shadow="") as run:
        assert run.ask("easy 1").status_code == 200  # the provider has billed it, and its answer is there
        provider.answer = answer
        stopped = run.ask("easy 2")
        assert stopped.status_code == 502
        assert "large: stopped, since it billed more" in stopped.json()["error"]["message"]
        with run.http(run.admin) as http:
            assert http.get("/admin/state").json()["stopped"] == ["large"]
            assert http.post("/admin/models/other/resume").status_code == 404
            assert http.post("/admin/models/large/resume").json() == {"resumed": "large"}
        assert run.ask("easy 2").status_code == 200
        assert run.gateway.money.total.stopped == ()


def test_a_model_whose_name_has_a_slash_is_resumed(tmp_path: Path) -> None:
    models = "{org/small: {provider: mock, price: {input: 1, output: 1}, max_tokens: 100}}"
    with (
        running(tmp_path, shadow="", models=models, reference="org/small") as run,
        run.http(run.admin) as http,
    ):
        assert http.post("/admin/models/org/small/resume").json() == {"resumed": "org/small"}
        assert http.post("/admin/models/org/other/resume").status_code == 404


def test_log_probabilities_that_a_client_did_not_ask_for_are_not_returned(tmp_path: Path) -> None:
    models = "{large: {provider: mock, price: {input: 10, output: 10}, max_tokens: 100, logprobs: true}}"
    with running(tmp_path, shadow="", models=models) as run:
        for options, wanted in (({}, False), ({"logprobs": False}, False), ({"logprobs": True}, True)):
            whole, streamed = run.ask("easy 1", **options), run.ask("easy 1", stream=True, **options)
            assert ("logprobs" in whole.json()["choices"][0]) == wanted
            assert ('"logprobs": {' in streamed.text) == wanted
            assert right_answer("easy 1") in whole.text


def test_a_judge_is_not_offered_to_clients(tmp_path: Path) -> None:
    models = (
        "{small: {provider: mock, price: {input: 1, output: 1}, max_tokens: 100, logprobs: true},"
        " large: {provider: mock, price: {input: 10, output: 10}, max_tokens: 100},"
        " wise: {provider: mock, model: large, price: {input: 10, output: 10}, max_tokens: 100}}"
    )
    shadow = "{models: [small], share: 1, audit: 1, spend: '100 usd', grader: judge wise}"
    for fallback, offered in (("[]", False), ("[wise]", True)):
        folder = tmp_path / str(offered)
        folder.mkdir()
        with running(folder, shadow=shadow, models=models, fallback=fallback) as run, run.http() as http:
            names = [one["id"] for one in http.get("/v1/models").json()["data"]]
            assert ("wise" in names) == offered
            assert (run.ask("x", model="wise").status_code == 200) == offered


def test_the_headers_of_a_stream_name_the_policy(run: Running) -> None:
    run.gateway.policies.add(made_policy())
    for model, policy in (("auto:p1", "p1"), ("auto", "reference"), ("large", "none")):
        assert run.ask("hard 1", model=model, stream=True).headers["x-exeunt-policy"] == policy


def test_a_full_disk_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path, shadow="") as run:
        asked = run.gateway.answering.by_policy

        async def full(*_: object) -> None:
            raise FileError("the ledger money.db cannot be read or written (database or disk is full)")

        run.gateway.answering.by_policy = full  # type: ignore[method-assign, assignment]
        told = [run.ask("x") for _ in range(5)]
        run.gateway.answering.by_policy = asked  # type: ignore[method-assign]
        assert run.ask("x").status_code == 200
    assert {one.status_code for one in told} == {503}
    assert "cannot read or write its files" in told[0].json()["error"]["message"]
    lines = [record for record in caplog.records if "failed" in record.message]
    assert [(line.exc_info, line.fields["why"][:10]) for line in lines] == [(None, "the ledger")]  # type: ignore[attr-defined]


def test_another_key_of_a_client_goes_on_with_what_is_spent(run: Running) -> None:
    run.ask("easy 1")
    (before,) = (one for one in run.gateway.keys.clients if not one.admin)
    run.client = run.gateway.keys.add("alice")
    run.ask("easy 2")
    (after,) = (one for one in run.gateway.keys.clients if not one.admin)
    assert run.gateway.money.of(after).spent == run.gateway.money.of(before).spent > 0


def test_costs_are_those_of_the_provider_where_calls_fail(tmp_path: Path) -> None:
    """An attempt that fails counts at its most in limits, and nothing in what is said to have been paid."""
    provider = MockProvider(answer, PRICES, fails=0.3)
    with running(tmp_path, provider, shadow="") as run:
        told = [run.ask(f"easy {i}").headers.get("x-exeunt-cost", "0") for i in range(20)]
        eventually(lambda: run.gateway.records.count("1") == 20)
        recorded = run.gateway.records.read()
        metrics = run.gateway.metrics.exposition().decode()
        charged = run.gateway.money.total.spent
    assert len(provider.received) > sum(provider.calls.values())
    assert sum(map(float, told)) == pytest.approx(provider.spent, abs=1e-8)
    assert sum(record.cost for record in recorded) == pytest.approx(provider.spent)
    assert sum(one.cost for record in recorded for one in record.said.values()) == pytest.approx(
        provider.spent
    )
    (spent,) = re.findall(r'spent_usd_total\{model="large"\} (\S+)', metrics)
    assert float(spent) == pytest.approx(provider.spent)
    assert charged > provider.spent
