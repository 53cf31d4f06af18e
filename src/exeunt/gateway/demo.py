"""The road from shadow to live, with providers that invent their answers: no key, no money, two minutes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from exeunt._support.progress import Progress
from exeunt._support.text import echo
from exeunt.errors import ExeuntError, require
from exeunt.gateway.app import make_app
from exeunt.gateway.config import read_config
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.mock_provider import MockProvider, chance, served
from exeunt.live.live_model import work_through
from exeunt.stream.bill import Bill, Span, in_usd
from exeunt.stream.ratios import Interval

_PRICES = {"small": (0.1, 0.4), "medium": (0.5, 2.0), "large": (3.0, 12.0)}  # US dollars for a million tokens
_CONFIG = """
providers:
  demo: {{base_url: "{url}/v1"}}
models:
  small: {{provider: demo, price: {{input: 0.1, output: 0.4}}, logprobs: true, max_tokens: 200}}
  medium: {{provider: demo, price: {{input: 0.5, output: 2}}, logprobs: true, max_tokens: 200}}
  large: {{provider: demo, price: {{input: 3, output: 12}}, max_tokens: 200}}
reference: large
shadow: {{models: [small, medium], share: 100%, audit: 10%, spend: "1 usd"}}
spend: {{total: "5 usd", key: "2 usd/day", request: "0.01 usd"}}
promise: {{max_loss: 5%}}
unit_idle: 1 s
period: 2 s
min_periods: 4
"""
_WAIT_S = 300.0
_SURE = {"small": 0.55, "medium": 0.8}
_NOUNS = "river stone market winter letter engine garden history window science mountain bridge"
_WORDS = _NOUNS.split()


def demonstrate(folder: Path, *, shadow: int = 3000, live: int = 1500) -> None:
    """Go the whole road in a folder, and tell of it. The page is there until this is interrupted."""
    provider = MockProvider(invented_answer, _PRICES)
    with ExitStack() as stack:
        file = folder / "gateway.yaml"
        file.write_text(_CONFIG.format(url=stack.enter_context(served(provider.app))).lstrip())
        gateway = Gateway(read_config(file))
        client, admin = gateway.keys.add("demo"), gateway.keys.add("admin", admin=True)
        url = stack.enter_context(served(make_app(gateway)))
        echo(f"the gateway listens at {url}; its page is there, with the admin key {admin}\n")
        road = _Road(gateway, url, client, admin)
        road.shadow(shadow)
        road.certify()
        road.live(shadow, live)
        road.worsen(provider, shadow + live)
        echo(f"\nthe page is at {url} until you press Ctrl-C")
        while True:
            time.sleep(3600)


def invented_answer(model: str, question: str) -> str:
    """Return what a model says: the large one is right, the others where they are sure (see `MockProvider`)."""
    right = f"It is {_WORDS[int(chance('truth', question) * len(_WORDS))]}."
    sure = model not in _SURE or chance(model, question, "sure") < _SURE[model]
    return (
        right if sure or chance("luck", model, question) < 0.3 else f"I believe it is number {len(question)}."
    )


def question(i: int) -> str:
    """Return the i-th question."""
    words = [_WORDS[int(chance(i, k) * len(_WORDS))] for k in range(3 + int(12 * chance(i, "length")))]
    return f"What is the word for {' '.join(words)} in riddle {i}?"


class _Road:
    """The steps of the road."""

    def __init__(self, gateway: Gateway, url: str, client: str, admin: str) -> None:
        self._gateway, self._url, self._client, self._admin = gateway, url, client, admin

    def shadow(self, n: int) -> None:
        """Let the reference answer, and compare the other models."""
        self._ask("shadow", range(n))
        self._wait_until(lambda: self._gateway.traffic.bill.now.requests >= n)
        money = self._gateway.money
        echo(
            f"shadow: large answered {n:,} requests for {money.total.spent - money.compared:.3f} usd; small and medium "
            f"were asked, too, for {money.compared:.3f} usd\n"
        )

    def certify(self) -> None:
        """Wait until a policy is certified, and let the cheapest one answer. A period is two seconds here."""
        gateway = self._gateway
        self._wait_until(lambda: bool(gateway.status and gateway.status.certified))
        time.sleep(2 * gateway.config.period)  # what comes in is bet on
        status = gateway.status
        if status is None or not status.certified:
            raise ExeuntError(f"nothing is certified yet: {status}")
        best = min(status.certified.values(), key=lambda policy: policy.cost)
        echo(f"certify: as `exeunt gateway certify {gateway.folder}` shows\n{best}\n")
        self._administer("PUT", "/admin/policy", {"policy": best.name})

    def live(self, start: int, n: int) -> None:
        """Let the policy answer other requests."""
        self._ask("live", range(start, start + n))
        self._wait_until(lambda: self._span.requests >= n and not self._gateway.traffic.busy)
        time.sleep(self._gateway.config.period)
        span, compared = self._span, self._gateway.money.compared
        saved, lost = span.saved(compared), span.lost
        echo(
            f"live: {n:,} requests for {span.cost:.3f} usd; saved against large alone, net of audits: {_usd(saved)}; "
            f"by {span.loss.n} audits {_points(lost)} points of the grade are lost per request"
        )
        echo(f"{self._bill.told(compared, self._gateway.clock())}\n")

    @property
    def _bill(self) -> Bill:
        return self._gateway.traffic.bill

    @property
    def _span(self) -> Span:
        return self._bill.now

    def worsen(self, provider: MockProvider, start: int) -> None:
        """Let the cheap model that answers the most become worse, until the watch finds that."""
        answered = self._span.answered
        worse = max(("small", "medium"), key=lambda name: answered[name])
        provider.answer = lambda model, text: "Who knows." if model == worse else invented_answer(model, text)
        n, alarms = 0, self._gateway.live.alarms
        while not alarms and n < 10_000:
            self._ask("worse", range(start + n, start + n + 100))
            n += 100
        text = f"worse: {worse} answers nonsense"
        if not alarms:
            echo(f"{text}, and {n:,} requests were too few for an alarm")
            return
        echo(f"{text}; within {n:,} requests the reference answers again:\n{alarms[-1]['alarm']}")

    @staticmethod
    def _wait_until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _WAIT_S
        while not condition() and time.monotonic() < end:
            time.sleep(0.1)

    def _ask(self, step: str, numbers: range) -> None:
        httpx = require("httpx", extra="gateway")

        async def ask_all() -> None:
            headers = {"authorization": f"Bearer {self._client}"}
            async with httpx.AsyncClient(base_url=self._url, headers=headers, timeout=60) as client:

                async def ask(i: int) -> None:
                    messages = [{"role": "user", "content": question(i)}]
                    body = {"model": "auto", "messages": messages}
                    (await client.post("/v1/chat/completions", json=body)).raise_for_status()
                    progress.update()

                await work_through(numbers, ask, 16)

        with Progress(f"{step} requests", total=len(numbers)) as progress:
            asyncio.run(ask_all())

    def _administer(self, method: str, path: str, body: Any) -> None:
        httpx = require("httpx", extra="gateway")
        headers = {"authorization": f"Bearer {self._admin}"}
        httpx.request(method, self._url + path, json=body, headers=headers, timeout=60).raise_for_status()


def _usd(amount: Interval | None) -> str:
    if amount is None:
        return "not known yet"
    return f"{in_usd(amount.mean)} (95% interval {in_usd(amount.low)} to {in_usd(amount.high)})"


def _points(share: Interval | None) -> str:
    if share is None:
        return "an unknown number of"
    return f"{100 * share.mean:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"
