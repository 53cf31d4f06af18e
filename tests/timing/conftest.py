"""Clocks of these tests are made up: what the garbage collector takes is in no time of theirs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _nothing_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gc.collect", lambda: 0)
