"""The recorded executor under a policy that uses every exit: what most tests of the engine run."""

from __future__ import annotations

import pytest
from made_executors import trace_case
from test_contract import SHARES, made_policy


@pytest.fixture(scope="module")
def case():
    return trace_case()


@pytest.fixture
def policy(case):
    return made_policy(case.trace, SHARES["mixed"])


@pytest.fixture
def trace(case):
    return case.trace
