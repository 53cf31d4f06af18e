"""What the tests of policies share."""

from __future__ import annotations

import pytest

import exeunt as ex


@pytest.fixture
def fit(parts: tuple[ex.ExitTrace, ...]) -> ex.ExitTrace:
    return parts[0]


@pytest.fixture
def calibrate(parts: tuple[ex.ExitTrace, ...]) -> ex.ExitTrace:
    return parts[1]
