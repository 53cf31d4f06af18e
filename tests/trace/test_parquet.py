"""Files give back what was written, to the last bit, and refuse what is damaged, foreign or newer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from same_traces import same_trace

import exeunt as ex

COST = ex.CostModel([1.0, 2.0], unit="ms")


@pytest.mark.parametrize(("n", "labelled"), [(0, True), (0, False), (1, False), (2, True), (333, True)])
def test_parquet_round_trip(tmp_path, make_trace, n, labelled):
    trace = make_trace(n, labelled=labelled)
    trace.save(tmp_path / "trace.parquet")
    assert same_trace(ex.ExitTrace.load(tmp_path / "trace.parquet"), trace)
    assert [file.name for file in tmp_path.iterdir()] == ["trace.parquet"]
    some = trace.take(slice(1, None, 2))
    some.save(tmp_path / "trace.parquet")
    assert same_trace(ex.ExitTrace.load(tmp_path / "trace.parquet"), some)


@pytest.mark.parametrize("k", [3, 300])
def test_a_trace_of_no_inputs_keeps_its_classes(tmp_path, k):
    trace = ex.ExitTrace.from_logits(np.empty((0, 2, k)), cost=COST)
    trace.save(tmp_path / "t")
    assert ex.ExitTrace.load(tmp_path / "t").log_probability.shape == (0, 2, k)


def test_parquet_keeps_infinities_extreme_keys_and_every_score(tmp_path):
    score, keys = np.array([[np.inf, -np.inf], [5e-324, -0.0]]), np.array([0, 2**64 - 1], np.uint64)
    trace = ex.ExitTrace(np.zeros((2, 2), dtype=int), {"a": score, "b": -score}, COST, None, keys)
    trace.save(tmp_path / "t")
    assert same_trace(ex.ExitTrace.load(tmp_path / "t"), trace)


def test_anyone_with_pyarrow_can_read_a_trace(tmp_path, make_trace):
    trace = make_trace(20)
    trace.save(tmp_path / "trace.parquet")
    table = pq.read_table(tmp_path / "trace.parquet")
    assert table.column_names == ["id", "label", "prediction", "score:score"]
    assert table["prediction"].to_pylist() == trace.prediction.tolist()
    assert table["score:score"].to_pylist() == trace.scores["score"].tolist()
    trace.take(slice(5, 15)).save(tmp_path / "part.parquet")
    part = pq.read_table(tmp_path / "part.parquet")
    assert part.column_names == ["id", "row", "label", "prediction", "score:score"]
    assert part["row"].to_pylist() == trace.row[5:15].tolist()
    cost = json.loads(table.schema.metadata[b"exeunt"])["cost"]
    assert cost["cumulative"] == trace.cost.cumulative.tolist()


def test_damaged_foreign_and_newer_files_are_refused(tmp_path, make_trace):
    path = tmp_path / "trace.parquet"
    with pytest.raises(ex.InputError, match=r"trace\.parquet"):
        ex.ExitTrace.load(path)
    make_trace(50).save(path)
    whole, table = path.read_bytes(), pq.read_table(path)

    def refused(told=None):
        with pytest.raises(ex.ArtefactError, match=told):
            ex.ExitTrace.load(path)

    path.write_bytes(whole[: len(whole) // 2])
    refused("not a readable")
    header = json.loads(table.schema.metadata[b"exeunt"])
    descending = header | {"cost": header["cost"] | {"cumulative": [3, 2, 1, 0]}}
    headers = header | {"version": 99}, {"cost": header["cost"]}, {"version": 1}, [1], descending
    for wrong in ("no JSON", *map(json.dumps, headers)):
        pq.write_table(table.replace_schema_metadata({"exeunt": wrong}), path)
        refused()
    for edited, told in (
        (pa.table({"x": [1]}), "not written by"),
        (table.drop_columns(["prediction"]), "prediction"),
        (replaced(table, "prediction", range(50)), "damaged or edited"),
        (replaced(table, "label", [-1] * 50), "damaged or edited: labels must be"),
    ):
        pq.write_table(edited, path)
        refused(told)


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_a_trace_of_format_1_opens():
    trace = ex.ExitTrace.load(Path(__file__).parent / "trace-format-1.parquet")
    assert (trace.n, trace.cost) == (12, ex.CostModel([1.0, 2.5, 4.5], unit="MMACs"))
    assert sorted(trace.scores) == ["entropy", "margin", "max_probability"]
    assert trace.label.tolist() == [1, 0, 0, 2, 0, 4, 3, 2, 2, 1, 3, 4]


def test_writing_into_a_missing_folder_says_so(tmp_path, make_trace):
    with pytest.raises(ex.InputError, match="nowhere"):
        make_trace(3).save(tmp_path / "nowhere" / "trace.parquet")
