"""The gateway beside LiteLLM's proxy: what each adds to a request, and whether a limit of money holds.

    python -m venv rival && rival/bin/pip install 'litellm[proxy]'
    python -m benchmarks.gateway --litellm rival/bin/litellm [--seconds 10] [--before OTHER/src]

One provider that invents its answers; in front of it nothing, LiteLLM's proxy (one worker), and `exeunt gateway` with a
ledger on disk, keys and records. All in one run on the same machine. First one request after the other, to a provider
that answers at once; the same while another client sends images of 8 MB; then 32 at a time, and the processor time that
the proxy takes for each. Then a limit of $.45, where each call costs a cent and takes .2 seconds, under 5, 50 and 500
calls at a time. LiteLLM starts without the internet and without a database, so its limit is that of a provider. Last,
how long a gateway with 300,000 records takes to open (see `benchmarks.gateway_opening`). OTHER is a checkout of another
commit, which is measured beside this one.
Writes docs/results/gateway-beside-litellm.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from benchmarks.gateway_opening import measured as opening

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CAP, CALLS = 0.45, {5: 150, 50: 200, 500: 500}
PRICE = {
    "input": 0,
    "output": 10_000,
}  # US dollars for a million tokens: a call with one token of output costs a cent
KEY = "sk-benchmark"


# -- servers -----------------------------------------------------------------------------------------------------------


def provider(port: int) -> None:
    """Run the provider. It tells at /books what it has billed."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    books = {"calls": 0, "wait_s": 0.0}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}

    async def completions(request: Any) -> Any:
        await request.body()
        await asyncio.sleep(books["wait_s"])
        books["calls"] += 1
        message = {"role": "assistant", "content": "yes"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return JSONResponse({
            "id": f"c{books['calls']}", "object": "chat.completion", "created": int(time.time()),
            "model": "large", "choices": choices, "usage": usage,
        })  # fmt: skip

    async def told(request: Any) -> Any:
        books.update(await request.json() if request.method == "POST" else {})
        return JSONResponse(books)

    routes = [
        Route("/v1/chat/completions", completions, methods=["POST"]),
        Route("/books", told, methods=["GET", "POST"]),
    ]
    uvicorn.run(Starlette(routes=routes), port=port, log_level="warning")


@contextmanager
def running(
    command: list[str], url: str, path: str, environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until it answers, and end it afterwards."""
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment}) as process,
    ):
        try:
            for _ in range(600):
                try:
                    httpx.get(url + path, timeout=1).raise_for_status()
                    break
                except httpx.HTTPError:
                    if process.poll() is not None:
                        raise RuntimeError(log.read_text()[-2000:]) from None
                    time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def gateway(
    folder: Path,
    upstream: str,
    port: int,
    cap: str | None,
    *,
    source: str = "",
    price: Mapping[str, float] = PRICE,
    max_tokens: int = 1,
) -> Iterator[tuple[str, str, int]]:
    """Run `exeunt gateway`; yield its address, a client's key and its process. `source`: of another version."""
    environment = {"PYTHONPATH": source} if source else {}
    limit = f"spend: {{total: '{cap}'}}" if cap else ""
    file = folder / "gateway.yaml"
    file.write_text(
        f"providers: {{mock: {{base_url: '{upstream}/v1'}}}}\n"
        f"models: {{large: {{provider: mock, price: {{input: {price['input']}, output: {price['output']}}}, "
        f"max_tokens: {max_tokens}, image_tokens: 1500, concurrency: 512, retries: 0}}}}\n"
        f"reference: large\nlisten: {{port: {port}}}\n{limit}\n"
    )
    program = [sys.executable, "-m", "exeunt", "gateway", str(file)]
    keys = [
        subprocess.run(
            [*program[:-1], "keys", str(file), *option],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        ).stdout.split()[0]
        for option in (["--add", "me"], ["--add-admin", "root"])
    ]
    url = f"http://127.0.0.1:{port}"
    with running(program, url, "/health", environment, folder / "gateway.log") as process:
        yield url, keys[0], process.pid


@contextmanager
def litellm(
    folder: Path, program: str, upstream: str, port: int, cap: float | None
) -> Iterator[tuple[str, str, int]]:
    """Run LiteLLM's proxy; yield its address, a key and its process."""
    budget = (
        f"\nrouter_settings: {{provider_budget_config: {{openai: {{budget_limit: {cap}, time_period: 1d}}}}}}"
        if cap
        else ""
    )
    file = folder / "litellm.yaml"
    per_token = {name: price / 1e6 for name, price in PRICE.items()}
    file.write_text(
        f"model_list: [{{model_name: large, litellm_params: {{model: openai/large, api_base: '{upstream}/v1', "
        f"api_key: none, input_cost_per_token: {per_token['input']:.9f}, "
        f"output_cost_per_token: {per_token['output']:.9f}}}}}]\n"
        f"general_settings: {{master_key: {KEY}}}\nlitellm_settings: {{num_retries: 0}}{budget}\n"
    )
    url = f"http://127.0.0.1:{port}"
    command = [
        program,
        "--config",
        str(file),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--num_workers",
        "1",
    ]
    offline = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOG": "ERROR",
        "PYTHONPATH": "",
    }
    with running(command, url, "/health/liveliness", offline, folder / "litellm.log") as process:
        yield url, KEY, process.pid


# -- measurements ------------------------------------------------------------------------------------------------------


def body(model: str = "large") -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": f"x{secrets.token_hex(2)}"}],
        "max_tokens": 1,
    }


async def latencies(url: str, key: str, seconds: float, model: str = "large") -> list[float]:
    """Return the milliseconds of requests, one after the other."""
    took = []
    async with httpx.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60
    ) as client:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            (await client.post("/v1/chat/completions", json=body(model))).raise_for_status()
            took.append(1e3 * (time.perf_counter() - began))
    return took[len(took) // 10 :]


async def beside_large(url: str, key: str, seconds: float, model: str = "large") -> list[float]:
    """Return the milliseconds of small requests, one after the other, while another client sends images."""
    command = [sys.executable, "-m", "benchmarks.gateway", "--large", url, key]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        try:
            if not sender.stdout.readline():
                raise RuntimeError(f"{url} answers no request with an image of 8 MB")
            return await latencies(url, key, seconds, model)
        finally:
            sender.terminate()


def send_large(url: str, key: str) -> None:
    """Send requests with an image of 8 MB, one after the other, until the end."""
    image = "data:image/png;base64," + base64.b64encode(os.urandom(6 << 20)).decode()
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": image}}]
    data = json.dumps({**body(), "messages": [{"role": "user", "content": parts}]}).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        while True:
            client.post("/v1/chat/completions", content=data).raise_for_status()
            print("answered", flush=True)


async def together(
    url: str, key: str, n: int, concurrency: int, *, seconds: float = 1e9, model: str = "large"
) -> tuple[int, list[int], float]:
    """Ask n times, so many at a time; return the answers, the statuses, and how long it took."""
    statuses: list[int] = []
    limits = httpx.Limits(max_connections=concurrency)
    begun = time.perf_counter()

    async def ask(client: httpx.AsyncClient) -> None:
        while len(statuses) < n and time.perf_counter() - begun < seconds:
            statuses.append(0)
            place = len(statuses) - 1
            statuses[place] = (await client.post("/v1/chat/completions", json=body(model))).status_code

    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits) as client:
        await asyncio.gather(*(ask(client) for _ in range(concurrency)))
    return statuses.count(200), statuses, time.perf_counter() - begun


def processor_s(pid: int) -> float:
    """Return the seconds of processor time of a process and its children so far."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


async def measured(folder: Path, program: str, seconds: float, before: str) -> dict[str, Any]:
    """Return all numbers."""
    upstream = "http://127.0.0.1:8701"
    command = [sys.executable, "-m", "benchmarks.gateway", "--provider", "8701"]
    found: dict[str, Any] = {
        "load": os.getloadavg()[0], "latency": {}, "beside_large": {}, "together": {}, "cap": {},
    }  # fmt: skip

    def exeunt(where: Path, cap: float | None, source: str = "") -> Any:
        return gateway(where, upstream, 8702, cap and f"{cap} usd", source=source)

    other = partial(exeunt, source=before)
    ways = {
        "exeunt gateway": (exeunt, "large"),
        "exeunt gateway, `auto`": (exeunt, "auto"),
        **({"before": (other, "large"), "before, `auto`": (other, "auto")} if before else {}),
        "LiteLLM": (lambda where, cap: litellm(where, program, upstream, 8703, cap), "large"),
    }  # fmt: skip
    with running(command, upstream, "/books", {}, folder / "provider.log"):
        found["latency"]["no proxy"] = quantiles(await latencies(upstream, "none", seconds))
        found["beside_large"]["no proxy"] = quantiles(await beside_large(upstream, "none", seconds))
        for name, (start, model) in ways.items():
            with start(made(folder / name / "open"), None) as (url, key, pid):
                await together(url, key, 200, 8, model=model)  # warm
                found["latency"][name] = quantiles(await latencies(url, key, seconds, model))
                found["beside_large"][name] = quantiles(await beside_large(url, key, seconds, model))
                used = processor_s(pid)
                n, _, took = await together(url, key, 10**9, 32, seconds=seconds, model=model)
                used = processor_s(pid) - used
                found["together"][name] = {"a second": n / took, "processor_ms": 1e3 * used / n}
            if name not in ("exeunt gateway", "LiteLLM"):
                continue
            for concurrency, calls in CALLS.items():
                httpx.post(f"{upstream}/books", json={"calls": 0, "wait_s": 0.2})
                with start(made(folder / name / f"{concurrency}"), CAP) as (url, key, _):
                    n, statuses, took = await together(url, key, calls, concurrency)
                billed = httpx.get(f"{upstream}/books").json()["calls"] / 100
                stuck = sum(status not in (200, 402, 429) for status in statuses)
                found["cap"].setdefault(name, {})[concurrency] = {
                    "billed": billed,
                    "answered": n,
                    "other": stuck,
                    "seconds": took,
                }
            httpx.post(f"{upstream}/books", json={"wait_s": 0.0})
    found["opening"] = opening()
    return found


def quantiles(took: list[float]) -> dict[str, float]:
    return {
        "median": float(np.median(took)), "99%": float(np.quantile(took, 0.99)), "worst": max(took), "n": len(took),
    }  # fmt: skip


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    from experiments.pages import RESULTS, parser, write_page

    options = parser(__doc__)
    options.add_argument("--litellm", default="litellm", help="the program of LiteLLM")
    options.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    options.add_argument("--before", default="", metavar="SRC", help="folder `src` of an older version")
    options.add_argument("--provider", type=int, help="run only the provider, on this port")
    options.add_argument("--large", nargs=2, metavar=("URL", "KEY"), help="only send large requests there")
    given = options.parse_args()
    if given.provider:
        provider(given.provider)
        return
    if given.large:
        send_large(*given.large)
        return
    version = subprocess.run(
        [given.litellm, "--version"], check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    with tempfile.TemporaryDirectory() as name:
        numbers = asyncio.run(measured(Path(name), given.litellm, given.seconds, given.before))
    numbers["litellm"] = version
    write_page(RESULTS / "gateway-beside-litellm.md", page(numbers), numbers)


def page(numbers: dict[str, Any]) -> str:
    from experiments.pages import table

    from exeunt.timing.timing_tools import describe_machine

    direct = numbers["latency"]["no proxy"]
    added = [
        [
            name,
            *(f"{row[one]:.1f}" for one in ("median", "99%")),
            *(f"{row[one] - direct[one]:.1f}" for one in ("median", "99%")),
        ]
        for name, row in numbers["latency"].items()
    ]
    beside = [
        [name, *(f"{row[one]:.0f}" for one in ("median", "99%", "worst"))]
        for name, row in numbers["beside_large"].items()
    ]
    many = [
        [name, f"{row['a second']:,.0f}", f"{row['processor_ms']:.2f}", f"{1e3 / row['processor_ms']:,.0f}"]
        for name, row in numbers["together"].items()
    ]
    caps = [
        [name, concurrency, f"{row['billed']:.2f}", row["answered"], row["other"]]
        for name, rows in numbers["cap"].items()
        for concurrency, row in rows.items()
    ]
    machine, many_records = describe_machine(), numbers["opening"]
    seconds, scans = many_records["seconds"], many_records["scans"]
    whole = [
        [
            "opening the gateway",
            f"{seconds['open']:.2f}",
            f"{seconds['open, of a core']:.2f}",
            len(scans["open"]),
        ],
        ["the first request's place", f"{seconds['first request']:.4f}", "", ""],
        ["reading the page's state", f"{seconds['page']:.4f}", "", len(scans["page"])],
    ]
    return f"""# The gateway beside LiteLLM

Made by `python -m benchmarks.gateway` ({machine["processor"]}, {os.cpu_count()} cores; {numbers["load"]:.1f} processes
were running or waiting on average when it began; LiteLLM {numbers["litellm"]}, one worker, no database). The provider
invents its answers at once. The gateway checks hashed keys, pays each attempt from a ledger on disk, and keeps a record
of each answer; LiteLLM's proxy checks its master key. Requests name the model; `auto` leaves the choice to the gateway,
which then finds the conversation of each. `before` is the gateway whose live traffic was not yet one stream (commit
5df78fd6).

One request after the other, in milliseconds:

{table(("", "median", "99th percentile", "added, median", "added, 99th percentile"), added)}

The same while another client sends requests with an image of 8 MB, one after the other, in milliseconds:

{table(("", "median", "99th percentile", "worst"), beside)}

32 requests at a time, with the provider and the client on the same cores:

{table(("", "requests a second", "processor time of each, ms", "so a core does, a second"), many)}

A limit of $.45, where each call costs a cent and takes .2 seconds. LiteLLM's is `provider_budget_config`, which is what
it has without a database. "Other" are answers that are neither an answer nor a refusal for money.

{table(("", "calls at a time", "billed, US dollars", "answered", "other"), caps)}

A gateway with {many_records["records"]:,} records of conversations in {many_records["mib"]:.0f} MiB, medians of five
times, in seconds; before live traffic was one stream, opening took 16.5. `scans`: queries that go through all records
or units; the one at opening reads the latest 200,000 transcripts, by which conversations are recognised.

{table(("", "seconds", "of a core", "scans"), whole)}
"""


if __name__ == "__main__":
    main()
