"""A run whose network is a function of three pixels, and a real server of it on a free port."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import exeunt as ex
from exeunt.policy import PolicySet
from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import SharedExecutor
from made_runs import ABOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

SIDE, CLASSES, EXITS = 8, 4, 3
POISON = 255
POLL_S = 0.2
"""How often servers look at the file of the budget here, and send an event."""
HARD = (100, 50, 0)
"""Per exit, the ease below which it is wrong."""


def made_images(n: int, seed: int = 0, *, poison: int | None = None) -> np.ndarray:
    """Pixels (n, 8, 8, 3): the first one holds the class, how easy it is, and whether it breaks the network."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = rng.integers(0, CLASSES, n) * 50
    pixels[:, 0, 0, 2] = 0
    if poison is not None:
        pixels[poison, 0, 0, 2] = POISON
    return pixels


def classes_of(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, 0, 0, 0].astype(int) // 50


def encoded(pixels: np.ndarray, format_: str = "PNG") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_)
    return file.getvalue()


def in_base64(pixels: np.ndarray) -> list[str]:
    return [base64.b64encode(encoded(one)).decode() for one in pixels]


@dataclass(eq=False)
class PixelExecutor:
    """Reads class and ease off a pixel. `pause_s`: how long a call takes. `rows`: those of each call so far.

    `go`: a call waits until it is set, if it is of segment `held_from` or a later one.
    """

    name = "pixels"
    device = "cpu"
    n_exits = EXITS
    segments = ((0, 0), (1, 1), (2, 2))
    restarts = ()
    border, mask_scale = 1e-5, 1
    pause_s: float = 0.0
    rows: list[int] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    held_from: int = EXITS

    def start(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if inputs.ndim != 4:
            raise ex.InputError(f"inputs must have 4 axes, got {inputs.shape}")
        return inputs, np.isfinite(inputs).all(axis=(1, 2, 3))

    def signature(self, state: np.ndarray) -> Any:
        return state.shape[1:]

    def run(self, segment: int, state: np.ndarray, wanted: Any) -> tuple[list[np.ndarray], np.ndarray]:
        self.rows.append(len(state))
        if segment >= self.held_from:
            assert self.go.wait(20)
        if self.pause_s:
            time.sleep(self.pause_s)
        first = np.rint(255 * state[:, :, 0, 0])
        if (first[:, 2] == POISON).any():
            raise RuntimeError("this row breaks the network")
        ease = first[:, 1:2] / 255
        wrong = first[:, 1] < HARD[segment]
        label = (first[:, 0] // 50 + wrong).astype(int) % CLASSES
        logits = np.eye(CLASSES)[label] * (1 + segment + 6 * ease)
        return [logits.astype(np.float32) for _ in wanted], state

    def gather(self, parts: Any) -> np.ndarray:
        return np.concatenate([state if rows is None else state[rows] for state, rows in parts])

    def compact(self, state: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return state[rows], rows

    def wait(self) -> None:
        pass


def made_run(
    folder: Path, budgets: tuple[str, ...] = ("45%", "60%", "80%"), n: int = 900, **about: Any
) -> RunFolder:
    """A run with policies for several budgets, calibrated on what the executor says."""
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"weights")
    pixels = made_images(n)
    executor, state = PixelExecutor(), prepared(pixels)
    logits = np.stack([executor.run(i, state, [i])[0][0] for i in range(EXITS)], axis=1)
    label = classes_of(pixels)
    trace = ex.ExitTrace.from_logits(logits, cost=ex.CostModel([1.0, 2.0, 3.5]), label=label, id=np.arange(n))
    fit, calibrate, test = trace.split(fit=0.3, calibrate=0.3, test=0.4)
    inputs = {"kind": "image", "size": [SIDE, SIDE], "mean": [0.0] * 3, "std": [1.0] * 3}
    traces = {"fit": fit, "calibrate": calibrate, "test": test}
    about = {**ABOUT, "inputs": inputs, **about}
    run = RunFolder.create(folder, cost=trace.cost, traces=traces, about=about)
    run.save_policy_set(PolicySet.make(ex.eero, fit, calibrate, budgets=budgets))
    return run


def prepared(pixels: np.ndarray) -> np.ndarray:
    return (np.moveaxis(pixels, -1, 1) / np.float32(255)).astype(np.float32)


@dataclass
class Running:
    """A server that runs: its address, a client of it, and the executor that it computes with."""

    url: str
    port: int
    executor: PixelExecutor
    run: RunFolder
    server: Any
    client: httpx.Client

    def answers(self, images: Any, **options: Any) -> list[dict[str, Any]]:
        """Return the answers to images: pixels, or encoded ones in base64."""
        images = in_base64(images) if isinstance(images, np.ndarray) else images
        found = self.client.post("/predict", json={"images": images, **options})
        answers: list[dict[str, Any]] = found.json()["answers"]
        return answers

    def policy(self) -> str:
        """Return the policy that is active."""
        return str(self.client.get("/budget").json()["policy"])

    def event(self) -> dict[str, Any]:
        """Return the next event of the page."""
        with self.client.stream("GET", "/events") as stream:
            data = next(line for line in stream.iter_lines() if line)
        event: dict[str, Any] = json.loads(data.removeprefix("data: "))
        return event

    def layer(self, name: str) -> Any:
        """Return the outermost layer of the application that has an attribute of this name."""
        layer = self.server.config.loaded_app
        while not hasattr(layer, name):
            layer = layer.app
        return layer

    def inbox(self) -> int:
        """Return how many requests the engine's thread has not looked at yet."""
        return len(self.layer("state").state.service.active.engine._inbox)


class TextExecutor(PixelExecutor):
    """Reads the class off a text's first letter: "a" is 0. What is longer is easier."""

    def start(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        letters = ["".join(one) for one in inputs]
        first = [[50 * ((ord(one[0]) - ord("a")) % CLASSES), min(10 * len(one), 255), 0] for one in letters]
        return super().start(np.array(first, dtype=np.float32).reshape(-1, 3, 1, 1) / 255)


@contextmanager
def held(executor: PixelExecutor, segment: int = 0) -> Iterator[threading.Event]:
    """Let calls of this segment and of later ones wait until the event is set, at the end at the latest."""
    executor.rows.clear()
    executor.go.clear()
    executor.held_from = segment
    try:
        yield executor.go
    finally:
        executor.go.set()
        executor.held_from = EXITS


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def shared_of(executor: PixelExecutor, plan: Any = None) -> Any:
    """What stands in for `open_shared`."""
    exits = list(range(EXITS))

    def shared(_: RunFolder, policies: Any, **__: Any) -> SharedExecutor:
        return SharedExecutor(executor, policies, dict.fromkeys(policies, exits), tuple(exits), plan)

    return shared


@contextmanager
def running(
    run: RunFolder, executor: PixelExecutor | None = None, *, in_loop: bool = False, **settings: Any
) -> Iterator[Running]:
    """Serve a run on a free port in a thread of this process.

    `in_loop`: let the event loop run few rows, else the thread runs all: a call that is held does not hold up the loop.
    """
    import httpx
    import uvicorn

    from exeunt.serve import engine_thread, loaded_run, service
    from exeunt.serve.app import make_app
    from exeunt.serve.settings import Settings
    from exeunt.web.server import uvicorn_config

    executor = PixelExecutor() if executor is None else executor
    all_settings = Settings(run=run.path, port=0, **settings)
    config = uvicorn_config(lambda: make_app(all_settings), all_settings.host, all_settings.port)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded_run, "open_shared", shared_of(executor))
        patch.setattr(service, "_POLL_S", POLL_S)
        if not in_loop:
            patch.setattr(engine_thread, "_SHORT_S", -1.0)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=20) as client:
                yield Running(url, port, executor, run, server, client)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
