"""Scores against their definitions, one input at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exeunt as ex
from exeunt.score.confidence import PROBABILITY_SCORES, Evidence, NamedScore, softmax


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda v: sum(v) > 1e-3))
def test_scores_are_their_definitions(weights):
    p = [w / sum(weights) for w in weights]
    row = np.array([p])
    ranked = sorted(p, reverse=True)
    assert PROBABILITY_SCORES["max_probability"](row)[0] == ranked[0]
    assert PROBABILITY_SCORES["margin"](row)[0] == (ranked[0] - ranked[1] if len(p) > 1 else 1.0)
    assert PROBABILITY_SCORES["entropy"](row)[0] == pytest.approx(
        sum(q * math.log(q) for q in p if q > 0), abs=1e-12
    )


@pytest.mark.parametrize("k", [2, 32, 33, 300])
def test_the_margin_of_many_classes_and_of_equal_ones(k):
    probabilities = np.random.default_rng(k).dirichlet(np.ones(k), size=200)
    probabilities[::2] = probabilities[::2].round(2)
    probabilities[0] = 1 / k
    before = probabilities.copy()
    ranked = np.sort(probabilities, axis=1)
    assert PROBABILITY_SCORES["margin"](probabilities).tolist() == (ranked[:, -1] - ranked[:, -2]).tolist()
    assert np.array_equal(probabilities, before)


@pytest.mark.parametrize("name", PROBABILITY_SCORES)
def test_surer_is_higher_and_no_input_gives_no_score(name):
    score = PROBABILITY_SCORES[name]
    vague, sure, certain = score(np.array([[0.25] * 4, [0.7, 0.1, 0.1, 0.1], [1.0, 0, 0, 0]]))
    assert vague < sure < certain
    assert score(np.empty((0, 4))).shape == (0,)


def test_a_missing_score_names_itself_and_what_there_is():
    with pytest.raises(ex.InputError, match=r"'margin'.*\['entropy'\]"):
        NamedScore("margin")(0, {"entropy": np.zeros(1)}, {})


def test_evidence_holds_every_score_and_the_prediction():
    probabilities = softmax(np.random.default_rng(0).normal(0, 3, (20, 4)))
    evidence = Evidence(probabilities)
    assert list(evidence) == ["prediction", *PROBABILITY_SCORES, "log_probability"]
    assert len(evidence) == 2 + len(PROBABILITY_SCORES)
    assert "margin" in evidence
    assert "score" not in evidence
    np.testing.assert_array_equal(evidence["prediction"], probabilities.argmax(axis=1))
    for name, score in PROBABILITY_SCORES.items():
        np.testing.assert_array_equal(evidence[name], score(probabilities))
    with pytest.raises(KeyError):
        evidence["score"]
