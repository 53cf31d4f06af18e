"""Questions, proposals and bets of a gateway, on records that are written at once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from exeunt.gateway.certification_status import certification_status
from exeunt.gateway.certifier import ALARM
from exeunt.gateway.forgetting import forget_client
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.key_store import Keys
from exeunt.gateway.page_state import PageState
from exeunt.stream import bets

from .world import DAY, DAYS, START, World

SHADOW = "models: [small], share: 1, audit: 1, spend: '100 usd'"


@pytest.fixture
def world(filled: World, tmp_path: Path) -> World:
    return filled.copy(tmp_path)


def test_plans_are_certified_after_the_periods_that_it_takes(world: World) -> None:
    by_day = world.passed
    # A proposal is there after four days, and nothing passes before three periods.
    assert by_day[:3] == [[], [], []]
    passed = [name for names in by_day for name in names]
    assert passed == list(world.policies.names)
    (first, *_) = world.certifier.proposals
    assert first.number == 1
    assert first.fitted >= 150
    assert first.tests_from == 1  # the first question is tested on all units, also those before its proposals
    assert first.periods >= 3
    policy = world.policies.load(passed[-1])
    about = policy.notes["gateway"]
    assert about["max_loss"] == 0.1
    assert 0 < about["share"] < 1
    found = certification_status(world.certifier, world.config)
    assert passed[-1] in found.certified
    assert None not in map(found.of, passed)  # those that passed earlier are certified, too
    assert found.of("p99") is None
    assert "Guarantee: with probability 95% over all looks and questions together" in str(found)


def test_a_restart_goes_on_and_bets_twice_on_nothing(world: World) -> None:
    before = world.certifier.proposals
    world.reopen()
    for earlier, later in zip(before, world.certifier.proposals, strict=True):
        assert earlier.bet_on == {period: n for period, n in later.bet_on.items() if n}
        for one, other in zip(earlier.plans, later.plans, strict=True):
            assert one.name == other.name
            assert one.logs.keys() == other.logs.keys()
            assert all(np.allclose(one.logs[key], other.logs[key]) for key in one.logs)
    assert world.question.number == 1
    rows = "SELECT COUNT(*), COUNT(DISTINCT proposal || ' ' || plan || promise || share || ' ' || period) FROM factor"
    world.days(1)
    with world.records.reading() as connection:
        n, distinct = connection.execute(rows).fetchone()
    assert n == distinct


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"promise": "{max_loss: 9%}"}, "promise changed"),
        ({"unit_idle": "2 h"}, "units changed"),
        ({"units": "request"}, "units changed"),
        ({"period": "2 days"}, "period changed"),
        ({"shadow": f"{{{SHADOW}, cap: '0.5 usd'}}"}, "cap changed"),
    ],
)
def test_whatever_changes_what_is_tested_asks_anew(world: World, more: dict[str, str], why: str) -> None:
    n = world.certifier.store.last
    world.reopen(**more)
    question = world.question
    assert (question.number, question.why, question.tests_from) == (2, why, 100 * DAYS + 1)
    assert world.certifier.proposals == []
    assert n >= 1
    assert f"its next one has {bets.weight(n + 1):.0%} of delta" in world.said()


def test_a_grader_of_ones_own_whose_code_is_edited_asks_anew(tmp_path: Path) -> None:
    grader = tmp_path / "edited_grader.py"
    grader.write_text("def grade(request, answer, reference):\n    return 1.0\n")
    world = World(tmp_path, shadow=f"{{{SHADOW}, grader: 'edited_grader:grade'}}")
    assert world.question.number == 1
    world.open()
    assert world.question.number == 1
    grader.write_text("def grade(request, answer, reference):\n    return 0.5\n")
    world.open()
    assert (world.question.number, world.question.why) == (2, "code of the grader changed")


def test_comparisons_without_a_grade_are_told_with_the_reason(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.day(ungraded=2)
    assert "no grade" not in world.said()
    world.day(ungraded=40)
    text = world.said()
    assert "42 of 200 requests compared since the question was asked have no grade: the grader failed" in text
    assert "(the log says why) 42 times." in text


def test_what_changes_nothing_that_is_tested_asks_nothing(world: World) -> None:
    proposals = len(world.certifier.proposals)
    world.records.close()
    shadow = "{models: [small], share: 0.5, audit: 0.1, spend: '200 usd'}"
    world.open(min_periods="5", run_length="5000", shadow=shadow)
    assert world.question.number == 1
    assert len(world.certifier.proposals) == proposals > 0


def test_a_new_question_is_tested_on_later_units_alone_and_has_the_next_weight(world: World) -> None:
    n = world.certifier.store.last
    world.reopen(promise="{max_loss: 12%}")
    world.days(1)  # its first proposal comes at once, from everything before it
    (proposal,) = world.certifier.proposals
    assert proposal.number == n + 1
    assert proposal.weight == bets.weight(n + 1)
    assert proposal.fitted > 200
    assert proposal.tests_from == 601
    assert world.certifier.held_out(proposal).units[0].number > 600
    assert proposal.periods <= 1


def test_nothing_from_before_an_alarm_is_evidence(world: World) -> None:
    world.certifier.alarmed(world.now, world.records.latest_number())
    question, first = world.question, 100 * DAYS + 1
    assert (question.number, question.why) == (2, ALARM)
    assert question.tests_from == question.fits_from == first
    assert world.certifier.n_fitting == 0
    world.days(5)
    proposal = world.certifier.proposals[0]
    assert all(unit.number >= first for unit in world.certifier.held_out(proposal).units)


def test_a_plan_that_loses_too_much_is_not_certified(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wrong = 0.4
    assert world.days(5) == []


def test_units_for_which_money_was_missing_count_as_lost(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.days(8, refused=20) == []  # without these, something is certified after six days
    assert "In 8 of 8 periods money for comparisons was missing" in world.said()
    proposal = world.certifier.proposals[0]
    held_out = world.records.of_units("held_out AND number >= ?", (proposal.tests_from,), refused=True)
    assert proposal.units == len(held_out) > world.certifier.held_out(proposal).n_units


def test_where_units_depend_on_one_another_the_owner_must_say_what_they_are(tmp_path: Path) -> None:
    world = World(tmp_path, promise="{max_loss: 40%}")
    assert world.days(10, alike=True) == []
    assert "write `units` into the file" in world.said()
    world.reopen(units="conversation")  # what they are by default, now the owner's own choice
    assert world.question.number == 1
    world.days(1, alike=True)
    if world.policies.names:
        assert "is your own assumption (p = 0.0001)" in world.said()


def test_after_a_client_is_forgotten_later_proposals_are_tested_on_later_units(world: World) -> None:
    keys = Keys(world.folder)
    keys.add("clinic")
    world.day(client="clinic")
    while world.certifier.n_fitting < 4 * 75 + 10:
        world.day()
    assert world.certifier.proposals
    forgotten = forget_client("clinic", keys, world.records)
    assert forgotten.records == 100
    world.certifier.forget()
    before, latest = world.certifier.store.last, world.records.latest_number()
    while world.certifier.store.last == before:
        world.day(200)
    assert world.certifier.proposals[-1].tests_from == latest + 1
    held = b"".join(file.read_bytes() for file in (world.folder / "proposals").iterdir())
    assert b"clinic" not in held


@contextmanager
def gateway_of(world: World) -> Iterator[Gateway]:
    """Yield a gateway in the folder of a world, which says what is certified."""
    world.records.close()
    (world.folder / "secret.key").write_bytes(bytes(32))
    gateway = Gateway(world.config, clock=lambda: world.now)
    try:
        gateway.find_status()
        yield gateway
    finally:
        asyncio.run(gateway.close())


def test_a_policy_that_answers_goes_on_after_another_question_and_its_certificate_is_not_shown(
    world: World,
) -> None:
    name = world.policies.names[-1]
    world.policies.activate(name, world.now)
    for promise, shown in (("{max_loss: 10%}", True), ("{max_loss: 9%}", False)):
        world.reopen(promise=promise)
        with gateway_of(world) as gateway:
            state = PageState(gateway).read()
            assert (state["policy"], gateway.live.active.name) == (name, name)
            assert (state["certificate"] is not None) == shown
            assert (name in gateway.certified) == shown


def test_proposals_of_a_client_that_is_forgotten_end_and_their_certificates_are_not_shown(
    world: World,
) -> None:
    with gateway_of(world) as gateway:
        assert {*gateway.certified} == {*world.policies.names}
        asyncio.run(gateway.forget("shop"))
        assert gateway.certified == []
        assert {proposal.ended for proposal in gateway.certifier.proposals} == {True}
        assert "Proposal 1 held requests of a client that was forgotten: it has ended." in str(gateway.status)
        policies = PageState(gateway).read()["policies"]
        assert {policy["certificate"] for policy in policies.values()} == {None}


def test_a_restored_backup_goes_on_from_what_it_holds(world: World, tmp_path: Path) -> None:
    world.records.close()
    shutil.copytree(world.folder, tmp_path / "backup")
    world.open()
    world.days(3)
    world.records.close()
    shutil.rmtree(world.folder)
    shutil.copytree(tmp_path / "backup", world.folder)
    world.open()  # the days since then are lost
    bet_on = {period for proposal in world.certifier.proposals for period in proposal.bet_on}
    world.days(2)
    later = {period for proposal in world.certifier.proposals for period, n in proposal.bet_on.items() if n}
    lost = {int(START // DAY) + day for day in range(DAYS, DAYS + 3)}
    assert bet_on
    assert not later & lost
    assert world.question.number == 1


def test_without_a_promise_nothing_is_proposed_and_one_that_comes_later_is_a_question(tmp_path: Path) -> None:
    world = World(tmp_path, promise="")
    assert world.days(5) == []
    assert world.question is None
    assert "Nothing is promised" in world.said()
    world.reopen(promise="{max_loss: 10%}")
    assert (world.question.number, world.question.tests_from) == (1, 501)


def test_answers_without_the_reference_and_the_tail_are_certified_together(tmp_path: Path) -> None:
    """Of the requests that the small model is sure of it is wrong about 2%; the others cost 0.00011 usd."""
    promise = "{max_early_loss: 10%, max_early_worse: 15%, max_tail: ['0.000105 usd', 80%]}"
    world = World(tmp_path, promise=promise)
    passed = world.days(14)
    assert passed
    said = world.said()
    early = "of the requests that are answered without asking large"
    assert f"in the long run the mean grade {early} is at most 10 points below that of large." in said
    assert f"in the long run at most 15% {early} have a lower grade than that of large." in said
    assert (
        "in the long run at most 80% of the requests that the policy may answer cost more than 0.000105 usd."
        in said
    )
    plans = [
        plan for proposal in world.certifier.proposals for plan in proposal.plans if plan.passed is not None
    ]
    assert all(
        {*world.certifier.wealths(plan)} == {"max_early_loss", "max_early_worse", "max_tail"}
        for plan in plans
    )
    world.reopen()
    assert world.question.number == 1
    assert world.said() == said
    world.reopen(promise=promise.replace("80%", "79%"))
    assert world.question.number == 2


@pytest.mark.parametrize(
    "promise",
    ["max_early_loss: 15%", "max_early_worse: 15%", "max_early_worse: 90%, max_tail: ['0.00005 usd', 1%]"],
)
def test_what_every_plan_breaks_is_not_certified(tmp_path: Path, promise: str) -> None:
    """Of what the small model answers a fifth is lost and wrong, and whatever asks the large one costs more."""
    world = World(tmp_path, promise=f"{{{promise}, max_loss: 50%}}")
    world.wrong = 0.2
    assert not world.days(14)
    assert "certified" in world.said()


def test_a_budget_is_certified_for_what_the_policy_may_answer(tmp_path: Path) -> None:
    shadow = f"{{{SHADOW}, cap: '0.0002 usd'}}"
    world = World(tmp_path, promise="{max_loss: 10%, budget: 90%}", shadow=shadow)
    passed = world.days(14)
    assert passed
    kept = "the long-run mean cost of the requests that the policy may answer is at most 90% of that of large"
    assert kept in world.said()
    assert all(world.policies.load(name).notes["gateway"]["share"] <= 0.9 for name in passed)
