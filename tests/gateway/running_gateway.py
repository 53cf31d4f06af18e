"""A gateway in front of a provider that invents its answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("yaml")

import httpx

from exeunt.gateway.app import make_app
from exeunt.gateway.config import read_config
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.mock_provider import MockProvider, chance, served

PRICES = {"small": (1.0, 1.0), "large": (10.0, 10.0)}
SKILLS = {"small": 0.7, "large": 1.0}


def right_answer(text: str) -> str:
    return f"answer {int(1000 * chance('truth', text))}"


def answer(model: str, text: str) -> str:
    """Small is right on easy questions only; large always."""
    easy = text.startswith("easy") or chance("luck", text) < SKILLS[model]
    return right_answer(text) if easy else f"wrong {model}"


@dataclass
class Running:
    """A gateway that runs. `client`, `admin`: keys."""

    url: str
    gateway: Gateway
    provider: MockProvider
    client: str
    admin: str

    def http(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {key or self.client}"}, timeout=30
        )

    @property
    def n_compared(self) -> int:
        """Requests that were compared, or could not be, and are recorded."""
        return self.gateway.records.count("compared != ''")

    def ask(self, text: str, *, model: str = "auto", **options: Any) -> httpx.Response:
        with self.http() as http:
            body = {"model": model, "messages": [{"role": "user", "content": text}], **options}
            return http.post("/v1/chat/completions", json=body)


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


@contextmanager
def running(folder: Path, provider: MockProvider | None = None, **more: Any) -> Iterator[Running]:
    """Run a gateway whose configuration has other entries."""
    mock = provider or MockProvider(answer, PRICES)
    with ExitStack() as stack:
        file = folder / "gateway.yaml"
        file.write_text(config_text(stack.enter_context(served(mock.app)), **more))
        gateway = Gateway(read_config(file), apart=asyncio.to_thread)
        client, admin = gateway.keys.add("alice"), gateway.keys.add("root", admin=True)
        yield Running(stack.enter_context(served(make_app(gateway))), gateway, mock, client, admin)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
