"""A run of runs: what its models recorded, put together; answered by their executors, one after the other."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from job_inputs import PARTS, about_of, copied, made_anew, of_other_inputs, quiet, traces_of

import exeunt as ex
from exeunt._support.files import file_digest
from exeunt.data import open_inputs
from exeunt.jobs.cascade_run import make_cascade
from exeunt.jobs.precision_run import make_precision
from exeunt.jobs.timed_run import choose_by_time
from exeunt.policy.calibration import Thresholds
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.cascade import CASCADE
from exeunt.runs.manifest import sealed_manifest, write_cascade
from exeunt.runs.runner import load
from exeunt.runs.verification import verify


@pytest.fixture(scope="module")
def models(trained, exported, tmp_path_factory) -> dict[str, RunFolder]:
    """The same network twice: in PyTorch, and cheaper, for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("models")
    return {name: copied(run, folder / name) for name, run in (("small", exported), ("large", trained))}


@pytest.fixture(scope="module")
def cascade(models, tmp_path_factory) -> RunFolder:
    return make_cascade(tmp_path_factory.mktemp("cascade") / "run", models, say=quiet)


def test_it_has_what_all_models_recorded(cascade, models):
    for part in PARTS:
        recorded = cascade.recorded(part)
        for name, run in models.items():
            own = run.trace(part)
            np.testing.assert_array_equal(recorded[name].prediction, own.prediction)
            np.testing.assert_allclose(recorded[name].cost.cumulative, own.cost.cumulative, rtol=1e-12)
        np.testing.assert_array_equal(cascade.trace(part).id, models["large"].trace(part).id)
    costs = [run.cost.cumulative for run in models.values()]
    np.testing.assert_allclose(cascade.cost.cumulative, [*costs[0], *(costs[0][-1] + costs[1])])
    assert cascade.cost.reference == models["large"].cost.full
    assert {part.state for part in verify(cascade.path)} == {"ok"}


def both(cascade, budget="120%", **options):
    """A policy that asks both models: `ex.cascade` would see that one is a copy of the other."""
    steps = tuple(entry.step for entry in cascade.cascade)
    traces = [cascade.recorded(part).along([*steps]) for part in ("fit", "calibrate")]
    return replace(ex.eero(*traces, budget=budget, **options), cascade=steps)


def test_answers_are_those_of_replay(cascade, models):
    policy = both(cascade)
    runner = load(cascade, policy=policy)
    trace = cascade.recorded("test").along(policy.cascade)
    data = open_inputs("sklearn:digits")
    raw = runner.prepare([data.content(i) for i in range(200)])
    assert raw.dtype == np.uint8
    keys = data.content_keys(range(200))
    answers = runner(raw, id=keys)
    rows = [int(np.flatnonzero(trace.id == key)[0]) for key in keys]
    exits = policy.route(trace)[rows]
    sure = ~answers.borderline
    assert sure.mean() > 0.9
    assert len(set(exits[sure] // 3)) == 2  # both models answer some
    np.testing.assert_array_equal(answers.exit[sure], exits[sure])
    np.testing.assert_array_equal(answers.label[sure], trace.prediction[rows, exits][sure])
    np.testing.assert_allclose(answers.cost[sure], policy.cost.cumulative[exits][sure])


def test_one_file_holds_all_models(cascade, models, exported, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from exeunt.onnx.one_file import RunInOneFile

    cascade.save_policy(both(cascade))
    with pytest.raises(ex.InputError, match=r"large was not exported: run `exeunt export"):
        RunInOneFile(cascade)
    twice = {"small": models["small"], "large": copied(exported, tmp_path / "large")}
    whole = make_cascade(tmp_path / "run", twice, say=quiet)
    whole.save_policy(both(whole, answer="ensemble"))
    RunInOneFile(whole).save(tmp_path / "one.onnx")
    alone = onnxruntime.InferenceSession(tmp_path / "one.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in alone.get_inputs()] == ["small/x", "key"]  # both prepare it alike
    data = open_inputs("sklearn:digits")
    raw = [data.content(i) for i in range(100)]
    keys = data.content_keys(range(100))
    expected = load(whole)(load(whole).prepare(raw), id=keys)
    prepared = load(exported).prepare(raw)
    for i in np.flatnonzero(~expected.borderline):
        found = alone.run(["label", "exit", "cost"], {"small/x": prepared[i : i + 1], "key": keys[i : i + 1]})
        assert tuple(found) == (expected.label[i], expected.exit[i], expected.cost[i])
    assert len(set(expected.exit.tolist())) > 2


def test_one_file_takes_no_inputs_for_a_model_that_nobody_reaches(models, exported, tmp_path):
    """The page would give them, and ONNX Runtime refuses what a model does not take."""
    pytest.importorskip("onnx")
    from exeunt.onnx.one_file import RunInOneFile

    other = copied(exported, tmp_path / "other")
    other = made_anew(other, inputs={**other.manifest["inputs"], "mean": [0.5, 0.5, 0.5]})
    whole = make_cascade(tmp_path / "run", {"small": models["small"], "other": other}, say=quiet)
    for last, takes in ((1, [("small/x",)]), (4, [("small/x",), ("other/x",)])):
        limits = np.where(np.arange(6) < last, 0.5, -np.inf)
        whole.save_policy(replace(both(whole), limits=Thresholds(limits, limits)))
        alone = RunInOneFile(whole)
        assert [one.inputs for one in alone.preparations] == takes
        assert {value.name for value in alone.model.graph.input} == {"key", *(name for (name,) in takes)}
        (ways,) = (one.value for one in alone.model.metadata_props if one.key == "prepare")
        assert [tuple(way["inputs"]) for way in json.loads(ways)] == takes


def test_a_policy_may_leave_models_and_exits_out(cascade):
    """What is not run is not opened, and costs nothing."""
    made = ex.cascade(*(cascade.recorded(part) for part in ("fit", "calibrate")), budget="60%")
    assert len(made.models) == 1  # a copy adds nothing
    runner = load(cascade, policy=made)
    assert [len(made.models), runner.executor.n_exits] == [len(runner.executor.models), made.n_exits]
    cascade.save_policy(made)
    assert RunFolder.open(cascade.path).policy == replace(made, run=cascade.digest)
    with pytest.raises(ex.ArtefactError, match="calibrated for another network"):
        cascade.save_policy(ex.eero(cascade.trace("fit"), cascade.trace("calibrate"), budget="60%"))


def test_parts_that_differ_are_divided_anew(models, trained, tmp_path):
    """One model calls the others' inputs to fit inputs to calibrate: none has learned from either."""
    other = copied(trained, tmp_path / "other")
    swapped = {"fit": "calibrate", "calibrate": "fit", "test": "test"}
    split = other.manifest["split"]
    parts = split["parts"] | {part: split["parts"][of] for part, of in swapped.items()}
    traces = {part: other.trace(of) for part, of in swapped.items()}
    other = made_anew(other, traces, split={**split, "parts": parts})
    said = []
    made = make_cascade(tmp_path / "run", {"small": models["small"], "other": other}, say=said.append)
    assert "divided anew" in said[0]
    ids = np.concatenate([made.trace(part).id for part in PARTS])
    assert len(np.unique(ids)) == len(ids)
    for name, run in (("small", models["small"]), ("other", other)):
        trace = ex.trace.concatenate([*traces_of(run).values()])
        for part in PARTS:
            own = made.recorded(part)[name]
            row = int(np.flatnonzero(trace.id == own.id[5])[0])
            np.testing.assert_array_equal(own.prediction[5], trace.prediction[row])


def test_what_cannot_be_a_cascade_is_refused(cascade, models, trained, tmp_path):
    small, other = models["small"], copied(trained, tmp_path / "other")
    letters = made_anew(copied(trained, tmp_path / "letters"), class_names=list("abcdefghij"))
    pairs, texts = (RunFolder(other.path, {**other.manifest, "data": {"text": one}}) for one in ("ab", "a"))
    for given, said in (
        ({"small": small}, "at least two models, got small"),
        ({"cascade": cascade, "small": small}, "a model of a cascade must be one network"),
        ({"small": small, "other": letters}, "takes classes 0, 1, 2, 3, 4 and 5 more, other takes a, b, c"),
        ({"one": pairs, "other": texts}, "one takes texts an input: 2, other takes 1"),
        ({"one": small, "other": of_other_inputs(other)}, "0 inputs in common that none has learned from"),
    ):
        with pytest.raises(ex.InputError, match=said):
            make_cascade(tmp_path / "run", given, say=quiet)


def test_models_may_name_the_columns_of_their_data_or_not(models, trained, tmp_path):
    """The column that is found by itself may as well be named. Inputs are matched by their content."""
    other = copied(trained, tmp_path / "other")
    other = made_anew(other, data={**other.manifest["data"], "text": ["image"]})
    made = make_cascade(tmp_path / "run", {"small": models["small"], "other": other}, say=quiet)
    assert made.trace("test").n == other.trace("test").n


PIXELS = np.zeros((4, 8, 8, 3), np.uint8)


def test_what_a_cascade_cannot_be_is_said_before_anything_is_timed_or_recorded(cascade):
    said = []
    told = r"holds the models of the cascade, and this takes a run that holds the weights"
    with pytest.raises(ex.InputError, match=told):
        make_precision(cascade, "int8", say=said.append)
    told = r"by 'onnx': .* cascade\.json, which only 'cascade' runs: leave"
    with pytest.raises(ex.InputError, match=told):
        choose_by_time(cascade, ex.eero, ["60%"], PIXELS, executor="onnx", say=said.append)
    assert said == []


def test_models_that_run_whole_are_not_timed(models, trained, tmp_path):
    whole = copied(trained, tmp_path / "whole")
    model = {**whole.manifest["model"], "runs_whole": "line 7 turns it into a constant"}
    whole = made_anew(whole, model=model)
    cascade = make_cascade(tmp_path / "run", {"small": models["small"], "whole": whole}, say=quiet)
    said = []
    for run in (cascade, whole):
        with pytest.raises(ex.InputError, match=r"whole runs whole, .* line 7 turns it"):
            choose_by_time(run, ex.eero, ["60%"], PIXELS, say=said.append)
    assert said == []


@pytest.fixture
def runs(models, tmp_path):
    """Copies of the models, which a test may change."""
    return {name: copied(run, tmp_path / name) for name, run in models.items()}


def test_a_cascade_takes_the_place_of_a_cascade_alone(runs, models, tmp_path):
    other = copied(models["large"], tmp_path / "other")
    for out, said in (
        (runs["large"].path, r"model 'large' lies in .*large, which the cascade replaces"),
        (tmp_path, "lies in"),
        (other.path, r"other holds something else: choose another --out"),
    ):
        with pytest.raises(ex.InputError, match=said):
            make_cascade(out, runs, say=quiet)
    assert all(run.trace("fit").n for run in (*runs.values(), other))
    (tmp_path / "run").mkdir()
    first = make_cascade(tmp_path / "run", runs, say=quiet)
    first.save_policy(both(first))
    again = make_cascade(first.path, runs, say=quiet, seed=1)
    assert not again.has_policy


def test_models_are_found_from_a_folder_behind_a_link(runs, tmp_path):
    """Of a link to another disk, ".." is that disk's."""
    (tmp_path / "disk" / "much" / "deeper").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk" / "much" / "deeper")
    made = make_cascade(tmp_path / "runs" / "both", runs, say=quiet)
    assert [entry.folder(made.path) for entry in made.cascade] == [run.path for run in runs.values()]


def test_a_model_that_moved_or_changed_is_noticed(runs, tmp_path):
    made = make_cascade(tmp_path / "run", runs, say=quiet)
    policy = both(made)
    runs["small"].path.rename(tmp_path / "away")
    with pytest.raises(ex.InputError, match=r"the model 'small' of .* where nothing is"):
        load(made, policy=policy)
    (tmp_path / "away").rename(runs["small"].path)
    made_anew(runs["small"], training={"again": True})
    with pytest.raises(ex.ArtefactError, match="was made anew since the cascade was"):
        load(made, policy=policy)
    assert [part.part for part in verify(made.path) if part.state != "ok"] == ["cascade"]


def test_a_cascade_with_other_models_than_it_had_is_refused(cascade, tmp_path):
    run = copied(cascade, tmp_path / "run")
    first, *others = cascade.cascade

    def edited(models):
        write_cascade(run.path / CASCADE, models)
        files = {**run.manifest["files"], CASCADE: file_digest(run.path / CASCADE)}
        return RunFolder(run.path, sealed_manifest(about_of(run), files))

    with pytest.raises(ex.ArtefactError, match=r"cascade.json is for \d exits, the network has"):
        _ = edited([first]).cascade
    renamed = edited([replace(first, name="né"), *others])
    policy = replace(both(cascade), run=renamed.digest)
    policy.save(run.path / "policy.json")
    with pytest.raises(ex.ArtefactError, match=r"policy.json is of other models than"):
        _ = renamed.policy
