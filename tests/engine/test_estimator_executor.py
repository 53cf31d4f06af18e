"""A classifier with `predict_proba` as a network of one exit, and on disk."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from exeunt.runs.estimator_executor import EstimatorExecutor
from exeunt.runs.executors import EXECUTORS, chosen_executor, is_ready, open_executor
from exeunt.runs.folder import RunFolder
from made_runs import ABOUT, made_trace, parts_of

NAMES = ["ant", "bee", "cow", "dog"]


class ByLength:
    """Probabilities by the length of a text: a column for each class in `classes_`."""

    def __init__(self, classes=None):
        if classes is not None:
            self.classes_ = np.array(classes)
        self.k = 4 if classes is None else len(classes)

    def predict_proba(self, texts):
        rows = np.array([[1.0 + (len(text) % self.k == j) for j in range(self.k)] for text in texts])
        return rows.reshape(-1, self.k) / (self.k + 1)


def texts(*given):
    rows = np.empty(len(given), dtype=object)
    rows[:] = given
    return rows


def test_logits_are_log_probabilities_by_class():
    rows = texts("", "a", "bb", "ccc")
    executor = EstimatorExecutor(ByLength(), n_classes=4)
    (logits,), _ = executor.run(0, executor.start(rows)[0], [0])
    np.testing.assert_allclose(np.exp(logits), ByLength().predict_proba(rows), rtol=1e-6)
    assert executor.run(0, rows, [])[0] == []
    # Columns in another order, a class that it does not know, names in place of numbers.
    for classes in ([3, 0], ["dog", "ant"]):
        executor = EstimatorExecutor(ByLength(classes), n_classes=4, class_names=NAMES)
        (logits,), _ = executor.run(0, executor.start(rows)[0], [0])
        own = ByLength(classes).predict_proba(rows)
        np.testing.assert_allclose(np.exp(logits[:, [3, 0]]), own, rtol=1e-6)
        assert np.exp(logits[:, [1, 2]]).max() < 1e-30
        assert np.isfinite(logits).all()


def test_rows_are_dropped_and_joined():
    executor = EstimatorExecutor(ByLength(), n_classes=4)
    rows = texts("a", "b", "c", "d")
    kept, order = executor.compact(rows, np.array([1, 3]))
    assert (kept.tolist(), order.tolist(), rows.tolist()) == (["b", "d"], [1, 3], ["a", "b", "c", "d"])
    joined = executor.gather([(kept, None), (rows, slice(0, 2)), (rows, np.array([3]))])
    assert joined.tolist() == list("bdabd")


@pytest.mark.parametrize(
    ("estimator", "options", "says"),
    [
        (object(), {}, "must have predict_proba"),
        (ByLength(["ant", "elk"]), {"class_names": NAMES}, "'elk', and the run has 4 classes, ant, bee"),
        (ByLength([0, 4]), {}, "knows the class 4"),
        (ByLength(), {"n_classes": 3}, r"probabilities \(2, 3\).* got \(2, 4\)"),
        (ByLength(), {"segments": ((0, 1),)}, "segments"),
    ],
)
def test_what_is_no_classifier_of_the_run_is_refused(estimator, options, says):
    with pytest.raises(ex.InputError, match=says):
        EstimatorExecutor(estimator, **{"n_classes": 4, **options}).run(0, texts("a", "b"), [0])


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ([[0.4, 0.6], [3.0, -2.0]], r"from -2 that sums to 1"),
        ([[1.0, 1.0], [0.5, 0.5]], r"from 1 that sums to 2"),
        ([[0.0, 0.0], [0.5, 0.5]], r"from 0 that sums to 0"),
        ([[40, 60], [50, 50]], r"from 40 that sums to 100"),
        ([[0.33, 0.66], [np.nan, 0.5]], None),  # rounded; and a row without an answer
        ([[0, 1], [1, 0]], None),
    ],
)
def test_what_are_no_probabilities_is_refused(said, says):
    """Logits, or scores of their own, were taken for probabilities without a word."""
    executor = EstimatorExecutor(SimpleNamespace(predict_proba=lambda _: said), n_classes=2)
    if says is None:
        (logits,), _ = executor.run(0, texts("a", "b"), [0])
        assert np.isfinite(logits[0]).all()
    else:
        with pytest.raises(ex.InputError, match=says):
            executor.run(0, texts("a", "b"), [0])


def made_run(folder, network, **model):
    """A run of one exit, whose network is this file in the folder."""
    trace, made = made_trace().exits(0, 1), {"spec": "made", "n_classes": 4, "macs": 8.0, **model}
    about = {**ABOUT, "model": made, "network": {"exits": []}, "inputs": {"kind": "text", "raw": True}}
    return RunFolder.create(folder, cost=trace.cost, traces=parts_of(trace), about=about, network=network)


def test_an_object_is_given_again(tmp_path):
    (tmp_path / "object.json").write_text(json.dumps({"model": "mine"}))
    run = made_run(tmp_path, "object.json", model="mine")
    assert chosen_executor(run) == "object"
    with pytest.raises(ex.InputError, match=r"exeunt.load\(cascade, models=\{'mine': \.\.\.\}\)"):
        open_executor(run, "object")
    given = RunFolder(run.path, run.manifest, objects={"mine": ByLength()})
    assert open_executor(given, "object").n_exits == 1
    with pytest.raises(ex.InputError, match="this takes a run that holds the weights"):
        _ = run.weights


def test_an_estimator_on_disk_holds_what_is_trusted(tmp_path):
    pytest.importorskip("sklearn")
    skops = pytest.importorskip("skops.io")
    from sklearn.linear_model import LogisticRegression

    from exeunt.runs.estimator_executor import check_estimator, load_estimator, save_estimator

    rows, labels = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 4
    fitted = LogisticRegression().fit(rows, labels)
    save_estimator(fitted, tmp_path / "model.skops")
    run = made_run(tmp_path, "model.skops")
    np.testing.assert_array_equal(load_estimator(run).predict_proba(rows), fitted.predict_proba(rows))
    assert check_estimator(run) == "nothing but trusted types"
    assert is_ready(run, EXECUTORS["sklearn"])
    with pytest.raises(ex.InputError, match=r"ByLength holds .*ByLength, which no file should bring"):
        save_estimator(ByLength(), tmp_path / "other.skops")
    skops.dump(ByLength(), tmp_path / "model.skops")
    with pytest.raises(ex.ArtefactError, match="ByLength, which exeunt does not write: it is not opened"):
        load_estimator(made_run(tmp_path, "model.skops"))
    (tmp_path / "model.skops").write_bytes(b"damaged")
    with pytest.raises(ex.ArtefactError, match="the estimator of scikit-learn"):
        load_estimator(RunFolder.open(tmp_path))
