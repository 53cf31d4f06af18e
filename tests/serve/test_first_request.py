"""The first request of a server is answered like all that follow: nothing is left to be made then."""

from __future__ import annotations

import asyncio
import cProfile
import json

from made_server import PixelExecutor, encoded, in_base64, made_images, shared_of

from exeunt.serve import loaded_run
from exeunt.serve.app import make_app
from exeunt.serve.settings import Settings

FORM = b'--x\r\ncontent-disposition: form-data; name="images"; filename="a"\r\n\r\n%b\r\n--x--\r\n'
TENSOR = {"name": "image", "datatype": "BYTES", "shape": [1]}
REQUESTS = {
    "json": ("/predict", b"application/json", json.dumps({"images": in_base64(made_images(1))}).encode()),
    "form": ("/predict", b"multipart/form-data; boundary=x", FORM % encoded(made_images(1)[0])),
    "infer": ("/v2/models/pixels/infer", b"application/json",
              json.dumps({"inputs": [TENSOR | {"data": in_base64(made_images(1))}]}).encode()),
}  # fmt: skip


async def work_of(app, path, kind, body):
    """Return how many calls of functions a request takes in the thread of the event loop."""
    received: asyncio.Queue = asyncio.Queue()
    received.put_nowait({"type": "http.request", "body": body})
    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", kind)]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    with cProfile.Profile() as profile:
        await app(scope, received.get, send)
    assert sent[0]["status"] == 200
    return sum(entry.callcount for entry in profile.getstats())


def test_the_first_request_of_each_kind_takes_no_more_work_than_the_next_ones(run, monkeypatch):
    """Under --slo-ms a first request would be cut short that imports or compiles something."""
    monkeypatch.setattr(loaded_run, "open_shared", shared_of(PixelExecutor()))
    app = make_app(Settings(run=run.path, slo_s=5.0))

    async def asked():
        framework = app.app.app
        async with framework.router.lifespan_context(framework):
            metrics = framework.state.service.metrics
            assert next(iter(metrics.requests.collect())).samples == []  # who warms up is no client
            assert metrics.take_counts().arrived == 0
            return {kind: [await work_of(app, *one) for _ in range(6)] for kind, one in REQUESTS.items()}

    for kind, (first, *others) in asyncio.run(asked()).items():
        assert first < 1.5 * sorted(others)[2], kind
