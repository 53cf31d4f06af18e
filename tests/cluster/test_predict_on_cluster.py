"""`exeunt predict --engine ray` on a real cluster: what one process answers, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray_processes import below

import exeunt as ex
from cli.command import called
from exeunt._support.paths import open_arrow, place
from exeunt.data import open_inputs
from exeunt.jobs import predict_inputs
from exeunt.jobs.cluster.jobs import RayWorkers, connected
from exeunt.jobs.predict import predict_folder
from exeunt.runs.folder import RunFolder
from jobs.damaged_parts import campaign, same
from object_store import put_folder

UNKNOWN = "it is not an image in a format that Pillow knows"


def predict_on_cluster(run, inputs, out, *, address=None, workers=1, **options):
    do_blocks = RayWorkers(address=address, workers=workers)
    return predict_folder(run, inputs, out, do_blocks=do_blocks, **options)


def alone(run, inputs, out):
    summary = predict_inputs(run, inputs, out, say=lambda _: None)
    return summary, rows(out)


def rows(out) -> list[dict]:
    return pq.read_table(out).to_pylist()


def stored_rows(folder) -> list[dict]:
    files = sorted(folder.glob("*.parquet"), key=str)
    return [row for file in files for row in pq.read_table(open_arrow(file)).to_pylist()]


def test_what_is_connected_stays_connected(cluster):
    with connected("auto") as ray:
        assert ray is cluster
    assert cluster.is_initialized()


@pytest.mark.slow
def test_whoever_is_killed_all_inputs_are_answered(cluster, bucket, run, pictures, tmp_path, monkeypatch):
    """From and to an object store. First the driver breaks off, then a worker is killed."""
    monkeypatch.setattr("exeunt.jobs.summary._EVERY_S", 0.0)
    inputs, out = open_inputs(put_folder(pictures, f"{bucket}/in")), f"{bucket}/killed"
    expected, expected_rows = alone(run, open_inputs(pictures), tmp_path / "alone.parquet")
    folder, said, killed = place(out), [], []

    class BrokenOff(BaseException):
        pass

    def break_off(text: str) -> None:
        said.append(text)
        if "budget so far" in text:
            raise BrokenOff

    def kill_one(text: str) -> None:
        said.append(text)
        if not killed and "budget so far" in text:
            killed.append(below(named="ray::Worker")[0])
            os.kill(killed[0], signal.SIGKILL)

    options = {"workers": 2, "block_size": 8, "batch_size": 8}
    with pytest.raises(BrokenOff):
        predict_on_cluster(run, inputs, out, say=break_off, **options)
    done = {file.name: file.stat() for file in folder.glob("*.parquet")}
    assert 0 < len(done) < 16
    assert not (folder / "_manifest.json").is_file()

    found = predict_on_cluster(run, inputs, out, say=kill_one, **options)
    assert killed
    same(stored_rows(folder), expected_rows)
    assert (found.n, found.n_unanswered, found.n_right) == (121, 1, expected.n_right)
    assert found.mean_cost == pytest.approx(expected.mean_cost)
    assert found.first_error == expected.first_error
    assert found.first_error[1] == f"cannot read the image 3/bad.png: {UNKNOWN}"
    assert any("95% at most" in text for text in said)
    after = {file.name: file.stat() for file in folder.glob("*.parquet")}
    assert {name: after[name] for name in done} == done
    manifest = json.loads((folder / "_manifest.json").read_bytes())
    assert manifest["parts"] == sorted(after)
    assert manifest["tally"]["n"] == 121
    assert {path.name for path in folder.iterdir()} == {*after, "_job.json", "_manifest.json"}


@pytest.mark.slow
def test_a_folder_of_something_else_is_left_alone(cluster, run, pictures, tmp_path):
    inputs, out = open_inputs(pictures).take(range(40)), tmp_path / "out"
    options = {"block_size": 40, "say": lambda _: None}
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ex.InputError, match=r"holds other files, such as mine\.txt: name another folder"):
        predict_on_cluster(run, inputs, str(out), **options)
    (out / "mine.txt").unlink()
    predict_on_cluster(run, inputs, str(out), **options)
    other = inputs.take(range(30))
    with pytest.raises(ex.InputError, match=r"answers of another job \(it differs in inputs\)"):
        predict_on_cluster(run, other, str(out), **options)
    assert len(rows(out)) == 40
    predict_on_cluster(run, other, str(out), force=True, **options)
    assert len(rows(out)) == 30


@pytest.mark.slow
def test_texts_in_every_form_and_a_cascade_of_two(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    words = ("balance", "card", "transfer", "refund")

    def table(n: int) -> dict:
        labels = rng.integers(0, 4, n)
        others = [words[rng.integers(4)] if rng.random() < 0.4 else "please" for _ in range(n)]
        texts = [f"{words[k]} {other} {i}" for i, (k, other) in enumerate(zip(labels, others, strict=True))]
        return {"text": texts, "label": [words[k] for k in labels]}

    (tmp_path / "data").mkdir()
    for part, n in (("train", 600), ("test", 150)):
        pq.write_table(pa.table(table(n)), tmp_path / "data" / f"{part}.parquet")
    for k, name in enumerate(("a", "b")):
        options = f"--model tfidf --data data --seed {k} --fit 150 --out {name}"
        said = called("train", *options.split())
        assert said.status == 0, said.err
    said = called("cascade", "a", "b", "--out", "both")
    assert said.status == 0, said.err
    cascade = RunFolder.open("both")
    steps = [model.step for model in cascade.cascade]
    parts = [cascade.recorded(part).along(steps) for part in ("fit", "calibrate")]
    cascade.save_policy(replace(ex.eero(*parts, budget="150%"), cascade=tuple(steps)))

    inputs = table(130)
    inputs["text"][7] = None
    pq.write_table(pa.table(inputs), "t.parquet", row_group_size=20)
    whole = [text or "" for text in inputs["text"]]
    (tmp_path / "t.csv").write_text("text\n" + "\n".join(whole) + "\n")
    (tmp_path / "t.txt").write_text("\n".join(whole) + "\n")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in inputs["text"]))
    for file in ("t.parquet", "t.csv", "t.txt", "t.jsonl"):
        command = ("predict", "both", "--data", file, "--out")
        one = called(*command, "one.parquet")
        ray = called(*command, f"of-{file}", "--engine", "ray", "--block-size", "32")
        assert (one.status, ray.status) == (0, 0), ray.err
        same(rows(f"of-{file}"), rows("one.parquet"))
        assert len({row["exit"] for row in rows("one.parquet")} - {None}) == 2
        assert one.out.splitlines()[-2].split("%")[0].split("accuracy")[-1] in ray.out


@pytest.mark.slow
def test_a_reader_that_is_killed_reads_its_block_again(cluster, run, tmp_path):
    killed, over = [], threading.Event()

    def kill() -> None:
        while len(killed) < 3 and not over.wait(0.05):
            for pid in below(named="ray::read_block")[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    inputs = open_inputs("sklearn:digits")
    killer = threading.Thread(target=kill)
    killer.start()
    options = {"block_size": 250, "batch_size": 2, "say": lambda _: None}
    predict_on_cluster(run, inputs, str(tmp_path / "out"), **options)
    over.set()
    killer.join()
    assert killed
    same(rows(tmp_path / "out"), alone(run, inputs, tmp_path / "alone.parquet")[1])


@pytest.mark.slow
def test_parts_are_damaged_thirty_times(cluster, run, tmp_path):
    inputs = open_inputs("sklearn:digits").take(range(200))
    options = {"block_size": 20, "batch_size": 20, "say": lambda _: None}
    expected = alone(run, inputs, tmp_path / "alone.parquet")[1]

    def on_cluster(out):
        predict_on_cluster(run, inputs, str(out), workers=2, **options)

    def other_job(out):
        predict_folder(run, inputs, str(out), top=1, **options)

    found = campaign(on_cluster, other_job, tmp_path / "out", expected, rounds=30, seed=3)
    print(found)
    assert found["right"] == 30


CONNECTS = """
import sys
from exeunt.jobs.cluster.jobs import connected
with connected():
    print("connected", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_nothing_of_a_cluster_outlives_its_killed_command_for_long():
    """Two agents of Ray stay for the 60 s in which they try to reach the head."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", CONNECTS], **pipes)
    assert process.stdout.readline() == "connected\n"
    started = below(process.pid, named="")
    assert len(started) >= 5
    process.kill()
    process.communicate()
    end = time.monotonic() + 180
    while left := [pid for pid in started if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(1.0)
