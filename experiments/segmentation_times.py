"""How long the policies of `experiments.segmentation` take: one image at a time on ONNX Runtime, with one thread.

Each way answers the same fresh scenes, from prepared pixels to masks, in turns with the others.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiments.drawn_scenes import drawn
from experiments.segmentation_page import BUDGETS

from exeunt.policy import Policy
from exeunt.runs import Runner, load
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import load_preparation
from exeunt.timing.bench import heads_policy
from exeunt.timing.timing_tools import Spread, describe_machine, time_interleaved
from exeunt.torch.to_onnx import export_run

TIMED = ("auto", "stopping", "EERO", "the gate alone (ECO-M2F)")
N_IMAGES, ROUNDS, MAX_SECONDS = 48, 9, 45


def times(runs: Path, n_seeds: int) -> dict[str, Any]:
    """Return each way's time as a share of the full network's, by seed."""
    return {"machine": describe_machine(), "seeds": [of_seed(runs, seed) for seed in range(n_seeds)]}


def of_seed(runs: Path, seed: int) -> dict[str, Any]:
    """Return the shares of time of the policies by budget, of fixed depths by exit and of the smaller network."""
    run, small = exported(runs / f"drawn-{seed}"), runs / f"drawn-small-{seed}"
    folder, m = runs / f"policies-drawn-{seed}", run.cost.n_exits
    ways = {("exit", str(exit_)): fixed(run, exit_) for exit_ in range(m)}
    for name in TIMED:
        for budget in BUDGETS:
            policy = Policy.load(folder / f"{name} {budget}.json")
            ways[name, budget] = load(run, executor="onnx", threads=1, policy=policy)
    if RunFolder.exists(small):
        ways["small", ""] = fixed(exported(small), -1)
    rng, prepare = np.random.default_rng(5000 + seed), load_preparation(run)
    images = [prepare.batch([drawn(rng)[0]]) for _ in range(N_IMAGES)]
    calls = {key: partial(_answer, runner, images) for key, runner in ways.items()}
    seconds = time_interleaved(calls, rounds=ROUNDS, max_seconds=MAX_SECONDS)
    full = seconds["exit", str(m - 1)]
    print(
        f"{run.path}: the full network takes {1e3 * np.median(full) / N_IMAGES:.1f} ms an image", flush=True
    )
    found: dict[str, Any] = {"ms": float(1e3 * np.median(full) / N_IMAGES)}
    for (name, key), taken in seconds.items():
        found.setdefault(name, {})[key] = Spread.of(taken / full).median
    return found


def exported(folder: Path) -> RunFolder:
    """Return a run with its ONNX files, which are written if there are none."""
    run = RunFolder.open(folder)
    if not (folder / "onnx").is_dir():
        export_run(run, trusted=run.manifest["model"]["spec"])
    return run


def fixed(run: RunFolder, exit_: int, threads: int | None = 1) -> Runner:
    """Return a runner that answers all images at one exit, and computes no other exit's answer."""
    last = run.cost.n_exits - 1
    policy = heads_policy(last + 1, [exit_ % (last + 1)])
    policy = replace(policy, cost=run.cost, budget=float(run.cost.full))
    return load(run, executor="onnx", threads=threads, policy=policy)


def _answer(runner: Runner, images: list[np.ndarray], _round: int) -> None:
    for image in images:
        runner(image)
