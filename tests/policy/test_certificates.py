"""What certificates say: each names its mean, what is counted, and what it assumes."""

from __future__ import annotations

import pytest

from exeunt.policy import Certificate, LossCertificate
from exeunt.policy.certificates import CERTAIN

ONE_MEAN = {"n_groups": 40, "rows_per_group": 1}
WEIGHED = {"n_groups": 40, "rows_per_group": 20}
PROMPTS = {**ONE_MEAN, "row": "token"}
WEIGHTS = "where inputs of groups of more than 20 weigh 20/size,"
AGREEMENT, GRADE = {"measure": "agreement"}, {"measure": "grade"}
DIFFER = "inputs, at most 1% of the answers differ from those of the full network in the long run (measured: 0.20%;"
LONG_RUN, POINTS = "the long-run", "is at most 1 points below"
TEXTS = [
    ({}, "input", f"{LONG_RUN} accuracy per input {POINTS} that of"),
    (GRADE, "input", f"{LONG_RUN} mean grade per input {POINTS}"),
    ({"measure": "1 - error"}, "input", f"{LONG_RUN} mean per input of 1 - error {POINTS}"),
    (AGREEMENT, "input", DIFFER),
    (
        {**AGREEMENT, "of": "pixels"},
        "input",
        "calibration inputs, at most 1% of the pixels (mean over inputs) differ",
    ),
    (ONE_MEAN, "group", f"{LONG_RUN} mean over groups of their accuracy {POINTS}"),
    (WEIGHED, "group", f"{LONG_RUN} accuracy per input, {WEIGHTS} {POINTS}"),
    ({**WEIGHED, **GRADE}, "group", f"{LONG_RUN} mean grade per input, {WEIGHTS} {POINTS}"),
    ({**ONE_MEAN, **AGREEMENT, "of": "pixels"}, "group", "1% of the pixels (mean over groups) differ"),
    ({**PROMPTS, **AGREEMENT, "of": "tokens"}, "prompt", "1% of the tokens (mean over prompts) differ"),
    ({**PROMPTS, **AGREEMENT}, "prompt", "at most 1% of the answers differ from those of the full network"),
    ({**PROMPTS, **GRADE}, "prompt", f"{LONG_RUN} mean over prompts of their grade {POINTS} that of"),
]


@pytest.mark.parametrize(("of", "unit", "text"), TEXTS)
def test_a_certificate_of_the_loss_names_its_mean_and_assumes_what_that_of_the_cost_does(of, unit, text):
    proof = LossCertificate(0.01, 0.05, 0.0123, "betting", 0.002, 1200, **of)
    assert text in str(proof)
    assumption = f"future {unit}s are exchangeable with these, and that nothing else was fitted on them"
    assert str(proof).endswith(f"; p = 0.012, betting bound). It assumes that {assumption}.")
    groups = {name: value for name, value in of.items() if name in ONE_MEAN}
    cost = Certificate(2.0, 0.05, "ms", 0.96, 1.5, 1.9, 1200, assumption=assumption, **groups)
    assert str(cost).rpartition(" It assumes")[2] == str(proof).rpartition(" It assumes")[2]


@pytest.mark.parametrize("of", [of for of, *_ in TEXTS])
def test_what_is_certain_assumes_nothing(of):
    proof = LossCertificate(0.0, 0.05, 0.0, CERTAIN, 0.0, 1200, **of)
    assert "assumes" not in str(proof)
    assert "long run" not in str(proof)
    assert str(proof).endswith(" because every input gets the answer of the full network.")


def test_the_assumption_of_the_cost_is_by_default_that_of_the_loss():
    cost = Certificate(2.0, 0.05, "ms", 0.96, 1.5, 1.9, 1200)
    proof = LossCertificate(0.01, 0.05, 0.0123, "betting", 0.002, 1200)
    assert str(proof).endswith(f" It assumes that {cost.assumption}.")
