"""What `exeunt predict` writes, prints and refuses, through the real `main`."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cli.command import called
from exeunt._support import files
from exeunt.data import open_inputs
from exeunt.jobs import parts
from exeunt.jobs.prediction_files import csv_lines


@pytest.fixture
def pictures(tmp_path):
    """Six digits in folders named like their classes."""
    digits = load_digits()
    for i in range(1300, 1306):
        folder = tmp_path / "in" / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15.9).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "in"


def predict(run, data, out="-", *options):
    return called("predict", run.path, "--data", data, "--out", out, *options)


def test_all_formats_hold_the_same(exported, pictures, tmp_path):
    made = tmp_path / "new" / "folder"
    names = ("a", "a.csv", "a.jsonl", "a.parquet", "a.pq")
    for name in names:
        done = predict(exported, pictures, made / name, "--top", "3", "--probabilities")
        assert (done.status, done.err) == (0, "")
    expected = pq.read_table(made / "a.parquet").to_pylist()
    assert pq.read_table(made / "a.pq").to_pylist() == pq.read_table(made / "a").to_pylist() == expected
    assert [json.loads(line) for line in (made / "a.jsonl").read_text().splitlines()] == expected
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in expected]
    with (made / "a.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == texts
    assert sorted(path.name for path in made.iterdir()) == [*names]
    printed = predict(exported, pictures, "-", "--top", "3", "--probabilities").out
    assert printed == (made / "a.csv").read_text()


def test_probabilities_are_those_of_the_exit_that_answered(exported, pictures, tmp_path):
    predict(exported, pictures, tmp_path / "a.parquet", "--top", "2", "--probabilities")
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    found = np.stack([table[f"probability_{k}"] for k in range(10)], axis=1)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(found.argmax(axis=1), table["label"])
    np.testing.assert_array_equal(found.max(axis=1), table["confidence"])
    order = np.sort(found, axis=1)
    np.testing.assert_array_equal(table["top_1_probability"], order[:, -1])
    np.testing.assert_array_equal(table["top_2_probability"], order[:, -2])
    assert table["top_1"] == table["class_name"]
    assert table["top_2"] == [str(k) for k in np.argsort(found, axis=1)[:, -2]]


def test_more_classes_than_there_are_cannot_be_shown(exported, pictures):
    done = predict(exported, pictures, "-", "--top", "11")
    assert (done.status, done.out) == (2, "")
    assert "top must be at most 10" in done.err


def test_accuracy_is_that_of_labels_compared_by_name(exported, pictures, tmp_path):
    done = predict(exported, "sklearn:digits", tmp_path / "a.parquet")
    test = open_inputs("sklearn:digits")
    right = np.mean(np.array(pq.read_table(tmp_path / "a.parquet")["label"]) == test.labels)
    assert f"accuracy {right:.2%} on 500 answered inputs with labels" in done.out
    assert "on 6 answered inputs with labels" in predict(exported, pictures, tmp_path / "b.parquet").out
    (pictures / "cat").mkdir()
    next(pictures.rglob("*.png")).rename(pictures / "cat" / "x.png")
    assert "with labels" not in predict(exported, pictures, tmp_path / "c.parquet").out


def test_labels_that_the_network_does_not_know_are_told(exported, pictures, tmp_path):
    images = [{"bytes": path.read_bytes()} for path in sorted(pictures.rglob("*.png"))]
    for name, labels in (("numbers", ["3", "1"] * 3), ("names", ["cat", "3"] * 3)):
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{name}.parquet")
    assert "answered inputs with labels" in predict(exported, tmp_path / "numbers.parquet").err
    done = predict(exported, tmp_path / "names.parquet")
    assert "on 3 answered inputs with labels" in done.err
    assert "no accuracy on 3 answered inputs of classes that the network does not know" in done.err
    assert "(it cannot be right there): cat\n" in done.err


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_only_predictions_are_overwritten(exported, pictures, tmp_path, ending):
    out = tmp_path / f"a.{ending}"
    for _ in range(2):
        assert predict(exported, pictures, out, "--top", "1").status == 0
    before = "name,label,mine\n" if ending == "csv" else '{"name": 1}\n'
    out.write_text(before)
    done = predict(exported, pictures, out)
    assert done.status == 2
    assert "exists and does not hold predictions: name another file, or replace it with --force" in done.err
    assert out.read_text() == before
    assert predict(exported, pictures, out, "--force").status == 0
    out.write_text("")
    assert predict(exported, pictures, out).status == 0


def test_nothing_readable_is_an_error_and_has_no_mean(exported, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_text("no image")
    done = predict(exported, tmp_path / "in", tmp_path / "a.parquet")
    assert done.status == 2
    assert "mean" not in done.out
    assert "0 of 1 input answered (the column 'error' says why not)" in done.out
    assert "no input could be answered; the first: cannot read the image a.png" in done.err
    assert len(pq.read_table(tmp_path / "a.parquet")) == 1


@pytest.mark.parametrize("small", [2**40, 1])
def test_links_that_lead_nowhere_are_counted(exported, pictures, monkeypatch, small):
    """Small data are known by their contents, large ones by their times."""
    monkeypatch.setattr("exeunt.data.dataset.SMALL_BYTES", small)
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    (pictures / "loop.png").symlink_to(pictures / "loop.png")
    done = predict(exported, pictures, pictures.parent / "a.csv")
    assert "6 of 8 inputs answered" in done.out
    assert "cannot read the image gone.png: it is a link to a file that does not exist" in done.out
    assert "loop.png" in (pictures.parent / "a.csv").read_text()


def test_images_that_may_not_be_read_are_counted(exported, pictures, monkeypatch):
    refused = next(pictures.rglob("*.png"))

    def refusing(method):
        def read(path, *args, **options):
            if Path(path) == refused:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return method(path, *args, **options)

        return read

    for owner, name in ((Path, "read_bytes"), (os, "open")):  # root may read anything
        monkeypatch.setattr(owner, name, refusing(getattr(owner, name)))
    done = predict(exported, pictures, pictures.parent / "out.csv")
    assert (done.status, done.out.count("5 of 6 inputs answered")) == (0, 1)
    assert "Permission denied" in done.out


def test_names_that_are_no_text_are_shown(exported, pictures, tmp_path):
    source = next(pictures.rglob("*.png"))
    os.rename(source, os.fsencode(pictures) + b"/\xff.png")  # noqa: PTH104 - bytes
    assert predict(exported, pictures, tmp_path / "a.csv").status == 0
    assert "\\xff.png," in (tmp_path / "a.csv").read_text()


def test_paths_come_from_standard_input(exported, pictures, monkeypatch):
    paths = sorted(map(str, pictures.rglob("*.png")))
    lines = os.fsencode("\n".join([*paths[:3], "", "nowhere.png"]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    done = predict(exported, "-")
    assert done.status == 0
    assert [row["name"] for row in csv.DictReader(io.StringIO(done.out))] == [*paths[:3], "nowhere.png"]
    assert "3 of 4 inputs answered" in done.err
    assert "cannot read the image nowhere.png: there is no such file" in done.err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert "there are no inputs" in predict(exported, "-").err


def test_two_processes_do_not_write_one_file(exported, pictures, tmp_path):
    out, lock = tmp_path / "a.csv", tmp_path / ".a.csv.parts" / ".lock"
    with files.locked(lock, out):
        done = predict(exported, pictures, out)
    assert (done.status, done.out) == (2, "")
    assert f"another process is writing {out}: wait until it is done, or name another place" in done.err
    lock.parent.mkdir(exist_ok=True)
    lock.touch()  # as a killed process leaves it, in nobody's way
    assert predict(exported, pictures, out).status == 0
    assert not lock.parent.exists()


def test_a_lock_that_its_owner_removes_is_not_taken(tmp_path, monkeypatch):
    """The owner may end, and remove the folder, after another process opened the lock and before it has it."""
    locks, removed = files.locks, []

    def remove_first(file):
        if not removed:
            removed.append(Path(file.name).unlink())
        return locks(file)

    monkeypatch.setattr(files, "locks", remove_first)
    lock = tmp_path / ".a.csv.parts" / ".lock"
    with parts.open_parts(tmp_path / "a.csv", {}), lock.open("ab") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert removed


def test_a_disk_without_locks_is_not_another_process(exported, pictures, tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuses)
    assert predict(exported, pictures, tmp_path / "a.csv").status == 0


def test_nothing_is_printed_before_there_are_answers(run, pictures):
    (run.path / "weights.safetensors").write_bytes(b"damaged")
    done = predict(run, pictures)
    assert (done.status, done.out) == (2, "")


def test_csv_quotes_what_must_be():
    assert list(csv_lines([{"a": ['x,"y', None], "b": ["1\n2", True]}])) == [
        "a,b\n", '"x,""y","1\n2"\n', ",True\n",
    ]  # fmt: skip
