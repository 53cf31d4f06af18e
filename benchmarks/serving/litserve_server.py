"""LitServe with dynamic batching around the original model's ONNX session.

python benchmarks/serving/litserve_server.py RUN --port 9000 --batch 4 --wait-ms 5
"""

from __future__ import annotations

import argparse
import base64
import io
from typing import Any

import litserve
import numpy as np
from PIL import Image

from exeunt.runs.executors import open_executor
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import InputPreparation
from exeunt.timing.bench import whole_network


class Original(litserve.LitAPI):
    def __init__(self, run: str, threads: int | None, **options: Any) -> None:
        super().__init__(**options)
        self._path, self._threads = run, threads

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe gives it by name
        run = RunFolder.open(self._path)
        executor = open_executor(run, "onnx", segments=((0, run.cost.n_exits - 1),), threads=self._threads)
        self._network = whole_network(executor, InputPreparation(run))
        self._network(np.zeros((64, 32, 32, 3), dtype=np.uint8))

    def decode_request(self, request):  # LitServe reads an annotation here as the form of the request
        if "image" in request:
            image = Image.open(io.BytesIO(base64.b64decode(request["image"])))
            return np.asarray(image.convert("RGB"))[None]
        pixels = np.frombuffer(base64.b64decode(request["pixels"]), dtype=np.uint8)
        return pixels.reshape(request["shape"])

    def batch(self, inputs: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        return np.concatenate(inputs), [len(one) for one in inputs]

    def predict(self, given: Any) -> Any:
        pixels, sizes = given if isinstance(given, tuple) else (given, [len(given)])
        (logits,), _ = self._network(pixels)
        return np.asarray(logits).argmax(axis=1), sizes

    def unbatch(self, output: Any) -> list[np.ndarray]:
        labels, sizes = output
        return np.split(labels, np.cumsum(sizes)[:-1])

    def encode_response(self, output):
        labels = output[0] if isinstance(output, tuple) else output
        return {"label": labels.tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=4, help="requests in a batch")
    parser.add_argument("--workers", type=int, default=1, help="worker and API processes")
    parser.add_argument("--wait-ms", type=float, default=5.0)
    given = parser.parse_args()
    api = Original(
        given.run,
        1 if given.workers > 1 else None,
        max_batch_size=given.batch,
        batch_timeout=given.wait_ms / 1e3,
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=given.workers, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=given.port,
        num_api_servers=given.workers,
        generate_client_file=False,
        log_level="warning",
    )
