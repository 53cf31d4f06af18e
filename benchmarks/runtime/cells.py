"""What is measured of one network on one executor. Every cell returns what JSON can hold."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.runtime import networks
from benchmarks.runtime.ways import SHARES

import exeunt as ex
from exeunt.rules import baselines
from exeunt.runs.streaming import Batch
from exeunt.timing.millisecond_costs import self_consistent_cost
from exeunt.timing.timing_tools import Spread, time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.runtime.ways import Limits, Network

    from exeunt.runs.runner import Runner


FRESH = 512  # images on which budgets in milliseconds are measured: their mix of exits strays, by chance, by some 3 %
IN_A_ROW = 16  # single inputs before the next way has its turn


def _spread(values: np.ndarray) -> dict[str, float]:
    return asdict(Spread.of(values))


def efficiency(network: Network, limits: Limits) -> dict[str, Any]:
    """Batches of 64 and 256: multiply-adds left over time left, and what stages cost when nobody leaves."""
    small = _at_batch(network, 64, (16, 32, 64), limits)
    best = min(small["original_ms"], key=lambda piece: small["original_ms"][piece]["median"])
    large = _at_batch(network, 256, tuple({int(best), 256}), limits)
    return {"64": small, "256": large}


def _at_batch(network: Network, size: int, pieces: tuple[int, ...], limits: Limits) -> dict[str, Any]:
    runners: dict[str, Runner] = {}
    for share, policy in network.policies.items():
        runners[f"stages {share}"] = network.without_plan(policy)
        runners[f"plan {share}"] = network.with_plan(policy)
    nobody = networks.nobody_leaves(network.policies[SHARES[0]])
    runners["stages nobody"] = network.without_plan(nobody)
    runners["plan nobody"] = network.with_plan(nobody)
    calls: dict[str, Any] = {f"original {piece}": network.original_in(piece, size) for piece in pieces}
    calls["folded"] = network.original_in(size, size, folded=True)
    calls |= {name: network.answering(runner, size) for name, runner in runners.items()}
    seconds = time_interleaved(calls, rounds=limits.rounds, max_seconds=limits.seconds)
    rounds = len(seconds[f"original {size}"])
    best = min(pieces, key=lambda piece: np.median(seconds[f"original {piece}"]))
    rows = {}
    for name, runner in runners.items():
        share = network.share_left(runner, size, rounds)
        ratio = seconds[name] / seconds[f"original {size}"]
        rows[name] = {
            "share_left": share,
            "time_left": _spread(ratio),
            "efficiency": _spread(share / ratio),
            "efficiency_against_best": _spread(share * seconds[f"original {best}"] / seconds[name]),
            "efficiency_against_folded": _spread(share * seconds["folded"] / seconds[name]),
        }
    ms = {str(piece): _spread(seconds[f"original {piece}"] * 1e3 / size) for piece in pieces}
    folded = _spread(seconds["folded"] / seconds[f"original {size}"])
    return {"rounds": rounds, "original_ms": ms, "best_piece": best, "folded": folded, "ways": rows}


def streamed(network: Network, limits: Limits) -> dict[str, Any]:
    """Batches of 64 in a stream, against as many batches of 64 through the original model."""
    size, count = 64, len(network.pool) // 64
    runners = {share: network.with_plan(policy) for share, policy in network.policies.items()}

    def original(_round: int) -> None:
        for number in range(count):
            network.original_in(size, size)(number)

    def stream(runner: Runner) -> Callable[[int], None]:
        def call(_round: int) -> None:
            for _ in runner.stream(Batch(*network.batch(number, size)) for number in range(count)):
                pass

        return call

    calls = {"original": original, **{str(share): stream(runner) for share, runner in runners.items()}}
    seconds = time_interleaved(calls, rounds=limits.rounds, max_seconds=limits.seconds)
    rows = {}
    for share, runner in runners.items():
        left = network.share_left(runner, size, count)
        ratio = seconds[str(share)] / seconds["original"]
        rows[str(share)] = {
            "share_left": left,
            "time_left": _spread(ratio),
            "efficiency": _spread(left / ratio),
        }
    return {"batches": count, "rounds": len(seconds["original"]), "ways": rows}


def latency(network: Network, limits: Limits) -> dict[str, Any]:
    """Single inputs: mean and 95th percentile over inputs, each input's time a median over rounds."""
    count = 64
    runners = {f"plan {share}": network.with_plan(policy) for share, policy in network.policies.items()}
    runners["plan nobody"] = network.with_plan(networks.nobody_leaves(network.policies[SHARES[0]]))
    taken: dict[str, list[np.ndarray]] = {name: [] for name in ("original", *runners)}
    end = time.perf_counter() + limits.seconds
    for number in range(limits.rounds + 1):
        if number > 3 and time.perf_counter() > end:
            break
        table = {name: np.zeros(count) for name in taken}
        # Each way has weights of its own: taking turns after every input would read all of them from memory anew.
        for start in range(0, count, IN_A_ROW):
            for name in taken:
                for i in range(start, start + IN_A_ROW):
                    inputs, keys = network.batch(i, 1)
                    began = time.perf_counter()
                    if name == "original":
                        network.original(inputs)
                    else:
                        runners[name](inputs, id=keys)
                    table[name][i] = time.perf_counter() - began
        if number:
            for name, row in table.items():
                taken[name].append(row)
    return _latencies(network, runners, {name: np.array(rows) for name, rows in taken.items()})


def _latencies(network: Network, runners: dict[str, Runner], taken: dict[str, np.ndarray]) -> dict[str, Any]:
    trace = network.run.trace("calibrate").take(slice(taken["original"].shape[1]))
    original = {"mean": taken["original"].mean(axis=1), "p95": np.quantile(taken["original"], 0.95, axis=1)}
    rows: dict[str, Any] = {}
    for name, runner in runners.items():
        spent = runner.policy.cost.cumulative[runner.policy.route(trace)] / network.original_macs
        left = {"mean": float(spent.mean()), "p95": float(np.quantile(spent, 0.95))}
        time_left = {
            "mean": taken[name].mean(axis=1) / original["mean"],
            "p95": np.quantile(taken[name], 0.95, axis=1) / original["p95"],
        }
        rows[name] = {
            key: {"share_left": left[key], "time_left": _spread(time_left[key])} for key in ("mean", "p95")
        }
    return {
        "inputs": taken["original"].shape[1],
        "rounds": len(taken["original"]),
        "original_ms": {key: _spread(value * 1e3) for key, value in original.items()},
        "ways": rows,
    }


def milliseconds(network: Network, limits: Limits) -> dict[str, Any]:
    """Budgets in milliseconds, asked for and then measured on images that no threshold was calibrated on."""
    fresh = networks.images(FRESH, network.case.side, 7)
    keys = networks.keys(FRESH, start=10**6)
    fit, calibrate = network.run.trace("fit"), network.run.trace("calibrate")
    rows = []
    for size, count in ((1, FRESH), (64, FRESH // 64)):
        inputs = fresh[:size]
        full = _original_ms(network, fresh, size, count)
        for share in (0.5, 0.8):
            budget = share * full

            def choose(cost: ex.CostModel, budget: float = budget) -> ex.Policy:
                return baselines.msdnet(fit.with_cost(cost), calibrate.with_cost(cost), budget=f"{budget}ms")

            row: dict[str, Any] = {"batch": size, "budget_ms": budget, "share_of_original": share}
            rows.append(row)
            try:
                cost = self_consistent_cost(
                    network.planned, inputs, choose, lambda policy: policy.route(calibrate), plan=network.plan
                )
            except ex.InfeasibleBudget:
                continue
            runner = network.with_plan(choose(cost))

            def answer(_round: int, runner: Runner = runner, size: int = size, count: int = count) -> None:
                for i in range(count):
                    at = slice(i * size, (i + 1) * size)
                    runner(fresh[at], id=keys[at])

            seconds = time_interleaved({"plan": answer}, rounds=limits.rounds, max_seconds=limits.seconds)[
                "plan"
            ]
            taken = seconds * 1e3 / (size * count)
            row |= {"measured_ms": _spread(taken), "ratio": _spread(taken / budget)}
    return {"rows": rows}


def _original_ms(network: Network, inputs: Any, size: int, count: int) -> float:
    """Return milliseconds per input of the original model, to choose budgets by."""
    count = min(count, 32)
    parts = [inputs[i * size : (i + 1) * size] for i in range(count)]
    seconds = time_interleaved(
        {"original": lambda _: [network.original(part) for part in parts]}, rounds=3, max_seconds=5.0
    )
    return float(np.median(seconds["original"]) * 1e3 / (size * count))


def at_sixty_percent(network: Network, limits: Limits) -> dict[str, Any]:
    """One batch size and one share: how time grows with the number of exits."""
    runner = network.without_plan(network.policies[0.6])
    calls = {"original": network.original_in(64, 64), "stages 0.6": network.answering(runner, 64)}
    seconds = time_interleaved(calls, rounds=limits.rounds, max_seconds=limits.seconds)
    ratio = seconds["stages 0.6"] / seconds["original"]
    share = network.share_left(runner, 64, len(ratio))
    return {
        "exits": network.run.cost.n_exits,
        "share_left": share,
        "heads_share": network.run.cost.full / network.original_macs - 1,
        "original_ms": _spread(seconds["original"] * 1e3 / 64),
        "time_left": _spread(ratio),
        "efficiency": _spread(share / ratio),
    }
