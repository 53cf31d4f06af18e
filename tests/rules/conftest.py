"""What the tests of rules share."""

from __future__ import annotations

import pytest

import exeunt as ex

Models = ex.ExitTrace | ex.CascadeTrace


@pytest.fixture
def fit(parts: tuple[Models, ...]) -> Models:
    return parts[0]


@pytest.fixture
def calibrate(parts: tuple[Models, ...]) -> Models:
    return parts[1]
