"""Opening data by name: folders, files, `hf:NAME`, `sklearn:digits`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exeunt.data.dataset import Dataset, Images
from exeunt.data.folders import IMAGE_SUFFIXES, TEST_NAMES, TRAIN_NAMES, image_files, open_image_folder
from exeunt.data.items import ArrayItems, FileItems
from exeunt.data.source import RawPart, Source, build
from exeunt.data.tables import TABLE_SUFFIXES, read_table_part, table_files, table_part
from exeunt.errors import InputError, require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_FORMS = (
    "a folder with train.parquet (or .csv, .jsonl; shards train-*.parquet) and test.parquet, "
    "a folder train/CLASS/*.png and test/CLASS/*.png, one table, hf:NAME, or sklearn:digits"
)


def open_source(name: str | Path, *, label: str | None = None) -> Source:
    """Open labelled data by its name.

    - `FOLDER` with `train.parquet` and `test.parquet` (or `validation`), or shards `train-*.parquet`, in
      the Hugging Face schema: images as struct{bytes, path} in `img` or `image`, texts in `text` or
      `sentence`, classes in `label` or `fine_label`; also `.csv`, `.tsv` and `.jsonl` for texts
    - `FOLDER` with `train/CLASS/*` and `test/CLASS/*` (or `val`), or `CLASS/*`
    - one such table: its rows are the training data
    - `hf:NAME` or `hf:NAME:CONFIG` through the package `datasets`; NAME may be a local folder
    - `sklearn:digits`: 8x8 digits, 1,297 to train on and 500 to test on

    label: the column of the classes where there are several.
    Raises InputError where nothing usable is found.
    """
    text = str(name)
    if text == "sklearn:digits":
        return _digits()
    if text.startswith("hf:"):
        return _hugging_face(text, label)
    path = Path(text).expanduser()
    if path.is_file() and path.suffix in TABLE_SUFFIXES:
        return _from_tables(text, [path], [], label)
    if path.is_dir():
        train, test = table_files(path, TRAIN_NAMES), _labelled_test(path, label)
        if train or test:
            return _from_tables(text, train, test, label)
        if (folder := open_image_folder(path, text)) is not None:
            return folder
        raise InputError(f"nothing usable in the folder {text}; data can be {_FORMS}")
    raise InputError(f"there is no data named {text!r}; data can be {_FORMS}")


def open_inputs(name: str | Path, *, label: str | None = None) -> Dataset:
    """Open inputs to predict: labels are optional.

    An image file, a folder of image files (at any depth, in order of path), or anything that
    `open_source` knows, of which the test data is taken, else the training data.
    """
    path = Path(str(name)).expanduser()
    if path.is_file() and path.suffix not in TABLE_SUFFIXES:
        return Images(FileItems([path], root=path.parent))
    if path.is_dir() and not any(table_files(path, names) for names in (TEST_NAMES, TRAIN_NAMES)):
        files = image_files(path)
        if not files:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise InputError(f"there are no image files in {path}; known endings are {kinds}")
        return Images(FileItems(files, root=path))
    source = open_source(name, label=label)
    return source.file("train" if source.test is None else "test")


def _labelled_test(folder: Path, label: str | None) -> list[Path]:
    """Return the test table; where its labels are hidden, a validation table that has labels."""
    first: list[Path] = []
    for stem in TEST_NAMES:
        files = table_files(folder, [stem])
        if files and read_table_part(files, label=label)[1].labels is not None:
            return files
        first = first or files
    return first


def _from_tables(name: str, train: Sequence[Path], test: Sequence[Path], label: str | None) -> Source:
    parts = {
        part: read_table_part(files, label=label)
        for part, files in (("train", train), ("test", test))
        if files
    }
    return _from_parts(name, parts)


def _from_parts(name: str, parts: dict[str, tuple[str, RawPart]]) -> Source:
    kinds = {kind for kind, _ in parts.values()}
    if len(kinds) != 1:
        raise InputError(f"{name} mixes images and texts: give two sources")
    read = {part: raw for part, (_, raw) in parts.items()}
    return build(name, kinds.pop(), train=read.get("train"), test=read.get("test"))


def _hugging_face(text: str, label: str | None) -> Source:
    library = require("datasets", extra="hf")
    name, _, config = text.removeprefix("hf:").partition(":")
    path = Path(name).expanduser()
    try:
        if (path / "dataset_dict.json").is_file():
            found = library.load_from_disk(str(path))
        else:
            found = library.load_dataset(str(path) if path.exists() else name, config or None)
    except Exception as error:  # the library and its network stack raise many kinds
        raise InputError(f"cannot load {text}: {type(error).__name__}: {error}") from error
    parts: dict[str, tuple[str, RawPart]] = {}
    for part, names in (("train", TRAIN_NAMES), ("test", TEST_NAMES)):
        there = [_hub_part(found[n], f"{name}/{n}", label) for n in names if n in found]
        labelled = [raw for raw in there if raw[1].labels is not None]
        if there:
            parts[part] = (labelled or there)[0]
    if not parts:
        raise InputError(f"{text} has no train or test data, only {', '.join(found)}")
    return _from_parts(text, parts)


def _hub_part(data: Any, where: str, label: str | None) -> tuple[str, RawPart]:
    names = {
        column: tuple(feature.names)
        for column, feature in data.features.items()
        if getattr(feature, "names", None)
    }
    table = data.with_format("arrow")[:]
    return table_part(table, where=where, label=label, class_names=names)


def _digits() -> Source:
    """The 1,797 digits of scikit-learn: grey values 0..16 spread over 0..255; a fixed random split."""
    bunch = require("sklearn.datasets", extra="demo").load_digits()
    grey = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=3)
    order = np.random.default_rng(0).permutation(len(pixels))
    parts = {"train": np.sort(order[500:]), "test": np.sort(order[:500])}
    raw = {
        part: RawPart(
            items=ArrayItems(pixels[rows], name=f"digits-{part}#{{}}".format),
            labels=bunch.target[rows],
            class_names=tuple("0123456789"),
        )
        for part, rows in parts.items()
    }
    return build("sklearn:digits", "image", train=raw["train"], test=raw["test"])
