"""A gateway in front of a provider that invents its answers."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from exeunt.gateway.app import make_app
from exeunt.gateway.config import read_config
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.mock_provider import MockProvider, chance, served

PRICES = {"small": (1.0, 1.0), "large": (10.0, 10.0)}
SKILLS = {"small": 0.7, "large": 1.0}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Else each client makes one of its own, for milliseconds."""


def right_answer(text: str) -> str:
    return f"answer {int(1000 * chance('truth', text))}"


def answer(model: str, text: str) -> str:
    """Small is right on easy questions only; large always."""
    easy = text.startswith("easy") or chance("luck", text) < SKILLS[model]
    return right_answer(text) if easy else f"wrong {model}"


@dataclass
class Running:
    """A gateway that runs. `client`, `admin`: keys; `open`, `owner`: who asks without one, and with that of `admin`."""

    url: str
    gateway: Gateway
    provider: MockProvider
    client: str
    admin: str
    open: httpx.Client
    owner: httpx.Client

    def http(self, key: str | None = None) -> httpx.Client:
        return http(self.url, key or self.client)

    @property
    def n_compared(self) -> int:
        """Requests that were compared, or could not be, and are recorded."""
        return self.gateway.records.count("compared != ''")

    def ask(self, text: str, *, model: str = "auto", **options: Any) -> httpx.Response:
        return self.post({"model": model, "messages": [{"role": "user", "content": text}], **options})

    def post(self, body: Any) -> httpx.Response:
        """Send a body, or bytes, as a client does."""
        sent = {"content": body} if isinstance(body, bytes) else {"json": body}
        key = {"authorization": f"Bearer {self.client}"}
        return self.open.post("/v1/chat/completions", headers=key, **sent)

    def state(self) -> Any:
        return self.owner.get("/admin/state").json()

    def metrics(self) -> str:
        return self.owner.get("/metrics").text

    def take(self, **wanted: str) -> httpx.Response:
        """Choose which policy answers."""
        return self.owner.put("/admin/policy", json=wanted)


def http(url: str, key: str = "", **options: Any) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=url, headers=headers, timeout=30, verify=NO_TLS, **options)


def error_of(answered: httpx.Response) -> str:
    return str(answered.json()["error"]["message"])


def lines_of(streamed: httpx.Response) -> list[str]:
    """Return the chunks of an answer in parts, which has come to its end."""
    lines = [line[6:] for line in streamed.text.split("\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return lines


def text_of_chunks(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def eventually(what: Callable[[], bool], *, tries: int = 1000) -> None:
    for _ in range(tries):
        if what():
            return
        time.sleep(0.005)
    raise AssertionError(f"it did not happen within {tries / 200:g} s")


def config_text(url: str, *, max_answer: int = 1_000_000, **more: str) -> str:
    entries = {
        "providers": f"{{mock: {{base_url: '{url}/v1', failures: 3, pause_s: 30, max_answer: {max_answer}}}}}",
        "models": (
            "{small: {provider: mock, price: {input: 1, output: 1}, max_tokens: 100, logprobs: true, retries: 0},"
            " large: {provider: mock, price: {input: 10, output: 10}, max_tokens: 100, retries: 0, tools: true}}"
        ),
        "reference": "large",
        "shadow": "{models: [small], share: 1, audit: 1, spend: '100 usd'}",
        **more,
    }
    return "\n".join(f"{name}: {value}" for name, value in entries.items() if value)


def written(folder: Path, url: str = "http://127.0.0.1:1", **more: Any) -> Path:
    """Write the configuration of a gateway."""
    file = folder / "gateway.yaml"
    file.write_text(config_text(url, **more))
    return file


def models(**options: str) -> str:
    """Return models by their names. `options`: their price for a million tokens, and what else is said of them."""
    made = []
    for name, told in options.items():
        price, _, more = told.partition(", ")
        entries = f"provider: mock, price: {{input: {price}, output: {price}}}"
        made.append(f"{name}: {{{entries}, {more or 'retries: 0'}, max_tokens: 100}}")
    return f"{{{', '.join(made)}}}"


@contextmanager
def running(folder: Path, provider: MockProvider | None = None, **more: Any) -> Iterator[Running]:
    """Run a gateway whose configuration has other entries."""
    mock = provider or MockProvider(answer, PRICES)
    with ExitStack() as stack:
        file = written(folder, stack.enter_context(served(mock.app)), **more)
        gateway = Gateway(read_config(file), apart=asyncio.to_thread)
        client, admin = gateway.keys.add("alice"), gateway.keys.add("root", admin=True)
        url = stack.enter_context(served(make_app(gateway)))
        clients = stack.enter_context(http(url)), stack.enter_context(http(url, admin))
        yield Running(url, gateway, mock, client, admin, *clients)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
