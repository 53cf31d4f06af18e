"""The watch notices drift soon, raises few alarms without, and says what changed."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import COST, RATES, answered, fewer_at_the_first_exit, planned, traced
from scipy.special import ndtr
from scipy.stats import binom

import exeunt as ex
from exeunt.errors import ArtefactError, InputError
from exeunt.watch import Alarm, Watch


@pytest.fixture(scope="module")
def policy():
    return planned(np.random.default_rng(0), delta=0.05, budget=2.1)


def drifted(policy, rng, clean=500, n=1500):
    """A stream whose first exit answers fewer after so many clean inputs: as `answered`."""
    fewer = fewer_at_the_first_exit(policy, rng.random((n, 3)), rng, 0.1)
    return answered(policy, np.concatenate([rng.random((clean, 3)), fewer]))


@pytest.mark.parametrize("scored", [False, True])
def test_a_fall_of_one_share_from_35_to_25_percent_is_found_within_450_inputs_in_the_median(scored):
    rng, found = np.random.default_rng(1), []
    for _ in range(25):
        policy = planned(rng)
        watch = Watch(policy)
        told = answered(policy, rng.random((2000, 3)))
        if watch.update(*told[: 3 if scored else 1]):
            continue
        told = answered(policy, fewer_at_the_first_exit(policy, rng.random((3000, 3)), rng))
        alarms = watch.update(*told[: 3 if scored else 1])
        found.append(alarms[0].at - 2000 if alarms else np.inf)
    assert len(found) >= 22
    assert np.median(found) <= 450


@pytest.mark.parametrize("copies", ["none", "Zipf", "half of them one input"])
def test_without_drift_an_alarm_within_t_inputs_is_less_likely_than_t_of_the_run_length(copies):
    """Calibration and stream are drawn from one pool with replacement. The bound holds on average over both."""
    rng, length, t, times = np.random.default_rng(2), 200, 100, 75
    pool, alarms, of_exits_alone = rng.random((2000, 3)), 0, 0
    halves = np.append(1999.0, np.ones(1999))
    weights = {"none": np.ones(2000), "Zipf": 1 / np.arange(1, 2001) ** 1.1, "half of them one input": halves}
    p = weights[copies] / weights[copies].sum()
    for _ in range(times):
        rows, stream = (rng.choice(2000, n, p=p) for n in (100, t))
        fit, calibrate = traced(rng.random((50, 3)), np.arange(5000, 5050)), traced(pool[rows], rows)
        policy = ex.compose("planned", lambda _: RATES, fit, calibrate, budget=1.99)
        alarms += bool(Watch(policy, run_length=length).replay(traced(pool[stream], stream)))
        unknown = replace(policy, watched=replace(policy.watched, repeats={}))
        alone = Watch(unknown, run_length=length)
        of_exits_alone += bool(alone.update(policy.route(traced(pool[stream], stream))))
    assert alarms <= binom.isf(1e-6, times, t / length)
    if copies.startswith("half"):
        assert of_exits_alone > binom.isf(1e-6, times, t / length)


@given(st.lists(st.integers(0, 2000), max_size=6), st.booleans())
@settings(max_examples=20)
def test_inputs_may_come_in_any_batches_also_in_arrays_that_are_used_again(cuts, scored):
    rng = np.random.default_rng(0)
    policy = planned(rng, 200)
    told = drifted(policy, rng)[: 3 if scored else 1]
    whole, parts = Watch(policy, run_length=1e3), Watch(policy, run_length=1e3)
    (alarm,) = whole.update(*told)
    found = []
    for rows in np.split(np.arange(2000), sorted(cuts)):
        given_ = [column[rows] for column in told]
        found += parts.update(*given_)
        for column in given_:
            column[:] = 0
    assert found == [alarm]
    assert parts.evidence == pytest.approx(whole.evidence, rel=1e-6)
    assert parts.n == whole.n == 2000


def test_the_state_is_saved_and_another_watch_goes_on_from_it(policy, tmp_path):
    rng = np.random.default_rng(3)
    told = drifted(policy, rng)
    whole, first = Watch(policy), Watch(policy)
    first.update(*(column[:550] for column in told))
    first.save(tmp_path / "watch.json")
    second = Watch.load(tmp_path / "watch.json", policy)
    assert second.to_dict() == first.to_dict()
    assert second.update(*(column[550:] for column in told)) == whole.update(*told) != []
    second.save(tmp_path / "watch.json")
    assert Watch.load(tmp_path / "watch.json", policy).alarm == whole.alarm
    other = planned(rng)
    with pytest.raises(ArtefactError, match="another calibration"):
        Watch.load(tmp_path / "watch.json", other)
    Watch(policy).save(tmp_path / "new.json")
    assert Watch.load(tmp_path / "new.json", policy).n == 0


def test_an_alarm_says_since_when_which_exits_what_it_costs_and_that_the_guarantee_is_void(policy):
    alarms = [Watch(policy).update(*drifted(policy, np.random.default_rng(seed)))[0] for seed in range(15)]
    covered = [one.earliest <= 501 <= one.latest for one in alarms]
    assert sum(covered) >= 12
    assert abs(np.median([one.since for one in alarms]) - 501) < 30
    one = alarms[0]
    assert (one.kind, one.void) == ("inputs", True)
    assert one.planned == pytest.approx(policy.counts / 1000)
    assert one.shares[0] < 0.25 < one.planned[0]
    assert one.cost > one.expected_cost == policy.expected_cost
    text = str(one)
    assert f"{one.shares[0]:.1%} instead of {one.planned[0]:.1%} at exit 0" in text
    assert "Exits are less sure of them: of" in text
    assert re.search(r"% more than expected, (above|within) the budget", text)
    assert "The guarantee of the cost no longer describes them." in text
    assert "calibrate on them (ex.recalibrate)" in text
    assert Alarm.from_dict(one.to_dict()) == one


@pytest.mark.parametrize(("worse", "expected"), [(0, "35.0%"), (1, "61.5%")])
def test_the_exit_at_which_a_change_shows_first_is_named(worse, expected):
    """Of a cascade it is the model that was replaced; those after it get other inputs, so their shares differ too."""
    rng = np.random.default_rng(0)
    policy, scores = planned(rng), rng.random((2000, 3))
    scores[:, worse] **= 1.4
    (alarm,) = Watch(policy).update(*answered(policy, scores))
    assert f"It shows first at exit {worse}, which answers " in str(alarm)
    assert f"% instead of {expected} of the inputs that come there." in str(alarm)


def test_a_budget_that_is_kept_for_certain_is_not_void():
    rng = np.random.default_rng(0)
    policy = planned(rng, budget=3.0, delta=0.05)
    alarm = Watch(policy).update(*drifted(policy, rng))[0]
    assert not alarm.void
    assert "kept for certain all the same" in str(alarm)


def test_surer_inputs_are_drift_too_and_shares_that_stay_are_said_to(policy):
    rng = np.random.default_rng(0)
    surer = rng.random((3000, 3))
    at_first = surer[:, 0] >= policy.thresholds[0]
    surer[at_first, 0] = 1 - (1 - surer[at_first, 0]) ** 2 / (1 - policy.thresholds[0])
    told = answered(policy, surer)
    assert Watch(policy).update(told[0]) == []
    (alarm,) = Watch(policy).update(*told)
    assert "each exit answers about its share, and exits are surer of them." in str(alarm)


def test_repetition_as_in_calibration_is_no_alarm_and_changed_repetition_is_called_that():
    rng = np.random.default_rng(5)
    pool = rng.random((4000, 3))
    fit, rows = traced(rng.random((50, 3)), np.arange(5000, 5050)), rng.integers(0, 4000, 1000)
    policy = ex.compose("planned", lambda _: RATES, fit, traced(pool[rows], rows), budget=1.99)
    assert Watch(policy, run_length=1e3).replay(traced(pool[rows], rows)) == []
    again = np.concatenate([rng.integers(0, 4000, 300), rng.choice([7, 8, 9], 600)])
    (alarm,) = Watch(policy).replay(traced(pool[again], again))
    assert alarm.kind == "repetition"
    assert re.search(r"They repeat more than in calibration: \d+ copies of others among \d+", str(alarm))


def test_a_group_counts_once_and_inputs_that_a_deadline_decided_are_left_out(policy):
    rng = np.random.default_rng(0)
    told = answered(policy, rng.random((300, 3)))
    once, grouped = Watch(policy), Watch(policy)
    once.update(*told)
    order = np.sort(np.concatenate([np.arange(300), rng.integers(0, 300, 500)]))
    for part in np.split(order, 5):
        grouped.update(*(column[part] for column in told), groups=part)
    assert grouped.n == 300
    assert grouped.evidence == pytest.approx(once.evidence)
    decided = rng.random(300) < 0.5
    some, left_out = Watch(policy), Watch(policy)
    some.update(*(column[decided] for column in told))
    left_out.update(np.where(decided, told[0], -1), *told[1:], decided=decided)
    assert left_out.evidence == some.evidence
    assert left_out.n == decided.sum()


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("others", "counts"), [(9_999, 1), (10_000, 2)])
def test_a_group_is_known_again_while_it_is_among_the_latest_ten_thousand(policy, others, counts, parts):
    groups = [0, *range(1, others + 1), 0]
    told = answered(policy, np.random.default_rng(0).random((len(groups), 3)))
    watch = Watch(policy, run_length=1e9)
    for rows in np.array_split(np.arange(len(groups)), parts):
        watch.update(*(column[rows] for column in told), groups=np.array(groups)[rows])
    assert watch.n == others + counts


def test_groups_are_watched_by_the_score_of_their_first_row():
    rng = np.random.default_rng(0)

    def grouped(first, n, hard=0.0):
        """Groups of five rows that are alike, numbered from `first`."""
        scores = (rng.random((n, 1, 3)) * 0.9 + rng.random((n, 5, 3)) * 0.1).reshape(-1, 3) * (1 - hard)
        return traced(scores, groups=np.repeat(np.arange(first, first + n), 5))

    policy = ex.eero(grouped(0, 100), grouped(100, 400), budget="80%", delta=0.1)
    assert not policy.watched.by_exit
    assert policy.watched.counts.sum() == 400
    watch = Watch(policy)
    assert watch.replay(grouped(1000, 1000)) == []
    assert watch.n == 1000
    (alarm,) = watch.replay(grouped(3000, 500, hard=0.3))
    assert alarm.kind == "inputs"
    with pytest.raises(InputError, match="give the scores at exit 0"):
        Watch(policy).update([0, 1])


def test_in_a_random_order_it_is_still_the_first_row_of_a_group_that_counts():
    rng = np.random.default_rng(0)

    def begun(first, n):
        """Groups of five rows, of which the first is harder than all that follow."""
        scores = rng.random((n, 5, 3)) * 0.3 + np.where(np.arange(5) > 0, 0.7, 0.0)[:, None]
        return traced(scores.reshape(-1, 3), groups=np.repeat(np.arange(first, first + n), 5))

    policy = ex.eero(begun(0, 100), begun(100, 400), budget="80%", delta=0.1)
    stream = begun(1000, 1000)
    for seed in range(5):
        watch = Watch(policy)
        assert watch.replay(stream, seed=seed) == []
        assert watch.n == 1000
    orders = [Watch(policy), Watch(policy)]
    for seed, watch in enumerate(orders):
        watch.replay(stream, seed=seed)
    assert orders[0].evidence != orders[1].evidence


@pytest.mark.parametrize("in_calibration", [False, True])
def test_without_drift_conversations_raise_false_alarms_unless_they_are_named(in_calibration):
    """Inputs are as in calibration, ten turns a conversation, which arrive among those of others.

    With names, an alarm within 300 conversations has a chance of at most 300 / 100,000, so 2.4% among 8 streams.
    """
    rng, named, nameless = np.random.default_rng(6), 0, 0
    for _ in range(8):
        policy = planned(rng)
        if in_calibration:
            fit, calibrate = (conversations(rng, n) for n in (500, 2500))
            fit, calibrate = traced(fit[0], groups=fit[1]), traced(calibrate[0], groups=calibrate[1] + 50)
            policy = ex.compose("planned", lambda _: RATES, fit, calibrate, budget=2.1)
        scores, names = conversations(rng, 3000)
        told = answered(policy, scores)
        named += len(Watch(policy).update(*told, groups=names))
        nameless += len(Watch(policy).update(*told))
    assert (named, nameless) == (0, 8)


def conversations(rng, n, turns=10):
    """Scores (n, 3) of turns in order of arrival, each uniform over conversations, and the names of these."""
    names = np.repeat(np.arange(n // turns), turns)
    level = np.sqrt(0.9) * rng.normal(size=(n // turns, 3))[names] + np.sqrt(0.1) * rng.normal(size=(n, 3))
    arrival = names + np.tile(np.arange(turns), n // turns) * rng.uniform(0.1, 5, n // turns)[names]
    order = np.argsort(arrival, kind="stable")
    return ndtr(level)[order], names[order]


@pytest.mark.parametrize(
    ("cost", "options"),
    [
        (COST, {"calibration": "marginal"}),
        (ex.CostModel(np.random.default_rng(0).uniform(0.9, 1, (1200, 1)) * [1, 2, 3], highest=3), {}),
    ],
)
def test_plans_that_were_not_made_by_counts_are_watched_by_the_first_exits_score(
    cost, options, make_logit_trace
):
    fit, calibrate, test = make_logit_trace(1200, 3).with_cost(cost).split()
    policy = ex.eero(fit, calibrate, budget="70%", **options)
    assert not policy.watched.by_exit
    watch = Watch(policy)
    assert watch.replay(test) == []
    rng = np.random.default_rng(0)
    assert watch.update(rng.integers(0, 2, 300), None, np.full(300, 0.9), rng.random(300)) != []


@pytest.mark.parametrize(
    ("make", "score"), [(ex.auto, None), (ex.stopping, "entropy"), (ex.learned_correctness, None)]
)
def test_a_single_exit_is_watched_by_its_confidence_where_the_policy_learns_no_score(
    make_logit_trace, make, score
):
    policy = make(*make_logit_trace(n=600, m=1).split()[:2], budget="100%", score=score)
    logits = 0.5 * np.random.default_rng(0).normal(size=(1000, 1, 5))  # of no class
    inputs, watch = ex.ExitTrace.from_logits(logits, cost=policy.cost), Watch(policy)
    assert watch.replay(inputs)
    assert "exits are less sure" in str(watch.alarm)


def test_certified_losses_divide_the_run_length_by_the_plans_that_were_tested(make_logit_trace):
    fit, calibrate, _ = make_logit_trace(3000, 3).split()
    policy = ex.cheapest(fit, calibrate, max_loss=0.1, points=4)
    assert policy.watched.plans > 1
    assert Watch(policy, run_length=1e4).threshold == 2e4 * policy.watched.plans


def test_several_watches_of_one_calibration_share_the_run_length(policy):
    assert Watch(policy, run_length=1e4).threshold == 1e4
    assert Watch(policy, run_length=1e4, of_several=True).threshold == 2e4


def test_after_an_alarm_there_is_no_other_until_a_restart(policy):
    rng = np.random.default_rng(0)
    told = drifted(policy, rng)
    watch = Watch(policy)
    (alarm,) = watch.update(*told)
    assert watch.update(*(column[500:] for column in told)) == []
    assert watch.alarm == alarm
    watch.restart()
    assert watch.alarm is None
    assert watch.evidence == 0
    watch.update(*answered(policy, rng.random((64, 3))))
    # What is drawn, and the highest evidence, are those since.
    assert max(watch.curve.peaks) < watch.threshold
    told = answered(policy, fewer_at_the_first_exit(policy, rng.random((500, 3)), rng, 0.0))
    assert len(watch.update(*told)) == 1


def test_a_watch_of_nothing_and_of_one_input(policy):
    watch = Watch(policy)
    assert watch.shares is None
    assert watch.evidence == 0
    assert watch.update([], [], []) == []
    assert watch.update([0], [0.9], [0.9]) == []
    assert watch.shares.tolist() == [1, 0, 0]
    assert watch.evidence == pytest.approx(1, abs=0.1)
    assert watch.curve.points == [(64, pytest.approx(watch.evidence))]


def test_the_curve_keeps_the_highest_evidence_in_few_points(policy):
    watch, rng = Watch(policy, run_length=1e9), np.random.default_rng(0)
    for _ in range(30):
        watch.update(*answered(policy, rng.random((2000, 3))))
    numbers, peaks = zip(*watch.curve.points, strict=True)
    assert 200 <= len(numbers) <= 401
    assert numbers[-1] >= 60_000
    assert np.diff(numbers).tolist() == [watch.curve.stride] * (len(numbers) - 1)
    assert max(peaks) >= watch.evidence


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([0, 1], [0.5]), r"scores must have shape \(2,\), got \(1,\)"),
        (([0], ["low"], [0.5]), "scores must be numbers"),
        (([0, 1], [0.5, 0.5]), r"those at exit 0 \(first_scores=\), or neither"),
        (([0, 1], None, [0.5, 0.5]), r"give the scores at the exits that answered \(scores=\)"),
        (([0, 3], None), "answered at exit 3, and this policy answers at 0, 1, 2"),
        (([0, 1.5], None), "exits must be whole numbers"),
    ],
)
def test_inputs_that_no_policy_answered_so_are_refused(policy, given, message):
    with pytest.raises(InputError, match=message):
        Watch(policy).update(*given)


def repeating(**options):
    """A policy whose calibration inputs repeat."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 100, 300)
    calibrate = traced(rng.random((100, 3))[rows], rows)
    return ex.eero(traced(rng.random((50, 3)), np.arange(500, 550)), calibrate, budget=2.0, **options)


def unwatched(policy):
    body = {name: value for name, value in policy.to_dict().items() if name != "watched"}
    return ex.Policy.from_dict(body)


def begun(policy):
    """A watch that has seen an input."""
    watch = Watch(policy)
    watch.update(*ONE)
    return watch


ONE = [0], [0.9], [0.9]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda policy: begun(policy).update([0]), "either all inputs have scores or none"),
        (
            lambda policy: begun(policy).update(*ONE, decided=[True, False]),
            r"decided must have shape \(1,\), got \(2,\)",
        ),
        (lambda policy: Watch(policy, run_length=5), "run_length must lie in"),
        (lambda _: Watch(repeating()).update(*ONE), "calibration inputs repeat"),
        (lambda _: Watch("policy.json"), "a watch is of one policy, got str"),
        (
            lambda policy: begun(policy).replay(np.ones((5, 3))),
            r"replay takes recorded outputs .* got ndarray",
        ),
        (lambda policy: Watch(unwatched(policy)), "keeps nothing to watch by"),
    ],
)
def test_what_cannot_be_watched_is_refused(policy, call, message):
    with pytest.raises(InputError, match=message):
        call(policy)


def test_calibration_inputs_may_repeat_where_ties_are_broken_by_row():
    assert Watch(repeating(ties="row")).update(*ONE) == []
