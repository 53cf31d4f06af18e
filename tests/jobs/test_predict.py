"""Predictions interrupted and resumed: never a mixture of two jobs."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_inputs import FACTORY, noise, quiet, write_pictures

import exeunt as ex
from exeunt.data import open_inputs
from exeunt.engine.plan import Plan
from exeunt.jobs import predict as predicting
from exeunt.jobs.blocks import _identity
from exeunt.jobs.summary import PredictionSummary
from exeunt.policy.calibration import NEVER, Thresholds
from exeunt.runs.folder import RunFolder
from exeunt.score.confidence import NamedScore


class Killed(BaseException):
    """Stands in for a kill: nothing catches it."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch) -> None:
    monkeypatch.setattr(predicting, "BLOCK", 4)
    monkeypatch.setattr("exeunt.jobs.summary._EVERY_S", 0.0)


def _pictures(folder: Path, seed: int = 0) -> Path:
    """Twelve pictures; every seed gives files of the same names, sizes and times."""
    for file in write_pictures(folder, noise(12, seed)).iterdir():
        os.utime(file, (0, 0))
    return folder


def _answer(run: RunFolder, folder: Path, out: Path, *, say=quiet, **options) -> PredictionSummary:
    return predicting.predict_inputs(run, open_inputs(folder), out, trusted=FACTORY, say=say, **options)


def _predict(run: RunFolder, folder: Path, out: Path, **options) -> dict:
    _answer(run, folder, out, **options)
    return pq.read_table(out).to_pydict()


def _broken_off(run: RunFolder, folder: Path, out: Path) -> Path:
    """Predict until the first part is written; return that part."""

    def kill(said: str) -> None:
        if said.startswith("4 of 12 inputs"):
            raise Killed

    with pytest.raises(Killed):
        _answer(run, folder, out, say=kill)
    (part,) = out.parent.glob(f".{out.name}.parts/*.parquet")
    return part


def _mark(part: Path) -> None:
    """Give the answers of a part a cost that nothing has."""
    table = pq.read_table(part)
    pq.write_table(table.set_column(5, "cost", pa.array([-1.0] * 4)), part)


@pytest.fixture
def folder(tmp_path) -> Path:
    return _pictures(tmp_path / "in")


@pytest.mark.parametrize("planned", [False, True])
def test_a_part_of_the_same_job_is_kept(run, folder, tmp_path, planned):
    if planned:
        run.save_plan(Plan("eager", ((0, 1), (2, 2)), (64, 64)))
    out = tmp_path / "out.parquet"
    _mark(_broken_off(run, folder, out))
    assert _predict(run, folder, out)["cost"][:5].count(-1.0) == 4


def _rotated(folder: Path, by: int = 0) -> Path:
    """The pictures in a table, in which the first `by` come last: as long, with as many rows."""
    files = sorted(folder.glob("*.bmp"))
    images = [file.read_bytes() for file in (*files[by:], *files[:by])]
    made = folder.parent / "new.parquet"
    pq.write_table(pa.table({"image": images}), made, row_group_size=4, compression="none")
    return made.replace(folder.parent / "in.parquet")


def _replaced(kind: str, folder: Path) -> None:
    if kind == "files":
        _pictures(folder, 1)
        os.utime(folder / "011.bmp", (1, 1))
    elif kind == "table":
        _rotated(folder, 5)
    else:
        (folder.parent / "in.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize("kind", ["files", "table", "half a table"])
@pytest.mark.parametrize("after", [4, 12])
@pytest.mark.parametrize("form", ["file", "folder"])
def test_inputs_that_are_replaced_meanwhile_end_the_job(run, folder, tmp_path, kind, after, form):
    """Without an answer to what came later. `after`: how many inputs were answered before."""
    inputs, out = (folder if kind == "files" else _rotated(folder)), tmp_path / "out"
    _predict(run, inputs, tmp_path / "whole.parquet")
    whole = pq.read_table(tmp_path / "whole.parquet")
    if form == "folder":
        answer = partial(predicting.predict_folder, run, open_inputs(inputs), str(out), block_size=4)
    else:
        answer = partial(predicting.predict_inputs, run, open_inputs(inputs), out.with_suffix(".parquet"))

    def replace_inputs(said: str) -> None:
        if said.startswith(f"{after} of 12 inputs"):
            _replaced(kind, folder)

    with pytest.raises(ex.InputError, match=r"in(/011\.bmp|\.parquet) was changed or replaced"):
        answer(trusted=FACTORY, batch_size=4, say=replace_inputs)
    assert not (out / "_manifest.json").exists()
    assert not out.with_suffix(".parquet").exists()
    parts = sorted((out if form == "folder" else tmp_path / ".out.parquet.parts").glob("*.parquet"))
    assert len(parts) >= after // 4
    kept = pa.concat_tables(pq.read_table(part).replace_schema_metadata(None) for part in parts)
    assert kept["label"].equals(whole["label"].slice(0, len(kept)))


def test_what_a_killed_process_wrote_of_the_file_is_removed(run, folder, tmp_path, monkeypatch):
    out, other = tmp_path / "out[1].csv", tmp_path / f".out[1].csv.copy.{32 * 'f'}.tmp"
    other.touch()

    def kill(*_):
        (tmp_path / f".out[1].csv.{32 * '0'}.tmp").touch()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "write_predictions", kill)
        with pytest.raises(Killed):
            _answer(run, folder, out)
    _answer(run, folder, out)
    assert sorted(tmp_path.glob("*out*")) == sorted([out, other])


def test_other_pictures_of_the_same_names_are_another_job(run, folder, tmp_path):
    out = tmp_path / "out.parquet"
    _broken_off(run, folder, out)
    _pictures(folder, 1)
    assert _predict(run, folder, out) == _predict(run, folder, tmp_path / "fresh.parquet")


def test_what_fails_before_the_first_part_leaves_nothing(run, folder, tmp_path):
    out = tmp_path / "out" / "out.parquet"
    out.parent.mkdir()
    weights = run.path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ex.ArtefactError, match="weights"):
        _predict(RunFolder.open(run.path), folder, out)
    assert not list(out.parent.iterdir())


def test_large_files_are_told_apart_by_their_times(run, folder, monkeypatch):
    monkeypatch.setattr("exeunt.data.dataset.SMALL_BYTES", 1)
    before = _identity(open_inputs(folder), by_content=True)
    assert _identity(open_inputs(folder), by_content=True) == before
    os.utime(folder / "005.bmp", (1, 1))
    assert _identity(open_inputs(folder), by_content=True) != before


@pytest.mark.parametrize("changes", [{}, {"strict": True}, {"top": 1}])
def test_another_policy_or_strictness_is_another_job(run, folder, tmp_path, changes):
    out = tmp_path / "out.parquet"
    _mark(_broken_off(run, folder, out))
    if not changes:
        run.save_policy(ex.eero(run.trace("fit"), run.trace("calibrate"), budget="80%"))
    assert -1.0 not in _predict(run, folder, out, **changes)["cost"]


@pytest.mark.parametrize("damage", ["truncated", "of other rows", "of no rows and job", "no job"])
def test_damaged_parts_are_answered_again(run, folder, tmp_path, damage):
    out = tmp_path / "out.parquet"
    part = _broken_off(run, folder, out)
    if damage == "truncated":
        part.write_bytes(part.read_bytes()[:-9])
    elif damage == "of other rows":
        pq.write_table(pq.read_table(part).slice(1), part)
    else:
        (part.parent / "_job.json").write_text("{")
    if damage == "of no rows and job":
        pq.write_table(pq.read_schema(part).empty_table(), part)
    assert _predict(run, folder, out) == _predict(run, folder, tmp_path / "fresh.parquet")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (".", "it is a folder"),
        ("x.txt", "as .parquet, .csv or .jsonl: name a file such as x.parquet"),
        ("file/x.parquet", "file is not a folder"),
        ("file", "exists and does not hold predictions"),
        ("pipe", "it is not a file"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_at_once(run, folder, tmp_path, monkeypatch, out, said):
    monkeypatch.setattr("exeunt.jobs.blocks.prepared_batches", None)
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ex.InputError, match=said):
        _predict(run, folder, tmp_path / out)


def test_worker_threads_change_nothing(run, folder, tmp_path):
    alone = _predict(run, folder, tmp_path / "alone.parquet")
    assert _predict(run, folder, tmp_path / "together.parquet", workers=2) == alone


def test_inputs_close_to_a_threshold_are_counted_and_told(run, folder, tmp_path):
    out = tmp_path / "out.parquet"
    policy = replace(run.policy, score=NamedScore("max_probability"))
    always = (-NEVER, -NEVER)
    run.save_policy(replace(policy, limits=Thresholds.of([always] * 3)))
    confidence = np.array(_predict(run, folder, out)["confidence"])  # at the first exit
    assert "threshold" not in str(_answer(run, folder, out))

    threshold = confidence[5] + 0.5e-5
    run.save_policy(replace(policy, limits=Thresholds.of([(threshold, 0.0), always, always])))
    said = str(_answer(run, folder, out))
    close = abs(confidence - threshold) <= 1e-5
    assert pq.read_table(out)["borderline"].to_pylist() == close.tolist()
    assert close[5]
    assert f"{close.sum()} came so close to a threshold" in said


def test_exits_that_a_plan_runs_together_cost_what_was_run(run, tmp_path):
    folder = _pictures(tmp_path / "pictures", seed=1)
    assert "run together" not in str(_answer(run, folder, tmp_path / "apart.parquet"))
    run.save_plan(Plan("eager", ((0, 2),), (64,)))
    said = str(_answer(run, folder, tmp_path / "together.parquet"))
    apart, together = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("apart", "together"))
    assert apart.select(["label", "exit"]) == together.select(["label", "exit"])
    assert min(apart["cost"].to_pylist()) < run.cost.full
    assert set(together["cost"].to_pylist()) == {run.cost.full}
    assert re.search(r"exits were run together, by the plan .*; one by one they would have cost", said)
