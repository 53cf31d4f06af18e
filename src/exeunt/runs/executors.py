"""The executors, by name. To add one, write its module and add a line to `EXECUTORS`."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, cast

from exeunt.engine.cascade_executor import CascadeExecutor, CascadeModel
from exeunt.engine.executor import CPU, Executor, Segments, SelectedExits
from exeunt.engine.plan import segments_between
from exeunt.errors import InputError, MissingExtra
from exeunt.runs.file_digests import CASCADE, DECODER, ESTIMATOR, LIVE, OBJECT, ONNX, WEIGHTS
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import InputPreparation


@dataclass(frozen=True)
class ExecutorKind:
    """How an executor is opened, and what it needs.

    `opener`: "module:function", called as `open_x(run, threads=, trusted=, segments=)` and imported only then, so
    that this layer needs neither PyTorch nor ONNX Runtime. "" for a kind that is refused.
    `package`: what must be installed; `extra`: the extra of Exeunt that installs it.
    `needs`: a file that the run folder must have; `remedy`: what to do if that file is missing, {run} for the run's
    path.
    `checker`: "module:function", called as `check_x(run)` without the package: returns in a few words what the
    executor's own files hold, and raises if they are damaged or belong to another network. "" without such files.
    `device`: "module:function", called as `x_device()`: returns the device that the executor will compute on (see
    `Executor.device`). "" for the processor.
    `refusal`: why such a run is not answered by an executor, and what answers it, {run} for the run's path.
    """

    opener: str
    needs: str
    remedy: str
    package: str = "numpy"
    extra: str = ""
    checker: str = ""
    device: str = ""
    refusal: str = ""

    def ready(self, run: RunFolder) -> bool:
        """Return whether the package is installed and the run folder has the file it needs."""
        return find_spec(self.package) is not None and self.exported(run)

    def exported(self, run: RunFolder) -> bool:
        """Return whether the run folder has the file that the executor needs."""
        named = self.needs in run.files.digests  # if it is lost, opening it says so
        return named or os.path.exists(run.path / self.needs)  # noqa: PTH110 - without an error where access is denied

    def open(self, run: RunFolder, **options: Any) -> Executor:
        """Call the opener."""
        return cast("Executor", _imported(self.opener)(run, **options))

    def computes_on(self) -> str:
        """Return what the executor will compute on here (see `Executor.device`)."""
        return str(_imported(self.device)()) if self.device else CPU

    def check(self, run: RunFolder) -> str:
        """Call the checker."""
        return str(_imported(self.checker)(run))


def _imported(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


EXECUTORS = {
    "cascade": ExecutorKind(
        "exeunt.runs.executors:open_cascade",
        needs=CASCADE,
        remedy="it is one network; make a cascade of several with `exeunt cascade`",
        checker="exeunt.runs.executors:check_cascade",
    ),
    "onnx": ExecutorKind(
        "exeunt.onnx.executor:open_onnx",
        needs=ONNX,
        remedy="run `exeunt export {run}` first",
        package="onnxruntime",
        extra="onnx",
        checker="exeunt.onnx.manifest:check_onnx",
    ),
    "sklearn": ExecutorKind(
        "exeunt.runs.estimator_executor:open_estimator",
        needs=ESTIMATOR,
        remedy="it is no estimator of scikit-learn",
        package="skops",
        extra="tfidf",
        checker="exeunt.runs.estimator_executor:check_estimator",
    ),
    "object": ExecutorKind(
        "exeunt.runs.estimator_executor:open_object",
        needs=OBJECT,
        remedy="it is no object of your own",
    ),
    "live": ExecutorKind(
        "exeunt.runs.executors:open_live",
        needs=LIVE,
        remedy="it was not recorded from live models",
    ),
    "decoder": ExecutorKind(
        "",
        needs=DECODER,
        remedy="it holds no decoder that generates",
        refusal="{run} generates texts: answer with `exeunt generate`, or in Python with "
        "exeunt.torch.language.LanguageModel. It is not served, timed or exported",
    ),
    "eager": ExecutorKind(
        "exeunt.torch.open_run:open_eager",
        needs=WEIGHTS,
        remedy="it has no weights for PyTorch; answer with --executor onnx",
        package="torch",
        extra="torch",
        device="exeunt.torch.open_run:eager_device",
    ),
}
"""By name, in order of preference. The executor of a cascade opens those of its models."""


def chosen_executor(run: RunFolder, name: str | None = None) -> str:
    """Return the name of an executor that can run the network, by default the first one: ONNX Runtime, then PyTorch.

    A cascade, an estimator or an object has one executor of its own. Raises InputError for an unknown name or a network
    that was not exported, MissingExtra without the package.
    """
    if name is not None:
        _checked(run, name)
        return name
    for first, kind in EXECUTORS.items():
        if kind.ready(run):
            _checked(run, first)
            return first
    extra = next((kind.extra for kind in EXECUTORS.values() if kind.exported(run)), EXECUTORS["eager"].extra)
    raise MissingExtra(f'nothing here can run {run.path}: pip install "exeunt[{extra}]"')


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
    kind = _checked(run, name)
    if run.cascade or not run.steps:
        return kind.open(run, threads=threads, trusted=trusted, segments=segments)
    exits = run.steps[0].exits
    own = None
    if not run.runs_whole:
        # Segments between the exits, by default one for each, and one for the rest of the network.
        ends = list(exits) if segments is None else [exits[last] for _, last in segments]
        own = segments_between([*ends, *([run.n_exits - 1] if ends[-1] < run.n_exits - 1 else [])])
    return SelectedExits(kind.open(run, threads=threads, trusted=trusted, segments=own), exits)


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


def open_live(run: RunFolder, **_: Any) -> Executor:
    """Raise InputError: live models are asked, not run."""
    raise InputError(
        f"{run.path} asks live models: answer in Python with exeunt.LiveCascade(models, run.policy), or with "
        "`exeunt predict` or `exeunt serve` and --model models.yaml. They are not timed or exported"
    )


def executor_device(name: str) -> str:
    """Return what an executor of this name will compute on here (see `Executor.device`).

    Raises InputError for an unknown name, MissingExtra if the package is not installed.
    """
    return executor_kind(name).computes_on()


def _checked(run: RunFolder, name: str) -> ExecutorKind:
    kind = executor_kind(name)
    if not kind.exported(run):
        remedy = kind.remedy.format(run=run.path)
        if run.network_file not in (WEIGHTS, ONNX):  # one executor of its own
            only = next(one for one, other in EXECUTORS.items() if other.needs == run.network_file)
            remedy = f"its network is in {run.network_file}, which only {only!r} runs: leave the executor out"
        raise InputError(f"{run.path} cannot be run by {name!r}: {remedy}")
    if kind.refusal:
        raise InputError(kind.refusal.format(run=run.path))
    return kind


def executor_kind(name: str) -> ExecutorKind:
    """Return an executor by its name. Raises InputError for an unknown one, MissingExtra if it is not installed."""
    if name not in EXECUTORS:
        raise InputError(f"there is no executor {name!r}: choose one of {', '.join(EXECUTORS)}")
    kind = EXECUTORS[name]
    if find_spec(kind.package) is None:
        raise MissingExtra(f'the executor {name!r} needs {kind.package}: pip install "exeunt[{kind.extra}]"')
    return kind


def _model_segments(segments: Segments | None, first: int, n_exits: int) -> Segments | None:
    """Return the segments of the model whose exits begin at `first`, counted in its own exits."""
    if segments is None:
        return None
    own = tuple((a - first, b - first) for a, b in segments if b >= first and a <= first + n_exits - 1)
    if not own or (own[0][0], own[-1][1]) != (0, n_exits - 1):
        raise InputError(f"a segment of {segments} goes from one model of the cascade into the next")
    return own
