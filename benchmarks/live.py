"""What a live cascade adds to its calls: 1,000 inputs through three endpoints, against a bare asyncio loop.

    python -m benchmarks.live [--inputs 1000] [--delay-ms 200] [--concurrency 64]

The endpoints answer on this machine, in a process of their own, each after the delay. Every input goes through all
three. The bare loop makes the same calls with the same clients, one for each endpoint: httpx, or the package openai.
Each runs twice, in turn; the better time counts. Prints the table, and writes docs/results/live.md.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import platform
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import openai
import uvicorn
from experiments.pages import RESULTS, parser, table, write_page

import exeunt as ex
from exeunt.policy.calibration import ALWAYS, Thresholds
from exeunt.timing.timing_tools import describe_machine
from exeunt.trace.cascade_step import CascadeStep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

MODELS = ("small", "medium", "large")
CLASSES = ("no", "yes")
SAID = {
    "choices": [
        {
            "message": {"content": "yes"},
            "logprobs": {"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": []}]},
        }
    ],
    "usage": {"prompt_tokens": 40, "completion_tokens": 1, "total_tokens": 41},
}
PRICE = {"input": 1.0, "output": 1.0}


def serve(delay_s: float, port: Any) -> None:
    """Answer every request after the delay."""
    body = json.dumps(SAID).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(delay_s)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_keep_alive=300)
    )

    async def run() -> None:
        task = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port.send(server.servers[0].sockets[0].getsockname()[1])
        await task

    asyncio.run(run())


def policy() -> ex.Policy:
    """Return a policy that passes every input through all three models."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 400)
    models = ex.CascadeTrace(
        {
            name: ex.ExitTrace.from_scores(
                rng.random((400, 1)),
                np.where(rng.random((400, 1)) < 0.6 + 0.15 * place, label[:, None], 1 - label[:, None]),
                cost=ex.CostModel([10.0**place], unit="usd"),
                label=label,
                id=np.arange(400),
            )
            for place, name in enumerate(MODELS)
        }
    )
    fit, calibrate, _ = models.split()
    steps = tuple(CascadeStep(name, 1) for name in MODELS)
    made = ex.eero(fit.along(steps), calibrate.along(steps), budget="100%", score="score")
    # No score reaches the first two thresholds.
    return replace(made, cascade=steps, limits=Thresholds.of([(1e9, 0.0), (1e9, 0.0), (ALWAYS, ALWAYS)]))


async def bare(n: int, concurrency: int, call: Callable[[str, str], Awaitable[Any]]) -> float:
    """Make all calls in a plain loop; return the seconds."""
    slots = asyncio.Semaphore(concurrency)

    async def one(i: int) -> None:
        async with slots:
            for name in MODELS:
                await call(name, f"input {i}")

    start = time.perf_counter()
    await asyncio.gather(*(one(i) for i in range(n)))
    return time.perf_counter() - start


async def cascaded(n: int, concurrency: int, models: dict[str, Any], ledger: Any = None) -> float:
    """Ask a live cascade; return the seconds."""
    cascade = ex.LiveCascade(models, policy(), ledger=ledger, concurrency=concurrency)
    await cascade.ask(["warm up"])
    start = time.perf_counter()
    answers = await cascade.ask([f"input {i}" for i in range(n)])
    seconds = time.perf_counter() - start
    if answers.failed or any(one.model != "large" for one in answers):
        raise RuntimeError(f"not every input went through all models: {answers}")
    await cascade.close()
    return seconds


async def in_turn(
    ours: Callable[[], Awaitable[float]], plain: Callable[[], Awaitable[float]], clients: Iterable[Any]
) -> tuple[float, float]:
    """Measure both twice; return the better time of each."""
    first, second, third, fourth = await ours(), await plain(), await plain(), await ours()
    print(f"ours {first:.2f} and {fourth:.2f} s, bare {second:.2f} and {third:.2f} s")
    for client in clients:
        await (client.aclose() if isinstance(client, httpx.AsyncClient) else client.close())
    return min(first, fourth), min(second, third)


async def by_openai(url: str, n: int, concurrency: int) -> tuple[float, float]:
    """Return the seconds of the cascade and of the bare loop, with the package openai."""
    live = {
        name: ex.OpenAICompatible(name, base_url=url, classes=CLASSES, price=PRICE, concurrency=concurrency)
        for name in MODELS
    }
    body = live["small"]._body("input 0")

    async def call(name: str, text: str) -> None:
        messages = [{"role": "user", "content": body["messages"][0]["content"].replace("input 0", text)}]
        sent = await clients[name].chat.completions.create(**{**body, "model": name, "messages": messages})
        assert sent.choices[0].message.content == "yes"

    clients = {
        name: openai.AsyncOpenAI(
            api_key="none", base_url=url, max_retries=0, http_client=plain_client(concurrency)
        )
        for name in MODELS
    }
    return await in_turn(
        partial(cascaded, n, concurrency, live), partial(bare, n, concurrency, call), clients.values()
    )


async def by_httpx(url: str, n: int, concurrency: int) -> tuple[float, float]:
    """Return the same with httpx."""
    live = {
        name: ex.HTTPModel(
            f"{url}/{name}",
            request={"text": "{input}"},
            response={"answer": "choices.0.message.content"},
            price=0.001,
            classes=CLASSES,
            concurrency=concurrency,
        )
        for name in MODELS
    }

    async def call(name: str, text: str) -> None:
        sent = await clients[name].post(f"{url}/{name}", json={"text": text})
        assert sent.json()["choices"][0]["message"]["content"] == "yes"

    clients = {name: plain_client(concurrency) for name in MODELS}
    return await in_turn(
        partial(cascaded, n, concurrency, live), partial(bare, n, concurrency, call), clients.values()
    )


def plain_client(concurrency: int) -> httpx.AsyncClient:
    """Return a client for one endpoint."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    return httpx.AsyncClient(limits=limits, timeout=60)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--inputs", type=int, default=1000)
    options.add_argument("--delay-ms", type=float, default=200.0)
    options.add_argument("--concurrency", type=int, default=64)
    given = options.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(given.delay_ms / 1000, there))
    server.start()
    try:
        url = f"http://127.0.0.1:{here.recv()}/v1"
        rows = []
        for name, measure in {"httpx": by_httpx, "openai": by_openai}.items():
            ours, plain = asyncio.run(measure(url, given.inputs, given.concurrency))
            rows.append([name, f"{ours:.2f} s", f"{plain:.2f} s", f"{ours / plain:.3f}"])
    finally:
        server.terminate()
        server.join()
    text = f"""# A live cascade, against its bare calls

Made by `python -m benchmarks.live`: {given.inputs:,} inputs through three endpoints of {given.delay_ms:g} ms each, at
concurrency {given.concurrency}, against an `asyncio` loop that makes the same calls with the same clients, in the same
run; each twice, in turn, the better of both. The calls alone wait for
{given.inputs * 3 * given.delay_ms / 1000 / given.concurrency:.2f} s. Python
{platform.python_version()}, httpx {httpx.__version__}, openai {openai.__version__}, {describe_machine()["processor"]}.

{table(("client", "`LiveCascade`", "bare loop", "ratio"), rows)}
"""
    print(text)
    write_page(RESULTS / "live.md", text)


if __name__ == "__main__":
    main()
