"""What is said of how many more units it takes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("httpx")
pytest.importorskip("yaml")

from exeunt.gateway.standing import standing

from .test_certifying import World

NOT_SO_MANY = (
    "But there are not so many: by how often users have come, the number of those still to come is about"
)


def come_again(world: World, later: list[int]) -> None:
    """Let the first users make so many further requests, which come too late for their units."""
    with closing(sqlite3.connect(world.records.file)) as connection, connection:
        for number, requests in enumerate(later, start=1):
            connection.execute("UPDATE unit SET later = ? WHERE number = ?", (requests, number))


def test_where_hardly_any_user_is_still_to_come_it_is_said_and_what_would_do(tmp_path: Path) -> None:
    world = World(tmp_path, units="user")
    world.day(100)
    assert NOT_SO_MANY not in str(standing(world.certifier, world.config))  # all have come once
    come_again(world, [3] * 90)
    found = str(standing(world.certifier, world.config))
    assert "that is about 210 more users" in found
    assert f"{NOT_SO_MANY} 45, and only new ones are evidence. With `units: conversation`" in found
    world.open(units="conversation")
    world.day(100)
    come_again(world, [3] * 190)
    found = str(standing(world.certifier, world.config))
    assert "more conversations" in found
    assert NOT_SO_MANY not in found


@pytest.mark.parametrize("requests", [600, 1_000])
def test_how_many_users_are_still_to_come(tmp_path: Path, requests: int) -> None:
    rng, estimates, true, world = np.random.default_rng(0), [], [], World(tmp_path, units="user")
    world.day(400)
    for _ in range(20):
        made = rng.multinomial(requests, [1 / 400] * 400)
        come_again(world, [-1 if n == 0 else n - 1 for n in made.tolist()])  # no request: not there
        estimates.append(world.certifier.unseen_users)
        true.append(int((made == 0).sum()))
    assert np.mean(estimates) == pytest.approx(np.mean(true), rel=0.15)


def test_a_client_who_brings_most_units_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.day(190, client="clinic")
    assert "mostly about it" not in str(standing(world.certifier, world.config))  # there is no other
    world.day(10)
    found = str(standing(world.certifier, world.config))
    assert "clinic brings 95% of the compared units, so what is certified is mostly about it." in found
