from __future__ import annotations

import pytest

import exeunt as ex
from exeunt.budget_grid import budget_grid


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("50%", ["50%"]),
        ("20%:95%:5%", [f"{share}%" for share in range(20, 100, 5)]),
        ("20:30:5%", ["20%", "25%", "30%"]),
        ("20% : 31% : 5%", ["20%", "25%", "30%"]),
        ("0.1:0.3:0.1", [0.1, 0.2, 0.3]),
        ("1.5ms:2.5ms:0.25ms", ["1.5ms", "1.75ms", "2ms", "2.25ms", "2.5ms"]),
        ("50%,30%,50%", ["50%", "30%"]),
        ("100:100:1", [100.0]),
        ("1e3 kMACs, 20%:30%:10%, 7", ["1000kMACs", "20%", "30%", 7.0]),
    ],
)
def test_budgets_of_a_text(text, budgets):
    assert budget_grid(text) == budgets


@pytest.mark.parametrize(
    "text",
    ["", "half", "20%:95%", "20%:95%:5%:1%", "95%:20%:5%", "20%:95%:0%", "20%:4ms:1", "-5%", "20%,,30%",
     "1:5000:1", "20%:95%:-5%"],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(text):
    with pytest.raises(ex.InputError):
        budget_grid(text)


def test_a_cost_model_understands_them():
    cost = ex.CostModel([1.0, 4.0, 10.0], unit="MMACs")
    assert [cost.budget(b) for b in budget_grid("20%:40%:10%, 5MMACs, 6000kMACs, 7")] == [2, 3, 4, 5, 6, 7]
