"""Thousands of damaged, absurd and hostile requests of clients, between which good ones are answered."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from exeunt._support.outside_json import outside_json
from exeunt.gateway.app import make_app
from exeunt.gateway.config import read_config
from exeunt.gateway.gateway import Gateway
from exeunt.web import limits
from exeunt.web import server as server_module
from exeunt.web.server import uvicorn_config

from .hostile_answers import damaged
from .running_gateway import Running, eventually, right_answer, running, written

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BASE: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "y"},
        {"role": "user", "content": "easy 1"},
    ],
    "temperature": 0.5, "top_p": 1, "seed": 3, "stop": ["x"], "max_tokens": 50, "stream": False, "user": "u",
    "metadata": {"conversation": "c"}, "stream_options": {"include_usage": True}, "logit_bias": {"5": 1},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "response_format": {"type": "json_object"}, "tool_choice": "auto", "logprobs": True, "top_logprobs": 2,
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": "easy 1"}],
    "max_tokens": 50,
}
MESSAGES: dict[str, Any] = {
    "model": "auto", "max_tokens": 50, "system": [{"type": "text", "text": "x"}], "stream": False,
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "x", "signature": "x"},
            {"type": "tool_use", "id": "1", "name": "f", "input": {}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "y"},
                                     {"type": "text", "text": "easy 1", "cache_control": {"type": "ephemeral"}}]},
    ],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"},
    "metadata": {"user_id": "u"}, "output_config": {"format": {"type": "json_schema", "schema": {}}},
    "stop_sequences": ["x"], "thinking": {"type": "disabled"},
}  # fmt: skip
RESPONSES: dict[str, Any] = {
    "model": "auto", "max_output_tokens": 50, "instructions": "x", "stream": False, "store": True,
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "y"},
        {"type": "message", "role": "user", "content": "easy 1"},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}], "tool_choice": "auto",
    "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}, "reasoning": {"summary": "auto"},
    "include": ["reasoning.encrypted_content"], "metadata": {"conversation": "c"},
}  # fmt: skip
COMPLETIONS = "/v1/chat/completions"
FORMS = {COMPLETIONS: (BASE, PLAIN), "/v1/messages": (MESSAGES,), "/v1/responses": (RESPONSES,),
         "/v1/messages/count_tokens": (MESSAGES,)}  # fmt: skip
ADMIN = [f"/admin/{path}" for path in ("policy", "rollback", "models/large/resume", "clients/nobody")]
PATHS = (COMPLETIONS, *ADMIN, "/v1/models")
METHODS = ("POST", "POST", "POST", "PUT", "DELETE", "GET", "PATCH", "HEAD", "OPTIONS")
ALLOWED = {200, 400, 401, 402, 403, 404, 405, 413, 415, 429}


def hostile(run: Running, http: httpx.Client, lots: random.Random) -> int:
    asked = lots.choice([COMPLETIONS] * 3 + [*FORMS])
    body = damaged(lots.choice(FORMS[asked]), lots)
    usual = lots.random() < 0.8
    path = asked if usual else lots.choice([*PATHS, *FORMS])
    key = lots.choice([run.client] * 8 + [run.admin, "x", "ex-wrong", "\xe9"])
    headers = {"authorization": f"Bearer {key}".encode("latin-1"), "content-type": "application/json"}
    odd: list[dict[str, str]] = [{"content-encoding": "gzip"}, {"x-stainless-retry-count": "x"}]
    more = lots.choice([{}] * 8 + [*odd, {"origin": "http://a"}])
    method = "POST" if usual else lots.choice(METHODS)
    told = http.request(method, path, content=body, headers={**headers, **more})
    if told.status_code != 200:
        assert told.request.method == "HEAD" or outside_json(told.content)["error"]["message"]
    assert told.status_code in ALLOWED, (told.status_code, told.text[:300], body[:300])
    return told.status_code


def campaign(folder: Path, n: int, seed: int) -> Counter[int]:
    """Send requests of four clients; each tenth is good."""
    found = Counter[int]()
    with running(folder, spend="{day: '10 usd'}") as run:

        def send(i: int) -> int:
            if i % 10:
                return hostile(run, run.open, random.Random(f"{seed} {i}"))
            told = run.ask(f"easy {i}", stream=i % 20 == 0)
            assert told.status_code == 200
            assert i % 20 == 0 or told.json()["choices"][0]["message"]["content"] == right_answer(f"easy {i}")
            return 0

        with ThreadPoolExecutor(4) as pool:
            found.update(pool.map(send, range(n)))
        assert run.gateway.money.total.spent < 10
    return found


def test_two_hundred_hostile_requests(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = campaign(tmp_path, 200, seed=1)
    # Nothing is logged of a client's own mistakes.
    assert not [record for record in caplog.records if "failed" in record.message]
    assert found[0] == 20
    assert found[400] > 40


@pytest.mark.slow
def test_three_thousand_hostile_requests(tmp_path: Path) -> None:
    found = campaign(tmp_path, 3_000, seed=2)
    print(found)
    assert found[0] == 300
    assert found[400] > 500
    assert found[200] > 100


def test_what_is_refused_since_there_is_too_much_is_counted_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "_FEW", 2)
    monkeypatch.setattr(server_module, "_LOGS", None)  # the handlers of other tests stay
    monkeypatch.setattr(logging.getLogger("exeunt.gateway"), "propagate", True)
    gateway = Gateway(read_config(written(tmp_path, listen="{max_open: 1}")), apart=asyncio.to_thread)
    client, admin = gateway.keys.add("alice"), gateway.keys.add("root", admin=True)
    app = make_app(gateway)
    server = uvicorn.Server(uvicorn_config(lambda: app, "127.0.0.1", 0, max_connections=8))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        address = server.servers[0].sockets[0].getsockname()
        began = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n"
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{address[1]}") as http,
            socket.create_connection(address, timeout=20) as busy,
        ):
            busy.sendall(began + b"authorization: Bearer %b\r\n\r\n" % client.encode())
            key = {"authorization": f"Bearer {client}"}
            eventually(lambda: http.post("/v1/chat/completions", json={}, headers=key).status_code == 503)
            assert http.get("/health").status_code == 200  # the other connection that it may have
            for _ in range(2):
                with socket.create_connection(address, timeout=20) as late:
                    told = b"".join(iter(lambda: late.recv(1 << 16), b""))
                head, _, body = told.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503")
                assert json.loads(body)["error"] == {
                    "message": "there are too many connections: try again soon", "type": "api_error", "code": 503
                }  # fmt: skip
            counts = http.get("/metrics", headers={"authorization": f"Bearer {admin}"}).text
    finally:
        server.should_exit = True
        thread.join(20)
    assert "exeunt_gateway_refused_connections_total 2.0" in counts
    assert "exeunt_gateway_refused_total 1.0" in counts
    # Several handlers see each.
    said = dict.fromkeys(one for one in caplog.records if "refused" in one.getMessage())
    assert [(one.getMessage(), one.fields["times"]) for one in said] == [
        ("requests are refused: there are too many", 1),
        ("connections are refused: there are too many", 1),
    ]
    assert "unexpected" not in caplog.text  # the busy client left before its body had come
