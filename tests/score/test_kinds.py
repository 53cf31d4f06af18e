"""What every kind of score guarantees: one answer from memory, file, batch or array type; and what each computes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from exeunt.policy.learned_quality import correctness_score
from exeunt.rules.stopping import learned
from exeunt.score.kinds import KINDS, ConfidentPatience, ConstantScore, Derived, Patience, score_from_dict
from exeunt.score.learned import Grid, LearnedScore
from exeunt.trace.derived import score_matrix

EVERY = pytest.mark.parametrize(
    "made",
    [
        lambda data: learned(data).at(float(data.cost.full) / 2)[0],
        correctness_score,
        lambda _: Patience(),
        lambda _: ConfidentPatience("margin", 3),
        lambda _: ConstantScore(),
    ],
    ids=["advantage", "correctness", "patience", "confident patience", "constant"],
)


@EVERY
@pytest.mark.parametrize("m", [1, 2, 4])
def test_a_score_survives_json_to_the_last_bit(made, m, make_logit_trace):
    data = make_logit_trace(120, m)
    score = made(data)
    again = score_from_dict(json.loads(json.dumps(score.to_dict())))
    assert np.array_equal(score_matrix(score, data), score_matrix(again, data))


@EVERY
def test_dropping_inputs_changes_no_score_of_the_others(made, make_logit_trace):
    data = make_logit_trace(60)
    score = made(data)
    whole = score_matrix(score, data)
    alive, memory = np.arange(data.n), score.init(data.n)
    for exit_ in range(data.n_exits):
        column, memory = score(exit_, data.evidence(exit_, alive), memory)
        assert np.array_equal(column, whole[alive, exit_])
        keep = np.arange(len(alive)) % 3 != exit_ % 3
        alive, memory = alive[keep], {name: value[keep] for name, value in memory.items()}


@EVERY
def test_torch_tensors_give_the_same_scores(made, make_logit_trace):
    torch = pytest.importorskip("torch")
    data = make_logit_trace(40)
    score = made(data)
    memory, plain = score.init(data.n), score.init(data.n)
    for exit_ in range(data.n_exits):
        evidence = data.evidence(exit_)
        tensors = {name: torch.tensor(value) for name, value in evidence.items()}
        column, memory = score(exit_, tensors, memory)
        expected, plain = score(exit_, evidence, plain)
        assert column.numpy() == pytest.approx(expected, abs=1e-12)


def test_patience_counts_agreements_in_a_row():
    prediction = np.array([[1, 1, 1, 2, 2], [3, 4, 4, 4, 4]])
    data = ex.ExitTrace.from_scores(np.ones((2, 5)), prediction, cost=ex.CostModel(np.arange(1.0, 6)))
    assert score_matrix(Patience(), data).tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]


@pytest.mark.parametrize("patience", [1, 2, 3, 4])
def test_confident_patience_is_the_least_of_the_last_exits(patience):
    score = np.random.default_rng(0).uniform(size=(30, 6))
    score[3, 2:4], score[4, 3] = np.inf, -np.inf
    data = ex.ExitTrace.from_scores(score, np.zeros((30, 6), int), cost=ex.CostModel(np.arange(1.0, 7)))
    found = score_matrix(ConfidentPatience("score", patience), data)
    for exit_ in range(6):
        if exit_ < patience - 1:
            assert (found[:, exit_] == -np.inf).all()
        else:
            assert np.array_equal(found[:, exit_], score[:, exit_ - patience + 1 : exit_ + 1].min(axis=1))


def test_ranks_are_those_of_the_recorded_scores():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 3)) ** 3
    grid = Grid.of({"margin": values}, "margin")
    rank = grid.rank("margin", values.ravel())
    true = (np.argsort(np.argsort(values.ravel())) + 0.5) / values.size
    # Linear between 24 quantiles, so off by less than one of these steps.
    assert np.abs(rank - true).max() < 1 / 24
    assert grid.rank("margin", np.array([-1e9, 1e9])).tolist() == [0.0, 1.0]


def test_missing_evidence_is_named():
    score = LearnedScore(Grid({"margin": (0.0, 1.0)}), np.ones((1, 7)), np.ones((1, 6)), np.zeros(1), True)
    with pytest.raises(ex.InputError, match="margin"):
        score(0, {"prediction": np.zeros(3)}, {})


def test_a_constant_score_has_a_rank():
    grid = Grid.of({"score": np.full((10, 2), 0.3)}, "score")
    assert grid.rank("score", np.array([0.3, 0.7])).tolist() == [0.5, 0.5]
    assert grid.rank("score", np.array([np.inf, -np.inf])).tolist() == [0.5, 0.5]


class _Ratio:
    """A score of one's own: the second probability beside the first, negative."""

    def __call__(self, evidence):
        return -np.sort(evidence["probabilities"], axis=-1)[..., -2]

    def to_dict(self):
        return {"kind": "ratio"}


def test_a_score_that_could_not_be_read_back_is_refused_before_a_file_is_written(
    make_logit_trace, tmp_path, monkeypatch
):
    parts = make_logit_trace(300, 3).split(fit=0.5, calibrate=0.3, test=0.2)
    policy = replace(ex.eero(*parts[:2], budget="70%"), score=_Ratio())
    derived = replace(policy, score=Derived(_Ratio(), "ratio", Patience()))
    for kept in (policy, derived, ex.PolicySet((policy,))):
        with pytest.raises(ex.InputError, match=r"'ratio': known are .*KINDS\['ratio'\] = a function"):
            kept.save(tmp_path / "policy.json")
    assert not [*tmp_path.iterdir()]
    monkeypatch.setitem(KINDS, "ratio", lambda _: _Ratio())
    policy.save(tmp_path / "policy.json")
    assert isinstance(ex.Policy.load(tmp_path / "policy.json").score, _Ratio)
