"""Opening data by name: a folder, a table, `hf:NAME`, or digits that scikit-learn ships."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Integers
from exeunt._support.hub import hub_access
from exeunt._support.paths import AnyPath, place, read_bytes
from exeunt.data import source, tables
from exeunt.data.columns import FOLDERS, NO_LABELS, Columns
from exeunt.data.dataset import Dataset, Images, Texts
from exeunt.data.image_folder import IMAGE_SUFFIXES, image_files, read_image_folder
from exeunt.data.masks_by_name import images_beside_masks, open_masked_source
from exeunt.data.stored_inputs import ImageFiles, PixelArray, StoredTexts, TableColumn, row_names
from exeunt.errors import InputError, require

_FORMS = (
    "a folder with train.parquet (or .csv, .jsonl; shards train-*.parquet) and test.parquet, "
    "a folder train/CLASS/*.png and test/CLASS/*.png, one table, hf:NAME, sklearn:digits, sklearn:cluttered-digits, "
    "or without labels (--unlabelled) a folder of images or a .txt file with a text per line"
)

# Folders and tables are read by code of our own, not by `datasets` 5.2. Measured in processor time, first image
# included: a folder of 2,500 PNG opens in 0.06 s, against 1.7 s with `datasets` (1.4 s the second time); a Parquet
# table of 30 MB in 0.37 s, against 0.26 s and a copy of 30 MB in its Arrow cache. `datasets` also takes 0.9 s to
# import and 119 MiB of packages beyond NumPy and PyArrow, and would lose messages that name the row or the file.

_TEXTS = ".txt"
T = TypeVar("T")
Bytes: TypeAlias = "NDArray[np.uint8]"


def open_source(
    name: str | Path,
    *,
    label: str | None = None,
    text: Sequence[str] = (),
    calibration_data: str | Path | None = None,
    unlabelled: bool = False,
    masks: bool = False,
    ignored: str | None = None,
) -> source.DataSource:
    """Open training and test data by their name.

    - `FOLDER` with `train.parquet` and `test.parquet` (or `validation`), or shards `train-*.parquet`, in
      the Hugging Face schema: images as struct{bytes, path} in `img` or `image`, texts in `text` or
      `sentence`, classes in `label` or `fine_label`; also `.csv`, `.tsv` and `.jsonl` for texts
    - `FOLDER` with `train/CLASS/*` and `test/CLASS/*` (or `val`), or `CLASS/*`
    - one such table: its rows are the training data
    - `hf:NAME` or `hf:NAME:CONFIG` through the package `datasets`; NAME may be a local folder
    - `sklearn:digits`: images of digits, 8x8 pixels, 1,297 to train on and 500 to test on
    - `sklearn:cluttered-digits`: the same digits among pieces of others, 20x20 pixels, 8,000 and 4,000

    With `unlabelled` also images that lie in no folder of a class, in FOLDER or in `train` and `test` below it; a file
    `.txt` with a text per line, or a folder with `train.txt` and `test.txt`; and tables in which some or all cells of
    the label column are empty, or that have none.

    label: the column of the classes, if there are several; "none" if there are no labels, "folder" if some images lie
        in folders of their classes.
    text: the column of the texts, or two columns for pairs of texts; default `text` or `sentence`.
    calibration_data: the name of other data, with labels, to fit and calibrate policies on; their test part if they
        have one. They take the place of a validation part (`validation`, `val`, `dev` beside `test`).
    unlabelled: some or all inputs to train on have no label.
    masks: images with masks, see `open_masked_source`. ignored: the class of their pixels that does not count.
    Raises InputError if there are no such data, or `unlabelled` ones have all labels, ArtefactError for a damaged
    table, MissingExtra without the package that `hf:` or `sklearn:` needs.
    """
    if masks:
        return open_masked_source(
            name, label=label, ignored=ignored, calibration_data=calibration_data, unlabelled=unlabelled
        )
    columns = Columns(text=tuple(text), label=label, unlabelled=unlabelled)
    parts = _read(str(name), columns)
    if calibration_data is None:
        return source.make_source(str(name), parts, unlabelled=unlabelled)
    calibration_parts = _read(str(calibration_data), columns)
    held_out = calibration_parts.test or calibration_parts.train
    if held_out is None or (held_out.labels is None and not unlabelled):
        raise InputError(f"{calibration_data} has no labels, which policies are fitted with: add them")
    parts = parts._replace(validation=held_out)
    return source.make_source(str(name), parts, asked_for=True, unlabelled=unlabelled)


def open_inputs(
    name: str | Path,
    *,
    label: str | None = None,
    text: Sequence[str] = (),
    of_training: bool = False,
    keep: Sequence[str] | Mapping[str, str] = (),
) -> Dataset:
    """Open inputs to predict, with or without labels; a label that is missing or no class is -1.

    `name`: an image file, a folder of image files (at any depth, sorted by path), a file `.txt` with a text per line,
    or anything that `open_source` opens: then the test data, or the training data if there are no others. All of it
    may lie in an object store, as "s3://bucket/folder".
    `label`, `text`: see `open_source`. `of_training`: they name columns of the network's training data, which inputs
    other than tables may lack. `keep`: columns of a table, such as its ids, that come back beside the predictions as
    they are; a mapping says by which option each was named, for messages. Raises InputError if there are no inputs, or
    a column is missing.
    """
    columns_kept, options = tuple(dict.fromkeys(keep)), keep if isinstance(keep, Mapping) else {}
    columns = Columns(
        text=tuple(text),
        label=label,
        to_predict=True,
        of_training=of_training,
        keep=columns_kept,
        options=options,
    )
    path = place(name)
    if path.is_file() and path.suffix not in (*tables.TABLE_SUFFIXES, _TEXTS):
        return _without_columns(Images(ImageFiles([path], root=path.parent)), name, columns)
    if path.is_dir() and not any(
        tables.table_files(path, stem) for stem in (*source.TEST_NAMES, *source.TRAIN_NAMES)
    ):
        files = image_files(path)
        if not files and _text_folder(path) is None:
            endings = " ".join(sorted(IMAGE_SUFFIXES))
            raise InputError(
                f"there are no image files in {path}, and no table called test.parquet (or .csv, .jsonl), or shards "
                f"test-*.parquet; known endings of images are {endings}"
            )
        if (images := images_beside_masks(path)) is not None:
            raise InputError(f"{path} holds images and masks: give the images alone, {images}")
        if files:
            return _without_columns(Images(ImageFiles(files, root=path)), name, columns)
    return source.make_inputs(_read(str(name), columns))


def open_lines(content: bytes, kind: str) -> Dataset:
    """Return the inputs in a list, one per line: paths of images, without empty lines, or texts."""
    if kind == "text":
        return Texts(_texts(content, "line"))
    paths = [Path(os.fsdecode(line)) for line in tables.split_lines(content) if line.strip()]
    return Images(ImageFiles(paths, root=None))


def _texts(content: bytes, name: str) -> StoredTexts:
    lines = tables.read_lines(content)
    return StoredTexts([TableColumn(lines, name=row_names([name], [len(lines)]))])


def _text_file(file: AnyPath) -> source.RawData:
    return source.RawData(kind="text", stored=_texts(read_bytes(file), file.name))


def _text_folder(folder: AnyPath) -> source.RawParts | None:
    """Return the texts in `train.txt`, `test.txt` and the like; None without such files."""
    parts = source.find_parts(
        lambda part: _text_file(file) if (file := folder / f"{part}{_TEXTS}").is_file() else None
    )
    return parts if any(parts) else None


def _read(name: str, columns: Columns) -> source.RawParts:
    parts = _read_any(name, columns)
    if columns.label != NO_LABELS:
        return parts
    return source.RawParts(*(raw and replace(raw, labels=None, class_names=None) for raw in parts))


def _read_any(name: str, columns: Columns) -> source.RawParts:
    if name in _DIGITS:
        return _without_columns(_DIGITS[name](), name, columns)
    if name.startswith("hf:"):
        return _hugging_face(name, columns)
    path = place(name)
    if path.is_file() and path.suffix in tables.TABLE_SUFFIXES:
        return source.RawParts(train=tables.read_table([path], columns), test=None)
    if path.is_file() and path.suffix == _TEXTS:
        return _without_columns(source.RawParts(train=_text_file(path), test=None), name, columns)
    if not path.is_dir():
        raise InputError(f"there is no data named {name!r}; data can be {_FORMS}")
    if (parts := tables.read_table_folder(path, columns)) is not None:
        return parts
    if (images := read_image_folder(path, columns)) is not None:
        return _without_columns(images, name, columns, may_be=FOLDERS)
    if (texts := _text_folder(path)) is not None:
        return _without_columns(texts, name, columns)
    raise InputError(f"nothing usable in the folder {name}; data can be {_FORMS}")


def _without_columns(data: T, name: object, columns: Columns, *, may_be: str = NO_LABELS) -> T:
    """Return data that are no table. Raises InputError if a column was named for them.

    `may_be`: what may stand in place of a label column, besides NO_LABELS.
    """
    named = (*columns.text, *([] if columns.label in (None, NO_LABELS, may_be) else [columns.label]))
    for column in (*columns.keep, *(() if columns.of_training else named)):
        raise InputError(f"{name} is no table and has no column {column!r}: leave it out")
    return data


def _hugging_face(text: str, columns: Columns) -> source.RawParts:
    """Read `hf:NAME` or `hf:NAME:CONFIG`; NAME may be a local folder, also one written by `save_to_disk`.

    Raises InputError without a name, or if `datasets` cannot load it, MissingExtra without `datasets`.
    """
    name, separator, config = text.removeprefix("hf:").partition(":")
    if not name:
        raise InputError(f"{text} names no data set: write hf:NAME, hf:NAME:CONFIG or hf:FOLDER")
    if separator and not config:
        raise InputError(f"{text} names no configuration after the colon: write hf:NAME or hf:NAME:CONFIG")
    library = require("datasets", extra="hf")
    path = Path(name).expanduser()
    with hub_access(str(path), f"cannot load {text}"):
        if (path / "dataset_dict.json").is_file():
            splits = library.load_from_disk(str(path))
        else:
            splits = library.load_dataset(str(path) if path.exists() else name, config if separator else None)

    parts = source.find_parts(
        lambda part: _split(splits[part], f"{name}/{part}", columns) if part in splits else None,
        validation=not columns.to_predict,
    )
    if not any(parts):
        raise InputError(f"{text} has no train or test data, only {', '.join(splits)}")
    return parts


def _split(split: Any, where: str, columns: Columns) -> source.RawData:
    names = {
        column: tuple(feature.names)
        for column, feature in split.features.items()
        if getattr(feature, "names", None)
    }
    table = split.with_format("arrow")[:]
    name = row_names([Path(where).name], [len(table)])
    return tables.in_memory(table.schema, table, columns, where=Path(where), name=name, class_names=names)


def _grey_digits() -> tuple[Bytes, Integers]:
    """Return the 1,797 digits that scikit-learn ships: grey values (n, 8, 8) and classes (n,)."""
    bunch = require("sklearn.datasets", extra="demo").load_digits()
    return np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8), bunch.target


def _digits() -> source.RawParts:
    """Return 500 of the digits to test on, and the others to train on."""
    grey, label = _grey_digits()
    order = np.random.default_rng(0).permutation(len(grey))
    parts = (("train", np.sort(order[500:])), ("test", np.sort(order[:500])))
    return source.RawParts(*(_digit_part(name, grey[rows], label[rows]) for name, rows in parts))


def _cluttered_digits() -> source.RawParts:
    """Return images of a digit among pieces of others, after Cluttered MNIST (Mnih et al. 2014).

    Every image is an independent draw: a digit, its place, three pieces of 4x4 pixels and their places. So images to
    train on and to test on are exchangeable, and may show the same digit at other places among other pieces.
    """
    grey, label = _grey_digits()
    rng = np.random.default_rng(1)

    def part(name: str, n: int) -> source.RawData:
        digits = rng.integers(len(grey), size=n)
        canvas = np.zeros((n, 20, 20), dtype=np.uint8)
        for image, digit in zip(canvas, digits, strict=True):
            for other in rng.integers(len(grey), size=3):
                top, left = rng.integers(5, size=2)
                _paste(image, grey[other, top : top + 4, left : left + 4], rng)
            _paste(image, grey[digit], rng)
        return _digit_part(name, canvas, label[digits])

    return source.RawParts(part("train", 8_000), part("test", 4_000))


def _paste(image: Bytes, piece: Bytes, rng: np.random.Generator) -> None:
    """Add a square piece to an image at a random place; the brighter pixel stays."""
    top, left = rng.integers(len(image) - len(piece) + 1, size=2)
    there = image[top : top + len(piece), left : left + len(piece)]
    np.maximum(there, piece, out=there)


def _digit_part(name: str, grey: Bytes, label: Integers) -> source.RawData:
    return source.RawData(
        kind="image",
        stored=PixelArray(np.repeat(grey[..., None], 3, axis=3), name=f"digits-{name}#{{}}".format),
        labels=label,
        class_names=tuple("0123456789"),
    )


_DIGITS = {"sklearn:digits": _digits, "sklearn:cluttered-digits": _cluttered_digits}
