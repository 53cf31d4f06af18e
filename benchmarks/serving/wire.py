"""Requests as bytes, made beforehand, and what their answers say."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TYPES = {"label": "<i8", "expired": "?", "degraded": "?"}


def infer(pixels: np.ndarray) -> bytes:
    """Return a request of the Open Inference Protocol for pixels (n, h, w, 3), in binary both ways."""
    head = {
        "inputs": [{
            "name": "image", "datatype": "UINT8", "shape": list(pixels.shape),
            "parameters": {"binary_data_size": pixels.nbytes},
        }],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in _TYPES],
    }  # fmt: skip
    text = json.dumps(head).encode()
    about = f"Inference-Header-Content-Length: {len(text)}\r\nContent-Type: application/octet-stream\r\n"
    return post("/v2/models/model/infer", text + pixels.tobytes(), about)


def litserve_image(image: bytes) -> bytes:
    """Return a request of one encoded image for `litserve_server.py`."""
    body = {"image": base64.b64encode(image).decode()}
    return post("/predict", json.dumps(body).encode(), "Content-Type: application/json\r\n")


def litserve(pixels: np.ndarray) -> bytes:
    """Return a request of pixels (n, h, w, 3) for `litserve_server.py`."""
    body = {"shape": list(pixels.shape), "pixels": base64.b64encode(pixels.tobytes()).decode()}
    return post("/predict", json.dumps(body).encode(), "Content-Type: application/json\r\n")


def form(image: bytes) -> bytes:
    """Return a request of POST /predict with one encoded image as the file of a form, as curl writes it."""
    mark = "------------------------4ebf00fbcf09a1b2"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="images"; filename="image.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{mark}--\r\n".encode()
    return post("/predict", body, f"Content-Type: multipart/form-data; boundary={mark}\r\n")


def in_base64(image: bytes) -> bytes:
    """Return a request of POST /predict with one encoded image in base64."""
    return predict({"images": [base64.b64encode(image).decode()]})


def predict(body: Any) -> bytes:
    """Return a request of JSON for POST /predict."""
    return post("/predict", json.dumps(body).encode(), "Content-Type: application/json\r\n")


def post(path: str, body: bytes, about: str = "") -> bytes:
    """Return a request with a body, as HTTP/1.1 sends it."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{about}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def write_bodies(path: Path, requests: Iterable[bytes]) -> Path:
    """Write requests as the client reads them."""
    made = list(requests)
    ends = np.cumsum([len(one) for one in made])
    np.savez(path, ends=ends, whole=np.frombuffer(b"".join(made), dtype=np.uint8))
    return path


def columns_of(answer: bytes) -> dict[str, np.ndarray]:
    """Return the columns of an answer, of either kind of server, by name; the whole HTTP message is given."""
    head, _, body = answer.partition(b"\r\n\r\n")
    _, found_it, after = head.lower().partition(b"inference-header-content-length:")
    if not found_it:
        told = json.loads(body)
        rows = told.get("answers")
        columns = (
            told if rows is None else {name: [row[name] for row in rows] for name in (*_TYPES, "policy")}
        )
        return {name: np.array(values) for name, values in columns.items()}
    start = int(after.split(b"\r\n", 1)[0])
    found = {}
    for output in json.loads(body[:start])["outputs"]:
        size, name = output["parameters"]["binary_data_size"], output["name"]
        part = body[start : start + size]
        found[name] = np.frombuffer(part, dtype=_TYPES[name])
        start += size
    return found
