"""Answering with a run: `load` it, `prepare` inputs, then call it with a batch or a stream of batches.

Several policies of a run share one executor (`open_shared`), with the models and exits that any of them uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support.arrays import check_positive
from exeunt.engine.answers import Answers
from exeunt.engine.cascade_executor import CascadeExecutor, CascadeModel
from exeunt.engine.engine import Engine
from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan, segments_between
from exeunt.errors import InputError
from exeunt.policy import Policy
from exeunt.runs.estimator_executor import EstimatorExecutor
from exeunt.runs.executors import chosen_executor, executor_device, open_executor, open_one_look
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds import own_object
from exeunt.runs.run_inputs import InputPreparation
from exeunt.runs.streaming import answer_stream
from exeunt.trace.cascade_step import CascadeStep, is_tree, models_in_order


class Runner:
    """Answers inputs with one network under one policy. Threads must not share one.

    `preparation`: of the run folder, for `prepare`; without one inputs are not looked at before they are run.
    `plan`: how many rows go into a call, and when rows that have answered are dropped; by default 64, and after
    every segment. `probabilities`: keep those of all classes in the answers, n x k numbers per batch; of a network that
    answers with masks, the masks. `load` always keeps these.

    Raises InputError if policy, plan and network have different numbers of exits or different segments.
    """

    def __init__(
        self,
        executor: Executor,
        policy: Policy,
        plan: Plan | None = None,
        *,
        preparation: InputPreparation | None = None,
        probabilities: bool = False,
    ) -> None:
        self.executor = executor
        self.probabilities = probabilities
        self.policy = policy
        self.preparation = preparation
        self._engine: Engine | None = self._new_engine(plan)
        self.plan = self._engine.plan

    def _new_engine(self, plan: Plan | None, **options: Any) -> Engine:
        check = None if self.preparation is None else self.preparation.check
        return Engine(
            self.executor, self.policy, plan, check=check, probabilities=self.probabilities, **options
        )

    def prepare(self, inputs: Iterable[Any]) -> Any:
        """Return raw inputs as the network takes them, prepared as for its training; PyTorch is not needed.

        `inputs`: a list of images, each a path, a PIL image, encoded bytes or uint8 pixels (h, w, 3) or (h, w); one
        array (n, h, w, 3) of those; or a list of texts, or of pairs of texts (premise, hypothesis) if the network was
        trained on such. Returns float32 (n, 3, h, w), or tokens (n, t) by name.

        Raises UnreadableImage that names the image, InputError for inputs of another kind, or for a runner without
        run folder.
        """
        if self.preparation is None:
            raise InputError("this runner has no run folder to prepare inputs: make it with exeunt.load")
        return self.preparation(inputs)

    def __call__(self, inputs: Any, *, id: ArrayLike | None = None) -> Answers:  # noqa: A002
        """Answer a batch of prepared inputs (see `prepare`): an array or tensor with one row per input. Where the
        network takes several, a tuple of such, or a mapping of their names to such.

        `id` (n,): keys of the inputs, whole numbers of 64 bits, which break ties between equal scores. By default a
        hash of each input's content: an answer then depends on the input alone (but see `Answers.borderline`), and
        equal inputs get equal answers. `Answers.valid` is False for inputs with NaN or infinite values.
        """
        engine = self._engine or self._new_engine(self.plan)
        self._engine = None  # an engine is not used again after an exception
        answers = engine.answer(inputs, id=id)
        self._engine = engine
        return answers

    def stream(
        self,
        batches: Iterable[Any],
        *,
        pool_rows: int | None = None,
        max_rows_in_flight: int | None = None,
        max_wait_s: float | None = None,
        ordered: bool = True,
        errors: str = "raise",
    ) -> Iterator[Answers]:
        """Answer batch after batch. Rows of several batches are run together, so that calls stay large.

        `batches`: any iterable of what `__call__` takes; `Batch(inputs, id)` gives the keys too. Rows may wait in the
        arrays that were given, so do not reuse an array before its answers are out.
        `pool_rows`: rows wait before a segment until there are this many; by default as many as the plan says.
        `max_rows_in_flight`: the most rows that are taken in and not given out, which bounds memory; by default 32
        times `pool_rows`. At this limit the oldest batch is finished first. A larger batch is run alone.
        `max_wait_s`: a batch that has waited this long is run without waiting for more rows, even while the next
        one is awaited; a thread then reads `batches`.
        `ordered`: return answers in the order of the batches, otherwise as soon as they are ready; `Answers.batch` is
        the batch's number.
        `errors`: what to do about a batch that fails: "raise" gives out the answers of all batches taken in, then
        raises BatchFailed; "skip" gives out Answers with `error` set and no valid input, and continues. An
        exception from `batches` itself is raised unchanged, also after the answers.
        """
        if errors not in ("raise", "skip"):
            raise InputError(f"errors must be 'raise' or 'skip', got {errors!r}")
        for name, number in {"pool_rows": pool_rows, "max_rows_in_flight": max_rows_in_flight}.items():
            if number is not None and (isinstance(number, bool) or int(number) != number or number < 1):
                raise InputError(f"{name} must be a whole number of at least 1, got {number!r}")
        wait = None if max_wait_s is None else check_positive(max_wait_s, "max_wait_s")
        pools = self.plan.min_batch if pool_rows is None else (pool_rows,) * len(self.plan.segments)
        engine = self._new_engine(self.plan, min_batch=pools, max_wait_s=wait)
        max_rows = 32 * max(pools) if max_rows_in_flight is None else max_rows_in_flight
        return answer_stream(engine, batches, max_rows, ordered=ordered, skip=errors == "skip")


def load(
    path: str | Path | RunFolder,
    *,
    executor: str | None = None,
    threads: int | None = None,
    trusted: str | None = None,
    policy: Policy | None = None,
    plan: Plan | None = None,
    probabilities: bool = False,
    models: Mapping[str, Any] | None = None,
) -> Runner:
    """Load a run and return a runner that answers inputs.

    `executor`: "eager" (PyTorch) or "onnx" (ONNX Runtime); by default ONNX Runtime where the network was exported
    and the package is installed, else PyTorch.
    `threads`: how many to compute with; None leaves it to the library, within the limit of the
    container. PyTorch sets it for the whole process.
    `trusted`: the `package.module:factory` that makes the run's network. Give it only if you trust that code.
    `policy`: by default the run folder's. One that was made from traces alone is taken if it has the run's exits and
    costs. `plan`: by default the run folder's, if it was measured on a machine like this one. `probabilities`: see
    `Runner`. `models`: by name, the models of a cascade that are objects of your own (see
    `exeunt.jobs.cascade_run.make_cascade`).

    Raises InputError if there is no run folder, no policy, or no such executor; ArtefactError if the run folder is
    damaged, or the policy was calibrated for another run.
    """
    run = path if isinstance(path, RunFolder) else RunFolder.open(path)
    run = run if models is None else _with_objects(run, models)
    policy = run.policy if policy is None else policy
    shared = open_shared(run, {"": policy}, executor=executor, threads=threads, trusted=trusted, plan=plan)
    return Runner(
        shared.executor,
        policy,
        shared.plan,
        preparation=InputPreparation(run),
        probabilities=probabilities or run.masks,
    )


def with_classifiers(
    policy: Policy,
    models: Mapping[str, Any],
    *,
    classes: Sequence[Any] | None = None,
    probabilities: bool = False,
) -> Runner:
    """Return a runner that asks classifiers with `predict_proba`, by the policy's names for them, on raw inputs.

    `classes`: in the order of the traces that the policy was made on; by default the `classes_` of the model that knows
    most. Answers are places among them. `probabilities`: see `Runner`.

    Raises InputError for a policy of other models, or of models with several exits.
    """
    if not policy.models or is_tree(policy.cascade) or any(step.exits != (0,) for step in policy.cascade):
        raise InputError(
            "classifiers answer by a policy of models with one exit each: make it with exeunt.cascade"
        )
    if missing := [name for name in policy.models if name not in models]:
        raise InputError(
            f"the policy asks {missing[0]!r}, and there are {', '.join(models)}: give that model"
        )
    asked = [models[name] for name in policy.models]
    known = max((getattr(model, "classes_", ()) for model in asked), key=len) if classes is None else classes
    if not len(known):
        raise InputError(
            "the models have no classes_: give classes=..., in the order of the columns of predict_proba"
        )
    names = np.asarray(known).tolist()
    executors = [EstimatorExecutor(model, n_classes=len(names), class_names=names) for model in asked]
    executor = CascadeExecutor([CascadeModel(each, lambda rows: rows) for each in executors])
    return Runner(executor, policy, probabilities=probabilities)


def _with_objects(run: RunFolder, objects: Mapping[str, Any]) -> RunFolder:
    names = [entry.name for entry in run.cascade] or [run.manifest["model"].get("model", "none")]
    if unknown := [name for name in objects if name not in names]:
        raise InputError(f"models gives {unknown[0]!r}, the name of no model: there is {', '.join(names)}")
    for entry in run.cascade:
        if entry.name in objects and run.open_model(entry.name).kind is not own_object.KIND:
            raise InputError(
                f"models gives {entry.name!r}, whose network is in a file: the object would not be asked, leave it out"
            )
    return replace(run, objects=objects)


@dataclass(frozen=True, eq=False)
class SharedExecutor:
    """An executor for several policies, as `exeunt.engine.engine.Engine` takes them.

    `exits`: by policy, which of the executor's exits are the policy's. `places`: which of the run's exits, those of a
    cascade's models in a row, are the executor's. `plan`: how to run the executor, if there is a plan for it.
    """

    executor: Executor
    policies: Mapping[str, Policy]
    exits: Mapping[str, list[int]]
    places: tuple[int, ...]
    plan: Plan | None


def open_shared(
    run: RunFolder,
    policies: Mapping[str, Policy],
    *,
    executor: str | None = None,
    threads: int | None = None,
    trusted: str | None = None,
    plan: Plan | None = None,
) -> SharedExecutor:
    """Open a run's network once for all these policies, by name. For the options see `exeunt.load`.

    The network is cut where any of the policies lets inputs answer: nowhere else are rows dropped. A plan is for all
    exits of one network; by default it is the run folder's for this machine.

    Raises InputError for policies that ask models in different orders, ArtefactError for a policy of another run.
    """
    for policy in policies.values():
        run.check_policy(policy)
    every_exit = tuple(entry.step for entry in run.cascade) or (CascadeStep("", run.n_exits),)
    steps_of = {name: policy.cascade or every_exit for name, policy in policies.items()}
    executor = chosen_executor(run) if executor is None else executor
    if any(policy.looks_once for policy in policies.values()):
        looking = open_one_look(run, executor, threads=threads, trusted=trusted)
        exits_of = {policy: list(range(run.n_exits)) for policy in policies}
        return SharedExecutor(looking, policies, exits_of, tuple(range(run.n_exits)), plan)
    steps = _union(list(steps_of.values()))
    places = [(step.model, exit_) for step in steps for exit_ in step.exits]
    exits = {
        name: [places.index((step.model, exit_)) for step in cascade for exit_ in step.exits]
        for name, cascade in steps_of.items()
    }
    ends = {last - 1 for last in accumulate(step.n_exits for step in steps)}
    for name, policy in policies.items():
        lasts = accumulate(step.n_exits for step in steps_of[name])
        ends |= {exits[name][own] for own in (*np.flatnonzero(policy.active), *(last - 1 for last in lasts))}
    selects = steps != every_exit
    if plan is None and not selects and not run.cascade:
        plan = run.plan(executor, executor_device(executor))
    segments = plan.segments if plan else None if run.runs_whole else segments_between(sorted(ends))
    opened = open_executor(
        replace(run, steps=steps if selects or run.cascade else ()),
        executor,
        threads=threads,
        trusted=trusted,
        segments=segments,
    )
    firsts = accumulate([0, *(step.n_exits for step in every_exit)])
    before = dict(zip((step.model for step in every_exit), firsts, strict=False))
    return SharedExecutor(
        opened, policies, exits, tuple(before[model] + exit_ for model, exit_ in places), plan
    )


def _union(cascades: list[tuple[CascadeStep, ...]]) -> tuple[CascadeStep, ...]:
    """Return the models of cascades in the order that all keep, each with the exits that any uses."""
    used: dict[str, set[int]] = {}
    for step in (step for cascade in cascades for step in cascade):
        used.setdefault(step.model, set()).update(step.exits)
    order = models_in_order([[step.model for step in cascade] for cascade in cascades])
    return tuple(CascadeStep(model, sorted(used[model])) for model in order)
