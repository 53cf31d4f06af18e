"""Traces in several files, read a chunk at a time."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt._support.paths import place, write_bytes
from exeunt.trace import StoredTrace, concatenate, stored_trace
from exeunt.trace.cascade_step import NETWORK, CascadeStep


@pytest.fixture
def folder(make_logit_trace, tmp_path):
    whole = make_logit_trace(100, 3)
    for number, rows in enumerate([slice(0, 60), slice(60, 60), slice(60, 100)]):
        whole.take(rows).save(tmp_path / f"part-{number}.parquet")
    return whole, tmp_path


def test_chunks_are_the_inputs_in_order(folder, monkeypatch):
    whole, path = folder
    monkeypatch.setattr(stored_trace, "_MOST_ROWS", 17)
    found = StoredTrace.open(path)
    assert (found.n, found.n_exits, found.cost) == (100, 3, whole.cost)
    chunks = list(found.chunks())
    assert max(chunk.n for chunk in chunks) == 17
    joined = concatenate(chunks)
    assert joined.id.tolist() == whole.id.tolist()
    assert joined.row.tolist() == whole.row.tolist()
    assert joined.log_probability.tobytes() == whole.log_probability.tobytes()
    assert all(joined.scores[name].tobytes() == whole.scores[name].tobytes() for name in whole.scores)
    few = next(found.chunks(["entropy"]))
    assert (list(few.scores), few.log_probability, few.label) == (["entropy"], None, None)
    assert few.row.tolist() == whole.row[:17].tolist()
    assert "100 inputs in 3 files" in repr(found)


def test_a_file_that_is_replaced_between_two_passes_is_told(folder):
    whole, path = folder
    found = StoredTrace.open(path)
    assert sum(chunk.n for chunk in found.chunks()) == 100
    whole.take(np.roll(np.arange(60, 100), 1)).save(path / "part-2.parquet")
    for read in (lambda: list(found.chunks(["margin"])), lambda: found.n_shared(whole.row[:3])):
        with pytest.raises(ex.InputError, match=r"part-2\.parquet was changed or replaced while it was read"):
            read()


def test_rows_are_those_of_memory_whatever_the_chunks(make_logit_trace, tmp_path, monkeypatch):
    """A file of a whole trace does not hold the keys of its rows, and many chunks may hold the same copies."""
    whole = replace(make_logit_trace(100, 3), id=np.r_[np.zeros(70, dtype=int), 1:31], row=None)
    whole.save(tmp_path / "whole.parquet")
    assert ex.ExitTrace.load(tmp_path / "whole.parquet").row.tolist() == whole.row.tolist()
    for rows in (1, 7, 64, 100):
        monkeypatch.setattr(stored_trace, "_MOST_ROWS", rows)
        for scores in (None, ["margin"]):
            found = concatenate(list(StoredTrace.open(tmp_path).chunks(scores)))
            assert found.row.tolist() == whole.row.tolist()


def test_parts_and_a_whole_trace_may_lie_in_one_folder(make_logit_trace, tmp_path):
    """Only files of parts hold the keys of rows."""
    whole = make_logit_trace(100, 3)
    whole.save(tmp_path / "a.parquet")
    whole.take(slice(30, 60)).save(tmp_path / "b.parquet")
    rows = [chunk.row for chunk in StoredTrace.open(tmp_path).chunks()]
    assert np.concatenate(rows).tolist() == np.r_[whole.row, whole.row[30:60]].tolist()


def test_changes_are_made_to_each_chunk(folder):
    whole, path = folder
    steps, cost = (CascadeStep(NETWORK, (0, 2)),), ex.CostModel([2.0, 5.0], unit="ms")
    found = StoredTrace.open(path).along(steps)
    assert found.cost == whole.along(steps).cost
    joined = concatenate(list(found.with_cost(cost).chunks()))
    assert joined.cost == found.with_cost(cost).cost == cost
    assert joined.prediction.tolist() == whole.prediction[:, [0, 2]].tolist()
    assert concatenate(list(found.along(()).chunks())).n_exits == 2


def test_a_store_that_does_not_answer_is_no_damage(folder, monkeypatch):
    pytest.importorskip("fsspec")
    address = f"memory://{folder[1].name}"
    for file in folder[1].iterdir():
        write_bytes(place(f"{address}/{file.name}"), file.read_bytes())
    found, opened, failures = StoredTrace.open(address), stored_trace.open_arrow, []

    def fails(path):
        if failures and path.name == "part-0.parquet":  # the footers are read by several threads
            raise failures.pop()
        return opened(path)

    monkeypatch.setattr("exeunt._support.paths._PAUSES_S", (0, 0))
    monkeypatch.setattr(stored_trace, "open_arrow", fails)
    failures += [OSError("timed out")] * 2
    assert sum(chunk.n for chunk in found.chunks()) == 100
    failures += [OSError("timed out")] * 3
    with pytest.raises(ex.errors.FileError, match=r"cannot read memory://.*: OSError: timed out"):
        StoredTrace.open(address)
    failures[:] = [OSError("timed out")]
    with pytest.raises(ex.errors.FileError, match="timed out"):
        list(stored_trace._tables(place(f"{address}/part-0.parquet"), ["id"], 10))


def test_what_is_refused(folder, make_logit_trace, tmp_path):
    whole, path = folder
    last, other = path / "z.parquet", tmp_path / "other"

    def refused(told, error=ex.InputError, at=path):
        with pytest.raises(error, match=told):
            StoredTrace.open(at)

    refused(r"no \.parquet file", at=path / "nothing")
    replace(whole, scores={"margin": whole.scores["margin"]}, log_probability=None).save(last)
    refused(r"z\.parquet has other columns")
    whole.with_cost(ex.CostModel([1.0, 5.0, 6.0])).save(last)
    refused(r"z\.parquet has other costs")
    table = pq.read_table(last)
    header = json.loads(table.schema.metadata[b"exeunt"]) | {"classes": "many"}
    pq.write_table(table.replace_schema_metadata({"exeunt": json.dumps(header)}), last)
    refused(r"z\.parquet is damaged or edited: its metadata says 'many' classes", ex.ArtefactError)
    last.write_bytes(b"nothing")
    refused(r"z\.parquet is not a readable Parquet file", ex.ArtefactError)
    last.unlink()
    found = StoredTrace.open(path)
    first = path / "part-0.parquet"
    first.write_bytes(b"PAR1" + b"\0" * 600 + first.read_bytes()[604:])
    with pytest.raises(ex.ArtefactError, match=r"part-0\.parquet is damaged"):
        list(found.chunks())
    other.mkdir()
    whole.with_cost(ex.CostModel(np.arange(300.0).reshape(100, 3) + 1)).save(other / "a.parquet")
    refused("inputs differ in what they cost", at=other)
