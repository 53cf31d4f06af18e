"""`exeunt.load` opens a run, a policy or a trace by what its path holds."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from exeunt.runs import Runner


def test_it_opens_what_there_is(exported, tmp_path):
    run = exported
    fit, calibrate = run.trace("fit"), run.trace("calibrate")
    policies = [ex.eero(fit, calibrate, budget=budget) for budget in ("60%", "80%")]
    policies[0].save(tmp_path / "policy.json")
    ex.PolicySet(tuple(policies)).save(tmp_path / "set.json")
    fit.save(tmp_path / "trace.parquet")
    (tmp_path / "recorded").mkdir()
    shutil.copy(tmp_path / "trace.parquet", tmp_path / "recorded" / "part-0.parquet")
    assert ex.load(tmp_path / "policy.json") == policies[0]
    assert ex.load(str(tmp_path / "set.json")).policies[1] == policies[1]
    assert ex.load(tmp_path / "trace.parquet").n == fit.n
    assert ex.load(tmp_path / "recorded").n == fit.n
    for path in (run.path, run):
        opened = ex.load(path, policy=policies[0], executor="onnx")
        assert isinstance(opened, Runner)
        assert opened.policy == policies[0]


def test_it_says_what_is_not_there(tmp_path):
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(ex.ArtefactError, match="not complete JSON"):
        ex.load(tmp_path / "damaged.json")
    with pytest.raises(ex.InputError, match="does not exist: give a run folder"):
        ex.load(tmp_path / "nothing")
    with pytest.raises(ex.InputError, match="there is no file"):
        ex.load(tmp_path / "nothing.json")
    with pytest.raises(ex.InputError, match="executor: such options are of a run"):
        ex.load(tmp_path / "damaged.json", executor="onnx")


def test_classifiers_answer_new_inputs_by_a_policy_of_traces(tmp_path):
    """Each input gets the answer of replay, and the second model is asked about what the first passes on."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 900)
    rows = np.eye(3)[label] + rng.normal(size=(900, 3)) * 0.5
    asked = []

    def classifier(sharpness, order, noise):
        def predict_proba(x):
            asked.append(len(x))
            shares = np.exp(sharpness * (x + noise * np.sin(37 * x)))
            return (shares / shares.sum(axis=1, keepdims=True))[:, order]

        return SimpleNamespace(predict_proba=predict_proba, classes_=np.array(["a", "b", "c"])[order])

    models = {"small": classifier(3, [0, 1, 2], 0.5), "large": classifier(5, [2, 0, 1], 0)}
    recorded = {
        name: ex.ExitTrace.from_probabilities(
            model.predict_proba(rows)[:, np.argsort(model.classes_)][:, None],
            cost=ex.CostModel([price], unit="ms"),
            label=label,
            id=np.arange(900),
        )
        for (name, model), price in zip(models.items(), (1, 10), strict=True)
    }
    traces = ex.CascadeTrace(recorded)
    fit, calibrate, _ = traces.split(seed=0)
    policy = ex.cascade(fit, calibrate, budget="60%", order=["small", "large"], policy="eero")
    assert policy.models == ("small", "large")
    policy.save(tmp_path / "policy.json")
    for source in (policy, tmp_path / "policy.json"):
        asked.clear()
        answers = ex.load(source, models=models)(rows)
        sure = ~answers.borderline
        assert sure.mean() > 0.95
        np.testing.assert_array_equal(answers.label[sure], policy.answers(traces)[sure])
        assert sum(asked) == 900 + (answers.exit == 1).sum() < 1800
    bare = {name: SimpleNamespace(predict_proba=model.predict_proba) for name, model in models.items()}
    network = ex.eero(
        recorded["small"].take(slice(0, 400)), recorded["small"].take(slice(400, 900)), budget="100%"
    )
    refusals = {
        "policy asks 'large', and there are small: give": lambda: ex.load(
            policy, models={"small": models["small"]}
        ),
        "no classes_: give classes=": lambda: ex.load(policy, models=bare),
        "policy of models with one exit each": lambda: ex.load(network, models=models),
        "must have predict_proba": lambda: ex.load(policy, models=dict.fromkeys(models, 5), classes="abc"),
    }
    for told, call in refusals.items():
        with pytest.raises(ex.InputError, match=told):
            call()
