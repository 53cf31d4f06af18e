"""uvicorn with the decoding that our server does: what HTTP takes by itself, or HTTP and the network.

    python benchmarks/serving/bare_server.py --port 9000 --workers 2 [--run RUN --budget 50%]

A plain ASGI application. It parses forms with python-multipart and JSON with the standard library, decodes images with
Pillow, checks nothing, and answers each image with a label. With a run it also runs its network, on all images that
have come together; which of them leave at an exit is drawn by lot, in the shares that the policy plans.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from python_multipart import create_form_parser

from exeunt.runs.run_inputs import load_preparation
from exeunt.serve.loaded_run import load_run
from exeunt.serve.settings import Settings

RUN, BUDGET = "BARE_SERVER_RUN", "BARE_SERVER_BUDGET"
"""Environment variables for the workers."""


class Network:
    """Runs the network of a run in the event loop, on the images of all requests that wait."""

    def __init__(self, run: Path, budget: str) -> None:
        loaded = load_run(Settings(run=run, threads=1))
        self._executor, self._batch = loaded.shared.executor, load_preparation(loaded.run).batch
        policy = loaded.at(budget)
        exits, reach = set(loaded.shared.exits[policy]), loaded.reach(policy)
        self._segments = []
        for segment in loaded.engine.segments_run(policy):
            first, last = self._executor.segments[segment]
            wanted = [exit_ for exit_ in range(first, last + 1) if exit_ in exits]
            self._segments.append((segment, wanted, reach[segment]))
        self._waiting: list[tuple[Any, asyncio.Future[None]]] = []
        self._rng = np.random.default_rng(0)

    async def answer(self, images: Any) -> None:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._run)
        self._waiting.append((images, future := loop.create_future()))
        await future

    def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        state, valid = self._executor.start(self._batch([image for images, _ in waiting for image in images]))
        lots = self._rng.random(len(valid))
        for segment, wanted, share in self._segments:
            stay = np.flatnonzero(lots < share)
            if len(stay) == 0:
                break
            if len(stay) < len(lots):
                state, lots = self._executor.gather([(state, stay)]), lots[stay]
            _, state = self._executor.run(segment, state, wanted)
        for _, future in waiting:
            future.set_result(None)


NETWORK = Network(Path(os.environ[RUN]), os.environ[BUDGET]) if RUN in os.environ else None
"""Of a worker, which imports this file."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = dict(scope["headers"])
    images = _images(scope["path"], headers, body) if body else []
    if NETWORK is not None and len(images):
        await NETWORK.answer(images)
    answers = [{"label": int(one[0, 0, 0]), "confidence": 0.5, "exit": 0, "error": None} for one in images]
    answer = json.dumps({"answers": answers}).encode()
    about = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": about})
    await send({"type": "http.response.body", "body": answer})


def _images(path: str, headers: dict[bytes, bytes], body: bytes) -> Any:
    if path.endswith("/infer"):
        end = int(headers[b"inference-header-content-length"])
        (tensor,) = json.loads(body[:end])["inputs"]
        return np.frombuffer(body, dtype=np.uint8, offset=end).reshape(tensor["shape"])
    if headers[b"content-type"].startswith(b"multipart/"):
        files: list[bytes] = []
        parser = create_form_parser(
            {"Content-Type": headers[b"content-type"]},
            lambda _: None,
            lambda file: files.append(file.file_object.getvalue()),
        )
        parser.write(body)
        parser.finalize()
    else:
        files = [base64.b64decode(one) for one in json.loads(body)["images"]]
    return [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in files]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--run")
    parser.add_argument("--budget", help="with --run: that of its policy")
    given = parser.parse_args()
    if (given.run is None) != (given.budget is None):
        parser.error("--run and --budget go together")
    if given.run:
        os.environ |= {RUN: given.run, BUDGET: given.budget}
    uvicorn.run(
        "bare_server:app",
        port=given.port,
        workers=given.workers,
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
