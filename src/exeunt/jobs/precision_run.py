"""Making the run of a run at another precision: its network, and the outputs of every exit, recorded anew."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Floats
from exeunt._support.files import atomic_folder, check_writable
from exeunt._support.limits import adds_products_in_16_bits
from exeunt.data import Dataset
from exeunt.engine.executor import Executor
from exeunt.errors import InputError, require
from exeunt.jobs.batches import prepared_batches
from exeunt.jobs.record import record_data
from exeunt.onnx.executor import OnnxExecutor, open_onnx
from exeunt.onnx.manifest import FOLDER
from exeunt.onnx.quantisation import quantise_export
from exeunt.runs.executors import after_gate, chosen_executor, open_executor
from exeunt.runs.file_digests import FOLDERS, TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.onnx import ONNX
from exeunt.runs.kinds.pytorch import WEIGHTS
from exeunt.runs.manifest import provenance
from exeunt.runs.run_inputs import load_preparation, part_data
from exeunt.runs.run_path import INT8, PRECISIONS, refuse_precision
from exeunt.trace import ExitTrace

FP32 = "fp32"
_RANGED, _COMPARED = 512, 64
"""Training inputs that show the ranges of activations; and those for which what int8 says is compared."""
_MOST_MOVED = 0.2
"""Of the probability, that int8 may give to other classes at an exit: rounding moves some hundredths, overflow most."""
_BATCH, _BATCH_OF_MASKS = 64, 8
_PACKAGES = ("exeunt", "torch", "onnx", "onnxruntime", "numpy", "scipy")


def make_precision(
    run: RunFolder,
    precision: str,
    *,
    data: str | None = None,
    trusted: str | None = None,
    workers: int = 0,
    command: str = "",
    say: Callable[[str], None] = print,
) -> RunFolder:
    """Make the run RUN/`precision` of a run, in place of the one before.

    "int8" quantises the exported stages. The ranges of activations are those on training inputs, drawn at random, so
    that the network does not depend on the inputs that policies are fitted, calibrated and tested on. Where the
    processor adds products of 8-bit integers in 16 bits, weights get 7. What each exit says is compared with what it
    says in fp32. "bf16" and "fp16"
    run the network in PyTorch, with weights and activations of 16 bits.
    `data`: where the run's data are now, by default where they were. `workers`: threads that decode images. `trusted`:
    see `exeunt.load`.

    Raises InputError for an unknown precision or one that this machine does not compute in, a run without weights, at
    another precision or not exported, data that have changed, or an int8 network that answers too differently.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    refuse_precision(run.path, run.manifest)
    weights = run.weights  # raises where the network is in another file
    check_writable(run.path, f"cannot export {run.path}")
    parts = {part: part_data(run, part, moved_to=data) for part in ("train", *TRACED)}
    with atomic_folder(run.path / precision) as folder:
        executor: Executor
        if precision == INT8:
            executor, network = _quantised(run, folder, parts["train"], say), ONNX
        else:
            executor, network = _in_16_bits(run, folder, precision, trusted), WEIGHTS
        traces = {part: _recorded(run, executor, parts[part], part, workers, say) for part in TRACED}
        for name in FOLDERS:
            if (run.path / name).is_dir():
                run.files.check_folder(name)
                shutil.copytree(run.path / name, folder / name)
        about = {name: entry for name, entry in run.manifest.items() if name in _COPIED}
        about["model"] = {
            **about["model"],
            "precision": precision,
            "weights_digest": run.files.digests[weights.name],
        }
        about["provenance"] = provenance(_PACKAGES, command=command, seed=0)
        RunFolder.create(folder, cost=run.cost, traces=traces, about=about, network=network)
    return RunFolder.open(run.path / precision)


def other_precisions(run: RunFolder) -> dict[str, RunFolder]:
    """Return the other runs of the same network that answer on any machine, by precision: "fp32", "int8" if made."""
    precision = run.manifest["model"].get("precision", FP32)
    root = run.path if precision == FP32 else run.path.parent
    places = {FP32: root, INT8: root / INT8}
    return {
        name: RunFolder.open(path)
        for name, path in places.items()
        if name != precision and RunFolder.exists(path)
    }


_COPIED = ("model", "network", "inputs", "class_names", "data", "split", "training")


def _quantised(run: RunFolder, folder: Path, training: Dataset, say: Callable[[str], None]) -> Executor:
    """Write quantised stages and open them."""
    chosen_executor(run, "onnx")  # raises where the run was not exported
    exported = open_onnx(run)
    say(f"quantising {exported.n_exits} stages to {INT8}, with ranges of {_RANGED} training inputs")
    if reduced := adds_products_in_16_bits():
        say(
            "this processor has no VNNI: weights get 7 bits, since sums of products of 8 bits would overflow in its 16"
        )
    (folder / FOLDER).mkdir()
    drawn = _drawn(run, exported, training, _RANGED)
    quantise_export(run.path / FOLDER, folder / FOLDER, drawn, reduce_range=reduced)
    quantised = OnnxExecutor(folder / FOLDER)
    moved = _moved(exported, quantised, _drawn(run, exported, training, _COMPARED))[int(run.has_gate) :]
    exit_ = int(moved.argmax())
    drift = (
        f"exit {exit_} moves {moved[exit_]:.1%} of the probability to other classes, over {_COMPARED} inputs"
    )
    if moved[exit_] > _MOST_MOVED:
        raise InputError(
            f"{INT8} answers too differently from {FP32}: {drift}, and at most {_MOST_MOVED:.0%} is allowed. Take "
            "--precision bf16 or fp16, or stay at fp32"
        )
    say(f"compared with {FP32}: {drift}, and the others less")
    return (
        after_gate(run, partial(OnnxExecutor, folder / FOLDER), range(run.n_exits))
        if run.has_gate
        else quantised
    )


def _moved(
    before: OnnxExecutor, after: OnnxExecutor, batches: Iterator[Mapping[str, NDArray[Any]]]
) -> Floats:
    """Return by exit, the gate first, how much probability is given to other classes, on average.

    It is the total variation distance (m,).
    """
    total, n = np.zeros(before.n_exits), 0
    for batch in batches:
        pairs = zip(_probabilities(before, batch), _probabilities(after, batch), strict=True)
        distances = [np.abs(probability - other).sum(axis=1) / 2 for probability, other in pairs]
        n += len(distances[0])
        total += [distance.reshape(len(distance), -1).mean(axis=1).sum() for distance in distances]
    return total / max(n, 1)


def _probabilities(executor: OnnxExecutor, batch: Mapping[str, NDArray[Any]]) -> Iterator[Floats]:
    """Yield the class probabilities at each exit, (n, k), or of masks (n, k, h, w)."""
    state, _ = executor.start(batch)
    for segment, (first, last) in enumerate(executor.segments):
        logits, state = executor.run(segment, state, range(first, last + 1))
        for logit in logits:
            powers = np.exp(logit - logit.max(axis=1, keepdims=True))
            yield powers / powers.sum(axis=1, keepdims=True)


def _in_16_bits(run: RunFolder, folder: Path, precision: str, trusted: str | None) -> Executor:
    """Copy the weights, and open the network in 16 bits."""
    require("torch", extra="torch")
    from exeunt.torch.open_run import check_computes_in

    check_computes_in(precision)
    shutil.copyfile(run.weights, folder / WEIGHTS)
    model = {**run.manifest["model"], "precision": precision}
    return open_executor(replace(run, manifest={**run.manifest, "model": model}), "eager", trusted=trusted)


def _drawn(
    run: RunFolder, executor: OnnxExecutor, data: Dataset, n: int
) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Yield training inputs drawn at random, prepared, by the name of the network's input."""
    rows = np.sort(np.random.default_rng(0).permutation(len(data))[:n])
    for batch in prepared_batches(load_preparation(run), data.take(rows), batch_size=_BATCH):
        if len(batch.positions):
            yield executor.start(batch.inputs)[0]


def _recorded(
    run: RunFolder, executor: Executor, data: Dataset, part: str, workers: int, say: Callable[[str], None]
) -> ExitTrace:
    say(f"recording the outputs of every exit for {len(data):,} inputs of {part}")
    prepare = load_preparation(run)
    batches = prepared_batches(
        prepare, data, batch_size=_BATCH_OF_MASKS if run.masks else _BATCH, workers=workers
    )
    return record_data(executor, data, batches, cost=run.cost, prepare=prepare)
