"""A store in memory with a clock that is set by hand; of every kind, for tests with the mark `EVERY_KIND`."""

import pytest
from made_stores import made_store


@pytest.fixture
def store_and_clock(request):
    with made_store(getattr(request, "param", "memory")) as made:
        yield made


@pytest.fixture
def store(store_and_clock):
    return store_and_clock[0]


@pytest.fixture
def clock(store_and_clock):
    return store_and_clock[1]
