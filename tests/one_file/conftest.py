"""What npm installed."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def node_modules():
    found = Path(__file__).parents[1] / "node_modules"
    if not (found / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed: npm install --prefix tests")
    return found
