"""What is said of how many more units it takes."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from exeunt.cli.app import run as exeunt
from exeunt.gateway import gateway

from .running_gateway import eventually, running
from .world import World

NOT_SO_MANY = (
    "That may be more than will come: fewer and fewer users are new, and by how often users return, about"
)


def come_again(world: World, later: list[int]) -> None:
    """Let the first users make so many further requests, which come too late for their units."""
    with closing(sqlite3.connect(world.records.file)) as connection, connection:
        for number, requests in enumerate(later, start=1):
            connection.execute("UPDATE unit SET later = ? WHERE number = ?", (requests, number))


def test_where_hardly_any_user_is_still_to_come_it_is_said_and_what_would_do(tmp_path: Path) -> None:
    world = World(tmp_path, units="user")
    assert NOT_SO_MANY not in world.said()  # nobody has come
    for n in (40, 30, 20, 5, 3, 2, 1):
        world.day(n)
    assert NOT_SO_MANY not in world.said()  # all have come once, so there may be any number of others
    come_again(world, [3] * 90)
    assert "that is about 210 more users" in world.said()
    told = f"{NOT_SO_MANY} 55 or more are still to come. Only new users are evidence. With `units:"
    assert told in world.said()
    world.open(units="conversation")
    for n in (40, 30, 20, 5, 3, 2, 1):
        world.day(n)
    come_again(world, [3] * 200)
    assert "more conversations" in world.said()
    assert NOT_SO_MANY not in world.said()


def test_where_as_many_are_new_as_ever_nothing_is_said(tmp_path: Path) -> None:
    world = World(tmp_path, units="user")
    for _ in range(8):
        world.day(8)
    come_again(world, [9] * 64)
    assert world.certifier.unseen_users == 0
    assert "more users" in world.said()
    assert NOT_SO_MANY not in world.said()


def test_how_many_users_are_still_to_come(tmp_path: Path) -> None:
    rng, estimates, true, world = np.random.default_rng(0), [], [], World(tmp_path, units="user")
    world.day(400)
    for _ in range(12):
        made = rng.multinomial(600, [1 / 400] * 400)
        come_again(world, [-1 if n == 0 else n - 1 for n in made.tolist()])  # no request: not there
        estimates.append(world.certifier.unseen_users)
        true.append(int((made == 0).sum()))
    assert np.mean(estimates) == pytest.approx(np.mean(true), rel=0.15)


def test_from_the_first_unit_on_it_is_said_how_many_more_it_takes(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = "The first proposal is made once 150 drawn units fit policies: "
    assert f"{first}0 do," in world.said()  # nobody has come
    assert "Now none is drawn: there was no request yet" in world.said()
    world.day(60)
    n = world.certifier.n_fitting
    assert 0 < n < 60
    assert f"{first}{n} do," in world.said()
    (told,) = re.findall(r"that is about (\d+) more conversations", world.said())
    assert 2 * (150 - n) <= int(told) <= 1.1 * 2 * (150 - n)
    while not world.certifier.proposals:
        world.day(60)
    (proposal,) = world.certifier.proposals
    proposal.bet_on = {}  # as between the proposal and the end of the period that tests it
    more = 2 * next(plan.needed for plan in proposal.plans if plan.passed is None)
    by_fit = r"it takes about ([\d,]+) more conversations \(by the units that it was made of\)"
    (told,) = re.findall(by_fit, world.said())
    assert more <= int(told.replace(",", "")) <= 1.1 * more + 1


def test_the_first_units_are_counted_while_a_gateway_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gateway, "_SAVE_S", 0.1)
    with running(tmp_path, promise="{max_loss: 10%}", units="request", period="0.4 s") as run:
        for i in range(12):
            run.ask(f"easy {i}")
        eventually(lambda: run.gateway.certifier.n_fitting > 0)
        eventually(lambda: f"{run.gateway.certifier.n_fitting} do," in str(run.gateway.status))

        def is_told() -> bool:
            exeunt(["gateway", "certify", str(run.gateway.folder)])
            return f"fit policies: {run.gateway.certifier.n_fitting} do," in capsys.readouterr().out

        eventually(is_told)  # a further one may have come to fit in between


def test_a_client_who_brings_most_units_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.day(190, client="clinic")
    assert "mostly about it" not in world.said()  # there is no other
    world.day(10)
    told = "clinic brings 95% of the compared units, so what is certified is mostly about it."
    assert told in world.said()
