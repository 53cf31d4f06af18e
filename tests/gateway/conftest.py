"""A gateway that runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """Return a running gateway (see `running_gateway.Running`)."""
    from .running_gateway import running

    with running(tmp_path) as one:
        yield one
