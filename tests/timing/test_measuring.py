"""What is measured is what an executor with a known clock takes; costs are those of the mix of exits."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from clocked import Accelerator, Clocked

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.executor import OneLookExecutor
from exeunt.engine.plan import Plan
from exeunt.policy import Policy
from exeunt.rules import baselines
from exeunt.score.confidence import BEFORE_EXITS
from exeunt.timing import planner
from exeunt.timing.bench import (
    Alternative,
    ExitMix,
    all_heads_policy,
    forced_exits,
    policy_alternative,
    time_alternatives,
)
from exeunt.timing.millisecond_costs import measured_cost, self_consistent_cost
from exeunt.timing.profile import measure_profile
from exeunt.timing.timing_tools import Spread, describe_machine, is_this_machine, other_work, time_interleaved

INPUTS = np.zeros((5, 2))
HEADS = [0.003, 0.005, 0.007, 0.0]


FINEST = ((0, 0), (1, 1), (2, 2), (3, 3))


def make(segments=FINEST, kind=Clocked):
    count = len(segments)
    deeper = np.arange(1, count + 1)
    return kind(segments, start_s=0.5 * deeper, row_s=0.01 * deeper, head_s=HEADS, gather_s=0.002)


def profile_of(executor, inputs=INPUTS, **options):
    return measure_profile(executor, inputs, clock=executor.clock, **{"max_seconds": 1e9, **options})


def cost_of(executor, n, **options):
    return measured_cost(executor, np.zeros((n, 2)), clock=executor.clock, **options)


@pytest.mark.parametrize("kind", [Clocked, Accelerator])
@pytest.mark.parametrize("segments", [FINEST, ((0, 1), (2, 3)), ((0, 3),)])
def test_profile_is_what_the_clock_says(segments, kind):
    """Of an accelerator it is the time that it computes, not that until a call returns."""
    executor, sizes = make(segments, kind), (1, 3, 8, 40)
    profile = profile_of(executor, sizes=sizes, repeats=3)
    assert profile.executor == "clocked"
    assert profile.machine == describe_machine(executor.device)
    assert profile.segments == segments
    rows = np.array(sizes)
    expected = [[executor.run_s(segment, size) for size in sizes] for segment in range(len(segments))]
    np.testing.assert_allclose(profile.run, expected, rtol=1e-9)
    np.testing.assert_allclose(profile.head, np.outer(HEADS, rows), atol=1e-9)
    np.testing.assert_allclose(profile.gather[0], 0.0)
    np.testing.assert_allclose(profile.gather[1:], np.tile(0.002 * rows, (len(segments) - 1, 1)), atol=1e-9)


def test_profile_ignores_the_odd_slow_round():
    executor = make()
    passes = iter(range(10**6))
    usual = executor.run

    def disturbed(segment, state, wanted):
        executor.now += 100.0 if segment == 0 and next(passes) % 50 == 3 else 0.0
        return usual(segment, state, wanted)

    executor.run = disturbed
    profile = profile_of(executor, sizes=(20, 64), repeats=9)
    np.testing.assert_allclose(profile.run[0], [0.7, 1.14], rtol=1e-9)


def test_a_plan_is_of_the_segments_that_were_joined_as_they_are_measured(monkeypatch):
    """To drop rows takes so long here that all are joined."""

    def opened(segments):
        executor = make(segments or FINEST)
        executor.gather_s = 10.0
        return executor

    monkeypatch.setattr(planner, "measure_profile", partial(profile_of, sizes=(1, 64), repeats=3))
    profile, plan = planner.profile_and_plan(opened, INPUTS)
    assert (profile.segments, plan.segments) == (((0, 3),), ((0, 3),))


def test_measuring_ends_in_time():
    executor = make()
    profile_of(executor, sizes=(4,), repeats=10**6, max_seconds=0.0)
    assert executor.now < 1e3
    assert executor.calls


def expected_ms(executor, exits, plan_drops=True):
    """Milliseconds per input of one batch, by walking through it."""
    total, rows = 0.0, len(exits)
    for segment, (first, last) in enumerate(executor.segments):
        alive = int((exits >= first).sum())
        if alive == 0:
            break
        if alive < rows and plan_drops:
            total += executor.gather_s * alive
            rows = alive
        total += executor.run_s(segment, rows) + sum(HEADS[first : last + 1]) * rows
    return 1e3 * total / len(exits)


@pytest.mark.parametrize("kind", [Clocked, Accelerator])
def test_cost_of_running_to_the_end(kind):
    executor = make(kind=kind)
    cost = cost_of(executor, 8, repeats=4)
    assert cost.unit == "ms"
    assert f"clocked on {executor.device}, timed here at batch 8" in cost.source
    assert cost.full == pytest.approx(expected_ms(executor, np.full(8, 3)))
    assert cost.first == pytest.approx(1e3 * (0.5 + 8 * 0.013) / 8)


@pytest.mark.parametrize("n", [1, 64])
def test_costs_add_up_to_the_mean_of_the_mix(n):
    executor = make()
    exits = np.repeat([0, 1, 2, 3], [40, 20, 10, 30])
    cost = cost_of(executor, n, policy=all_heads_policy(4), exits=exits, repeats=400, warmup=0)
    mean = cost.cumulative[exits].mean()
    rng = np.random.default_rng(1)
    drawn = [expected_ms(executor, rng.choice(exits, n)) for _ in range(1000)]
    assert mean == pytest.approx(np.mean(drawn), rel=0.03)


def test_costs_rise_within_a_segment_too():
    executor = make(((0, 1), (2, 3)))
    cost = cost_of(executor, 4, repeats=2)
    assert (np.diff(cost.cumulative) > 0).all()
    assert cost.cumulative[1] == pytest.approx(cost.cumulative[0], rel=1e-6)


def test_segments_that_no_input_reaches_have_a_cost():
    cost = cost_of(make(), 4, policy=all_heads_policy(4), exits=np.array([0, 1]), repeats=9)
    assert (np.diff(cost.cumulative) > 0).all()


@pytest.mark.parametrize("n", [1, 64])
def test_budget_in_milliseconds_is_what_the_clock_shows_then(n):
    executor = make()
    rng = np.random.default_rng(0)
    scores, answers = rng.random((3000, 4)), np.zeros((3000, 4), dtype=int)
    about = {"cost": ex.CostModel([1, 2, 3, 4]), "name": "margin", "label": rng.integers(0, 2, 3000)}
    trace = ex.ExitTrace.from_scores(scores, answers, **about)
    fit, calibrate, test = trace.split()
    full = expected_ms(executor, np.full(n, 3))

    def choose(cost):
        return baselines.msdnet(fit.with_cost(cost), calibrate.with_cost(cost), budget=f"{0.6 * full}ms")

    inputs, clock = np.zeros((n, 2)), executor.clock
    cost = self_consistent_cost(executor, inputs, choose, lambda policy: policy.route(calibrate), clock=clock)
    assert f"at batch {n}" in cost.source
    assert "10% to 90%" in cost.source
    exits = choose(cost).route(test)
    batches = [exits[i : i + n] for i in range(0, len(exits) - n + 1, n)]
    measured = np.mean([expected_ms(executor, batch) for batch in batches])
    assert measured == pytest.approx(0.6 * full, rel=0.05)  # 600 inputs calibrate: some 2 % by chance


def test_one_look_costs_the_gate_and_the_way_from_there_to_the_exit():
    """Rows of an exit run together, each exit in a call of its own from the gate on."""
    segments = tuple((k, k) for k in range(5))
    depths = np.arange(1, 6)
    executor = Clocked(
        segments, start_s=0.02 * depths, row_s=0.01 * depths, head_s=[0.0, *HEADS], gather_s=0.002
    )
    looks, n = OneLookExecutor(executor), 40
    looks.clock = executor.clock
    rng = np.random.default_rng(0)
    told = rng.normal(size=(2000, 3)).astype(np.float32)
    right = rng.random((2000, 4)) < 1 / (1 + np.exp(-told[:, :1] - [-1, 0, 1, 2]))
    trace = ex.ExitTrace.from_losses(
        None, 1.0 - right, cost=ex.CostModel([1, 2, 3, 4], heads=[0.1, 0.1, 0.1, 0])
    )
    fit, calibrate, _ = replace(trace, features={BEFORE_EXITS: told}).split()
    guess = ex.CostModel([0.2, 0.3, 0.4, 0.5], unit="ms", reference=1.0)
    costs = []

    def choose(cost):
        costs.append(cost)
        return ex.one_look(
            fit.with_cost(cost), calibrate.with_cost(cost), budget=0.6 * cost.full + 0.4 * cost.first
        )

    route = partial(Policy.route, inputs=calibrate)
    cost = self_consistent_cost(looks, np.zeros((n, 2)), choose, route, clock=executor.clock, guess=guess)
    shares = choose(cost).planned_shares
    assert (shares > 0.05).sum() >= 2
    gate = (executor.run_s(0, n) + 0.0) / n
    for exit_ in np.flatnonzero(shares > 0.05).tolist():
        rows = shares[exit_] * n
        way = sum(0.02 * depth for depth in depths[1 : exit_ + 2]) / rows + 0.01 * depths[1 : exit_ + 2].sum()
        expected = 1e3 * (gate + way + HEADS[exit_] * (exit_ < 3) + 0.002)
        assert cost.cumulative[exit_] == pytest.approx(expected, rel=0.15)
    everywhere = costs[1].cumulative / 1e3
    for exit_ in range(4):
        way = sum(0.02 * depth for depth in depths[1 : exit_ + 2]) / 10 + 0.01 * depths[1 : exit_ + 2].sum()
        assert everywhere[exit_] == pytest.approx(gate + way + HEADS[exit_] * (exit_ < 3) + 0.002, rel=0.02)


def test_forced_exits_are_followed_and_the_heads_of_the_policy_run():
    executor, exits = make(), np.array([2, 0, 3, 1, 0])
    found = Engine(executor, forced_exits(all_heads_policy(4), exits)).answer(INPUTS)
    np.testing.assert_array_equal(found.exit, exits)
    np.testing.assert_array_equal(found.label, 2)
    assert not found.borderline.any()
    assert executor.calls == [(0, 5), (1, 3), (2, 2), (3, 1)]


def test_exits_of_a_batch_that_is_run_in_parts_are_followed_each_time():
    exits = np.random.default_rng(0).integers(0, 4, 250)
    policy = forced_exits(all_heads_policy(4), exits)
    for _ in range(2):
        executor = make()
        assert Engine(executor, policy).answer(np.zeros((250, 2))).exit.tolist() == exits.tolist()
        assert sum(segment == 0 for segment, _ in executor.calls) == 4


def test_exits_that_cannot_be_forced_are_refused():
    with pytest.raises(ex.InputError, match="exits must be among"):
        forced_exits(all_heads_policy(4), np.array([0, 4]))
    with pytest.raises(ex.InputError, match="2 inputs, got 5"):
        Engine(make(), forced_exits(all_heads_policy(4), np.array([0, 1]))).answer(INPUTS)


def test_rows_that_are_not_dropped_add_to_the_cost_of_those_that_remain():
    exits, means = np.array([0, 3]), []
    lazy = Plan("clocked", make().segments, (64,) * 4, sizes=(1,), most_alive=((0,),) * 4)
    for plan in (None, lazy):
        cost = cost_of(make(), 8, policy=all_heads_policy(4), exits=exits, plan=plan, repeats=200)
        means.append(cost.cumulative[exits].mean())
    whole = expected_ms(make(), np.full(8, 3))
    assert means[1] == pytest.approx(whole, rel=0.06)
    assert means[0] < 0.98 * means[1]


def test_calls_are_interleaved_and_timed():
    now, said = [0.0], []

    def call(name, seconds):
        def once(number):
            said.append((name, number))
            now[0] += seconds

        return once

    calls = {"a": call("a", 1.0), "b": call("b", 2.0)}
    taken = time_interleaved(calls, rounds=4, max_seconds=1e9, clock=lambda: now[0])
    turns = [(name, number) for number in range(4) for name in ("ba" if number % 2 else "ab")]
    assert said == [("a", 0), ("b", 0), *turns]
    np.testing.assert_array_equal([taken["a"], taken["b"]], [[1.0] * 4, [2.0] * 4])
    short = time_interleaved(calls, rounds=100, max_seconds=0.0, clock=lambda: now[0])
    assert len(short["a"]) == 3


def test_a_machine_is_known_by_its_processor_its_usable_cores_and_its_device(monkeypatch):
    here = describe_machine()
    assert here["device"] == "cpu"
    assert is_this_machine(here | {"node": "a sister"})
    assert not is_this_machine(here, "cuda (Made Up 1)")
    assert is_this_machine(describe_machine("cuda (Made Up 1)"), "cuda (Made Up 1)")
    assert not is_this_machine(describe_machine("cuda (Made Up 1)"), "cuda (Made Up 2)")
    before = {name: value for name, value in here.items() if name != "device"}
    assert is_this_machine(before)
    assert not is_this_machine(before, "cuda (Made Up 1)")
    monkeypatch.setattr("exeunt.timing.timing_tools.usable_cores", lambda: here["cores"] + 1)
    assert not is_this_machine(here)


def test_spread():
    assert Spread.of(np.arange(11.0)) == Spread(5.0, 1.0, 9.0)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)


SHARES = np.array([0.25, 0.5, 0.75, 1.0])


def mix_of(exits, name="mine", kind=ExitMix):
    return kind(all_heads_policy(4), np.array(exits), SHARES, name, 0.9)


@pytest.mark.parametrize("size", [1, 5, 64])
def test_batches_of_a_mix_have_its_distribution(size):
    exits = np.repeat([0, 1, 2, 3], 250)
    mix = mix_of(np.random.default_rng(0).permutation(exits))
    batches = mix.batches(size)
    assert len(batches) == max(1, 32 // size)
    assert all(len(batch) == size for batch in batches)
    assert mix.mean_macs_share(size) == SHARES[np.concatenate(batches)].mean()
    assert mix.mean_macs_share(size) == pytest.approx(SHARES.mean(), rel=0.1)


def test_where_inputs_answer_is_drawn_once_and_not_in_the_time_of_a_policy():
    drawn = []

    class Counted(ExitMix):
        def batches(self, size):
            drawn.append(size)
            return super().batches(size)

    way = policy_alternative(make(), mix_of([0, 3], kind=Counted))
    for n in (1, 4) * 3:
        way.answer(np.zeros((n, 2)), n)
    assert drawn == [1, 4]


def test_ways_are_timed_at_every_batch_size():
    exits = {"half": [0, 2], "all": [3]}
    ways = [Alternative("original", 1.0, lambda *_: None)]
    ways += [policy_alternative(make(), mix_of(mix, name)) for name, mix in exits.items()]
    told = []
    batches = {n: np.zeros((n, 2)) for n in (1, 4)}
    timed = time_alternatives(ways, batches, repeats=2, progress=told.append)
    assert told == ["batch size 1 timed", "batch size 4 timed"]
    assert [(one.name, one.batch_size, one.macs_share) for one in timed] == [
        ("original", 1, 1.0), ("half", 1, 0.5), ("all", 1, 1.0),
        ("original", 4, 1.0), ("half", 4, 0.5), ("all", 4, 1.0),
    ]  # fmt: skip
    assert all(one.efficiency == one.macs_share / one.share.median for one in timed)
    assert [one.on_line for one in timed[:3]] == [False, True, True]


@pytest.mark.parametrize(
    ("load", "own", "cores", "told"),
    [(0.4, 2, 2, False), (1.0, 2, 2, True), (20.0, 4, 64, False), (61.0, 4, 64, True), (3.0, 1, 2, True)],
)
def test_other_work_is_told_where_it_takes_the_cores(monkeypatch, load, own, cores, told):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("exeunt.timing.timing_tools.usable_cores", lambda: own)
    start = f"other work keeps {load:.1f} of the machine's {cores} cores busy, and the network would compute on {own}:"
    assert other_work().startswith(start) is told
    assert bool(other_work()) is told


def test_a_system_that_tells_no_load_is_idle(monkeypatch):
    monkeypatch.delattr("os.getloadavg", raising=False)
    assert other_work() == ""
