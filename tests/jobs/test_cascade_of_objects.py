"""Models of a cascade that are no runs: objects with `predict_proba`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from job_inputs import PARTS, copied, of_other_inputs, quiet

import exeunt as ex
from digits_run import Brightness
from exeunt.data import open_inputs
from exeunt.jobs.cascade_run import make_cascade
from exeunt.runs.runner import load
from exeunt.runs.verification import verify


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
    answers = runner(runner.prepare(images), id=keys)
    exits = policy.route(trace.along(policy.cascade))[rows]
    sure = ~answers.borderline
    assert {*(exits[sure] > 0).tolist()} == {True, False}
    np.testing.assert_array_equal(answers.exit[sure], exits[sure])
    first_says = sure & (exits == 0)
    np.testing.assert_array_equal(answers.label[first_says], said.argmax(axis=1)[first_says])


def test_an_object_of_your_own(exported, tmp_path):
    price, models = 0.1 * exported.cost.first, {"mine": Brightness(), "large": exported}
    cascade = make_cascade(tmp_path / "run", models, price={"mine": price}, say=quiet)
    assert cascade.cost.first == pytest.approx(price)
    for part in PARTS:
        np.testing.assert_array_equal(cascade.trace(part).id, exported.trace(part).id)
    check_answers(cascade, Brightness(), models={"mine": Brightness()})
    assert {part.state for part in verify(cascade.path)} == {"ok"}
    policy = both(cascade)
    for given, said in (
        ({}, "the model 'mine' is an object of your own"),
        ({"models": {"mien": Brightness()}}, "the name of no model: there is mine, large"),
        ({"models": {"mine": Brightness(), "large": Brightness()}}, "'large', whose network is in a file"),
    ):
        with pytest.raises(ex.InputError, match=said):
            load(cascade, policy=policy, **given)
    pytest.importorskip("onnx")
    from exeunt.onnx.one_file import RunInOneFile

    cascade.save_policy(policy)
    said = r"mine holds no network of PyTorch, .* object of your own: make a cascade without it"
    with pytest.raises(ex.InputError, match=said):
        RunInOneFile(cascade)


def test_what_cannot_be_a_model_is_refused(exported, tmp_path):
    mine = {"mine": Brightness(), "large": exported}
    for models, price, says in (
        (mine, {}, "needs a price above 0"),
        (mine, {"mine": "dear"}, "a price above 0.*got 'dear'"),
        (mine, {"mine": 1, "large": 2}, "'large' is none of these"),
        (mine, {"mine": 1, "mien": 2}, "'mien' is none of these"),
        ({"../a": Brightness(), **mine}, {"../a": 1}, "a folder of its name, which cannot be '../a'"),
        (mine | {"mine": object()}, {"mine": 1}, "must have predict_proba"),
        (mine | {"mine": "runs/r18"}, {}, "'mine' is a path, 'runs/r18': open a run there"),
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

    elsewhere = of_other_inputs(copied(exported, tmp_path / "elsewhere"))
    for last, price, says in (
        (Brightness(), {"paid": 1}, "the model 'last' needs a price above 0"),
        (object(), {"paid": 1, "last": 2}, "must have predict_proba"),
        (elsewhere, {"paid": 1}, "0 inputs in common"),
    ):
        models = {"paid": Paid(), "large": exported, "last": last}
        with pytest.raises(ex.InputError, match=says):
            make_cascade(tmp_path / "run", models, price=price, say=quiet)
