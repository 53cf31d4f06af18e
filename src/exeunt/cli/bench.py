"""`exeunt bench RUN --profile`: policies against the original model on this machine, in accuracy and in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from exeunt._support.text import counted, echo, text_table
from exeunt.cli.options import Execution, RunPath, numbers, option, with_groups
from exeunt.errors import InfeasibleBudget, InputError

if TYPE_CHECKING:
    from exeunt.jobs.timed_run import TimedNetwork
    from exeunt.policy import Policy
    from exeunt.runs.folder import RunFolder
    from exeunt.timing.bench import Alternative, TimedAlternative
    from exeunt.trace import ExitTrace

_SHARES = (20, 40, 60, 80, 100)  # budgets, in % of the full cost
_say = partial(echo, err=True)
_OWN, _PLANNED = "the run's policy", ", by the plan"


@dataclass(frozen=True, kw_only=True)
class _Options:
    profile: bool = option(
        "First measure every segment at several batch sizes, plan how to run them fastest on this machine, and keep "
        "the plan in the run. `exeunt predict` then uses it.",
        default=False,
    )
    batch_size: str = option("Inputs per batch, one or more numbers separated by commas.", default="1,64,256")
    repeats: int = option(
        "Rounds; each times everything once, in a different order.", default=9, min=1, max=10_000
    )
    max_seconds: float = option(
        "Seconds for the profile, and for each batch size. At least three rounds are timed.",
        default=60.0,
        min=0,
        max=604_800,
    )

    @property
    def limits(self) -> dict[str, Any]:
        """How long to measure, as options of the library."""
        return {"repeats": self.repeats, "max_seconds": self.max_seconds, "progress": _say}


@with_groups
def bench(path: RunPath, options: _Options, execution: Execution) -> None:
    """Time a run on this machine: policies for several budgets against the original model.

    Prints accuracy, multiply-adds and time of each, and draws accuracy against time into RUN/figures. The original
    model is timed at every precision it was exported at, each model of a cascade alone. Other work on the machine
    disturbs the times; their spread is shown.
    """
    from exeunt._support.files import check_writable
    from exeunt.jobs.timed_run import TimedNetwork
    from exeunt.runs.folder import RunFolder
    from exeunt.timing.bench import time_alternatives
    from exeunt.timing.timing_tools import other_work

    allowed = "batch sizes must be whole numbers of at least 1, such as 1,64,256"
    sizes = sorted(set(numbers(options.batch_size, allowed, kind=int, least=1)))
    run = RunFolder.open(path)
    if run.n_exits == 1:
        raise InputError(f"{path} has one exit: all inputs take the same, there is nothing to compare")
    if run.cascade and options.profile:
        raise InputError("--profile is for one network: profile the models of a cascade, each alone")
    timed = TimedNetwork.of(run, **vars(execution))
    check_writable(run.path / "figures", f"cannot keep what is measured in {path}")
    # Files that cannot be read are found before minutes of measuring.
    policies, unit = _policies(timed), run.cost.unit
    macs = max((model.original_macs() for model in timed.models().values()), default=timed.original_macs())
    if busy := other_work():
        _say(f"warning: {busy}")
    if options.profile:
        _measure(timed, options)
    inputs = {size: timed.batch(size) for size in sizes}
    alone = list(_alone(timed, sizes, macs))
    timings = time_alternatives([*alone, *_under(policies, timed, macs)], inputs, **options.limits)
    measure = run.trace("test").measure
    if run.has_policy:
        _keep(run, alone[0].name, timings)
    echo(f"{timed.name}, {alone[0].name} = 100%")
    for size in sizes:
        echo(_table(size, unit, [timing for timing in timings if timing.batch_size == size], measure))
    if timed.plan is None and not run.cascade:
        echo(f"there is no plan for this machine: exeunt bench {quote(str(run.path))} --profile makes one")
    for figure in _draw(timed, timings, measure):
        echo(f"written to {figure}")


def _keep(run: RunFolder, original: str, timings: Sequence[TimedAlternative]) -> None:
    """Write what share of the original model's time the run's policy takes, by the plan where there is one."""
    from exeunt._support.files import write_json
    from exeunt.runs.file_digests import TIMING
    from exeunt.timing.timing_tools import describe_machine

    shares = {timing.batch_size: timing.share for timing in timings if timing.name == _OWN}
    shares |= {timing.batch_size: timing.share for timing in timings if timing.name == _OWN + _PLANNED}
    time = {str(size): share.percent for size, share in shares.items()}
    write_json(run.path / TIMING, {"machine": describe_machine(), "original": original, "time": time})


def _measure(timed: TimedNetwork, options: _Options) -> None:
    """Measure the executor, plan, and keep the plan in the run folder."""
    from exeunt.timing.planner import profile_and_plan

    _say(f"measuring {timed.name}, segment by segment")
    _, plan = profile_and_plan(timed.open, timed.batch(8), **options.limits)
    timed.run.save_plan(plan)
    segments, exits = counted(len(plan.segments), "segment"), counted(timed.run.n_exits, "exit")
    echo(f"plan: {segments} of {exits}, rows per call {', '.join(map(str, plan.piece))}")


def _policies(timed: TimedNetwork) -> dict[str, Policy]:
    """Return policies for several budgets by name, and the run's own last."""
    from exeunt.rules.cascade import cascade
    from exeunt.rules.catalogue import eero

    run, policies = timed.run, dict[str, Any]()
    make: Any = cascade if run.cascade else eero
    fit, calibrate = run.recorded("fit"), run.recorded("calibrate")
    for share in _SHARES:
        with suppress(InfeasibleBudget):
            policies[f"budget {share}%"] = make(fit, calibrate, budget=f"{share}%")
    if run.has_policy:
        policies[_OWN] = run.policy
    return policies


def _alone(timed: TimedNetwork, sizes: Sequence[int], macs: float) -> Iterator[Alternative]:
    """Yield the original model, then the same model at other precisions, each on inputs of its own.

    Of a cascade, yield each of its models in this way, the most expensive first, on the inputs of the cascade.
    """
    from exeunt._support.arrays import places_of
    from exeunt.jobs.precision_run import other_precisions
    from exeunt.jobs.timed_run import TimedNetwork
    from exeunt.runs.file_digests import TRACED
    from exeunt.runs.run_inputs import InputPreparation
    from exeunt.timing.bench import Alternative
    from exeunt.trace import concatenate

    test: Any = timed.run.recorded("test")
    models = timed.models()

    def way(name: str, network: TimedNetwork, trace: ExitTrace) -> Alternative:
        call, share = network.original(), network.original_macs() / macs
        prepare = InputPreparation(network.run)
        own = {} if models else {size: network.batch(size) for size in sizes}

        def answer(inputs: Any, n: int) -> Any:
            return call(prepare(inputs) if models else own[n])

        return Alternative(name, 1 - float(trace.risk[-1]), answer, lambda _: share)

    ordered = sorted(models, key=lambda name: -models[name].run.cost.full)
    networks = {f"{name} alone": (models[name], test[name]) for name in ordered}
    networks = networks or {"original model": (timed, test)}
    taken = {network.run.path for network, _ in networks.values()}
    for name, (network, trace) in networks.items():
        yield way(name, network, trace)
    for name, (network, trace) in networks.items():
        for precision, run in other_precisions(network.run).items():
            if run.path not in taken:
                recorded = concatenate([run.trace(part) for part in TRACED])
                other = TimedNetwork.of(run, None, timed.trusted)
                same = recorded.take(places_of(recorded.id, trace.id))
                same = replace(same, label=trace.label, reference=trace.reference)  # not its own full network
                yield way(f"{name} at {precision}", other, same)


def _under(policies: Mapping[str, Policy], timed: TimedNetwork, macs: float) -> Iterator[Alternative]:
    """Yield each policy on the exits that it runs; if it runs all of them and there is a plan, also by the plan."""
    from exeunt.evaluation.replay import evaluate
    from exeunt.timing.bench import ExitMix, policy_alternative

    run, plan = timed.run, timed.plan
    staged = None if run.cascade else timed.open()
    planned = None if plan is None else timed.open(plan.segments)
    for name, policy in policies.items():
        trace = run.replayed(policy, "test")
        accuracy = float(evaluate(policy, trace).accuracy or 0.0)
        shares = policy.along(run.recorded("test")).cost.cumulative / macs
        mix = ExitMix(policy, policy.route(trace), shares, name, accuracy, on_line=name != _OWN)
        own_way = bool(policy.cascade) or policy.looks_once  # with an executor of its own
        yield policy_alternative(timed.open_for(policy) if staged is None or own_way else staged, mix)
        if planned is not None and not own_way:
            yield policy_alternative(planned, replace(mix, name=name + _PLANNED), plan)


def _table(size: int, unit: str, timed: Sequence[TimedAlternative], measure: str) -> str:
    header = [f"batch {size}", measure, f"{unit} left", "ms per input", "time left", "efficiency"]
    rows = [
        [
            timing.name,
            f"{timing.accuracy:.2%}",
            f"{timing.macs_share:.1%}",
            str(timing.ms),
            timing.share.percent,
            f"{timing.efficiency:.2f}",
        ]
        for timing in timed
    ]
    return "\n" + text_table(header, rows)


def _draw(timed: TimedNetwork, timings: Sequence[TimedAlternative], measure: str) -> list[Path]:
    """Draw the times; a policy that was run both in stages and by the plan is drawn by the plan."""
    from exeunt.evaluation.figures import save_figure
    from exeunt.evaluation.figures.curves import accuracy_against_time

    names = {timing.name for timing in timings}
    shown = [timing for timing in timings if timing.name + _PLANNED not in names]
    file = timed.run.folder("figures") / f"accuracy_against_time-{timed.name}"
    return save_figure(accuracy_against_time(shown, measure=measure), file)
