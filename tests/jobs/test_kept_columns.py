"""Ids and other columns of a table come back beside the predictions, as they were given."""

from __future__ import annotations

import csv
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_inputs import cells, noise, quiet
from PIL import Image

import exeunt as ex
from exeunt.cli.app import run as command
from exeunt.data import open_inputs
from exeunt.jobs import predict as predicting
from exeunt.jobs.predict import predict_inputs

IDS = ["q7", "q7", "007", "x,y", "ü", "q7", "8", "9", "10", None]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Ten images with ids, some of which come again, and a number each."""
    file = tmp_path_factory.mktemp("kept") / "log.parquet"
    columns = {"image": cells(noise(10)), "id": IDS, "customer": [*range(10)], "label": ["1"] * 10}
    columns["spent"] = pa.array([float("nan"), *range(1, 10)], pa.float64())
    pq.write_table(pa.table(columns), file, row_group_size=3)
    return file


def test_they_come_back_in_every_format(exported, table, tmp_path):
    asked = ["predict", str(exported.path), "--data", str(table), "--keep", "id,customer", "--keep", "spent"]
    for name in ("out.parquet", "out.csv", "out.jsonl"):
        assert command([*asked, "--out", str(tmp_path / name)]) == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names[-3:] == ["id", "customer", "spent"]
    assert found["id"].to_pylist() == IDS
    assert found.schema.field("customer").type == pa.int64()
    assert found["customer"].to_pylist() == list(range(10))
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [one or "" for one in IDS]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == IDS
    assert [line["spent"] for line in lines] == [None, *range(1, 10)]
    assert predict_inputs(exported, open_inputs(table), tmp_path / "out.csv", say=quiet).n_answered == 10


def test_they_belong_to_their_rows_in_blocks(exported, table, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "BLOCK", 4)
    out, inputs = tmp_path / "out.parquet", open_inputs(table, keep=["id", "customer"])
    predict_inputs(exported, inputs, out, say=quiet)
    found = pq.read_table(out).to_pydict()
    assert (found["id"], found["customer"]) == (IDS, list(range(10)))
    assert found["name"] == [f"log.parquet#{row}" for row in range(10)]
    block = pickle.loads(pickle.dumps(inputs.take(np.arange(10)[::-1]).block(2, 5)))
    assert block.kept_values("customer") == [7, 6, 5, 4, 3]


def test_parts_with_other_values_are_not_taken_over(exported, table, tmp_path):
    job = predicting.predict_job(exported, kept=open_inputs(table, keep=["id"]).kept_types)
    before = job.describe(open_inputs(table, keep=["id"]), by_content=True)
    other = pq.read_table(table).set_column(1, "id", pa.array([*"abcdefghij"]))
    pq.write_table(other, tmp_path / "log.parquet")
    after = job.describe(open_inputs(tmp_path / "log.parquet", keep=["id"]), by_content=True)
    assert [name for name in before if before[name] != after[name]] == ["inputs"]


def test_csv_and_json_give_ids_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("text,id,number,mark\nhello,007,7,\nworld,12,-3,2\n")
    kept = open_inputs(tmp_path / "a.csv", keep=["id", "number", "mark", "id"])
    assert list(kept.kept_types) == ["id", "number", "mark"]
    assert kept.kept_values("id") == ["007", "12"]
    assert kept.kept_values("number") == [7, -3]
    assert kept.kept_values("mark") == ["", "2"]
    lines = ['{"text": "hello", "id": "q1", "more": 1}', "no JSON", '{"text": "world", "id": 7, "more": 2.5}']
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    kept = open_inputs(tmp_path / "b.jsonl", keep=["id", "more"])
    assert kept.kept_values("id") == ["q1", None, "7"]
    assert kept.kept_types == {"id": pa.string(), "more": pa.float64()}
    for shard, ids in enumerate((["1", "2"], ["x", "03"])):
        rows = "".join(f"{text},{id_}\n" for text, id_ in zip("ab", ids, strict=True))
        (tmp_path / f"test-{shard}.csv").write_text(f"text,id\n{rows}")
    assert open_inputs(tmp_path, keep=["id"]).kept_values("id") == ["1", "2", "x", "03"]


def test_what_cannot_be_kept_is_named_before_any_work(exported, table, tmp_path):
    out = tmp_path / "out.csv"
    for data, keep, told in (
        (table, "nothing", r"no column 'nothing'; its columns are image, id, .* \(name another with --keep"),
        (table, "id,label", "the column 'label' cannot be kept, as predictions have a column of this name"),
        ("-", "id", "the standard input has no column 'id'"),
    ):
        with pytest.raises(ex.InputError, match=told):
            command(["predict", str(exported.path), "--data", str(data), "--keep", keep, "--out", str(out)])
        assert not out.exists()
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(ex.InputError, match=r"one\.png is no table and has no column 'id'"):
        open_inputs(tmp_path / "one.png", of_training=True, keep=["id"])
