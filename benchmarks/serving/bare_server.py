"""uvicorn with the decoding that our server does, and nothing else: what HTTP takes by itself.

    python benchmarks/serving/bare_server.py --port 9000 --workers 2

A plain ASGI application. It parses forms with python-multipart and JSON with the standard library, decodes images with
Pillow, checks nothing, runs no network, and answers each image with a label.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from python_multipart import create_form_parser


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
    given = parser.parse_args()
    uvicorn.run(
        "bare_server:app",
        port=given.port,
        workers=given.workers,
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
