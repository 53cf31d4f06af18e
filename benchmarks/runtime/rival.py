"""Against `earlyon` (PyPI): the same backbone, heads and thresholds, on a trained network."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import networks
import numpy as np
import torch
from ways import original

import exeunt as ex
from exeunt.data import Preprocess, open_source
from exeunt.run.executors import open_executor
from exeunt.run.file_digests import TRACED
from exeunt.run.folder import RunFolder
from exeunt.run.runner import Runner
from exeunt.timing.measuring import Spread, time_interleaved
from exeunt.torch import attach, record, train
from exeunt.torch.loaders import make_loader
from exeunt.torch.models.by_name import build_model
from exeunt.torch.models.inputs import to_channels_last
from exeunt.torch.open_run import load_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ways import Limits

SPEC = "exeunt.zoo:resnet56"
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
    with np.load(run.path / "test.npz") as file:
        pixels = torch.from_numpy(file["pixels"])
        keys = file["id"].view(np.uint64)
    policies = {budget: policy_of(run, budget) for budget in BUDGETS}
    wrapper = Wrapper(run)
    return {
        "single": [_single(run, wrapper, policies[b], b, pixels, keys, limits) for b in BUDGETS],
        "batches": [_batches(run, wrapper, policies[b], b, pixels, keys, limits) for b in BUDGETS],
        "same_time": _same_time(run, wrapper, pixels, keys, limits),
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


def _runners(run: RunFolder, policy: ex.Policy) -> dict[str, Runner]:
    runners = {}
    for name in ("eager", "onnx"):
        plan = run.plan(name)
        segments = None if plan is None else plan.segments
        runners[name] = Runner(open_executor(run, name, segments=segments), policy, plan)
    return runners


def _single(
    run: RunFolder,
    wrapper: Wrapper,
    policy: ex.Policy,
    share: float,
    pixels: torch.Tensor,
    keys: np.ndarray,
    limits: Limits,
) -> dict[str, Any]:
    runners, plain = _runners(run, policy), original(run, "eager")
    wrapper.set(policy.thresholds)
    ours = np.array([runners["eager"](pixels[i : i + 1], id=keys[i : i + 1]).exit[0] for i in range(SINGLES)])
    theirs = np.array([wrapper.one(pixels[i : i + 1])[1] for i in range(SINGLES)])
    calls: dict[str, Callable[[int], Any]] = {
        "original": lambda _: [plain(pixels[i : i + 1]) for i in range(SINGLES)],
        "earlyon": lambda _: [wrapper.one(pixels[i : i + 1]) for i in range(SINGLES)],
    }
    for name, runner in runners.items():
        calls[name] = lambda _, run=runner: [
            run(pixels[i : i + 1], id=keys[i : i + 1]) for i in range(SINGLES)
        ]
    rates = _per_second(calls, SINGLES, limits)
    test = run.trace("test")
    return {
        "share": share, "accuracy": ex.evaluate(policy, test).accuracy, "per_second": rates,
        "same_exit": float((ours == theirs).mean()),
    }  # fmt: skip


def _batches(
    run: RunFolder,
    wrapper: Wrapper,
    policy: ex.Policy,
    share: float,
    pixels: torch.Tensor,
    keys: np.ndarray,
    limits: Limits,
) -> dict[str, Any]:
    runners, plain = _runners(run, policy), original(run, "eager")
    wrapper.set(policy.thresholds)
    at = [slice(i, i + BATCH) for i in range(0, KEPT, BATCH)]
    calls: dict[str, Callable[[int], Any]] = {
        "original": lambda i: plain(pixels[at[i]]),
        "earlyon": lambda i: wrapper.many(pixels[at[i]]),
    }
    for name, runner in runners.items():
        calls[name] = lambda i, run=runner: run(pixels[at[i]], id=keys[at[i]])
    test = run.trace("test")
    kept = test.take(slice(KEPT))
    theirs = np.concatenate([wrapper.many(pixels[part]) for part in at])
    return {
        "share": share, "accuracy": ex.evaluate(policy, test).accuracy,
        "accuracy_kept": ex.evaluate(policy, kept).accuracy, "earlyon_accuracy": float((theirs == kept.label).mean()),
        "per_second": _per_second(calls, BATCH, limits),
    }  # fmt: skip


def _same_time(
    run: RunFolder, wrapper: Wrapper, pixels: torch.Tensor, keys: np.ndarray, limits: Limits
) -> list[dict[str, Any]]:
    """Return what `earlyon` reaches in batches of 64 if all leave at one exit, and what we reach in that time.

    A batch leaves as one there, so that its time can only be lowered by letting everything out at an exit.
    """
    test = run.trace("test")
    runner = _runners(run, policy_of(run, 0.5))["eager"]
    policies = {share: policy_of(run, share) for share in CURVE}
    calls: dict[str, Callable[[int], Any]] = {}
    for exit_ in range(wrapper.n_exits):
        limit = np.where(np.arange(wrapper.n_exits) == exit_, 0.0, np.inf)
        calls[f"exit {exit_}"] = lambda i, limit=limit: (
            wrapper.set(limit),
            wrapper.many(pixels[i * BATCH :][:BATCH]),
        )
    for share, policy in policies.items():
        run = Runner(runner.executor, policy, runner.plan)
        calls[f"ours {share}"] = lambda i, run=run: run(
            pixels[i * BATCH :][:BATCH], id=keys[i * BATCH :][:BATCH]
        )
    seconds = time_interleaved(
        calls, rounds=min(limits.rounds, KEPT // BATCH), max_seconds=3 * limits.seconds
    )
    ms = {name: float(np.median(taken)) * 1e3 / BATCH for name, taken in seconds.items()}
    curve = sorted((ms[f"ours {share}"], ex.evaluate(p, test).accuracy) for share, p in policies.items())
    times, reached = (np.array(values, dtype=float) for values in zip(*curve, strict=True))
    best = np.maximum.accumulate(reached)
    return [
        {
            "exit": exit_,
            "ms_per_input": ms[f"exit {exit_}"],
            "earlyon_accuracy": float(1 - test.risk[exit_]),
            "our_accuracy": None
            if ms[f"exit {exit_}"] < times[0]
            else float(np.interp(ms[f"exit {exit_}"], times, best)),
        }
        for exit_ in range(wrapper.n_exits)
    ]


def _per_second(calls: dict[str, Callable[[int], Any]], n: int, limits: Limits) -> dict[str, Any]:
    rounds = min(limits.rounds, KEPT // BATCH)
    seconds = time_interleaved(calls, rounds=rounds, max_seconds=limits.seconds)
    return {name: asdict(Spread.of(n / taken)) for name, taken in seconds.items()}
