"""A run timed on this machine: its network opened to be timed, and which of its exits pay for their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._support.arrays import Integers
from exeunt._support.limits import check_memory
from exeunt.costs.cost_model import CostModel
from exeunt.engine.executor import Executor, Segments
from exeunt.engine.plan import Plan
from exeunt.errors import InfeasibleBudget, InputError
from exeunt.jobs.batches import prepared_batches
from exeunt.policy import Policy
from exeunt.policy.policy_set import feasible
from exeunt.rules.auto import auto
from exeunt.rules.cascade import with_unasked
from exeunt.rules.one_look import one_look
from exeunt.rules.useful_exits import worthwhile_exits
from exeunt.runs.executors import chosen_executor, executor_device, open_executor, open_one_look
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import InputPreparation, load_preparation, part_data
from exeunt.runs.runner import open_shared
from exeunt.timing.bench import whole_network
from exeunt.timing.millisecond_costs import self_consistent_cost, stage_and_head_cost
from exeunt.timing.timing_tools import seconds_of
from exeunt.trace import CascadeTrace, ExitTrace, StoredTrace
from exeunt.trace.cascade_step import NETWORK, CascadeStep

if TYPE_CHECKING:
    from exeunt.torch.exits.network import EarlyExitNetwork


@dataclass(frozen=True, eq=False)
class TimedNetwork:
    """A run folder with the executor `name`. `trusted`: see `exeunt.load`."""

    run: RunFolder
    name: str
    trusted: str | None = None

    @classmethod
    def of(cls, run: RunFolder, executor: str | None, trusted: str | None) -> TimedNetwork:
        """Choose an executor, by default that of `exeunt predict`. Raises as `chosen_executor` does.

        Raises InputError for live models.
        """
        run.refuse("time")
        return cls(run, chosen_executor(run, executor), trusted)

    def models(self) -> dict[str, TimedNetwork]:
        """Return the models of a cascade, each with the executor that it has alone; nothing for one network."""
        names = [entry.name for entry in self.run.cascade]
        return {name: TimedNetwork.of(self.run.open_model(name), None, self.trusted) for name in names}

    @property
    def plan(self) -> Plan | None:
        """The run's plan for this executor on the device that it computes on here."""
        return self.run.plan(self.name, executor_device(self.name))

    def open(self, segments: Segments | None = None) -> Executor:
        """Open the executor with these segments; by default one per exit."""
        return open_executor(self.run, self.name, trusted=self.trusted, segments=segments)

    def open_whole(self) -> Executor:
        """Open the executor with one segment, of all exits."""
        return self.open(None if self.run.runs_whole else ((0, self.run.n_exits - 1),))

    def open_for(self, policy: Policy) -> Executor:
        """Open the executor with the exits and models that a policy runs, as `exeunt.load` does."""
        return open_shared(self.run, {"": policy}, executor=self.name, trusted=self.trusted).executor

    def original(self) -> Callable[[Any], Any]:
        """Return a function that runs the original model: PyTorch's own forward, or one session for all of it."""
        if self.name == "eager":
            from exeunt.torch.executor import original

            return original(self.network)
        return whole_network(self.open_whole())

    def original_macs(self) -> float:
        """Return the multiply-adds of the original model; of a cascade those of its most expensive model."""
        return float(self.run.manifest["model"]["macs"])

    @cached_property
    def network(self) -> EarlyExitNetwork:
        """The network in PyTorch."""
        from exeunt.torch.open_run import load_network

        return load_network(self.run, trusted=self.trusted)

    def batch(self, n: int) -> Any:
        """Return n inputs: random images, or texts of the length in the manifest; of the calibration part where the
        network takes raw inputs. Raises InputError for images without a common size, or more than fit in memory.
        """
        inputs = self.run.manifest["inputs"]
        if inputs.get("raw"):
            data = part_data(self.run, "calibrate")
            rows = np.arange(n) % len(data)
            return next(prepared_batches(load_preparation(self.run), data.take(rows), batch_size=n)).inputs
        is_image = inputs["kind"] == "image"
        if is_image and inputs.get("size") is None:
            raise InputError("these images have no common size to time the network at: train with a size")
        each = 4 * 3 * inputs["size"][0] * inputs["size"][1] if is_image else 8 * 3 * inputs["length"]
        check_memory(n * each, f"a batch of {n:,} inputs", "choose a smaller --batch-size")
        if is_image:
            return np.random.default_rng(0).standard_normal((n, 3, *inputs["size"]), dtype=np.float32)
        return self._texts(n, inputs["length"])

    def _texts(self, n: int, length: int) -> Any:
        if self.name == "onnx":
            from exeunt.onnx.manifest import FOLDER, OnnxManifest

            export = OnnxManifest.load(self.run.path / FOLDER)
            tensors = {name: export.tensors[name] for name in export.inputs}
            return {
                name: np.ones(
                    (n, *(length if size is None else size for size in tensor.shape[1:])), tensor.dtype
                )
                for name, tensor in tensors.items()
            }
        from exeunt.torch.models.preparation import synthetic_inputs

        return synthetic_inputs(load_preparation(self.run), n, length=length)


@dataclass(frozen=True)
class TimedExits:
    """Exits that pay for their time: `steps`, and the milliseconds `cost` of answering at each of them.

    Shares of the cost are of the original model; of a cascade, of the model that takes longest. `unasked`: why a model
    of a cascade has none. `instead`: makes the policies in place of the rule that was asked for.
    """

    steps: tuple[CascadeStep, ...]
    cost: CostModel
    unasked: Mapping[str, str]
    instead: Callable[..., Policy] | None = None

    def trace(self, recorded: ExitTrace | CascadeTrace | StoredTrace) -> Any:
        """Return the trace of these exits, from a trace of all exits, at their costs."""
        return recorded.along(self.steps).with_cost(self.cost)

    def rule(self, rule: Callable[..., Policy]) -> Callable[..., Policy]:
        """Return the rule whose policies run these exits."""
        chosen = self.instead or rule

        def make(fit: ExitTrace, calibrate: ExitTrace, **options: Any) -> Policy:
            return with_unasked(replace(chosen(fit, calibrate, **options), cascade=self.steps), self.unasked)

        return make


def choose_by_time(
    run: RunFolder,
    rule: Callable[..., Policy],
    budgets: Sequence[str | float],
    inputs: Any,
    *,
    executor: str | None = None,
    trusted: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> TimedExits:
    """Time a run, choose the exits that answer best within a mean time, and time those.

    `rule`: makes the policy. `budgets`: one or more, in milliseconds per input or as shares of the original model's
    time, in any order. The exits answer best within the middle one of those that can be kept, and the first exit takes
    no more than the least of these. `say`: is told the others, too.
    `inputs`: a batch of the size that will be used, as the run's executor takes them. Models of a cascade are timed
    each alone. Then the chosen exits are timed at the numbers of rows that reach each stage.
    With `one_look`, inputs go from the network's gate straight to their exit, and all exits are timed in this way. With
    `auto` both ways are timed where the network has a gate, and the one that answers better is taken.

    Raises InfeasibleBudget for less than the first answer takes, InputError for a network of one exit, an executor
    that cannot run it, or a network that runs whole.
    """
    if run.n_exits == 1:
        raise InputError(f"{run.path} has one exit: all inputs take the same, there is nothing to choose")
    network = TimedNetwork.of(run, executor, trusted)
    kind, asked = getattr(rule, "func", rule), getattr(rule, "keywords", {})
    if kind is one_look:
        return _one_look_by_time(network, rule, budgets, inputs, say)
    if kind is not auto or not run.has_gate or {"answer", "score"} & asked.keys():
        return _exits_by_time(network, rule, budgets, inputs, seed, say)
    at_gate = partial(one_look, **asked)
    ways: dict[str, TimedExits] = {}
    with suppress(InfeasibleBudget):
        looks = _one_look_by_time(network, at_gate, budgets, inputs, say)
        ways["one look at the gate"] = replace(looks, instead=at_gate)
    try:
        ways["a look at each exit"] = _exits_by_time(network, rule, budgets, inputs, seed, say)
    except InfeasibleBudget:
        if not ways:
            raise
    quality = {
        name: _quality_within(timed, rule, run.trace("fit"), budgets, seed) for name, timed in ways.items()
    }
    best = max(ways, key=lambda name: quality[name])
    shown = ", ".join(f"{name} {share:.2%}" for name, share in quality.items())
    say(f"{best} answers best within the time, of inputs set aside: {shown}")
    return ways[best]


def _quality_within(
    timed: TimedExits, rule: Callable[..., Policy], fit: ExitTrace, budgets: Sequence[str | float], seed: int
) -> float:
    """Return the mean quality of the answers within the middle budget, of inputs that are set aside from `fit`."""
    learned, calibrate, held_out = (
        timed.trace(part) for part in fit.split(fit=0.4, calibrate=0.2, test=0.4, seed=seed)
    )
    amounts = [*feasible(timed.cost.budget, budgets)]
    policy = timed.rule(rule)(learned, calibrate, budget=amounts[len(amounts) // 2])
    rows = np.arange(held_out.n)
    return float(policy.answer.on(held_out).quality[rows, policy.route(held_out)].mean())


def _exits_by_time(
    network: TimedNetwork,
    rule: Callable[..., Policy],
    budgets: Sequence[str | float],
    inputs: Any,
    seed: int,
    say: Callable[[str], None],
) -> TimedExits:
    """Time every stage and head, choose exits that inputs take one after the other, and time those."""
    run, models = network.run, network.models()
    for model_run in [model.run for model in models.values()] or [run]:
        if model_run.runs_whole:
            raise InputError(
                f"{model_run.path} runs whole, so that all its exits take the same time and none can be chosen by it: "
                f"give a budget of MACs. {model_run.runs_whole}"
            )
    timed, original = _timed(network, models, inputs, say)
    try:
        return _exits_within(network, timed, original, rule, budgets, inputs, seed, say)
    except InfeasibleBudget:
        cost = timed.cost if isinstance(timed, ExitTrace) else None
        if cost is None or max(map(cost.amount, budgets)) < cost.reference * (1 - 1e-9):
            raise
    say(f"no exit pays for its time: the full network answers alone, in {cost.show(cost.reference)}")
    alone = CostModel([cost.reference], unit="ms", source=f"{cost.source}, the full network alone")
    return TimedExits((CascadeStep(NETWORK, (run.n_exits - 1,)),), alone, {})


def _exits_within(
    network: TimedNetwork,
    timed: ExitTrace | CascadeTrace,
    original: Callable[[Any], Any],
    rule: Callable[..., Policy],
    budgets: Sequence[str | float],
    inputs: Any,
    seed: int,
    say: Callable[[str], None],
) -> TimedExits:
    """Choose exits of a timed network, and time those; see `choose_by_time`."""
    run, models = network.run, network.models()
    left_out = list[float | str]()
    within_reach = [*feasible(timed.budget, budgets, left_out.append).items()]
    if left_out:
        say(f"left out, since the first answer takes longer: {', '.join(map(str, left_out))}")
    (least, _), (amount, budget) = within_reach[0], within_reach[len(within_reach) // 2]
    steps = worthwhile_exits(timed, amount, least=least, seed=seed)
    named = [f"{step.model} {', '.join(map(str, step.exits))}".strip() for step in steps]
    say(f"exits that pay for their time: {'; '.join(named)}")
    opened = open_executor(replace(run, steps=steps), network.name, trusted=network.trusted)
    fit, calibrate = (run.recorded(part).along(steps) for part in ("fit", "calibrate"))

    def choose(cost: CostModel) -> Policy:
        return rule(fit.with_cost(cost), calibrate.with_cost(cost), budget=budget)

    def route(policy: Policy) -> Integers:
        return policy.route(calibrate.with_cost(policy.cost))

    idle = [name for name in models if name not in {step.model for step in steps}]
    unasked = {name: f"{name} is not asked: none of its exits pays for its time." for name in idle}
    return TimedExits(steps, self_consistent_cost(opened, inputs, choose, route, original=original), unasked)


def _one_look_by_time(
    network: TimedNetwork,
    rule: Callable[..., Policy],
    budgets: Sequence[str | float],
    inputs: Any,
    say: Callable[[str], None],
) -> TimedExits:
    """Time the ways from the gate to the exits, at the mix of exits of the policy within the middle budget."""
    run = network.run
    say(f"timing the ways from the gate of {run.path} to its exits ({network.name})")
    opened, original = (
        open_one_look(run, network.name, trusted=network.trusted),
        whole_network(network.open_whole()),
    )
    whole = seconds_of(original, inputs, time.perf_counter) * 1e3 / len(opened.start(inputs)[1])
    alone = run.cost.of_one_look
    guess = CostModel(alone.share(alone.cumulative) * whole, unit="ms", reference=whole)
    fit, calibrate = run.trace("fit"), run.trace("calibrate")

    def choose(cost: CostModel) -> Policy:
        within = [*feasible(cost.budget, budgets)]
        budget = within[len(within) // 2]
        return rule(fit.with_cost(cost), calibrate.with_cost(cost), budget=budget)

    cost = self_consistent_cost(
        opened, inputs, choose, lambda policy: policy.route(calibrate), original=original, guess=guess
    )
    return TimedExits((), cost, {})


def _timed(
    network: TimedNetwork, models: dict[str, TimedNetwork], inputs: Any, say: Callable[[str], None]
) -> tuple[ExitTrace | CascadeTrace, Callable[[Any], Any]]:
    """Return the fit part with the times of stages and heads as costs, and the original model (the slowest one)."""
    recorded = network.run.recorded("fit")
    if isinstance(recorded, ExitTrace):
        cost, original = _stage_cost(network, inputs, say)
        return recorded.with_cost(cost), whole_network(original)
    traces, originals = {}, {}
    for name, model in models.items():
        prepare = InputPreparation(model.run)
        cost, original = _stage_cost(model, prepare(inputs), say)
        traces[name] = recorded[name].with_cost(cost)
        originals[name] = whole_network(original, prepare)
    return CascadeTrace(traces), originals[max(traces, key=lambda name: traces[name].cost.reference)]


def _stage_cost(network: TimedNetwork, inputs: Any, say: Callable[[str], None]) -> tuple[CostModel, Executor]:
    """Time one network's stages and heads on a batch of its inputs; also return its executor of one segment."""
    say(f"timing every stage and head of {network.run.path} ({network.name})")
    finest, original = network.open(), network.open_whole()
    return stage_and_head_cost(finest, original, inputs), original
