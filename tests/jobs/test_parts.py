"""A folder of parts: of one job, whole or missing, and told apart from everything else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt._support.paths import write_bytes
from exeunt.jobs.blocks import Block, DoneBlock, blocks_of
from exeunt.jobs.parts import check_complete, done_in, finish_folder, open_folder
from exeunt.jobs.summary import Tally
from object_store import google_store, object_store

ABOUT = {"run": "r", "inputs": "i", "block": 4}


@pytest.fixture(scope="module", params=[None, object_store, google_store])
def store(request):
    if request.param is None:
        yield None
        return
    with pytest.MonkeyPatch.context() as patch, request.param(patch) as bucket:
        yield bucket


@pytest.fixture
def out(store, tmp_path):
    return f"{store}/{tmp_path.name}/out" if store else str(tmp_path / "new" / "out")


@pytest.fixture
def here(tmp_path):
    """A folder of this machine for a job."""
    return tmp_path / "out"


RUN = SimpleNamespace(digest="r", path="runs/r")


class Killed(BaseException):
    pass


def written(parts, block: Block) -> None:
    table = pa.table({"name": [str(block.start + i) for i in range(block.n)]})
    tally = Tally(n=block.n, cost=float(block.start))
    parts.keep(DoneBlock(block, table, tally, []))


def test_what_is_whole_is_kept_and_the_rest_is_left(out):
    parts = open_folder(out, ABOUT)
    blocks = list(blocks_of(18, 4))
    assert parts.done(blocks) == (Tally(), blocks)
    for block in (blocks[3], blocks[0]):
        written(parts, block)
    written(parts, blocks[1]._replace(n=3))  # of other rows
    half = parts.files[0].read_bytes()[:-9]  # as stores leave it whose puts are not atomic
    write_bytes(parts.folder / "000000000008.parquet", half)
    again = open_folder(out, ABOUT)
    total, left = again.done(blocks)
    assert left == [blocks[1], blocks[2], blocks[4]]
    assert total == Tally(n=8, cost=12.0)
    for block in left:
        written(again, block)
    total, left = again.done(blocks)
    assert (total.n, left) == (18, [])
    assert finish_folder(again, blocks) == total
    manifest = json.loads((again.folder / "_manifest.json").read_bytes())
    assert manifest["complete"]
    assert manifest["parts"] == [f"{block.start:012d}.parquet" for block in blocks]
    assert Tally.from_dict(manifest["tally"]) == total


def test_a_job_that_was_killed_while_it_wrote_its_first_file_goes_on(here, monkeypatch):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", kill)
        patch.setattr(Path, "unlink", kill)
        with pytest.raises(Killed):
            open_folder(str(here), ABOUT)
    assert [file.suffix for file in here.iterdir()] == [".tmp"]
    parts = open_folder(str(here), ABOUT)
    written(parts, Block(0, 4))
    finish_folder(parts, [Block(0, 4)])
    assert not list(here.glob(".*"))


def test_a_job_that_goes_on_leaves_its_description_alone(here):
    open_folder(str(here), ABOUT)
    before = (here / "_job.json").stat().st_ino
    open_folder(str(here), ABOUT)
    assert (here / "_job.json").stat().st_ino == before
    open_folder(str(here), {**ABOUT, "run": "s"}, force=True)
    assert json.loads((here / "_job.json").read_text())["run"] == "s"


def test_parts_are_read_as_one_table(here):
    parts, blocks = open_folder(str(here), ABOUT), list(blocks_of(9, 2))
    for block in blocks[::-1]:
        written(parts, block)
    left_by_a_kill = here / ".000000000000.parquet.0.tmp"
    left_by_a_kill.write_bytes(b"half")
    finish_folder(parts, blocks)
    assert pq.read_table(here)["name"].to_pylist() == [str(i) for i in range(9)]
    assert not left_by_a_kill.exists()


def test_other_jobs_and_other_files_are_not_touched(out):
    parts = open_folder(out, ABOUT)
    written(parts, Block(0, 4))
    with pytest.raises(ex.InputError, match=r"answers of another job \(it differs in inputs, block\)"):
        open_folder(out, {**ABOUT, "inputs": "j", "block": 5})
    assert [file.name for file in open_folder(out, ABOUT).files] == ["000000000000.parquet"]
    again = open_folder(out, {**ABOUT, "inputs": "j"}, force=True)
    assert again.files == []
    written(again, Block(0, 4))
    (again.folder / "_job.json").unlink()
    with pytest.raises(ex.InputError, match=r"holds other files, such as 000000000000\.parquet: name"):
        open_folder(out, ABOUT)
    assert open_folder(out, ABOUT, force=True).files == []


@pytest.mark.parametrize("has_job", [False, True])
def test_force_removes_no_data(here, has_job):
    here.mkdir()
    (here / "train.parquet").write_bytes(b"dear")
    if has_job:
        (here / "_job.json").write_text("{}")
    with pytest.raises(ex.InputError, match=r"out holds train\.parquet, which is no part of a job"):
        open_folder(str(here), ABOUT, force=True)
    assert (here / "train.parquet").read_bytes() == b"dear"


def test_an_old_worker_leaves_no_part_of_its_job_in_the_next(out):
    before, blocks = open_folder(out, ABOUT), list(blocks_of(12, 4))
    parts = open_folder(out, {**ABOUT, "run": "s"}, force=True)
    for block in blocks:
        written(parts, block)
    written(before, blocks[1])
    assert parts.done(blocks)[1] == [blocks[1]]
    told = r"1 part of .*, such as 000000000004\.parquet, were lost, or re"
    with pytest.raises(ex.errors.FileError, match=told):
        finish_folder(parts, blocks)
    written(parts, blocks[1])
    written(before, Block(2, 4))  # of other blocks
    told = r"holds 000000000002\.parquet, which is no part of this job: remove"
    with pytest.raises(ex.InputError, match=told):
        finish_folder(parts, blocks)
    assert not (parts.folder / "_manifest.json").is_file()
    (parts.folder / "000000000002.parquet").unlink()
    assert finish_folder(parts, blocks).n == 12


def test_a_job_that_lost_a_part_is_not_complete(out):
    parts, blocks = open_folder(out, ABOUT), list(blocks_of(8, 4))
    for block in blocks:
        written(parts, block)
    finish_folder(parts, blocks)
    assert done_in(open_folder(out, ABOUT), blocks)[1] == []
    assert (parts.folder / "_manifest.json").is_file()
    (parts.folder / "000000000004.parquet").unlink()
    assert done_in(open_folder(out, ABOUT), blocks)[1] == [blocks[1]]
    with pytest.raises(ex.InputError, match="is not complete"):
        check_complete(parts.folder, RUN)


def test_a_store_out_of_reach_is_no_folder_without_a_job(here, monkeypatch):
    parts = open_folder(str(here), ABOUT)
    written(parts, Block(0, 4))

    def fails(_):
        raise OSError("timed out")

    monkeypatch.setattr("exeunt.jobs.parts.read_bytes", fails)
    for force in (False, True):
        with pytest.raises(ex.errors.FileError, match=r"cannot read .*_job\.json: OSError: timed out"):
            open_folder(str(here), {**ABOUT, "run": "s"}, force=force)
    with pytest.raises(ex.errors.FileError, match=r"cannot read .*_job\.json"):
        check_complete(parts.folder, RUN)
    assert [file.name for file in parts.files] == ["000000000000.parquet"]


def test_a_folder_that_is_being_emptied_is_not_complete(here, monkeypatch):
    parts = open_folder(str(here), ABOUT)
    written(parts, Block(0, 4))
    finish_folder(parts, [Block(0, 4)])
    remove = Path.unlink

    def dies(path):
        remove(path)
        raise Killed

    monkeypatch.setattr(Path, "unlink", dies)
    with pytest.raises(Killed):
        open_folder(str(here), {**ABOUT, "block": 5}, force=True)
    with pytest.raises(ex.InputError, match="is not complete"):
        check_complete(parts.folder, RUN)
