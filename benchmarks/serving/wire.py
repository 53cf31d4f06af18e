"""Requests as bytes, made beforehand, and what their answers say."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

OUTPUTS = ("label", "expired", "degraded")
CHECKED = (*OUTPUTS, "exit", "policy", "borderline")
_TYPES = {"label": "<i8", "exit": "<i8", "expired": "?", "degraded": "?", "borderline": "?"}


def infer(model: str, outputs: Sequence[str] = OUTPUTS) -> Callable[[np.ndarray], bytes]:
    """Return what makes a request of the Open Inference Protocol of pixels (n, h, w, 3), in binary both ways."""

    def made(pixels: np.ndarray) -> bytes:
        head = {
            "inputs": [{
                "name": "image", "datatype": "UINT8", "shape": list(pixels.shape),
                "parameters": {"binary_data_size": pixels.nbytes},
            }],
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
        }  # fmt: skip
        text = json.dumps(head).encode()
        about = f"Inference-Header-Content-Length: {len(text)}\r\nContent-Type: application/octet-stream\r\n"
        return post(f"/v2/models/{model}/infer", text + pixels.tobytes(), about)

    return made


def litserve(pixels: np.ndarray) -> bytes:
    """Return a request of pixels (n, h, w, 3) for `litserve_server.py`."""
    body = {"shape": list(pixels.shape), "pixels": base64.b64encode(pixels.tobytes()).decode()}
    return post("/predict", json.dumps(body).encode(), "Content-Type: application/json\r\n")


def predict(body: Any) -> bytes:
    """Return a request of JSON for POST /predict."""
    return post("/predict", json.dumps(body).encode(), "Content-Type: application/json\r\n")


def post(path: str, body: bytes, about: str = "") -> bytes:
    """Return a request with a body, as HTTP/1.1 sends it."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: server\r\n{about}Content-Length: {len(body)}\r\n\r\n".encode() + body
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
        return {name: np.array(values) for name, values in json.loads(body).items()}
    start = int(after.split(b"\r\n", 1)[0])
    found = {}
    for output in json.loads(body[:start])["outputs"]:
        size, name = output["parameters"]["binary_data_size"], output["name"]
        part = body[start : start + size]
        found[name] = _texts(part) if name == "policy" else np.frombuffer(part, dtype=_TYPES[name])
        start += size
    return found


def _texts(part: bytes) -> np.ndarray:
    texts, at = [], 0
    while at < len(part):
        end = at + 4 + int.from_bytes(part[at : at + 4], "little")
        texts.append(part[at + 4 : end].decode())
        at = end
    return np.array(texts, dtype=object)


def infer_encoded(model: str, images: list[bytes], parameters: dict[str, Any] | None = None) -> bytes:
    """Return a request of encoded images, in binary."""
    body = b"".join(len(one).to_bytes(4, "little") + one for one in images)
    head = {
        "inputs": [{
            "name": "image", "datatype": "BYTES", "shape": [len(images)],
            "parameters": {"binary_data_size": len(body)},
        }],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in CHECKED],
        "parameters": parameters or {},
    }  # fmt: skip
    text = json.dumps(head).encode()
    about = f"Inference-Header-Content-Length: {len(text)}\r\nContent-Type: application/octet-stream\r\n"
    return post(f"/v2/models/{model}/infer", text + body, about)


def malformed(good: bytes, rng: np.random.Generator) -> bytes:
    """Return a request that is wrong somewhere: bytes changed, cut off, put in, or another that was never right."""
    kind = rng.integers(5)
    if kind == 0:
        return good[: int(rng.integers(1, len(good)))]
    if kind == 1:
        at = rng.integers(0, min(len(good), 600), 8)
        changed = bytearray(good)
        for place in at:
            changed[place] = int(rng.integers(256))
        return bytes(changed)
    if kind == 2:
        at = int(rng.integers(0, min(len(good), 600)))
        return good[:at] + rng.bytes(40) + good[at:]
    if kind == 3:
        bodies = [
            b"",
            b"{",
            b'{"images": 3}',
            b'{"images": [1, null, "x"]}',
            b'{"budget": "no"}',
            b"[" * 20_000,
            rng.bytes(300),
        ]
        return post("/predict", bodies[rng.integers(len(bodies))], "Content-Type: application/json\r\n")
    paths = ["/v2/models/none/infer", "/nothing", "/v2/models/model/versions/9/infer", "/predict?budget=%00"]
    return post(paths[rng.integers(len(paths))], rng.bytes(200))
