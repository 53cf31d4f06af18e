"""One run and one server of it for each file of tests."""

from __future__ import annotations

import logging

import pytest
from made_server import Running, made_run, running

from digits_run import exported, trained

__all__ = ["client", "exported", "run", "server", "trained"]


@pytest.fixture(autouse=True)
def logs_reach_the_test(monkeypatch):
    """A test that serves in this process keeps the logs of the server from all others."""
    monkeypatch.setattr(logging.getLogger("exeunt.serve"), "propagate", True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("served") / "pixels")


@pytest.fixture(scope="module")
def server(run) -> Running:
    with running(run, tiers={"gold": "80%"}) as started:
        yield started


@pytest.fixture(scope="module")
def client(server):
    return server.client


@pytest.fixture
def own(tmp_path) -> Running:
    """A server of its own, whose budget a test may change."""
    with running(made_run(tmp_path / "pixels")) as started:
        yield started
