"""A gateway that runs, and a world of records that fits policies; what the tests need beyond the core."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

MISSING = [
    name for name in ("anthropic", "httpx", "openai", "starlette", "typer", "yaml") if find_spec(name) is None
]
ALONE = ("dependence", "evidence", "graders", "labels", "request_stream", "saved_policies")
"""Tests that need none of these."""


class _Skipped(pytest.Module):
    def collect(self) -> Any:
        pytest.skip(f"not installed: {', '.join(MISSING)}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    needs_none = module_path.stem.removeprefix("test_") in ALONE
    return None if needs_none or not MISSING else _Skipped.from_parent(parent, path=module_path)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """Return a running gateway (see `running_gateway.Running`)."""
    from .running_gateway import running

    with running(tmp_path) as one:
        yield one


@pytest.fixture(scope="package")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a running gateway that tests share, who ask it, and leave it as it was."""
    from .running_gateway import running

    with running(tmp_path_factory.mktemp("standing")) as one:
        yield one


@pytest.fixture(scope="package", autouse=True)
def _few_plans() -> Iterator[None]:
    """Let policies be chosen among fewer plans: that is most of the time that a proposal takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exeunt.policy.certificate_search._WIDE", 17)
        patch.setattr("exeunt.policy.certificate_search._NEAR", 8)
        yield


@pytest.fixture(scope="package")
def filled(tmp_path_factory: pytest.TempPathFactory, _few_plans: None) -> Any:
    """Return a world with two proposals, and policies that are certified; tests take copies."""
    from .world import DAYS, World

    world = World(tmp_path_factory.mktemp("filled"))
    world.passed = [world.day() for _ in range(DAYS)]
    world.records.close()
    return world
