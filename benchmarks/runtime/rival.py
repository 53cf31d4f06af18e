"""Against `earlyon` (PyPI): the same backbone, heads and thresholds, on a trained network."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from benchmarks.runtime import networks
from benchmarks.runtime.ways import EXECUTORS, original

import exeunt as ex
from exeunt.data import Preprocess, open_source
from exeunt.runs.executors import open_executor
from exeunt.runs.file_digests import TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import Runner
from exeunt.timing.timing_tools import Spread, time_interleaved
from exeunt.torch import attach, record, train
from exeunt.torch.loaders import make_loader
from exeunt.torch.models.by_name import build_model
from exeunt.torch.models.preparation import to_channels_last
from exeunt.torch.open_run import load_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.runtime.ways import Limits

NAME, SPEC = "cifar10-resnet56", "exeunt.zoo:resnet56"
N_HEADS, N_TRAIN, EPOCHS = 7, 8000, 20
FIT, CALIBRATE, KEPT = 1000, 2000, 1280  # test images: for rates, for thresholds, and those that are timed
BUDGETS = (0.4, 0.6, 0.8)
CURVE = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
SINGLES, BATCH = 100, 64


def prepare(data: str, weights: Path, folder: Path) -> RunFolder:
    """Return a CIFAR-10 ResNet-56 whose 7 heads are trained on 8,000 images, with its traces on test images."""
    if RunFolder.exists(folder):
        return RunFolder.open(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source, inputs = open_source(data), Preprocess(size=(32, 32))
    model = to_channels_last(build_model(SPEC, n_classes=10, weights=weights), inputs)
    network = attach(model, torch.zeros(2, 3, 32, 32), N_HEADS, verbose=False)
    rng = np.random.default_rng(0)
    chosen = source.train.take(np.sort(rng.permutation(len(source.train))[:N_TRAIN]))
    loader = make_loader(chosen, inputs, batch_size=128, shuffle=True, seed=0)
    train(network, loader, mode="frozen", epochs=EPOCHS)
    order = rng.permutation(len(source.test))
    bounds = (0, FIT, FIT + CALIBRATE, len(order))
    rows = dict(zip(TRACED, (order[a:b] for a, b in pairwise(bounds)), strict=True))
    parts = {
        part: record(network, make_loader(source.test.take(at), inputs, batch_size=128))
        for part, at in rows.items()
    }
    kept = next(iter(make_loader(source.test.take(rows["test"][:KEPT]), inputs, batch_size=KEPT)))
    np.savez(folder / "test.npz", pixels=kept.inputs.numpy(), id=kept.id.numpy())
    return networks.write_run(network, folder, SPEC, inputs, parts)


def compare(run: RunFolder, limits: Limits) -> dict[str, Any]:
    """Images per second at batch 1 and 64 with the same thresholds, and accuracy at the same time per image."""
    rivals = Rivals(run, limits)
    return {
        "single": [rivals.single(share) for share in BUDGETS],
        "batches": [rivals.batches(share) for share in BUDGETS],
        "same_time": rivals.same_time(),
    }


def policy_of(run: RunFolder, share: float) -> ex.Policy:
    """Return a policy that decides by the highest probability, as `earlyon` does."""
    fit, calibrate = run.trace("fit"), run.trace("calibrate")
    budget = max(share * fit.cost.full, fit.cost.first)
    return ex.optimised(fit, calibrate, budget=budget, score="max_probability")


class Wrapper:
    """`earlyon` on the network of a run folder."""

    def __init__(self, run: RunFolder) -> None:
        from earlyon import EarlyExitConfig, EarlyExitWrapper, ExitPoint

        network = load_network(run)
        self.n_exits = network.n_exits
        names = [f"exit{i}" for i in range(len(network.heads))]
        points = [
            ExitPoint(name, point.name, point.shape[0])
            for name, point in zip(names, network.points, strict=True)
        ]
        config = EarlyExitConfig("given", network.n_classes, points)
        heads = dict(zip(names, network.heads, strict=True))
        self.model = EarlyExitWrapper(
            network.backbone, heads, lambda logits: logits, config, input_shape=(1, 3, 32, 32)
        ).eval()

    def set(self, thresholds: np.ndarray) -> None:
        """Take over thresholds (m,) of the highest probability; +inf switches an exit off."""
        config = self.model.config
        config.enabled_exits[:] = [bool(limit < np.inf) for limit in thresholds[:-1]]
        config.confidence_thresholds[:] = [float(np.clip(limit, 0.0, 1.0)) for limit in thresholds[:-1]]

    def one(self, pixels: torch.Tensor) -> tuple[int, int]:
        """Return class and exit of one image (1, ...)."""
        found = self.model(pixels)
        return int(found.prediction.argmax()), found.exit_taken % self.n_exits

    def many(self, pixels: torch.Tensor) -> np.ndarray:
        """Return classes (n,); the batch leaves as one."""
        return self.model.forward_inference_batched(pixels).predictions.argmax(dim=1).numpy()


class Rivals:
    """Both libraries on one run and the same images."""

    def __init__(self, run: RunFolder, limits: Limits) -> None:
        self.run, self.limits, self.wrapper = run, limits, Wrapper(run)
        self.rounds = min(limits.rounds, KEPT // BATCH)
        self.original = original(run, "eager")
        with np.load(run.path / "test.npz") as file:
            self.pixels, self.keys = torch.from_numpy(file["pixels"]), file["id"].view(np.uint64)

    def runners(self, policy: ex.Policy) -> dict[str, Callable[[slice], Any]]:
        """Return what answers some images, by executor, and set the same thresholds for `earlyon`."""
        self.wrapper.set(policy.thresholds)
        found = {}
        for name in EXECUTORS:
            plan = self.run.plan(name)
            segments = None if plan is None else plan.segments
            runner = Runner(open_executor(self.run, name, segments=segments), policy, plan)
            found[name] = lambda at, run=runner: run(self.pixels[at], id=self.keys[at])
        return found

    def per_second(self, calls: dict[str, Callable[[int], Any]], n: int) -> dict[str, Any]:
        seconds = time_interleaved(calls, rounds=self.rounds, max_seconds=self.limits.seconds)
        return {name: asdict(Spread.of(n / taken)) for name, taken in seconds.items()}

    def single(self, share: float) -> dict[str, Any]:
        """Compare one image at a time."""
        policy, places = policy_of(self.run, share), [slice(i, i + 1) for i in range(SINGLES)]
        runners = self.runners(policy)
        ours = np.array([runners["eager"](at).exit[0] for at in places])
        theirs = np.array([self.wrapper.one(self.pixels[at])[1] for at in places])
        calls: dict[str, Callable[[int], Any]] = {
            "original": lambda _: [self.original(self.pixels[at]) for at in places],
            "earlyon": lambda _: [self.wrapper.one(self.pixels[at]) for at in places],
        }
        for name, run in runners.items():
            calls[name] = lambda _, run=run: [run(at) for at in places]
        accuracy = ex.evaluate(policy, self.run.trace("test")).accuracy
        rates = self.per_second(calls, SINGLES)
        return {
            "share": share, "accuracy": accuracy, "per_second": rates, "same_exit": float((ours == theirs).mean())
        }  # fmt: skip

    def batches(self, share: float) -> dict[str, Any]:
        """Compare batches of 64."""
        policy, places = policy_of(self.run, share), [slice(i, i + BATCH) for i in range(0, KEPT, BATCH)]
        calls: dict[str, Callable[[int], Any]] = {
            "original": lambda i: self.original(self.pixels[places[i]]),
            "earlyon": lambda i: self.wrapper.many(self.pixels[places[i]]),
        }
        for name, run in self.runners(policy).items():
            calls[name] = lambda i, run=run: run(places[i])
        kept = self.run.trace("test").take(slice(KEPT))
        theirs = np.concatenate([self.wrapper.many(self.pixels[at]) for at in places])
        return {
            "share": share, "accuracy_kept": ex.evaluate(policy, kept).accuracy,
            "earlyon_accuracy": float((theirs == kept.label).mean()), "per_second": self.per_second(calls, BATCH),
        }  # fmt: skip

    def same_time(self) -> list[dict[str, Any]]:
        """Return what `earlyon` reaches in batches of 64 if all leave at one exit, and what we reach in that time.

        A batch leaves as one there, so that its time can only be lowered by letting everything out at an exit.
        """
        test, calls = self.run.trace("test"), {}
        policies = {share: policy_of(self.run, share) for share in CURVE}
        for exit_ in range(self.wrapper.n_exits):
            limit = np.where(np.arange(self.wrapper.n_exits) == exit_, 0.0, np.inf)
            calls[f"exit {exit_}"] = lambda i, limit=limit: (
                self.wrapper.set(limit), self.wrapper.many(self.pixels[i * BATCH :][:BATCH])
            )  # fmt: skip
        for share, policy in policies.items():
            run = self.runners(policy)["eager"]
            calls[f"ours {share}"] = lambda i, run=run: run(slice(i * BATCH, (i + 1) * BATCH))
        seconds = time_interleaved(calls, rounds=self.rounds, max_seconds=3 * self.limits.seconds)
        ms = {name: float(np.median(taken)) * 1e3 / BATCH for name, taken in seconds.items()}
        curve = sorted((ms[f"ours {share}"], ex.evaluate(p, test).accuracy) for share, p in policies.items())
        times, reached = (np.array(values, dtype=float) for values in zip(*curve, strict=True))
        best, rows = np.maximum.accumulate(reached), []
        for exit_ in range(self.wrapper.n_exits):
            at = ms[f"exit {exit_}"]
            ours = None if at < times[0] else float(np.interp(at, times, best))
            theirs = float(1 - test.risk[exit_])
            rows.append({"exit": exit_, "ms_per_input": at, "earlyon_accuracy": theirs, "our_accuracy": ours})
        return rows
