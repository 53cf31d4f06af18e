"""Models of a cascade that are no runs: objects with `predict_proba`."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from digits_run import Brightness
from exeunt.data import open_inputs
from exeunt.jobs.cascade_run import make_cascade
from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import load
from exeunt.runs.verification import verify

WRITTEN = ("format", "version", "files", "sha256")  # by `RunFolder.create`


def quiet(_):
    pass


def both(cascade):
    steps = [entry.step for entry in cascade.cascade]
    made = ex.eero(*(cascade.recorded(part).along(steps) for part in ("fit", "calibrate")), budget="60%")
    return replace(made, cascade=tuple(steps))


def check_answers(cascade, classifier, **given):
    """The first model says what the classifier says, in what is recorded and in what is answered."""
    first = cascade.cascade[0].name
    data = open_inputs("sklearn:digits")
    keys = data.content_keys(range(150))
    images = np.stack([data.content(i) for i in range(150)])
    said = classifier.predict_proba(images)
    trace = cascade.recorded("test")
    rows = [int(np.flatnonzero(trace.id == key)[0]) for key in keys]
    np.testing.assert_array_equal(trace[first].prediction[rows, 0], said.argmax(axis=1))
    policy = both(cascade)
    runner = load(cascade, policy=policy, **given)
    answers = runner(runner.prepare([data.content(i) for i in range(150)]), id=keys)
    exits = policy.route(trace.along(policy.cascade))[rows]
    sure = ~answers.borderline
    assert {*(exits[sure] > 0).tolist()} == {True, False}
    np.testing.assert_array_equal(answers.exit[sure], exits[sure])
    np.testing.assert_array_equal(
        answers.label[sure & (exits == 0)], said.argmax(axis=1)[sure & (exits == 0)]
    )


def test_an_object_of_your_own(exported, tmp_path):
    price = 0.1 * exported.cost.first
    cascade = make_cascade(
        tmp_path / "run", {"mine": Brightness(), "large": exported}, price={"mine": price}, say=quiet
    )
    assert cascade.cost.first == pytest.approx(price)
    for part in ("fit", "calibrate", "test"):
        np.testing.assert_array_equal(cascade.trace(part).id, exported.trace(part).id)
    check_answers(cascade, Brightness(), models={"mine": Brightness()})
    assert {part.state for part in verify(cascade.path)} == {"ok"}
    with pytest.raises(ex.InputError, match="the model 'mine' is an object of your own"):
        load(cascade, policy=both(cascade))
    pytest.importorskip("onnx")
    from exeunt.onnx.one_file import RunInOneFile

    cascade.save_policy(both(cascade))
    with pytest.raises(
        ex.InputError,
        match=r"mine holds no network of PyTorch, .* object of your own: make a cascade without it",
    ):
        RunInOneFile(cascade)
    with pytest.raises(ex.InputError, match="the name of no model: there is mine, large"):
        load(cascade, policy=both(cascade), models={"mien": Brightness()})
    with pytest.raises(ex.InputError, match="'large', whose network is in a file"):
        load(cascade, policy=both(cascade), models={"mine": Brightness(), "large": Brightness()})


def test_what_cannot_be_a_model_is_refused(exported, tmp_path):
    for models, price, says in (
        ({"mine": Brightness(), "large": exported}, {}, "needs a price above 0"),
        ({"mine": Brightness(), "large": exported}, {"mine": 1, "large": 2}, "'large' is none of these"),
        ({"mine": Brightness(), "large": exported}, {"mine": 1, "mien": 2}, "'mien' is none of these"),
        (
            {"../mine": Brightness(), "large": exported},
            {"../mine": 1},
            "a folder of its name, which cannot be '../mine'",
        ),
        ({"mine": object(), "large": exported}, {"mine": 1}, "must have predict_proba"),
        ({"mine": Brightness(), "large": exported}, {"mine": "dear"}, "a price above 0.*got 'dear'"),
        ({"mine": "runs/r18", "large": exported}, {}, "'mine' is a path, 'runs/r18': open a run there"),
        ({"a": Brightness(), "b": Brightness()}, {"a": 1, "b": 2}, "at least one model must be a run"),
    ):
        with pytest.raises(ex.InputError, match=says):
            make_cascade(tmp_path / "run", models, price=price, say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_asked_before_all_models_are_checked(exported, tmp_path):
    """To ask may be paid for."""

    class Paid(Brightness):
        def predict_proba(self, images):
            raise AssertionError("it is asked")

    for last, price, says in (
        (Brightness(), {"paid": 1}, "the model 'last' needs a price above 0"),
        (object(), {"paid": 1, "last": 2}, "must have predict_proba"),
    ):
        with pytest.raises(ex.InputError, match=says):
            make_cascade(
                tmp_path / "run", {"paid": Paid(), "large": exported, "last": last}, price=price, say=quiet
            )
    traces = {part: exported.trace(part) for part in ("fit", "calibrate", "test")}
    away = {part: replace(trace, id=trace.id ^ np.uint64(1 << 63)) for part, trace in traces.items()}
    folder = shutil.copytree(exported.path, tmp_path / "elsewhere")
    about = {name: value for name, value in exported.manifest.items() if name not in WRITTEN}
    split = {**about["split"], "fingerprint": "other"}
    elsewhere = RunFolder.create(folder, cost=exported.cost, traces=away, about={**about, "split": split})
    runs = {"large": exported, "elsewhere": elsewhere}
    with pytest.raises(ex.InputError, match="0 inputs in common"):
        make_cascade(tmp_path / "run", {"paid": Paid(), **runs}, price={"paid": 1}, say=quiet)
