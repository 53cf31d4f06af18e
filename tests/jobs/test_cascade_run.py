"""A run of runs: what its models recorded, put together; answered by their executors, one after the other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from exeunt._support.files import file_digest
from exeunt.data import open_inputs
from exeunt.jobs import predict_inputs
from exeunt.jobs.cascade_run import make_cascade
from exeunt.policy.calibration import Thresholds
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.cascade import CASCADE
from exeunt.runs.manifest import sealed_manifest, write_cascade
from exeunt.runs.runner import load
from exeunt.runs.verification import verify


def quiet(_):
    pass


def about_of(run: RunFolder) -> dict:
    """What a run was made with."""
    written = ("format", "version", "files", "sha256")
    return {name: value for name, value in run.manifest.items() if name not in written}


def copied(run: RunFolder, folder) -> RunFolder:
    return RunFolder.open(shutil.copytree(run.path, folder))


@pytest.fixture(scope="module")
def models(trained, exported, tmp_path_factory) -> dict[str, RunFolder]:
    """The same network twice: in PyTorch, and cheaper, for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("models")
    return {"small": copied(exported, folder / "small"), "large": copied(trained, folder / "large")}


@pytest.fixture(scope="module")
def cascade(models, tmp_path_factory) -> RunFolder:
    return make_cascade(tmp_path_factory.mktemp("cascade") / "run", models, say=quiet)


def test_it_has_what_all_models_recorded(cascade, models):
    for part in ("fit", "calibrate", "test"):
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
    traces = [
        cascade.recorded(part).along([entry.step for entry in cascade.cascade])
        for part in ("fit", "calibrate")
    ]
    made = ex.eero(*traces, budget=budget, **options)
    return replace(made, cascade=tuple(entry.step for entry in cascade.cascade))


def test_answers_are_those_of_replay(cascade, models):
    policy = both(cascade)
    runner = load(cascade, policy=policy)
    trace = cascade.recorded("test").along(policy.cascade)
    data = open_inputs("sklearn:digits")
    raw = runner.prepare([data.content(i) for i in range(200)])
    assert raw.dtype == np.uint8
    answers = runner(raw, id=data.content_keys(range(200)))
    rows = [int(np.flatnonzero(trace.id == key)[0]) for key in data.content_keys(range(200))]
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
    about = about_of(other)
    traces = {part: other.trace(part) for part in ("fit", "calibrate", "test")}
    about["inputs"] = {**about["inputs"], "mean": [0.5, 0.5, 0.5]}
    other = RunFolder.create(other.path, cost=other.cost, traces=traces, about=about)
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


def test_predict_takes_it(cascade, tmp_path):
    cascade.save_policy(both(cascade))
    data = open_inputs("sklearn:digits")
    summary = predict_inputs(cascade, data, tmp_path / "out.csv", say=quiet)
    assert (summary.n, summary.n_unanswered) == (500, 0)
    expected = ex.evaluate(cascade.policy, cascade.recorded("test"))
    assert summary.n_right / summary.n_labelled == pytest.approx(expected.accuracy, abs=0.01)
    assert summary.mean_cost == pytest.approx(expected.cost, rel=0.02)


def test_parts_that_differ_are_divided_anew(models, trained, tmp_path):
    """One model calls the others' inputs to fit inputs to calibrate: none has learned from either."""
    other = copied(trained, tmp_path / "other")
    traces = {part: other.trace(part) for part in ("fit", "calibrate", "test")}
    traces["fit"], traces["calibrate"] = traces["calibrate"], traces["fit"]
    about = about_of(other)
    parts = dict(about["split"]["parts"])
    parts["fit"], parts["calibrate"] = parts["calibrate"], parts["fit"]
    changed = {**about, "split": {**about["split"], "parts": parts}}
    other = RunFolder.create(other.path, cost=other.cost, traces=traces, about=changed)
    said = []
    made = make_cascade(tmp_path / "run", {"small": models["small"], "other": other}, say=said.append)
    assert "divided anew" in said[0]
    known = [made.trace(part) for part in ("fit", "calibrate", "test")]
    ids = np.concatenate([trace.id for trace in known])
    assert len(np.unique(ids)) == len(ids)
    everything = {
        run.path: ex.trace.concatenate([run.trace(part) for part in ("fit", "calibrate", "test")])
        for run in (models["small"], other)
    }
    for run, trace in everything.items():
        name = "other" if run == other.path else "small"
        for part in ("fit", "calibrate", "test"):
            own = made.recorded(part)[name]
            row = int(np.flatnonzero(trace.id == own.id[5])[0])
            np.testing.assert_array_equal(own.prediction[5], trace.prediction[row])


def test_what_cannot_be_a_cascade_is_refused(cascade, models, trained, tmp_path):
    with pytest.raises(ex.InputError, match="at least two models, got small"):
        make_cascade(tmp_path / "run", {"small": models["small"]}, say=quiet)
    with pytest.raises(ex.InputError, match="a model of a cascade must be one network"):
        make_cascade(tmp_path / "run", {"cascade": cascade, "small": models["small"]}, say=quiet)
    other = copied(trained, tmp_path / "other")
    about = about_of(other)
    traces = {part: other.trace(part) for part in ("fit", "calibrate", "test")}
    others = RunFolder.create(
        other.path, cost=other.cost, traces=traces, about={**about, "class_names": list("abcdefghij")}
    )
    with pytest.raises(
        ex.InputError, match="small takes classes 0, 1, 2, 3, 4 and 5 more, other takes a, b, c"
    ):
        make_cascade(tmp_path / "run", {"small": models["small"], "other": others}, say=quiet)
    texts = [
        RunFolder(other.path, {**other.manifest, "data": {"text": names}}) for names in (["a", "b"], ["a"])
    ]
    with pytest.raises(ex.InputError, match="one takes texts an input: 2, other takes 1"):
        make_cascade(tmp_path / "run", dict(zip(("one", "other"), texts, strict=True)), say=quiet)
    away = {part: replace(trace, id=trace.id ^ np.uint64(1 << 63)) for part, trace in traces.items()}
    changed = {**about, "split": {**about["split"], "fingerprint": "other"}}
    elsewhere = RunFolder.create(other.path, cost=other.cost, traces=away, about=changed)
    with pytest.raises(ex.InputError, match="have 0 inputs in common that none has learned from"):
        make_cascade(tmp_path / "run", {"small": models["small"], "other": elsewhere}, say=quiet)


def test_models_may_name_the_columns_of_their_data_or_not(models, trained, tmp_path):
    """The column that is found by itself may as well be named. Inputs are matched by their content."""
    other = copied(trained, tmp_path / "other")
    about = about_of(other)
    traces = {part: other.trace(part) for part in ("fit", "calibrate", "test")}
    about["data"] = {**about["data"], "text": ["image"]}
    other = RunFolder.create(other.path, cost=other.cost, traces=traces, about=about)
    made = make_cascade(tmp_path / "run", {"small": models["small"], "other": other}, say=quiet)
    assert made.trace("test").n == other.trace("test").n


def test_what_a_cascade_cannot_be_is_said_before_anything_is_timed_or_recorded(cascade):
    from exeunt.jobs.precision_run import make_precision
    from exeunt.jobs.timed_run import choose_by_time

    said = []
    with pytest.raises(
        ex.InputError, match=r"holds the models of the cascade, and this takes a run that holds the weights"
    ):
        make_precision(cascade, "int8", say=said.append)
    with pytest.raises(ex.InputError, match=r"by 'onnx': .* cascade\.json, which only 'cascade' runs: leave"):
        choose_by_time(
            cascade, ex.eero, ["60%"], np.zeros((4, 8, 8, 3), np.uint8), executor="onnx", say=said.append
        )
    assert said == []


def test_models_that_run_whole_are_not_timed(models, trained, tmp_path):
    from exeunt.jobs.timed_run import choose_by_time

    whole = copied(trained, tmp_path / "whole")
    traces = {part: whole.trace(part) for part in ("fit", "calibrate", "test")}
    about = about_of(whole)
    about["model"] = {**about["model"], "runs_whole": "line 7 turns it into a constant"}
    whole = RunFolder.create(whole.path, cost=whole.cost, traces=traces, about=about)
    cascade = make_cascade(tmp_path / "run", {"small": models["small"], "whole": whole}, say=quiet)
    said = []
    for run in (cascade, whole):
        with pytest.raises(ex.InputError, match=r"whole runs whole, .* line 7 turns it"):
            choose_by_time(run, ex.eero, ["60%"], np.zeros((4, 8, 8, 3), np.uint8), say=said.append)
    assert said == []


def test_a_cascade_takes_the_place_of_a_cascade_alone(models, tmp_path):
    runs = {name: copied(run, tmp_path / name) for name, run in models.items()}
    with pytest.raises(ex.InputError, match=r"model 'large' lies in .*large, which the cascade replaces"):
        make_cascade(runs["large"].path, runs, say=quiet)
    with pytest.raises(ex.InputError, match="lies in"):
        make_cascade(tmp_path, runs, say=quiet)
    other = copied(models["large"], tmp_path / "other")
    with pytest.raises(ex.InputError, match=r"other holds something else: choose another --out"):
        make_cascade(other.path, runs, say=quiet)
    assert all(run.trace("fit").n for run in (*runs.values(), other))
    (tmp_path / "run").mkdir()
    first = make_cascade(tmp_path / "run", runs, say=quiet)
    first.save_policy(both(first))
    again = make_cascade(first.path, runs, say=quiet, seed=1)
    assert not again.has_policy


def test_models_are_found_from_a_folder_behind_a_link(models, tmp_path):
    """Of a link to another disk, ".." is that disk's."""
    (tmp_path / "disk" / "much" / "deeper").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk" / "much" / "deeper")
    runs = {name: copied(run, tmp_path / name) for name, run in models.items()}
    made = make_cascade(tmp_path / "runs" / "both", runs, say=quiet)
    assert [entry.folder(made.path) for entry in made.cascade] == [run.path for run in runs.values()]


def test_a_model_that_moved_or_changed_is_noticed(models, tmp_path):
    runs = {name: copied(run, tmp_path / name) for name, run in models.items()}
    made = make_cascade(tmp_path / "run", runs, say=quiet)
    policy = both(made)
    runs["small"].path.rename(tmp_path / "away")
    with pytest.raises(ex.InputError, match=r"the model 'small' of .* where nothing is"):
        load(made, policy=policy)
    (tmp_path / "away").rename(runs["small"].path)
    about = about_of(runs["small"])
    traces = {part: runs["small"].trace(part) for part in ("fit", "calibrate", "test")}
    RunFolder.create(
        runs["small"].path,
        cost=runs["small"].cost,
        traces=traces,
        about={**about, "training": {"again": True}},
    )
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
