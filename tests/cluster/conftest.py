"""A Ray cluster of this machine, started once."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def cluster():
    from exeunt.cluster.session import connected

    with connected() as ray:
        yield ray
