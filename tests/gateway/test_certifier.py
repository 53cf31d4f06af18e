"""Questions, proposals and bets of a gateway, on records that are written at once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exeunt.gateway.certification_status import certification_status
from exeunt.gateway.certifier import ALARM, Certifier
from exeunt.gateway.config import read_config
from exeunt.gateway.folder import gateway_folder
from exeunt.gateway.forgetting import forget_client
from exeunt.gateway.gateway import _bound_models
from exeunt.gateway.key_store import Keys
from exeunt.gateway.request_stream import RequestStream
from exeunt.gateway.saved_policies import GatewayPolicies
from exeunt.stream import bets
from exeunt.stream.drawing import Period
from exeunt.stream.records import COMPARED, NOT_GRADED, Record, Records, Said

from .running_gateway import config_text

DAY = 86_400.0
START = 20_000 * DAY


async def at_once(function: Callable[..., Any], *given: Any, **options: Any) -> Any:
    return function(*given, **options)


class World:
    """A gateway's folder that is filled day by day, and its certifier. `wrong`: how often the small model is wrong
    where it is sure, which it is of half of the requests.
    """

    def __init__(self, folder: Path, **more: str) -> None:
        self._folder, self._more = folder, {"promise": "{max_loss: 10%}", "min_periods": "3", **more}
        self.now, self._number, self.wrong = START, 0, 0.02
        self.open()

    def copy(self, folder: Path) -> World:
        """Return the same world in another folder."""
        shutil.copytree(self.folder, folder / "gateway")
        other = World.__new__(World)
        other.__dict__.update(self.__dict__, _folder=folder, _more=dict(self._more))
        other.open()
        return other

    def open(self, **more: str) -> None:
        """Open the folder (again), with another file."""
        self._more |= more
        file = self._folder / "gateway.yaml"
        file.write_text(config_text("http://127.0.0.1:1", **self._more))
        self.config = read_config(file)
        self.folder = gateway_folder(self.config.folder)
        self.models = _bound_models(self.config)
        self.models.write(self.folder)
        self.records = Records(self.folder)
        self.policies = GatewayPolicies(self.folder, self.models)
        self.traffic = RequestStream(self.config, self.models, self.records, b"secret", self.now)
        self.certifier = Certifier(self.config, self.models, self.records, self.policies, self.now)

    passed: list[list[str]]

    def day(
        self, n: int = 100, *, client: str = "shop", refused: int = 0, alike: bool = False, ungraded: int = 0
    ) -> list[str]:
        """Let a day pass with n conversations of a request each. Returns the names of plans that passed after it."""
        rng = np.random.default_rng([int(self.now), 1])
        period = Period(int(self.now // DAY), 1.0, n, n, refused)
        day_wrong = rng.random() < 0.5
        for k in range(n):
            self._number += 1
            compared = "" if k < refused else NOT_GRADED if k < ungraded else COMPARED
            self._add(rng, period, client, day_wrong if alike else None, compared=compared)
        self.records.update((), [period])
        self.now = (period.number + 1) * DAY + 2 * 3600
        passed = asyncio.run(self.certifier.advance(self.now, (), at_once)) or []
        self.now = (period.number + 1) * DAY
        return passed

    def _add(
        self, rng: np.random.Generator, period: Period, client: str, day_wrong: bool | None, *, compared: str
    ) -> None:
        from exeunt.stream.units import Unit

        number, sure = self._number, rng.random() < 0.5
        wrong = (
            rng.random() < (self.wrong if sure else 0.6)
            if day_wrong is None
            else day_wrong and rng.random() < 0.5
        )
        unit = Unit(
            number, client, self.now, self.now, 1, self.now, period=period.number, probability=1.0,
            drawn=bool(compared), held_out=self.traffic.drawing.is_held_out(number), setting=self.traffic.setting,
            refused=not compared,
        )  # fmt: skip
        score = -float(rng.random()) / 10 if sure else -1 - float(rng.random())
        said = {"small": Said(1e-5, score, 1.0 - wrong), "large": Said(1e-4, None, 1.0)}
        record = Record(
            number, self.now, client, f"{number:032x}", said, setting=self.traffic.setting, unit=number, is_open=True,
            answered="large", asked=("large",), cost=1e-4, compared=compared,
        )  # fmt: skip
        self.records.add(record, [unit])


def days(world: World, n: int, **options: Any) -> list[str]:
    return [name for _ in range(n) for name in world.day(**options)]


DAYS = 6
"""After which the world of most tests has two proposals, and policies that are certified."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("filled"))
    world.passed = [world.day() for _ in range(DAYS)]
    world.records.close()
    return world


@pytest.fixture
def world(filled: World, tmp_path: Path) -> World:
    return filled.copy(tmp_path)


def test_plans_are_certified_after_the_periods_that_it_takes(world: World) -> None:
    by_day = world.passed
    assert by_day[:3] == [
        [],
        [],
        [],
    ]  # a proposal is there after four days, and nothing passes before three periods
    passed = [name for names in by_day for name in names]
    assert passed == list(world.policies.names)
    (first, *_) = world.certifier.proposals
    assert first.number == 1
    assert first.fitted >= 150
    assert (
        first.tests_from == 1
    )  # the first question is tested on all units, also those of before its proposals
    assert first.periods >= 3
    policy = world.policies.load(passed[-1])
    about = policy.notes["gateway"]
    assert about["max_loss"] == 0.1
    assert 0 < about["share"] < 1
    found = certification_status(world.certifier, world.config)
    assert passed[-1] in found.certified
    assert [
        name for name in passed if found.of(name) is None
    ] == []  # those that passed earlier are certified, too
    assert found.of("p99") is None
    assert "Guarantee: with probability 95% over all looks and questions together" in str(found)


def test_a_restart_goes_on_and_bets_twice_on_nothing(world: World) -> None:
    before = [
        (p.bet_on, [plan.logs for plan in p.plans], [plan.name for plan in p.plans])
        for p in world.certifier.proposals
    ]
    world.records.close()
    world.open()
    after = [
        (p.bet_on, [plan.logs for plan in p.plans], [plan.name for plan in p.plans])
        for p in world.certifier.proposals
    ]
    assert [(b, names) for b, _, names in before] == [
        ({k: v for k, v in a.items() if v}, names) for a, _, names in after
    ]
    for (_, logs, _), (_, again, _) in zip(before, after, strict=True):
        for one, other in zip(logs, again, strict=True):
            assert one.keys() == other.keys()
            for key in one:
                assert np.allclose(one[key], other[key])
    assert world.certifier.question.number == 1
    rows = "SELECT COUNT(*), COUNT(DISTINCT proposal || ' ' || plan || promise || share || ' ' || period) FROM factor"
    days(world, 1)
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
        (
            {"shadow": "{models: [small], share: 1, audit: 1, spend: '100 usd', cap: '0.5 usd'}"},
            "cap changed",
        ),
    ],
)
def test_whatever_changes_what_is_tested_asks_anew(world: World, more: dict[str, str], why: str) -> None:
    n = world.certifier.store.last
    world.records.close()
    world.open(**more)
    question = world.certifier.question
    assert (question.number, question.why, question.tests_from) == (2, why, 100 * DAYS + 1)
    assert world.certifier.proposals == []
    assert n >= 1
    assert f"its next one has {bets.weight(n + 1):.0%} of delta" in str(
        certification_status(world.certifier, world.config)
    )


def test_a_grader_of_ones_own_whose_code_is_edited_asks_anew(tmp_path: Path) -> None:
    grader = tmp_path / "edited_grader.py"
    grader.write_text("def grade(request, answer, reference):\n    return 1.0\n")
    world = World(
        tmp_path,
        shadow="{models: [small], share: 1, audit: 1, spend: '100 usd', grader: 'edited_grader:grade'}",
    )
    assert world.certifier.question.number == 1
    world.open()
    assert world.certifier.question.number == 1
    grader.write_text("def grade(request, answer, reference):\n    return 0.5\n")
    world.open()
    assert (world.certifier.question.number, world.certifier.question.why) == (
        2,
        "code of the grader changed",
    )


def test_comparisons_without_a_grade_are_told_with_the_reason(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.day(ungraded=2)
    assert "no grade" not in str(certification_status(world.certifier, world.config))
    world.day(ungraded=40)
    text = str(certification_status(world.certifier, world.config))
    assert "42 of 200 requests compared since the question was asked have no grade: the grader failed" in text
    assert "(the log says why) 42 times." in text


def test_what_changes_nothing_that_is_tested_asks_nothing(world: World) -> None:
    proposals = len(world.certifier.proposals)
    world.records.close()
    shadow = "{models: [small], share: 0.5, audit: 0.1, spend: '200 usd'}"
    world.open(min_periods="5", run_length="5000", shadow=shadow)
    assert world.certifier.question.number == 1
    assert len(world.certifier.proposals) == proposals > 0


def test_a_new_question_is_tested_on_later_units_alone_and_has_the_next_weight(world: World) -> None:
    n = world.certifier.store.last
    world.records.close()
    world.open(promise="{max_loss: 12%}")
    days(world, 1)  # its first proposal comes at once, from everything before it
    (proposal,) = world.certifier.proposals
    assert proposal.number == n + 1
    assert proposal.weight == bets.weight(n + 1)
    assert proposal.fitted > 200
    assert proposal.tests_from == 601
    assert world.certifier.held_out(proposal).units[0].number > 600
    assert proposal.periods <= 1


def test_nothing_from_before_an_alarm_is_evidence(world: World) -> None:
    world.certifier.alarmed(world.now, world.records.latest_number())
    question, first = world.certifier.question, 100 * DAYS + 1
    assert (question.number, question.why, question.tests_from, question.fits_from) == (
        2,
        ALARM,
        first,
        first,
    )
    assert world.certifier.n_fitting == 0
    days(world, 5)
    proposal = world.certifier.proposals[0]
    assert all(unit.number >= first for unit in world.certifier.held_out(proposal).units)


def test_a_plan_that_loses_too_much_is_not_certified(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.wrong = 0.4
    assert days(world, 5) == []


def test_units_for_which_money_was_missing_count_as_lost(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert days(world, 8, refused=20) == []  # without these, something is certified after six days
    assert "In 8 of 8 periods money for comparisons was missing" in str(
        certification_status(world.certifier, world.config)
    )
    proposal = world.certifier.proposals[0]
    held_out = world.records.of_units("held_out AND number >= ?", (proposal.tests_from,), refused=True)
    assert proposal.units == len(held_out) > world.certifier.held_out(proposal).n_units


def test_where_units_depend_on_one_another_the_owner_must_say_what_they_are(tmp_path: Path) -> None:
    world = World(tmp_path, promise="{max_loss: 40%}")
    assert days(world, 10, alike=True) == []
    assert "write `units` into the file" in str(certification_status(world.certifier, world.config))
    world.records.close()
    world.open(units="conversation")  # what they are by default, now the owner's own choice
    assert world.certifier.question.number == 1
    days(world, 1, alike=True)
    if world.policies.names:
        assert "is your own assumption (p = 0.0001)" in str(
            certification_status(world.certifier, world.config)
        )


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


def test_a_restored_backup_goes_on_from_what_it_holds(world: World, tmp_path: Path) -> None:
    world.records.close()
    shutil.copytree(world.folder, tmp_path / "backup")
    world.open()
    days(world, 3)
    world.records.close()
    shutil.rmtree(world.folder)
    shutil.copytree(tmp_path / "backup", world.folder)
    world.open()  # the days since then are lost
    bet_on = {period for proposal in world.certifier.proposals for period in proposal.bet_on}
    days(world, 2)
    later = {period for proposal in world.certifier.proposals for period, n in proposal.bet_on.items() if n}
    lost = {int(START // DAY) + day for day in range(DAYS, DAYS + 3)}
    assert bet_on
    assert not later & lost
    assert world.certifier.question.number == 1


def test_without_a_promise_nothing_is_proposed_and_one_that_comes_later_is_a_question(tmp_path: Path) -> None:
    world = World(tmp_path, promise="")
    assert days(world, 5) == []
    assert world.certifier.question is None
    assert "Nothing is promised" in str(certification_status(world.certifier, world.config))
    world.records.close()
    world.open(promise="{max_loss: 10%}")
    assert (world.certifier.question.number, world.certifier.question.tests_from) == (1, 501)


def test_a_budget_is_certified_for_what_the_policy_may_answer(tmp_path: Path) -> None:
    shadow = "{models: [small], share: 1, audit: 1, spend: '100 usd', cap: '0.0002 usd'}"
    world = World(tmp_path, promise="{max_loss: 10%, budget: 90%}", shadow=shadow)
    passed = days(world, 14)
    assert passed
    text = str(certification_status(world.certifier, world.config))
    assert (
        "the long-run mean cost of the requests that the policy may answer is at most 90% of that of large"
        in text
    )
    for name in passed:
        assert world.policies.load(name).notes["gateway"]["share"] <= 0.9
