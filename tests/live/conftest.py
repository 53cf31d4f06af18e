"""What the tests of live models share."""

import pytest

from exeunt.live import live_model


@pytest.fixture
def quick(monkeypatch):
    """Retries that wait a hundredth of a second."""
    monkeypatch.setattr(live_model, "_FIRST_WAIT_S", 0.01)
