"""Opening the executor of a run. Which there are, the kinds of runs say (`exeunt.runs.kinds`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from exeunt.engine.cascade_executor import CascadeExecutor, CascadeModel
from exeunt.engine.executor import CPU, Executor, OneLookExecutor, Segments, SelectedExits
from exeunt.engine.plan import segments_between
from exeunt.errors import InputError, MissingExtra, installing
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds import KINDS, ExecutorKind, imported
from exeunt.runs.run_inputs import InputPreparation

EXECUTORS = {name: executor for kind in KINDS.values() for name, executor in kind.executors.items()}
"""By name. The executor of a cascade opens those of its models."""


def is_exported(run: RunFolder, executor: ExecutorKind) -> bool:
    """Return whether the run folder has the file that the executor needs."""
    named = executor.needs in run.files.digests  # if it is lost, opening it says so
    return named or os.path.exists(run.path / executor.needs)  # noqa: PTH110 - without an error where access is denied


def is_ready(run: RunFolder, executor: ExecutorKind) -> bool:
    """Return whether the executor's package is installed and the run folder has the file that it needs."""
    return find_spec(executor.package) is not None and is_exported(run, executor)


def chosen_executor(run: RunFolder, name: str | None = None) -> str:
    """Return the name of an executor that can run the network, by default the first one that its kind names.

    Of weights for PyTorch that is ONNX Runtime, where the network was exported. Raises InputError for an unknown name,
    a network that was not exported, or a run that nothing runs; MissingExtra without the package.
    """
    if not run.kind.executors:
        run.refuse("run")
    if name is not None:
        _checked(run, name)
        return name
    exported = {name: kind for name, kind in run.kind.executors.items() if is_exported(run, kind)}
    for name, kind in exported.items():
        if find_spec(kind.package) is not None:
            return name
    extra = next(iter(exported.values())).extra
    raise MissingExtra(f"nothing here can run {run.path}: {installing(extra)}")


def open_executor(
    run: RunFolder,
    name: str,
    *,
    threads: int | None = None,
    trusted: str | None = None,
    segments: Segments | None = None,
) -> Executor:
    """Open a run folder's network with this executor (for the options see `exeunt.engine.executor`).

    If `run.steps` selects exits, the executor has these alone, and `segments` count them.

    Raises InputError for an unknown name, fewer than 1 thread or a network that was not exported, MissingExtra if the
    package is not installed.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    run.refuse("run")
    opener: Callable[..., Executor] = imported(_checked(run, name).opener)
    opened = partial(opener, run, threads=threads, trusted=trusted)
    if run.cascade or not (run.steps or run.has_gate):
        return opened(segments=segments)
    return after_gate(run, opened, run.steps[0].exits if run.steps else range(run.n_exits), segments)


def after_gate(
    run: RunFolder, opened: Callable[..., Executor], exits: Sequence[int], segments: Segments | None = None
) -> SelectedExits:
    """Return the executor of these exits of a run; the gate, if it has one, is exit 0 of what `opened` opens."""
    before = int(run.has_gate)
    exits = [before + exit_ for exit_ in exits]
    own = None
    if not run.runs_whole:
        # Segments between the exits, by default one for each, and one for the rest of the network.
        ends = exits if segments is None else [exits[last] for _, last in segments]
        last = before + run.n_exits - 1
        own = segments_between([*ends, *([last] if ends[-1] < last else [])])
    return SelectedExits(opened(segments=own), exits, has_gate=run.has_gate)


def open_one_look(run: RunFolder, name: str, **options: Any) -> OneLookExecutor:
    """Open a run folder's network for policies that choose an exit at its gate; for the options see `open_executor`.

    Raises what that raises, InputError for a network without a gate.
    """
    if not run.has_gate:
        raise InputError(
            f"{run.path} has no gate, at which this policy chooses an input's exit: train it with --gate STAGE, or "
            "calibrate another policy"
        )
    opener: Callable[..., Executor] = imported(_checked(run, name).opener)
    return OneLookExecutor(opener(run, **options))


def open_cascade(run: RunFolder, *, segments: Segments | None = None, **options: Any) -> CascadeExecutor:
    """Open the models of a cascade that `run.steps` names, by default all with all their exits.

    Each model has the executor that it has alone. `options`: as for `open_executor`. Raises what opening a model
    raises, InputError for a segment that goes from one model into the next.
    """
    models, first = [], 0
    for step in run.steps or tuple(entry.step for entry in run.cascade):
        model = replace(run.open_model(step.model), steps=(step,))
        own = _model_segments(segments, first, step.n_exits)
        executor = open_executor(model, chosen_executor(model), segments=own, **options)
        models.append(CascadeModel(executor, InputPreparation(model)))
        first += step.n_exits
    return CascadeExecutor(models)


def check_cascade(run: RunFolder) -> str:
    """Check that every model is there and unchanged; return their names and folders."""
    return ", ".join(f"{entry.name} ({run.open_model(entry.name).path})" for entry in run.cascade)


def executor_device(name: str) -> str:
    """Return what an executor of this name will compute on here (see `Executor.device`).

    Raises InputError for an unknown name, MissingExtra if the package is not installed.
    """
    device = executor_kind(name).device
    return str(imported(device)()) if device else CPU


def _checked(run: RunFolder, name: str) -> ExecutorKind:
    kind = executor_kind(name)
    if not is_exported(run, kind):
        remedy = kind.remedy.format(run=run.path)
        if len(run.kind.executors) == 1:
            file, only = run.kind.file, next(iter(run.kind.executors))
            remedy = f"its network is in {file}, which only {only!r} runs: leave the executor out"
        raise InputError(f"{run.path} cannot be run by {name!r}: {remedy}")
    return kind


def executor_kind(name: str) -> ExecutorKind:
    """Return an executor by its name. Raises InputError for an unknown one, MissingExtra if it is not installed."""
    if name not in EXECUTORS:
        raise InputError(f"there is no executor {name!r}: choose one of {', '.join(EXECUTORS)}")
    kind = EXECUTORS[name]
    if find_spec(kind.package) is None:
        raise MissingExtra(f"the executor {name!r} needs {kind.package}: {installing(kind.extra)}")
    return kind


def _model_segments(segments: Segments | None, first: int, n_exits: int) -> Segments | None:
    """Return the segments of the model whose exits begin at `first`, counted in its own exits."""
    if segments is None:
        return None
    own = tuple((a - first, b - first) for a, b in segments if b >= first and a <= first + n_exits - 1)
    if not own or (own[0][0], own[-1][1]) != (0, n_exits - 1):
        raise InputError(f"a segment of {segments} goes from one model of the cascade into the next")
    return own
