"""The Python of the README runs as it stands, given the arrays and the network that it speaks of."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def _block(starting_with: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    return next(block for block in blocks if block.startswith(starting_with))


def test_statistics_alone(capsys):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 4000)
    logits = rng.normal(size=(4000, 3, 5))
    logits[np.arange(4000), :, y] += [1.0, 2.0, 3.0]
    weights = np.exp(logits)
    given = {"probabilities": weights / weights.sum(axis=2, keepdims=True), "y": y}
    exec(_block("import exeunt as ex"), given)
    printed = capsys.readouterr().out
    assert "Guarantee: with probability" in printed
    assert "accuracy" in printed
    assert given["exits"].shape == given["test"].label.shape


def test_from_a_network(capsys):
    torch = pytest.importorskip("torch")

    example = torch.randn(4, 3, 8, 8)
    given = {
        "model": torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 1) for _ in range(9)], torch.nn.Flatten(),
                                     torch.nn.Linear(192, 10)).eval(),
        "example": example,
        "loader": [(example, torch.tensor([0, 1, 2, 3]))] * 2,
    }  # fmt: skip
    exec(_block("import exeunt.torch"), given)
    assert "(own classifier)" in capsys.readouterr().out
    assert given["trace"].n_exits == 8
