from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_data import encoded, noise, write_image_table
from PIL import Image
from sklearn.datasets import load_digits

from exeunt.data import Dataset, open_inputs, open_source
from exeunt.errors import ArtefactError, InputError, MissingExtra, UnreadableImage

PIXELS = noise(8)
LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
NAMES = ["ant", "bee", "cow"]


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_parquet_in_the_hugging_face_schema(tmp_path: Path, image: str, label: str) -> None:
    for part, rows in (("train", slice(0, 5)), ("test", slice(5, 8))):
        path = tmp_path / f"{part}.parquet"
        write_image_table(path, PIXELS[rows], LABELS[rows], names=NAMES, image=image, label=label)
    source = open_source(tmp_path)
    assert (source.kind, source.class_names, source.n_classes) == ("image", tuple(NAMES), 3)
    assert source.train is not None
    assert source.test is not None
    assert (len(source.train), len(source.test)) == (5, 3)
    assert source.train.labels.tolist() == LABELS[:5]
    check_contents(source.train, PIXELS[:5])
    assert names_of(source.test) == [f"test.parquet#{i}" for i in range(3)]


def test_shards_are_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for k, rows in enumerate((slice(0, 4), slice(4, 4), slice(4, 8))):
        path = folder / f"train-{k:05}-of-00003.parquet"
        write_image_table(path, PIXELS[rows], pa.array(LABELS[rows], pa.int64()))
    train = open_source(tmp_path).train
    assert train.labels.tolist() == LABELS
    check_contents(train, PIXELS, (7, 0, 4, 3))
    assert train.name(5) == "train-00002-of-00003.parquet#1"
    whole = write_image_table(tmp_path / "whole.parquet", PIXELS, LABELS)
    assert open_source(whole).train.fingerprint == train.fingerprint


@pytest.mark.parametrize("other", [{"image": "img", "label": "coarse"}, {"image": "image", "label": "label"}])
def test_a_shard_without_a_column_is_named(tmp_path: Path, other: dict[str, str]) -> None:
    write_image_table(tmp_path / "test-0.parquet", PIXELS[:4], LABELS[:4])
    write_image_table(tmp_path / "test-1.parquet", PIXELS[4:], LABELS[4:], **other)
    for read in (open_inputs, open_source):
        with pytest.raises(InputError, match=r"test-1\.parquet has no column '(img|label)', and .*test-0"):
            read(tmp_path)


def picture(path: Path, pixels: np.ndarray = PIXELS[0]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels))


def names_of(data: Dataset) -> list[str]:
    return [data.name(i) for i in range(len(data))]


def check_contents(data: Dataset, expected: list, rows: Sequence[int] | None = None) -> None:
    for i in range(len(expected)) if rows is None else rows:
        assert np.array_equal(data.content(i), expected[i])


def test_linked_folders_are_read_once_each_after_all_others(tmp_path: Path) -> None:
    for name in ("in/a", "in/z", "elsewhere"):
        picture(tmp_path / name / "0.png")
    (tmp_path / "in" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "a" / "last").symlink_to(tmp_path / "in" / "z")
    (tmp_path / "elsewhere" / "across").symlink_to(tmp_path / "in" / "a")
    assert names_of(open_inputs(tmp_path / "in")) == ["a/0.png", "b/0.png", "z/0.png"]


def test_row_groups_beyond_the_memory_limit_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exeunt.data.columns.MEMORY_BYTES", 1)
    data = open_source(write_image_table(tmp_path / "a.parquet", PIXELS, LABELS)).train
    check_contents(data, PIXELS, (7, 0, 7, 3, 1))


def test_the_image_may_lie_beside_the_table(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "a.png")
    cells = [{"bytes": None, "path": "pictures/a.png"}, {"bytes": encoded(PIXELS[1]), "path": "b"}]
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}), tmp_path / "train.parquet")
    check_contents(open_source(tmp_path).train, PIXELS[:2])


def test_text_labels_are_coded_in_alphabetical_order(tmp_path: Path) -> None:
    write_image_table(tmp_path / "train.parquet", PIXELS[:4], ["cow", "ant", "cow", "bee"])
    write_image_table(tmp_path / "test.parquet", PIXELS[4:6], ["bee", "ant"])
    source = open_source(tmp_path)
    assert source.class_names == tuple(NAMES)
    assert source.train.labels.tolist() == [2, 0, 2, 1]
    assert source.test.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (["cow", "ant"], ["ant", "bee"], "test.parquet#1 has the label 'bee'.*training data are ant, cow"),
        ([0, 2], [1, 3], "test.parquet#1 has the label 3.*are 0, 1, 2"),
    ],
)
def test_a_label_that_no_training_row_has_is_refused_with_its_row(tmp_path, train, test, said) -> None:
    write_image_table(tmp_path / "train.parquet", PIXELS[:2], train)
    write_image_table(tmp_path / "test.parquet", PIXELS[2:4], test)
    with pytest.raises(InputError, match=said):
        open_source(tmp_path)
    assert len(open_inputs(tmp_path).class_names) == 2  # inputs to predict have the labels that they have


def test_hidden_labels_make_way_for_a_labelled_validation_file(tmp_path: Path) -> None:
    write_image_table(tmp_path / "train.parquet", PIXELS[:4], LABELS[:4])
    write_image_table(tmp_path / "test.parquet", PIXELS[4:6], [-1, -1])
    assert open_source(tmp_path).test.labels is None
    write_image_table(tmp_path / "validation.parquet", PIXELS[6:], LABELS[6:])
    assert open_source(tmp_path).test.labels.tolist() == LABELS[6:]


def test_a_labelled_validation_table_beside_the_test_table_is_read(tmp_path: Path) -> None:
    write_image_table(tmp_path / "train.parquet", PIXELS[:4], LABELS[:4])
    write_image_table(tmp_path / "test.parquet", PIXELS[4:6], LABELS[4:6])
    without = open_source(tmp_path)
    assert without.validation is None
    write_image_table(tmp_path / "validation.parquet", PIXELS[6:], LABELS[6:])
    source = open_source(tmp_path)
    assert source.test.labels.tolist() == LABELS[4:6]
    assert source.validation.labels.tolist() == LABELS[6:]
    assert not source.asked_for
    assert source.fingerprint != without.fingerprint
    assert [*source.datasets] == ["train", "test", "validation"]
    (tmp_path / "validation.parquet").write_bytes(b"damaged")
    assert len(open_inputs(tmp_path)) == 2  # inputs to predict are the test data


def test_calibration_data_are_named_apart(tmp_path: Path) -> None:
    write_image_table(tmp_path / "train.parquet", PIXELS[:3], LABELS[:3])
    write_image_table(tmp_path / "validation.parquet", PIXELS[3:4], LABELS[3:4])
    write_image_table(tmp_path / "test.parquet", PIXELS[3:5], LABELS[3:5])
    log = write_image_table(tmp_path / "log.parquet", PIXELS[5:], LABELS[5:])
    source = open_source(tmp_path, calibration_data=log)
    assert source.validation.labels.tolist() == LABELS[5:]
    assert source.asked_for
    assert source.test.labels.tolist() == LABELS[3:5]
    whole = open_source(log, calibration_data=tmp_path)
    assert whole.validation.labels.tolist() == LABELS[3:5]  # of two parts, the test part
    with pytest.raises(InputError, match="there is no data named 'nowhere'"):
        open_source(tmp_path, calibration_data="nowhere")
    write_image_table(log, PIXELS[5:], [-1] * 3)
    with pytest.raises(InputError, match=r"log.parquet has no labels, which policies are fitted with"):
        open_source(tmp_path, calibration_data=log)


def test_the_label_column_can_be_chosen(tmp_path: Path) -> None:
    cells = [{"bytes": encoded(p), "path": None} for p in PIXELS[:2]]
    table = pa.table({"img": cells, "fine_label": [4, 5], "coarse_label": [1, 0]})
    pq.write_table(table, tmp_path / "train.parquet")
    assert open_source(tmp_path).train.labels.tolist() == [4, 5]
    assert open_source(tmp_path, label="coarse_label").train.labels.tolist() == [1, 0]
    with pytest.raises(InputError, match="its columns are img, fine_label, coarse_label"):
        open_source(tmp_path, label="colour")
    pq.write_table(table.rename_columns(["img", "label", ""]), tmp_path / "train.parquet")
    assert open_source(tmp_path, label="").train.labels.tolist() == [1, 0]


def test_labels_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    for labels, words in (
        ([0, -2], "train.parquet#1 has the label -2"),
        ([0.5, 1.5], "whole numbers"),
        ([0, None], "1 of 2.*the first in train.parquet#1"),
        (["a", ""], "the first in train.parquet#1"),
    ):
        write_image_table(path, PIXELS[:2], labels)
        with pytest.raises(InputError, match=words):
            open_source(tmp_path)
    for labels in ([0, 10**9], [0, 2**63 - 1]):  # a name for each number would fill the memory
        write_image_table(path, PIXELS[:2], labels)
        said = rf"train.parquet#1 has the label {labels[1]}, and .* from 0 to at most 99,999"
        with pytest.raises(InputError, match=said):
            open_source(tmp_path)
        assert len(open_inputs(tmp_path).class_names) == 2  # inputs to predict have the labels that they have
    write_image_table(path, PIXELS[:2], [0, 99_999])
    assert open_source(tmp_path).n_classes == 100_000
    write_image_table(path, PIXELS[:2], [0, 3], names=NAMES)
    with pytest.raises(InputError, match=r"#1 has the label 3.*ant, bee, cow"):
        open_source(tmp_path)


def image_folder(root: Path, parts: dict[str, dict[str, int]]) -> Path:
    for part, classes in parts.items():
        for name, count in classes.items():
            folder = root / part / name
            for i in range(count):
                picture(folder / f"{i}.png", noise(1, seed=i + 7 * len(name))[0])
            (folder / ".hidden.png").write_bytes(b"")
            (folder / "notes.txt").write_text("no image")
    return root


ANIMALS = {"dog": 2, "cat": 3}


@pytest.mark.parametrize(
    ("parts", "train", "test", "validation"),
    [
        ({"train": ANIMALS, "test": {"dog": 1}}, [0, 0, 0, 1, 1], [1], None),
        ({"train": ANIMALS, "val": {"dog": 1}}, [0, 0, 0, 1, 1], [1], None),
        ({"train": ANIMALS, "test": {"dog": 1}, "val": ANIMALS}, [0, 0, 0, 1, 1], [1], [0, 0, 0, 1, 1]),
        ({".": {"dog": 1, "cat": 2}}, [0, 0, 1], None, None),
        # Test images without labels make way for those of val, and alone are no test data.
        ({"train": ANIMALS, "test": {".": 4}, "val": {"dog": 1}}, [0, 0, 0, 1, 1], [1], None),
        ({"train": ANIMALS, "test": {"images": 4}, "val": {"dog": 1}}, [0, 0, 0, 1, 1], [1], None),
        ({"train": ANIMALS, "test": {".": 4}}, [0, 0, 0, 1, 1], None, None),
    ],
)
def test_image_folder(tmp_path: Path, parts: dict, train: list, test: list, validation: list) -> None:
    source = open_source(image_folder(tmp_path, parts))
    assert source.class_names == ("cat", "dog")
    found = {part: data.labels.tolist() for part, data in source.datasets.items()}
    expected = {"train": train, "test": test, "validation": validation}
    assert found == {part: labels for part, labels in expected.items() if labels is not None}
    first_dog = train.index(1)
    assert source.train.name(first_dog).endswith("dog/0.png")
    assert np.array_equal(source.train.content(first_dog), noise(1, seed=21)[0])
    if test is None:
        with pytest.raises(InputError, match="no 'test' data, only train"):
            source.dataset("test")


def test_a_class_that_only_the_test_folder_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks: cow"):
        open_source(image_folder(tmp_path, {"train": {"ant": 1}, "test": {"cow": 1}}))


def test_what_is_not_there_or_not_usable_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no data named 'nowhere'.*hf:NAME"):
        open_source("nowhere")
    with pytest.raises(InputError, match="nothing usable"):
        open_source(tmp_path)
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "train.parquet")
    with pytest.raises(InputError, match="its columns are x"):
        open_source(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ArtefactError, match=r"train\.parquet"):
        open_source(tmp_path)


def test_an_empty_cell_is_named(tmp_path: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = pa.array([None, {"bytes": None, "path": None}], kind)
    pq.write_table(pa.table({"img": cells}), tmp_path / "a.parquet")
    inputs = open_inputs(tmp_path / "a.parquet")
    for i in range(2):
        with pytest.raises(UnreadableImage, match=rf"a\.parquet#{i}: it is empty"):
            inputs.content(i)
    assert len(inputs.stored_keys()) == 2


def test_digits() -> None:
    source = open_source("sklearn:digits")
    assert (len(source.train), len(source.test), source.n_classes) == (1297, 500, 10)
    assert source.train.content(0).shape == (8, 8, 3)
    assert np.unique(source.train.pixels).tolist() == [round(grey * 255 / 16) for grey in range(17)]
    again = open_source("sklearn:digits")
    assert again.fingerprint == source.fingerprint
    assert np.array_equal(again.test.labels, source.test.labels)
    counts = np.bincount(np.concatenate([source.train.labels, source.test.labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_cluttered_digits() -> None:
    source = open_source("sklearn:cluttered-digits")
    assert (len(source.train), len(source.test), source.n_classes) == (8_000, 4_000, 10)
    assert open_source("sklearn:cluttered-digits").fingerprint == source.fingerprint
    assert np.bincount(source.test.labels).min() > 300
    wholes, classes = load_digits(return_X_y=True)
    wholes = np.rint(wholes.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    # Somewhere in the image lies a whole digit of its class: pieces of others only add to it.
    for i in range(5):
        image = source.test.content(i)
        assert image.shape == (20, 20, 3)
        places = np.lib.stride_tricks.sliding_window_view(image[..., 0], (8, 8)).reshape(-1, 1, 8, 8)
        assert (places >= wholes[classes == source.test.labels[i]]).all(axis=(2, 3)).any()


def test_inputs_to_predict(tmp_path: Path) -> None:
    image_folder(tmp_path, {".": {"b": 1, "a": 2}})
    folder = open_inputs(tmp_path)
    assert folder.labels is None
    assert names_of(folder) == ["a/0.png", "a/1.png", "b/0.png"]
    one = open_inputs(tmp_path / "a" / "1.png")
    assert (len(one), one.name(0)) == (1, "1.png")
    assert np.array_equal(one.content(0), folder.content(1))
    table = open_inputs(write_image_table(tmp_path / "x.parquet", PIXELS[:2], None))
    assert (table.labels, table.class_names) == (None, None)
    assert np.array_equal(table.content(1), PIXELS[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no image files in .*, and no table .* test-\*\.parquet"):
        open_inputs(tmp_path / "empty")
    parts = tmp_path / "parts"
    parts.mkdir()
    write_image_table(parts / "train.parquet", PIXELS, LABELS)
    assert len(open_inputs(parts)) == 8
    write_image_table(parts / "test.parquet", PIXELS[:3], LABELS[:3])
    assert len(open_inputs(parts)) == 3


def test_hugging_face_data_from_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = [{"image": Image.fromarray(p), "label": v} for p, v in zip(PIXELS, LABELS, strict=True)]
    whole = datasets.Dataset.from_list(rows, features=features)
    parts = {"train": whole.select(range(5)), "validation": whole.select(range(5, 8))}
    datasets.DatasetDict(parts | {"test": whole.select(range(3))}).save_to_disk(str(tmp_path / "three"))
    assert open_source(f"hf:{tmp_path / 'three'}").validation.labels.tolist() == LABELS[5:8]
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    source = open_source(f"hf:{tmp_path / 'saved'}")
    assert source.class_names == tuple(NAMES)
    assert source.train.labels.tolist() == LABELS[:5]
    assert source.test.labels.tolist() == LABELS[5:]
    assert np.array_equal(source.test.content(2), PIXELS[7])
    with pytest.raises(InputError, match="names no configuration"):
        open_source("hf:some:")


@pytest.mark.parametrize("text", ["hf:", "hf::some"])
def test_hugging_face_data_without_a_name_are_refused_before_any_package_is_imported(
    monkeypatch, text
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    said = rf"^{text} names no data set: write hf:NAME, hf:NAME:CONFIG or hf:FOLDER"
    with pytest.raises(InputError, match=said):
        open_source(text)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, words in (
        ("datasets", "hf:some", r"exeunt\[hf\]"),
        ("sklearn.datasets", "sklearn:digits", r"exeunt\[demo\]"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtra, match=words):
            open_source(name)


def test_importing_the_data_layer_brings_no_heavy_package() -> None:
    code = "import sys, exeunt.data; print({'torch', 'PIL', 'datasets', 'sklearn'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_texts_that_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n007,1\n1e3,0\n")
    check_contents(open_source(tmp_path).train, ["007", "1e3"])
    (tmp_path / "train.csv").unlink()
    (tmp_path / "train.jsonl").write_text('{"text": 7, "label": 1}\n')
    with pytest.raises(InputError, match=r"text \(int64\)"):
        open_source(tmp_path)


def test_categories_are_texts(tmp_path: Path) -> None:
    words = pa.array(["b", "a", "b"]).dictionary_encode()
    pq.write_table(pa.table({"sentence": words, "label": words}), tmp_path / "train.parquet")
    train = open_source(tmp_path).train
    check_contents(train, ["b", "a", "b"])
    assert train.labels.tolist() == [1, 0, 1]
