"""What each protocol of a gateway's clients adds to the latency of chat completions.

    python -m benchmarks.protocols [--rounds 2000]

One gateway with a ledger on disk, keys and records, in front of one provider that answers at once. One client asks the
same in all protocols, one request after the other, in an order that is drawn anew in each round. What a protocol adds
is the difference from the chat completion of the same round: its median, and a 95% interval of the median by the order
of the differences, which assumes nothing of their distribution but that rounds are independent.
Writes docs/results/gateway-protocols.md.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.gateway import gateway, running

PATHS = {"chat completions": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
CHAT, *OTHERS = PATHS
TARGET_MS, PRICE, MAX_TOKENS = 0.3, {"input": 1.0, "output": 1.0}, 200
WORDS = (
    "Tell me in some words what the difference between these two sentences is, and which of them is shorter. "
)


def provider(port: int) -> None:
    """Run a provider whose answers have 400 letters."""
    import uvicorn
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from exeunt.gateway.mock_provider import MockProvider

    mock = MockProvider(lambda *_: 4 * WORDS[:100], {"large": tuple(PRICE.values())})
    mock.app.router.routes.append(Route("/health", lambda _: JSONResponse({})))
    uvicorn.run(mock.app, port=port, log_level="warning")


def forms() -> dict[str, tuple[list[dict[str, str]], bool]]:
    """Return what is asked: messages, and whether the answer comes in parts."""
    roles = ("user", "assistant")
    long = [{"role": roles[k % 2], "content": f"{k}: {10 * WORDS}"} for k in range(41)]
    return {
        "a question": (long[:1], False),
        "a conversation of 41 messages": (long, False),
        "a question, answered in parts": (long[:1], True),
    }


def body(protocol: str, messages: list[dict[str, str]], stream: bool) -> dict[str, Any]:
    """Return a request in a protocol."""
    asked = {"model": "large", "stream": stream}
    if protocol == "responses":
        return {**asked, "input": messages, "max_output_tokens": MAX_TOKENS}
    return {**asked, "messages": messages, "max_tokens": MAX_TOKENS}


def measured(url: str, key: str, rounds: int) -> dict[str, Any]:
    """Return milliseconds by form and protocol, in the order of the rounds."""
    took: dict[str, dict[str, list[float]]] = {form: {name: [] for name in PATHS} for form in forms()}
    draw = random.Random(0)
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        for number in range(rounds + 50):
            for form, (messages, stream) in forms().items():
                for name in draw.sample(list(PATHS), len(PATHS)):
                    asked = body(name, messages, stream)
                    began = time.perf_counter()
                    client.post(PATHS[name], json=asked).raise_for_status()
                    if number >= 50:  # the first warm it up
                        took[form][name].append(1e3 * (time.perf_counter() - began))
    return took


def summary(took: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return the medians, and what each protocol adds: the median of the differences, and its 95% interval."""
    numbers: dict[str, Any] = {}
    for form, by_protocol in took.items():
        rows = {name: {"median": float(np.median(times))} for name, times in by_protocol.items()}
        for name in OTHERS:
            added = np.sort(np.subtract(by_protocol[name], by_protocol[CHAT]))
            low, high = interval_of_median(len(added))
            rows[name] |= {
                "added": float(np.median(added)),
                "low": float(added[low]),
                "high": float(added[high]),
            }
        numbers[form] = rows
    return numbers


def interval_of_median(n: int) -> tuple[int, int]:
    """Return the places, of n sorted numbers, between which their median lies with a probability of at least 95%."""
    from scipy.stats import binom

    low = int(binom.ppf(0.025, n, 0.5)) - 1
    return max(low, 0), min(n - 1 - low, n - 1)


def page(numbers: dict[str, Any]) -> str:
    from experiments.pages import table

    from exeunt.timing.timing_tools import describe_machine

    machine, rows = describe_machine(), []
    for form, by_protocol in numbers["forms"].items():
        for name, row in by_protocol.items():
            added = ["", ""]
            if "added" in row:
                added = [f"{row['added']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}"]
            rows.append([f"{form}, {name}", f"{row['median']:.2f}", *added])
    worst = max(row["added"] for by in numbers["forms"].values() for row in by.values() if "added" in row)
    kept = "is kept" if worst <= TARGET_MS else "is not kept"
    head = ["request and protocol", "median (ms)", "added to chat completions (ms)", "95% interval"]
    return f"""# What the protocols of a gateway add

One gateway with a ledger on disk, keys and records, in front of one provider that answers at once, on
{machine["cores"]} cores of {machine["processor"]}, which others used as well (load when it began:
{numbers["load"]:.1f}). One client asks the same in three protocols, one request after the other, {numbers["rounds"]:,}
rounds, in an order drawn anew in each. What a protocol adds is the difference from the chat completion of the same
round: its median, and a 95% interval of that median. Times are until the whole answer has come. Made by
`python -m benchmarks.protocols`.

{table(head, rows)}

The most that a protocol adds is {worst:.2f} ms; the target of at most {TARGET_MS:.1f} ms {kept}.
"""


def main() -> None:
    from experiments.pages import RESULTS, parser, write_page

    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=2000)
    options.add_argument("--provider", type=int, help="run only the provider, on this port")
    given = options.parse_args()
    if given.provider:
        provider(given.provider)
        return
    numbers: dict[str, Any] = {"load": os.getloadavg()[0], "rounds": given.rounds}
    upstream = "http://127.0.0.1:8711"
    command = [sys.executable, "-m", "benchmarks.protocols", "--provider", "8711"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            running(command, upstream, "/health", {}, folder / "provider.log"),
            gateway(folder, upstream, 8712, None, price=PRICE, max_tokens=MAX_TOKENS) as (url, key, _),
        ):
            numbers["forms"] = summary(measured(url, key, given.rounds))
    write_page(RESULTS / "gateway-protocols.md", page(numbers), numbers)


if __name__ == "__main__":
    main()
