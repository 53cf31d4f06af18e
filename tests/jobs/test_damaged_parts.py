"""Parts of a job on one machine that are damaged before it goes on: they are answered again, or the error is clear."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged_parts import break_off, campaign, harm_one, rows_of, same
from job_inputs import FACTORY, quiet

import exeunt as ex
from damaged_files import within
from exeunt.data import open_inputs
from exeunt.jobs import predict as predicting
from exeunt.jobs.predict import predict_folder, predict_inputs

N, BLOCK = 100, 10


@pytest.fixture
def jobs(run, tmp_path, monkeypatch):
    """Return a function that fills a folder, one that writes a file, and the rows that both give."""
    monkeypatch.setattr("exeunt.jobs.summary._EVERY_S", 0.0)
    monkeypatch.setattr(predicting, "BLOCK", BLOCK)
    run.save_policy(ex.eero(run.trace("fit"), run.trace("calibrate"), budget="60%"))
    inputs = open_inputs("sklearn:digits").take(range(N))

    options = {"trusted": FACTORY, "say": quiet}

    def fill(folder, **more):
        predict_folder(run, inputs, str(folder), block_size=BLOCK, **options, **more)

    def write(file, say=quiet):
        predict_inputs(run, inputs, file, trusted=FACTORY, say=say)

    write(tmp_path / "alone.parquet")
    return fill, write, pq.read_table(tmp_path / "alone.parquet").to_pylist()


@pytest.fixture
def filled(jobs, tmp_path):
    """A function that fills the same folder, its first part, and the rows that it holds."""
    fill, _, expected = jobs
    fill(tmp_path / "out")
    return lambda: fill(tmp_path / "out"), min((tmp_path / "out").glob("*.parquet")), expected


def folders(jobs, tmp_path, rounds, seed):
    fill, _, expected = jobs
    return campaign(fill, lambda out: fill(out, top=1), tmp_path / "out", expected, rounds, seed)


def test_damaged_parts_of_a_folder_are_answered_again(jobs, tmp_path):
    assert folders(jobs, tmp_path, rounds=10, seed=1)["right"] == 10


@pytest.mark.parametrize("harm", ["flip", "flip in the footer", "zeros", "truncate", "pipe"])
def test_a_damaged_part_of_a_file_is_answered_again(jobs, tmp_path, harm):
    """It is broken off, and goes on."""
    _, write, expected = jobs
    for seed in range(5):
        out = tmp_path / f"{seed}.parquet"
        break_off(lambda say, out=out: write(out, say))
        (part,) = (tmp_path / f".{out.name}.parts").glob("*.parquet")
        harm_one(part, random.Random(seed), harm, {})
        with within(120):
            write(out)
        same(pq.read_table(out).to_pylist(), expected)


def test_a_part_whose_column_has_another_type_is_answered_again(filled):
    """A flipped bit of the footer makes bytes of a text, and the seal knows."""
    fill, part, expected = filled
    table = pq.read_table(part)
    at = table.schema.get_field_index("error")
    pq.write_table(table.set_column(at, "error", table["error"].cast(pa.binary())), part)
    fill()
    same(rows_of(part.parent), expected)
    assert pq.read_schema(part).field("error").type == pa.string()


def test_a_folder_in_the_place_of_a_part_is_told_before_any_work(filled):
    fill, part, _ = filled
    part.unlink()
    part.mkdir()
    told = r"0\.parquet is a folder, where a part of this job belongs: move"
    with pytest.raises(ex.InputError, match=told):
        fill()


def test_parts_of_earlier_versions_are_kept(filled):
    """They have no seal."""
    fill, part, _ = filled
    table = pq.read_table(part)
    noted = {name: value for name, value in table.schema.metadata.items() if name != b"exeunt.seal"}
    table = table.set_column(5, "cost", pa.array([-1.0] * BLOCK)).replace_schema_metadata(noted)
    pq.write_table(table, part)
    fill()
    assert [row["cost"] for row in rows_of(part.parent)].count(-1.0) == BLOCK


@pytest.mark.slow
def test_parts_are_damaged_two_hundred_times(jobs, tmp_path):
    found = folders(jobs, tmp_path, rounds=200, seed=2)
    print(found)
    assert found["right"] == 200
