"""Data of which some or all inputs have no label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_data import encoded, noise, write_image_table

from exeunt.data import open_inputs, open_source, plan_split
from exeunt.errors import InputError

PIXELS = noise(12)


def write_images(folder: Path, *names: str) -> Path:
    for name, pixels in zip(names, PIXELS, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(pixels))
    return folder


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["b.png", "a.png"], ["a.png", "b.png"], None),
        (["train/b.png", "test/a.png"], ["train/b.png"], ["test/a.png"]),
        (["train/b.png", "val/a.png", "c.png"], ["train/b.png"], ["val/a.png"]),
    ],
)
def test_a_folder_of_images_needs_no_folders_of_classes(tmp_path, names, train, test):
    source = open_source(write_images(tmp_path, *names), unlabelled=True)
    named = {part: [data.name(i) for i in range(len(data))] for part, data in source.datasets.items()}
    assert named == {part: files for part, files in (("train", train), ("test", test)) if files}
    assert (source.kind, source.class_names, source.train.labels) == ("image", None, None)
    with pytest.raises(InputError, match="nothing usable"):
        open_source(tmp_path)


@pytest.mark.parametrize("where", ["", "train/"])
def test_it_is_asked_whether_folders_are_classes_and_each_answer_is_taken(tmp_path, where):
    names = [f"{where}{name}.png" for name in ("ant/1", "ant/2", "bee/1", "loose")]
    folder = write_images(tmp_path, *names)
    with pytest.raises(InputError) as asked:
        open_source(folder, unlabelled=True)
    assert "has folders of images, ant, bee" in str(asked.value)
    for answer in ("leave out --unlabelled", "--label-column folder", "--label-column none"):
        assert answer in str(asked.value)
    assert open_source(folder).train.labels.tolist() == [0, 0, 1]
    some = open_source(folder, unlabelled=True, label="folder")
    assert (some.train.labels.tolist(), some.class_names) == ([0, 0, 1, -1], ("ant", "bee"))
    none = open_source(folder, unlabelled=True, label="none")
    assert (len(none.train), none.train.labels, none.class_names) == (4, None, None)


def test_labels_throughout_are_asked_about(tmp_path):
    table = write_image_table(tmp_path / "a.parquet", PIXELS, [0, 1] * 6)
    with pytest.raises(InputError, match=r"every input of .* has a label.* leave out --unlabelled; .*none"):
        open_source(table, unlabelled=True)
    assert open_source(table, unlabelled=True, label="none").train.labels is None
    digits = open_source("sklearn:digits", unlabelled=True, label="none")
    assert (digits.train.labels, digits.class_names) == (None, None)


@pytest.mark.parametrize(
    ("cells", "labels", "classes"),
    [
        ([None, 2, -1, 0], [-1, 2, -1, 0], ("0", "1", "2")),
        ([None, 2.0, None, 0.0], [-1, 2, -1, 0], ("0", "1", "2")),
        (["", "bee", None, "ant"], [-1, 1, -1, 0], ("ant", "bee")),
        ([None, None, None, None], None, None),
        ([-1, -1, -1, -1], None, None),
    ],
)
def test_empty_cells_are_unknown_labels(tmp_path, cells, labels, classes):
    table = write_image_table(tmp_path / "a.parquet", PIXELS[:4], cells)
    source = open_source(table, unlabelled=True)
    found = source.train.labels
    assert (None if found is None else found.tolist(), source.class_names) == (labels, classes)
    if None in cells:
        with pytest.raises(InputError, match="are empty or cannot be read"):
            open_source(table)


def test_labels_get_the_numbers_that_the_network_gives_its_classes(tmp_path):
    table = write_image_table(tmp_path / "a.parquet", PIXELS[:3], ["bee", "", "cow"])
    source = open_source(table, unlabelled=True)
    known = source.with_classes(["cow", "ant", "bee"])
    assert (known.train.labels.tolist(), known.n_classes) == ([2, -1, 0], 3)
    assert known.train.true_names == ["bee", None, "cow"]
    assert known.fingerprint != source.fingerprint
    with pytest.raises(InputError, match=r"has the label 'cow', and the network's classes are 0, 1: write"):
        source.with_classes(["0", "1"])
    numbers = write_image_table(tmp_path / "b.parquet", PIXELS[:3], [1, None, 0])
    named = open_source(numbers, unlabelled=True).with_classes(["cow", "ant", "bee"])
    assert named.train.true_names == ["ant", None, "cow"]


@pytest.mark.parametrize("label", [3, "ant"])
def test_one_class_teaches_nothing(tmp_path, label):
    table = write_image_table(tmp_path / "a.parquet", PIXELS, [label] * 12)
    with pytest.raises(InputError, match=rf"are '{label}', and one class teaches nothing: name the column"):
        open_source(table).n_classes  # noqa: B018


def test_texts_are_one_a_line(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"one\r\n\ntwo, three\n")
    (tmp_path / "test.txt").write_text("four\n")
    source = open_source(tmp_path, unlabelled=True)
    assert [source.train.content(i) for i in range(3)] == ["one", "", "two, three"]
    assert (source.test.name(0), source.kind) == ("test.txt#0", "text")
    alone = open_source(tmp_path / "train.txt", unlabelled=True)
    assert (len(alone.train), alone.test) == (3, None)
    assert open_inputs(tmp_path).content(0) == "four"
    assert open_inputs(tmp_path / "train.txt").content(2) == "two, three"
    with pytest.raises(InputError, match=r"has no labels, so it has no classes.*--unlabelled"):
        open_source(tmp_path / "train.txt").n_classes  # noqa: B018
    with pytest.raises(InputError, match="is no table and has no column 'text'"):
        open_source(tmp_path / "train.txt", text=["text"], unlabelled=True)


def test_a_column_of_labels_may_be_missing(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"], "more": [1, 2]}), tmp_path / "log.parquet")
    source = open_source(tmp_path / "log.parquet", unlabelled=True)
    assert (source.kind, source.train.labels, len(source.train)) == ("text", None, 2)
    with pytest.raises(InputError, match="has no column 'intent'"):
        open_source(tmp_path / "log.parquet", unlabelled=True, label="intent")
    with pytest.raises(
        InputError, match=r"has no column 'mroe' \(did you mean more\?\); its columns are text, more"
    ):
        open_source(tmp_path / "log.parquet", unlabelled=True, label="mroe")


def test_a_part_counts_as_labelled_only_if_all_its_inputs_are(tmp_path):
    table = write_image_table(tmp_path / "a.parquet", PIXELS, [0, 1, None, 1] * 3)
    source = open_source(table, unlabelled=True)
    plan = plan_split(source, fit=2, calibrate=2, test=2)
    train = plan.select(source, "train")
    assert (train.labels == -1).any()
    assert train.without_some_labels().labels is None
    known = source.train.take(np.flatnonzero(source.train.labels >= 0))
    assert known.without_some_labels() is known


def test_images_outside_folders_have_no_classes(tmp_path):
    folder = write_images(tmp_path, "a.png", "b.png")
    with pytest.raises(InputError, match="lie in no folders of classes: leave out --label-column folder"):
        open_source(folder, unlabelled=True, label="folder")
