"""One input at a time, in one file with nested `If`, against the original model.

    python -m benchmarks.runtime.one_file [--threads 1]

Networks have random weights, which time does not depend on, and policies that release what is asked for (`networks`).
Taking turns: the original model; the same with all its heads, in one graph without decisions, which says what heads
alone cost; one file in which no early exit is taken, by margin and by what `auto` learns; and one file at 60% and 40%
of the multiply-adds. Ratios are of the same round, 20 inputs one after the other. With --processor-time they are of
the process's own time, for a busy machine; that needs --threads 1.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from benchmarks.runtime import networks
from experiments.pages import RESULTS, parser, table, write_page
from safetensors.numpy import load_file

import exeunt as ex
from exeunt._support.files import read_json
from exeunt.onnx.model_file import OnnxGraph, join_graphs
from exeunt.onnx.nested_if import KEY, model_with_policy
from exeunt.onnx.one_file import read_stages
from exeunt.policy.calibration import Thresholds
from exeunt.timing.timing_tools import Spread, describe_machine, time_interleaved
from exeunt.torch.timed_exits import AUTO
from exeunt.torch.to_onnx import export_run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from exeunt.runs.folder import RunFolder

CELLS: dict[str, tuple[str, int | str, dict[str, Any]]] = {
    "resnet18-7": ("resnet18", 7, {}),
    "resnet56-7": ("resnet56", 7, {}),
    "resnet56-26": ("resnet56", 26, {}),
    "resnet56-26-narrow": ("resnet56", 26, {"hidden": 64}),
    "resnet56-26-paper": ("resnet56", 26, {"head": "paper"}),
    "resnet18-auto": ("resnet18", AUTO, {}),
    "resnet56-auto": ("resnet56", AUTO, {}),
}
"""Networks by the name of their folder: which, how many heads (auto: placed for a lone input), and what heads."""
SHARES = (0.6, 0.4)
IN_A_ROW = 20
NEVER_SO_SURE = 1e9


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def calls(run: RunFolder, threads: int, macs: float) -> tuple[dict[str, Any], dict[str, float]]:
    """Return what runs inputs in each way, and the share of the multiply-adds that is left in it."""
    stages = read_stages(run.path / "onnx")
    joined = join_graphs([OnnxGraph.read(stage.model.SerializeToString()) for stage in stages])
    fit, calibrate = run.trace("fit"), run.trace("calibrate")
    policies = {f"one file, {share:.0%}": networks.policy_for(run, share, macs) for share in SHARES}
    margin = networks.nobody_leaves(policies[f"one file, {SHARES[0]:.0%}"])
    learned = ex.auto(fit, calibrate, budget=SHARES[0] * macs)
    nobody = {"no early exit, margin": margin, f"no early exit, {learned.score.name} (auto)": asked(learned)}
    plain = {
        "original": session(joined.model([stages[-1].logits]), threads),
        "all heads, no decisions": session(joined.model([stage.logits for stage in stages]), threads),
    }
    files = {
        name: session(model_with_policy(stages, policy).SerializeToString(), threads)
        for name, policy in {**nobody, **policies}.items()
    }
    left = {
        name: float(policy.cost.cumulative[policy.route(calibrate)].mean()) / macs
        for name, policy in policies.items()
    }
    pool = networks.images(networks.FIT + networks.POOL, run.manifest["inputs"]["size"][0], 1)
    inputs, keys = pool[networks.FIT :].numpy(), networks.keys(networks.FIT + networks.POOL)[networks.FIT :]
    made = {name: answering(one, inputs) for name, one in plain.items()}
    return made | {name: answering(one, inputs, keys) for name, one in files.items()}, left


def asked(policy: ex.Policy) -> ex.Policy:
    """Return the policy with every early exit asked, and thresholds that no score reaches."""
    score, tie = np.full(policy.n_exits, NEVER_SO_SURE), np.zeros(policy.n_exits)
    score[-1] = tie[-1] = -np.inf
    return replace(policy, limits=Thresholds(score, tie))


def answering(
    made: onnxruntime.InferenceSession, inputs: np.ndarray, keys: np.ndarray | None = None
) -> Callable[[int], None]:
    """Return what answers a round's inputs, one after the other."""
    name = made.get_inputs()[0].name

    def call(number: int) -> None:
        for i in range(number * IN_A_ROW, (number + 1) * IN_A_ROW):
            row = i % len(inputs)
            given = {name: inputs[row : row + 1]}
            made.run(None, given if keys is None else {**given, KEY: keys[row : row + 1]})

    return call


def weights(run: RunFolder) -> str:
    """Return what the weights weigh, which are read once for each input: those of the network, and of its heads."""
    sizes = Counter[bool]()
    for name, tensor in load_file(run.path / "weights.safetensors").items():
        sizes[name.startswith("heads.")] += tensor.nbytes
    return f"Weights of the network: {sizes[False] / 1e6:.1f} MB; of its heads: {sizes[True] / 1e6:.1f} MB."


def measure(run: RunFolder, given: argparse.Namespace) -> list[list[str]]:
    macs = float(read_json(run.path / "backbone.json")["macs"])
    ways, left = calls(run, given.threads, macs)
    clock = time.process_time if given.processor_time else time.perf_counter
    rounds = networks.POOL // IN_A_ROW * given.passes
    taken = time_interleaved(ways, rounds=rounds, max_seconds=given.seconds, clock=clock)
    rows = []
    for name, seconds in taken.items():
        share = Spread.of(seconds / taken["original"])
        fall = f"{(1 - share.median) / (1 - left[name]):.2f}" if name in left else ""
        cells = [f"{1e3 * np.median(seconds) / IN_A_ROW:.2f}", f"{share.median:.0%}"]
        spread = f"{share.low:.0%} to {share.high:.0%}"
        rows.append([name, *cells, spread, f"{left[name]:.0%}" if name in left else "", fall])
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--work", type=Path, default=Path("runs/benchmark"), help="where networks are kept")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--passes", type=int, default=2, help="how often each input is answered")
    options.add_argument(
        "--seconds", type=float, default=120, help="after which no round begins, per network"
    )
    options.add_argument("--processor-time", action="store_true")
    given = options.parse_args()
    columns, parts = ("way", "ms", "of original", "10% to 90%", "MACs left", "fall of time / of MACs"), []
    for folder, (name, heads, head) in CELLS.items():
        case = networks.CASES[name]
        run = networks.run_of(case, given.work / folder, n_heads=heads, **head)
        if not (run.path / "onnx").is_dir():
            export_run(run)
        title = ", ".join(
            [
                case.title,
                f"{run.n_exits} exits{' placed by time' * (heads == AUTO)}",
                *(f"{key} {value}" for key, value in head.items()),
            ]
        )
        parts.append(f"## {title}\n\n{weights(run)}\n\n{table(columns, measure(run, given))}")
        print(parts[-1])
    machine = describe_machine()
    clock = ", processor time" if given.processor_time else ""
    text = f"""# One input at a time, in one file

Made by `python -m benchmarks.runtime.one_file` on {machine["processor"]}, {given.threads} of {machine["cores"]}
cores{clock}, ONNX Runtime {onnxruntime.__version__}.

Networks of random weights as ONNX models, 20 inputs one after the other, in turns; ratios are of the same turn.
*Original*: the network alone. *All heads, no decisions*: with every head, in one graph. *No early exit*: one file with
nested `If`, whose exits are all asked and answer nothing, by the margin or by the scores that `auto` learns. *60%*: so
many of the multiply-adds are left. The last column is 1 where time falls as the multiply-adds do.

{(chr(10) * 2).join(parts)}
"""
    write_page(RESULTS / "one-file.md", text)


if __name__ == "__main__":
    main()
