"""`exeunt record`: what every exit says of inputs, in parts that make a trace."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_inputs import FACTORY, cells, copied, noise, quiet, write_pictures

import exeunt as ex
from exeunt._support.files import locked
from exeunt.cli.app import run as command
from exeunt.data import Images, open_inputs
from exeunt.data.stored_inputs import PixelArray
from exeunt.engine.plan import Plan
from exeunt.errors import UnreadableInput
from exeunt.jobs.cascade_run import make_cascade
from exeunt.jobs.record import record_inputs
from exeunt.jobs.summary import recorded_text
from exeunt.runs.run_inputs import part_data
from exeunt.trace import concatenate


@pytest.fixture
def data(exported):
    """Some inputs that the run has recorded, and what it recorded of them."""
    rows = np.arange(0, 250)
    return part_data(exported, "test").take(rows), exported.trace("test").take(rows)


def parts_of(folder):
    return sorted(folder.glob("*.parquet"))


def test_parts_are_the_trace_of_the_inputs(exported, data, tmp_path, monkeypatch):
    monkeypatch.setattr("exeunt.jobs.summary._EVERY_S", 0.0)
    inputs, known = data
    told = []
    options = {"block_size": 100, "batch_size": 30, "executor": "eager", "trusted": FACTORY}
    total = record_inputs(exported, inputs, str(tmp_path / "out"), **options, say=told.append)
    files = parts_of(tmp_path / "out")
    assert [pq.read_metadata(file).num_rows for file in files] == [100, 100, 50]
    found = concatenate([ex.ExitTrace.load(file) for file in files])
    assert found.id.tolist() == known.id.tolist()
    assert found.label.tolist() == known.label.tolist()
    assert found.cost == known.cost
    assert found.scores.keys() == known.scores.keys()
    np.testing.assert_allclose(found.log_probability, known.log_probability, atol=1e-4)
    for name, score in known.scores.items():
        np.testing.assert_allclose(found.scores[name], score, atol=1e-5)
    assert pq.read_table(files[1])["name"].to_pylist() == [inputs.name(i) for i in range(100, 200)]
    assert (total.n, total.n_unanswered, total.n_labelled) == (250, 0, 250)
    assert total.n_right == np.count_nonzero(found.prediction[:, -1] == found.label)
    assert any(line.startswith("200 of 250 inputs, ") for line in told)
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert manifest["parts"] == [file.name for file in files]


def test_an_interrupted_recording_goes_on_and_is_the_same(exported, data, tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    options = {"block_size": 60, "executor": "onnx", "say": quiet}
    record_inputs(exported, data[0], str(whole), **options)

    class Killed(BaseException):
        pass

    class Killing(type(data[0])):
        def block(self, start, n):
            if start == 120:
                raise Killed
            return super().block(start, n)

    inputs = data[0].take(np.arange(250))
    inputs.__class__ = Killing
    with pytest.raises(Killed):
        record_inputs(exported, inputs, str(again), **options)
    (first, second) = parts_of(again)
    assert not (again / "_manifest.json").exists()
    with pytest.raises(ex.InputError, match="is not complete"):
        command(["calibrate", str(exported.path), "--budget", "60%", "--traces", str(again)])
    with pytest.raises(ex.InputError, match="holds answers of another job"):
        record_inputs(exported, data[0], str(again), **options | {"block_size": 50})
    second.unlink()
    before = first.stat().st_mtime_ns
    told = []
    record_inputs(exported, data[0], str(again), **options | {"say": told.append})
    assert first.stat().st_mtime_ns == before
    assert "60 of 250 inputs were done before" in told
    files = sorted(whole.iterdir())
    assert [file.name for file in files] == sorted(file.name for file in again.iterdir())
    assert all(file.read_bytes() == (again / file.name).read_bytes() for file in files)


def test_two_processes_do_not_record_in_one_folder(exported, data, tmp_path):
    out = tmp_path / "out"
    with locked(out / ".lock", out), pytest.raises(ex.InputError, match="is writing"):
        record_inputs(exported, data[0], str(out), say=quiet)
    assert not out.exists()
    record_inputs(exported, data[0], str(out), say=quiet)
    assert not (out / ".lock").exists()


def test_a_recording_under_a_plan_goes_on(exported, data, tmp_path):
    run = copied(exported, tmp_path / "run")
    run.save_plan(Plan("onnx", ((0, 1), (2, 2)), (64, 64)))
    told = []
    for _ in range(2):
        record_inputs(run, data[0], str(tmp_path / "out"), executor="onnx", say=told.append)
    assert told == ["250 of 250 inputs were done before"]


def test_what_cannot_be_read_is_left_out_and_counted(exported, tmp_path):
    folder = write_pictures(tmp_path / "in", noise(6))
    for i in (2, 4, 5):
        (folder / f"00{i}.bmp").write_bytes(b"nothing")
    options = {"block_size": 2, "executor": "onnx"}
    told = []
    total = record_inputs(exported, open_inputs(folder), str(tmp_path / "out"), **options, say=told.append)
    assert (total.n, total.n_unanswered, total.n_labelled) == (6, 3, 0)
    assert total.first_error[0] == 2
    left_out = f"3 inputs were left out; the first: {total.first_error[1]}"
    assert left_out in recorded_text(total, "out", exported).splitlines()
    assert sum("002.bmp" in line for line in told) == 1
    found = [pq.read_table(file)["name"].to_pylist() for file in parts_of(tmp_path / "out")]
    assert found == [["000.bmp", "001.bmp"], ["003.bmp"], []]
    stored = ex.StoredTrace.open(tmp_path / "out")
    assert (stored.n, concatenate(list(stored.chunks())).n) == (3, 3)
    with pytest.raises(UnreadableInput, match=r"2\.bmp"):
        record_inputs(exported, open_inputs(folder), str(tmp_path / "new"), **options, strict=True, say=quiet)
    again = record_inputs(exported, open_inputs(folder), str(tmp_path / "out"), **options, say=quiet)
    assert again == total


def test_inputs_of_corrected_labels_are_another_job(exported, data, tmp_path):
    pixels, out = np.stack([data[0].content(i) for i in range(9)]), str(tmp_path / "out")

    def inputs(labels):
        stored = PixelArray(pixels, name="some#{}".format)
        return Images(stored, labels=labels, class_names=data[0].class_names)

    record_inputs(exported, inputs(np.arange(9)), out, say=quiet)
    with pytest.raises(ex.InputError, match=r"holds answers of another job \(it differs in inputs\)"):
        record_inputs(exported, inputs(np.arange(9) + 1), out, say=quiet)
    record_inputs(exported, inputs(np.arange(9) + 1), out, say=quiet, force=True)
    assert pq.read_table(out)["label"].to_pylist() == list(range(1, 10))


def test_inputs_of_other_classes_are_recorded_and_counted_apart(exported, tmp_path):
    table = pa.table({"image": cells(noise(3)), "label": ["cat", "3", None]})
    pq.write_table(table, tmp_path / "in.parquet")
    inputs = open_inputs(tmp_path / "in.parquet")
    total = record_inputs(exported, inputs, str(tmp_path / "out"), executor="onnx", say=quiet)
    assert (total.n, total.n_labelled, total.n_unknown) == (3, 1, 1)
    text = recorded_text(total, "out", exported)
    assert "of 1 input with labels" in text
    assert "no accuracy on 1 answered input of classes that the network does not know" in text


def test_calibrating_on_what_was_recorded(exported, tmp_path, capsys):
    run = copied(exported, tmp_path / "run")
    arguments = ["record", str(run.path), "--data", "sklearn:digits", "--out", str(tmp_path / "out")]
    assert command([*arguments, "--executor", "onnx", "--block-size", "200"]) == 0
    said = capsys.readouterr().out
    assert "500 of 500 inputs recorded at 3 exits" in said
    assert "the last exit is right on" in said

    def calibrate(name):
        traces = str(tmp_path / name)
        assert command(["calibrate", str(run.path), "--budget", "60%", "--traces", traces]) == 0

    calibrate("out")
    assert run.policy.n_calibration == 500
    held_out, options = part_data(run, "calibrate"), {"executor": "eager", "trusted": FACTORY}
    record_inputs(run, held_out, str(tmp_path / "held"), block_size=64, say=quiet, **options)
    calibrate("held")
    own = ex.auto(run.trace("fit"), run.trace("calibrate"), budget="60%", delta=0.05)
    assert run.policy.n_calibration == len(held_out)
    assert run.policy.counts.tolist() == own.counts.tolist()
    np.testing.assert_allclose(run.policy.thresholds, own.thresholds, atol=1e-4)
    other = json.loads((tmp_path / "held" / "_job.json").read_text()) | {"run": "another"}
    (tmp_path / "held" / "_job.json").write_text(json.dumps(other))
    with pytest.raises(ex.InputError, match="recorded with another network"):
        calibrate("held")


@pytest.fixture
def cascade(exported, tmp_path):
    models = {name: copied(exported, tmp_path / name) for name in ("small", "large")}
    return make_cascade(tmp_path / "cascade", models, say=quiet)


def test_a_cascade_is_recorded_exit_after_exit(cascade, data, tmp_path):
    record_inputs(cascade, data[0].take(np.arange(40)), str(tmp_path / "out"), say=quiet)
    (file,) = parts_of(tmp_path / "out")
    found = ex.ExitTrace.load(file)
    assert found.n_exits == cascade.cost.n_exits == 6
    known = data[1].take(slice(40))
    assert found.prediction.tolist() == np.hstack([known.prediction, known.prediction]).tolist()


def test_a_cascade_is_calibrated_on_a_folder_of_recorded_outputs(cascade, tmp_path):
    made = []
    (tmp_path / "held").mkdir()
    cascade.trace("calibrate").save(tmp_path / "held" / "all.parquet")
    for options in ([], ["--traces", str(tmp_path / "held")]):
        command(["calibrate", str(cascade.path), "--budget", "60%", *options])
        made.append(cascade.policy)
    assert made[0] == made[1]
    assert made[0].cascade
    with pytest.raises(ex.InputError, match=r"of a cascade is tested on its own .*: leave out --traces"):
        command(["calibrate", str(cascade.path), "--agree", "60%", *options])
    assert cascade.policy == made[1]


def test_probabilities_are_dropped_where_there_are_too_many(exported, data, tmp_path, monkeypatch):
    monkeypatch.setattr("exeunt.trace.log_probability._HALF", 50 * 3 * 10)
    some, options = data[0].take(np.arange(51)), {"block_size": 20, "executor": "onnx", "say": quiet}
    for kept, asked in ((False, {}), (True, {"probabilities": True})):
        record_inputs(exported, some, str(tmp_path / f"out{kept}"), **options, **asked)
        for file in parts_of(tmp_path / f"out{kept}"):
            assert ("log_probability" in pq.read_schema(file).names) == kept


@pytest.mark.parametrize("limit", ["_SINGLE", "_HALF"])
def test_large_parts_keep_probabilities_as_the_last_one_does(exported, data, tmp_path, monkeypatch, limit):
    inputs, known = data[0].take(np.arange(25)), data[1].take(np.arange(25))
    monkeypatch.setattr(f"exeunt.trace.log_probability.{limit}", 10 * 3 * 10)
    options = {"block_size": 20, "batch_size": 10, "executor": "onnx", "probabilities": True, "say": quiet}
    record_inputs(exported, inputs, str(tmp_path / "out"), **options)
    monkeypatch.undo()
    found = concatenate(list(ex.StoredTrace.open(tmp_path / "out").chunks()))
    assert found.log_probability.dtype == np.float32
    np.testing.assert_allclose(found.log_probability, known.log_probability, atol=1e-4)
