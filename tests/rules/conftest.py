"""What the tests of rules share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import exeunt as ex

Models = ex.ExitTrace | ex.CascadeTrace


@pytest.fixture(scope="session")
def refuses() -> Callable[[dict[str, Callable[[], object]]], None]:
    """Return a check that each of these calls is refused, with the text that it is given under."""

    def check(refusals: dict[str, Callable[[], object]]) -> None:
        for told, call in refusals.items():
            with pytest.raises(ex.InputError, match=told):
                call()

    return check


@pytest.fixture
def fit(parts: tuple[Models, ...]) -> Models:
    return parts[0]


@pytest.fixture
def calibrate(parts: tuple[Models, ...]) -> Models:
    return parts[1]
