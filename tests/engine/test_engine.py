"""The engine: several policies in one call, cancelling, bounds. Every answer is that of the replay."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from made_executors import N, made_logits, trace_case
from stepping import advance, groups
from test_contract import ROWS, SHARES, check, made_policy, patient_policy, pooled_policy
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine.engine import Engine, Submission
from exeunt.engine.inputs import joined_inputs
from exeunt.engine.plan import Plan
from exeunt.errors import QueueFull
from exeunt.policy.calibration import ALWAYS, NEVER, Thresholds

inputs = trace_case().inputs


def policies(trace):
    """Own and pooled answers, with a memory and without, early and late."""
    return {
        "early": made_policy(trace, (0.6, 0.2, 0.1, 0.05, 0.05)),
        "late": made_policy(trace, SHARES["one exit without rate"], "entropy"),
        "patient": patient_policy(trace),
        "ensemble": pooled_policy(trace),
    }


def checked(ticket, policy, trace, rows):
    assert ticket.error is None
    assert not ticket.answers.expired.any()
    check(ticket.answers, policy, trace, rows)


# -- policies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drops", [{}, {"sizes": (1,), "most_alive": ((0,),) * 5}])
def test_rows_of_all_policies_run_in_one_call_and_are_decided_apart(trace, drops):
    made = policies(trace)
    executor = TraceExecutor(made_logits())
    engine = Engine(executor, made, Plan("trace", executor.segments, (N,) * 5, **drops))
    parts = zip(np.array_split(np.random.default_rng(0).permutation(N), 12), list(made) * 3, strict=True)
    tickets = {engine.submit(inputs(rows), policy=name, id=rows): (rows, name) for rows, name in parts}
    assert set(engine.drain()) == set(tickets)
    assert [segment for segment, _, _ in executor.calls] == [0, 1, 2, 3, 4]
    for ticket, (rows, name) in tickets.items():
        checked(ticket, made[name], trace, rows)
        assert set(ticket.policies) == {name}


def test_rows_that_name_no_policy_take_the_one_active_when_they_are_first_run(trace):
    made = policies(trace)
    engine = Engine(TraceExecutor(made_logits()), made)
    first = engine.submit(inputs(ROWS[:40]), id=ROWS[:40])
    advance(engine, 0)
    second = engine.submit(inputs(ROWS[40:80]), id=ROWS[40:80])
    engine.active = "late"
    engine.drain()
    for ticket, name, rows in ((first, "early", ROWS[:40]), (second, "late", ROWS[40:80])):
        checked(ticket, made[name], trace, rows)
        assert set(ticket.policies) == {name}


def test_a_policy_is_replaced_while_rows_run_and_leaves_nothing_behind(trace):
    made = policies(trace)
    engine = Engine(TraceExecutor(made_logits()), {"a": made["late"], "b": made["early"]})
    runs = engine.submit(inputs(ROWS[:50]), id=ROWS[:50], policy="a")
    advance(engine, 0)
    engine.add("a", made["early"])
    after = engine.submit(inputs(ROWS[50:99]), id=ROWS[50:99], policy="a")
    submit = partial(engine.submit, inputs(ROWS[:3]), policy="c")
    for name_one in (submit, partial(setattr, engine, "active", "c")):
        with pytest.raises(ex.InputError, match=r"there is no policy 'c': choose one of 'a', 'b'"):
            name_one()
    engine.drain()
    checked(runs, made["late"], trace, ROWS[:50])
    checked(after, made["early"], trace, ROWS[50:99])
    for _ in range(10):
        engine.add("a", made["early"])
    assert engine.table.policies == ("a", "b")
    tickets = [engine.submit(inputs([row]), policy=name) for row, name in enumerate("ab")]
    engine.drain()
    assert [ticket.policies for ticket in tickets] == [["a"], ["b"]]


def two_models(logits):
    """A cascade of two models, of three exits and of two."""
    return TraceExecutor(logits, restarts=(0, 3))


def of_exits(trace, exits, shares):
    """Return a policy of some of the exits, and the trace that it decides on."""
    own = trace.selected(exits).with_cost(ex.CostModel(trace.cost.cumulative[exits]))
    margins = zip(own.scores["margin"].T, shares[:-1], strict=False)
    limits = [(float(np.quantile(margin, 1 - share)), 0.0) for margin, share in margins]
    limits = Thresholds.of([*limits, (-NEVER, -NEVER)])
    base = made_policy(trace, SHARES["mixed"])
    return replace(base, rates=np.array(shares), limits=limits, cost=own.cost, budget=1.0), own


def test_a_policy_that_skips_a_model_or_ends_one_early_is_run_with_others(trace):
    cases = {
        "all": ([0, 1, 2, 3, 4], (0.3, 0.2, 0.1, 0.2, 0.2)),
        "second alone": ([3, 4], (0.5, 0.5)),
        "first alone": ([0, 1, 2], (0.3, 0.4, 0.3)),
        "one exit of the first": ([0, 4], (0.4, 0.6)),
    }
    made = {name: of_exits(trace, np.array(exits), shares) for name, (exits, shares) in cases.items()}
    executor = two_models(made_logits())
    own_exits = {name: exits for name, (exits, _) in cases.items()}
    engine = Engine(executor, {name: policy for name, (policy, _) in made.items()}, exits=own_exits)
    parts = dict(zip(cases, np.array_split(np.random.default_rng(1).permutation(N), 4), strict=True))
    tickets = {name: engine.submit(inputs(rows), policy=name, id=rows) for name, rows in parts.items()}
    engine.active = "second alone"
    unnamed = engine.submit(inputs(ROWS[:0]))
    engine.drain()
    assert unnamed.done
    ran = {segment: sum(rows for at, rows, _ in executor.calls if at == segment) for segment in range(5)}
    for name, rows in parts.items():
        exits, answers = np.array(own_exits[name]), tickets[name].answers
        check(replace(answers, exit=np.searchsorted(exits, answers.exit)), *made[name], rows)
        assert np.isin(answers.exit, exits).all()
    assert ran[0] == N - len(parts["second alone"])
    goes_on = tickets["one exit of the first"].answers.exit == 4
    assert ran[3] == len(parts["second alone"]) + goes_on.sum() + (tickets["all"].answers.exit > 2).sum()


def test_a_policy_of_a_cascade_that_is_active_may_skip_the_first_model(trace):
    policy, own = of_exits(trace, np.array([3, 4]), (0.5, 0.5))
    executor = two_models(made_logits())
    engine = Engine(executor, {"second": policy}, exits={"second": [3, 4]})
    ticket = engine.submit(inputs(ROWS), id=ROWS)
    engine.drain()
    assert {segment for segment, _, _ in executor.calls} == {3, 4}
    check(replace(ticket.answers, exit=ticket.answers.exit - 3), policy, own, ROWS)


def test_rows_of_one_model_of_a_cascade_are_not_starved_by_those_that_skip_it(trace):
    """More of these come than can be run, and they came further than any other that has not begun."""
    first, own = of_exits(trace, np.array([0, 1, 2]), (0.3, 0.4, 0.3))
    second, _ = of_exits(trace, np.array([3, 4]), (0.5, 0.5))
    executor, exits = two_models(np.concatenate([made_logits()] * 40)), {"first": [0, 1, 2], "second": [3, 4]}
    engine = Engine(executor, {"first": first, "second": second}, exits=exits, min_batch=(1,) * 5)
    assert (engine.segments_run("first"), engine.segments_run("second")) == ([0, 1, 2], [3, 4])
    ticket = engine.submit(inputs(ROWS[:20]), policy="first", id=ROWS[:20])
    for i in range(60):
        engine.submit(inputs(N + 128 * i + np.arange(128)), policy="second")
        engine.step(force=True)
    assert ticket.done
    check(ticket.answers, first, own, ROWS[:20])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"exits": {"early": [0, 1]}}, r"the policy has 5 exits, of the network's: \[0, 1\]"),
        ({"when_full": "wait"}, r"when_full must be one of refuse, degrade, got 'wait'"),
        ({"seconds": (1.0, 1.0)}, r"seconds must be 5 numbers, one for each segment, got 2"),
    ],
)
def test_engines_that_make_no_sense_are_refused(trace, options, told):
    with pytest.raises(ex.InputError, match=told):
        Engine(TraceExecutor(made_logits()), policies(trace), **options)


# -- cancelling and bounds ---------------------------------------------------------------------------------


def test_a_cancelled_ticket_never_comes_back_and_costs_nothing_more(trace):
    policy = policies(trace)["late"]
    executor = TraceExecutor(made_logits())
    engine = Engine(executor, policy, Plan("trace", executor.segments, (N,) * 5))
    kept, gone = (engine.submit(inputs(rows), id=rows) for rows in (ROWS[:50], ROWS[50:100]))
    advance(engine, 0)
    engine.cancel(gone)
    ran = len(groups(engine)[0].rows)
    assert engine.drain() == [kept]
    checked(kept, policy, trace, ROWS[:50])
    assert executor.calls[1][1] < ran
    engine.cancel(kept)  # too late, and harmless
    assert engine.rows == 0


def test_an_engine_that_holds_enough_refuses_more_and_ends_no_row_early(trace):
    policy = policies(trace)["late"]
    engine = Engine(TraceExecutor(made_logits()), policy, max_rows=60)
    kept = engine.submit(inputs(ROWS[:60]), id=ROWS[:60], deadline=1e6)  # so that it knows what exits say
    with pytest.raises(QueueFull, match=r"60 rows wait and 1 row more would be beyond 60: ask again later"):
        engine.submit(inputs(ROWS[60:61]))
    advance(engine, 0)
    with pytest.raises(QueueFull):
        engine.submit(inputs(ROWS[60:120]))
    assert engine.drain() == [kept]
    checked(kept, policy, trace, ROWS[:60])
    engine.submit(inputs(ROWS[60:61]))


def test_an_engine_that_degrades_can_answer_all_it_holds_for_as_many(trace):
    policy = policies(trace)["late"]
    engine = Engine(TraceExecutor(made_logits()), policy, max_rows=60, when_full="degrade")
    first = engine.submit(inputs(ROWS[:60]), id=ROWS[:60])
    advance(engine, 0)
    with pytest.raises(QueueFull):
        engine.submit(inputs(ROWS[60:121]))
    assert not first.done
    second = engine.submit(inputs(ROWS[60:120]), id=ROWS[60:120])
    assert engine.rows == 60
    assert set(engine.drain()) == {first, second}
    assert (first.answers.exit == 0).all()
    checked(second, policy, trace, ROWS[60:120])


def test_an_engine_that_degrades_answers_what_it_holds_to_make_room(trace):
    policy = policies(trace)["late"]
    engine = Engine(TraceExecutor(made_logits()), policy, max_rows=60, when_full="degrade")
    first = engine.submit(inputs(ROWS[:60]), id=ROWS[:60])
    with pytest.raises(QueueFull):  # no row has an output yet
        engine.submit(inputs(ROWS[60:61]))
    advance(engine, 0)
    assert 10 < engine.rows < 60
    more = ROWS[60 : 130 - engine.rows]
    second = engine.submit(inputs(more), id=more)
    assert engine.rows == 60
    engine.drain()
    exits = policy.route(trace.take(ROWS[:60]))
    cut = np.flatnonzero(exits > 0)[:10]  # the oldest
    np.testing.assert_array_equal(np.flatnonzero(first.answers.degraded), cut)
    assert first.answers.valid.all()
    assert (first.answers.exit[cut] == 0).all()
    np.testing.assert_array_equal(np.delete(first.answers.exit, cut), np.delete(exits, cut))
    checked(second, policy, trace, more)
    assert not second.answers.degraded.any()


def test_room_is_made_for_several_rows_at_a_time(trace):
    """To find the oldest rows with an output, all are looked through."""
    engine = Engine(TraceExecutor(made_logits()), policies(trace)["late"], max_rows=128, when_full="degrade")
    first = engine.submit(inputs(ROWS[:128]))
    advance(engine, 0)
    more = 129 - engine.rows
    engine.submit(inputs(ROWS[128 : 128 + more]))
    assert engine.rows == 129 - 2
    engine.submit(inputs(ROWS[238:239]))
    engine.drain()
    assert np.count_nonzero(first.answers.degraded) == 2


def test_the_calls_of_each_segment_and_their_rows_are_counted(trace):
    """Also those that fail."""
    executor = TraceExecutor(made_logits(), fails={7: 0})
    engine = Engine(executor, policies(trace)["late"])
    for first in range(0, 160, 10):
        engine.submit(inputs(ROWS[first : first + 10]))
    engine.drain()
    calls = [(segment, rows) for segment, rows, _ in executor.calls]
    failed = [(0, len(rows)) for kind, rows in executor.failed if kind == "run"]
    assert len(failed) > 1
    segments, rows = np.array(calls + failed).T
    expected = [np.bincount(segments, minlength=5), np.bincount(segments, rows, minlength=5)]
    np.testing.assert_array_equal(engine.work, expected)


def test_a_ticket_that_is_not_done_has_no_answers(trace):
    ticket = Engine(TraceExecutor(made_logits()), policies(trace)["late"]).submit(inputs(ROWS[:3]))
    with pytest.raises(ValueError, match="ticket 0 is not done: 3 of its 3 rows are in flight"):
        _ = ticket.answers
    assert ticket.policies == [None] * 3


def test_copies_part_where_ties_are_broken_by_rows(trace):
    logits = np.zeros_like(made_logits())  # no exit is sure of anything: ties alone decide
    limits = Thresholds.of([(0.0, 0.5)] * 2 + [(NEVER, NEVER)] * 2 + [(ALWAYS, ALWAYS)])
    by_content = replace(made_policy(trace, (0.3, 0.3, 0.2, 0.1, 0.1)), limits=limits)
    by_row = replace(by_content, ties="row")

    def exits(policy):
        engine = Engine(TraceExecutor(logits), policy)
        copies = None if policy.ties == "row" else np.zeros(N // 2, int)
        tickets = [engine.submit(inputs(rows), id=copies) for rows in np.split(np.arange(N), 2)]
        engine.drain()
        return np.concatenate([ticket.answers.exit for ticket in tickets])

    assert len(np.unique(exits(by_content))) == 1
    assert len(np.unique(exits(by_row))) > 1
    assert not np.array_equal(exits(by_row), exits(by_row))
    # Every row has a key of its own, whichever call it came with.
    engine = Engine(TraceExecutor(logits), by_row)
    tickets = [engine.submit(inputs(rows)) for rows in np.split(np.arange(N // 3 * 3), 3)]
    engine.drain()
    assert len({tuple(ticket.answers.exit) for ticket in tickets}) == 3
    with pytest.raises(ex.InputError, match="ties of the policy 'other' are broken by the keys of content"):
        Engine(TraceExecutor(logits), by_row).add("other", by_content)


def test_keys_must_be_one_per_row(trace):
    engine = Engine(TraceExecutor(made_logits()), policies(trace)["late"])
    shape, integers = r"id must have shape \(3,\), got \(2,\)", r"id must be 3 integers \(64-bit keys\)"
    for wrong, told in (([1, 2], shape), ([1.0, 2.0, 3.0], integers)):
        with pytest.raises(ex.InputError, match=told):
            engine.submit(inputs(ROWS[:3]), id=wrong)
    assert engine.rows == 0


def test_keys_of_the_content_and_keys_with_a_sign_go_into_one_call(trace):
    """NumPy makes floating-point numbers of the two kinds together, which are no keys."""
    policy, executor = patient_policy(trace), TraceExecutor(made_logits())
    engine = Engine(executor, policy)
    signed = engine.submit(inputs(ROWS[:40]), id=ROWS[:40])
    engine.submit(inputs(ROWS[40:60]))
    engine.drain()
    checked(signed, policy, trace, ROWS[:40])
    assert [rows for segment, rows, _ in executor.calls if segment == 0] == [60]


def test_the_table_grows_and_comes_round(trace):
    """Tickets of 1 to 300 rows, one of which lags far behind the others."""
    policy = policies(trace)["early"]
    engine = Engine(TraceExecutor(np.concatenate([made_logits()] * 9)), policy)
    rng = np.random.default_rng(3)
    lags = engine.submit(inputs([N + 5], width=7), id=[5])
    for _ in range(60):
        rows = rng.permutation(N)[: rng.integers(1, N)]
        ticket = engine.submit(inputs(rows), id=rows)
        while not ticket.done:
            queue = next(q for q in engine.scheduler if q.signature == 3)
            for left in engine._calls.run(*engine._taken(queue)):
                engine._push(*left)
        checked(ticket, policy, trace, rows)
    (found,) = engine.drain()[-1:]
    assert found is lags
    checked(lags, policy, trace, [5])


def test_where_it_is_borderline_the_executor_says(trace):
    executors = [TraceExecutor(made_logits(), border=one) for one in (1e-5, 0.2)]
    policy = policies(trace)["late"]
    few, many = (Engine(executor, policy).answer(inputs(ROWS), id=ROWS) for executor in executors)
    assert few.n_borderline < 5 < many.n_borderline


def test_rows_of_two_sizes_that_skip_a_model_are_not_joined(trace):
    """They take the active policy when they are first run, and then wait before another segment."""
    policy, _ = of_exits(trace, np.array([3, 4]), (0.5, 0.5))
    executor = two_models(made_logits())
    engine = Engine(executor, {"second": policy}, exits={"second": [3, 4]})
    engine.add("whole", policies(trace)["late"])
    engine.active = "whole"
    for number in range(8):
        engine.submit(inputs(ROWS[10 * number : 10 * number + 10], width=3 + number % 2))
    engine.active = "second"
    while engine.rows:
        engine.step(force=True)
    assert executor.failed == []
    assert {segment for segment, *_ in executor.calls} == {3, 4}
    assert executor.counts["run"] <= 4 + 2


def test_states_half_empty_are_tidied_where_there_is_nothing_to_run(trace):
    executor = TraceExecutor(made_logits())
    policy = policies(trace)["early"]
    exits = policy.route(trace)
    rows = np.concatenate([np.flatnonzero(exits == 0)[:20], np.flatnonzero(exits > 0)[:5]])
    engine = Engine(executor, policy)
    engine.submit(inputs(rows), id=rows)
    engine.step(force=True)
    assert [group.state_rows for group in groups(engine)] == [25]
    engine.step()
    assert [group.state_rows for group in groups(engine)] == [5]


def test_what_a_policy_does_not_ask_may_be_anything(trace):
    """At the first exit, whose output another policy's rows in the same call need."""
    logits = made_logits().copy()
    logits[:4, 0] = np.nan
    made = {"asks": policies(trace)["early"], "asks later": made_policy(trace, (0, 0.4, 0.3, 0.2, 0.1))}
    engine = Engine(TraceExecutor(logits), made)
    asks, rows = engine.submit(inputs([0, 1, 10, 11]), policy="asks", id=[0, 1, 10, 11]), ROWS[[2, 3, 12, 13]]
    later = engine.submit(inputs(rows), policy="asks later", id=rows)
    engine.drain()
    assert asks.answers.valid.tolist() == [False, False, True, True]
    checked(later, made["asks later"], trace, rows)


def test_a_caller_without_a_clock_stays_at_the_time_0(trace):
    waits = {"max_wait_s": 0.5, "min_batch": (64,) * 5}
    engine = Engine(TraceExecutor(made_logits()), policies(trace)["late"], **waits)
    engine.submit(inputs(ROWS[:1]))
    assert not engine.ready()
    engine.step()
    assert engine.work[0] == [0] * 5


def test_no_call_of_a_batch_is_larger_than_planned_for_its_segment(trace):
    executor = TraceExecutor(made_logits())
    plan = Plan(executor.name, executor.segments, (40, 12, 20, 20, 20))
    engine = Engine(executor, policies(trace)["late"], plan)
    engine.submit(inputs(ROWS[:40]))
    engine.drain()
    assert engine.work[0][:2] == [1, plan.calls(1, engine.work[1][1])] == [1, 2]


# -- inputs of several tickets that are submitted at once ----------------------------------------------------

PARTS = [ROWS[:1], ROWS[1:1], ROWS[1:30], ROWS[30:31], ROWS[31:200]]


@pytest.mark.parametrize("keyed", [True, False])
def test_inputs_that_are_submitted_together_are_answered_as_one_after_the_other(case, policy, keyed):
    given = [Submission(case.inputs(rows), rows if keyed else None) for rows in PARTS]
    one, all_ = (Engine(case.executor(), policy) for _ in range(2))
    apart = [one.submit(each.inputs, id=each.id) for each in given]
    together = all_.submit_together(given)
    one.drain()
    all_.drain()
    pairs = [(ticket.answers, other.answers) for ticket, other in zip(together, apart, strict=True)]
    assert [found.n for found, _ in pairs] == [len(rows) for rows in PARTS]
    for found, wanted in pairs:
        for name in ("label", "exit", "cost", "valid"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert len(set(np.concatenate([found.exit for found, _ in pairs]).tolist())) > 1


def test_inputs_that_are_submitted_together_have_their_deadlines(case, policy):
    engine = Engine(case.executor(), policy)
    parts = zip(np.split(ROWS[:90], 3), (5.0, None, 1.0), strict=True)
    given = [Submission(case.inputs(rows), None, deadline) for rows, deadline in parts]
    tickets = engine.submit_together(given, 0.0, soft=True)
    assert [ticket.deadline for ticket in tickets] == [5.0, np.inf, 1.0]
    done = engine.step(0.0, force=True) + engine.step(1.5, force=True)
    assert [ticket in done for ticket in tickets[::2]] == [False, True]


def test_what_cannot_be_joined_is_not_submitted(case, policy):
    engine, two = Engine(case.executor(), policy), case.inputs(ROWS[:2])
    apart, mixed = [Submission(two), Submission("nothing")], [Submission(two, ROWS[:2]), Submission(two)]
    for given, told in ((apart, None), (mixed, "all have keys, or none has")):
        with pytest.raises(ex.InputError, match=told):
            engine.submit_together(given)
    assert (engine.rows, engine.drain()) == (0, [])


def test_only_arrays_of_equal_sizes_and_types_are_joined():
    a, b = np.zeros((2, 3)), np.ones((1, 3))
    np.testing.assert_array_equal(joined_inputs([a, b]), [[0] * 3, [0] * 3, [1] * 3])
    assert joined_inputs([{"x": a, "y": a}, {"y": b, "x": b}])["x"].shape == (3, 3)
    for other in (np.zeros((1, 4)), np.zeros((1, 3), dtype=int), [[1.0] * 3], {"0": b}):
        with pytest.raises(ex.InputError, match="equal sizes and types"):
            joined_inputs([a, other])
    with pytest.raises(ex.InputError, match="equal sizes and types"):
        joined_inputs([{"x": a}, {"y": b}])
