"""Opening images with masks by name: a folder of PNG pairs, or Parquet tables with two columns."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from exeunt._support.paths import AnyPath, open_arrow, place, read_bytes
from exeunt._support.text import counted, listed
from exeunt.data.columns import NO_LABELS, Columns, ParquetColumn, find_columns, holds_images
from exeunt.data.dataset import Images
from exeunt.data.image_folder import image_files
from exeunt.data.masked_images import MaskCodes, MaskedImages, highest_value
from exeunt.data.source import TEST_NAMES, TRAIN_NAMES, DataSource
from exeunt.data.stored_inputs import BadCell, ImageFiles, StoredInputs, TableColumn
from exeunt.data.tables import table_files
from exeunt.errors import ExeuntWarning, InputError
from exeunt.score.mask_confidence import MOST_MASK_CLASSES

_COLUMNS = ("mask", "masks", "annotation")
_IMAGES, _FOLDERS = "images", ("masks", "labels", "annotations")
_NAMES = "classes.txt"
_FORMS = (
    "a folder with train.parquet and test.parquet, which have a column of images and one of masks (mask), or a folder "
    "with train/images/* and train/masks/*.png, where an image and its mask have one name"
)


class _Part(NamedTuple):
    """Images and their masks, None if there is no column or folder of them; the names that go with them, if any."""

    images: StoredInputs
    masks: StoredInputs | None
    names: tuple[str, ...] | None


def open_masked_source(
    name: str | Path,
    *,
    label: str | None = None,
    ignored: str | None = None,
    calibration_data: str | Path | None = None,
    unlabelled: bool = False,
) -> DataSource:
    """Open training and test images with masks by their name.

    - `FOLDER` with `train.parquet` and `test.parquet` (or `validation`, shards `train-*.parquet`): images as
      struct{bytes, path} in `img` or `image`, masks likewise in `mask` or `annotation`; or one such table
    - `FOLDER` with `train/images/*` and `train/masks/*.png`, `test/images/*` and `test/masks/*.png`; or `images/*` and
      `masks/*.png`

    A mask is a PNG of 8 bits with one channel, as large as its image; a pixel is the number of a class, 255 for none.
    Names of the classes are in the table's metadata (`classes`, a JSON list) or in `FOLDER/classes.txt`, a line each;
    else they are the numbers up to the highest in the training masks.

    label: the column or the folder of the masks; "none" if there are none. ignored: the name or the number of a class
        that does not count. calibration_data, unlabelled: see `open_source`; unlabelled images may lack masks.
    Raises InputError if there are no such data, an image has no mask, or `ignored` is no class.
    """
    parts = _read(str(name), label)
    if calibration_data is not None:
        given_parts = _read(str(calibration_data), label)
        parts["validation"] = given_parts["test"] if "test" in given_parts else given_parts["train"]
    codes = _codes(parts, ignored)
    images: dict[str, Any] = {which: _images(part, codes) for which, part in parts.items()}
    if not unlabelled:
        for data in images.values():
            _check_all_have_masks(data, str(name))
    return DataSource(
        name=str(name),
        kind="image",
        class_names=None if codes is None else codes.class_names,
        train=images.get("train"),
        test=images.get("test"),
        validation=images.get("validation"),
        asked_for=calibration_data is not None,
    )


def _images(part: _Part, codes: MaskCodes | None) -> Images:
    if part.masks is None or codes is None:
        return Images(part.images)
    return MaskedImages(part.images, part.masks, codes)


def _read(name: str, label: str | None) -> dict[str, _Part]:
    """Return what there is of "train", "test" and "validation"."""
    path = place(name)
    if path.is_file() and path.suffix == ".parquet":
        return {"train": _table([path], label)}
    if not path.is_dir():
        raise InputError(f"there is no data named {name!r}; images with masks can be {_FORMS}")

    def read(part: str) -> _Part | None:
        if files := [file for file in table_files(path, part) if file.suffix == ".parquet"]:
            return _table(files, label)
        return _folder(path / part, path, label)

    def first(*names: str) -> _Part | None:
        return next((part for name in names if (part := read(name)) is not None), None)

    test, other = first(TEST_NAMES[0]), first(*TEST_NAMES[1:])
    parts = {
        "train": first(*TRAIN_NAMES) or _folder(path, path, label),
        "test": test or other,
        "validation": other if test is not None else None,
    }
    present_parts = {which: part for which, part in parts.items() if part is not None}
    if not {"train", "test"} & {*present_parts}:
        raise InputError(f"there are no images with masks in {name}; data can be {_FORMS}")
    return present_parts


def _table(files: list[AnyPath], label: str | None) -> _Part:
    """Return the images and masks of Parquet files."""
    with open_arrow(files[0]) as file:
        schema = pq.read_schema(file)
    columns = find_columns(schema, str(files[0]), Columns(label=NO_LABELS, unlabelled=True))
    if columns.kind != "image":
        raise InputError(f"{files[0]} has no column of images; images with masks can be {_FORMS}")
    possible = _COLUMNS if label is None else () if label == NO_LABELS else (label,)
    column = next((name for name in possible if name in schema.names), None)
    if column is None and label not in (None, NO_LABELS):
        raise InputError(
            f"{files[0]} has no column {label!r}; its columns are {', '.join(schema.names)} (name another with "
            "--label-column)"
        )
    if column is not None and not holds_images(kind := schema.field(column).type):
        raise InputError(
            f"{files[0]}: the column {column!r} holds {kind}, not masks; a mask is a PNG, as bytes or as "
            "struct{bytes, path} (name another column with --label-column)"
        )
    images = ParquetColumn(files, columns.inputs[0], [] if column is None else [column])
    masks = None if column is None else images.beside(column)
    return _Part(images, masks, _named((schema.metadata or {}).get(b"classes"), files[0]))


def _named(text: bytes | None, file: AnyPath) -> tuple[str, ...] | None:
    """Return the names of the classes in a table's metadata. Raises InputError unless they are a JSON list of texts."""
    if text is None:
        return None
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f'the metadata of {file} must name the classes as a JSON list of texts, such as ["road", "car"], got '
            f"{text.decode(errors='backslashreplace'):.80}"
        )
    return tuple(names)


def _folder(folder: AnyPath, root: AnyPath, label: str | None) -> _Part | None:
    """Return the images in `folder/images`, with the masks of the same names in a folder beside it; None without it."""
    if not (folder / _IMAGES).is_dir():
        return None
    if not (files := image_files(folder / _IMAGES)):
        raise InputError(f"{folder / _IMAGES} holds no images (.png, .jpg, ...)")
    possible = _FOLDERS if label is None else () if label == NO_LABELS else (label,)
    beside = next((folder / name for name in possible if (folder / name).is_dir()), None)
    if beside is None and label not in (None, NO_LABELS):
        raise InputError(f"{folder} has no folder {label!r} of masks (name another with --label-column)")
    names = None
    if (file := root / _NAMES).is_file():
        names = _lines(file)
    images = ImageFiles(files, root=root)
    if beside is None:
        return _Part(images, None, names)
    masks = {_stem(file, beside): file for file in image_files(beside)}
    stems = [_stem(file, folder / _IMAGES) for file in files]
    if alone := sorted(masks.keys() - {*stems}):
        left = counted(len(alone), "mask has no image and is", "masks have no image and are")
        warnings.warn(
            f"{left} left out, such as {masks[alone[0]]}: an image and its mask have one name",
            ExeuntWarning,
            stacklevel=2,
        )
    cells = [masks.get(stem, BadCell("there is no mask")) for stem in stems]
    return _Part(images, TableColumn(cells, name=images.name), names)


def _lines(file: AnyPath) -> tuple[str, ...]:
    """Return the names in a file, one in each line. Raises InputError if there are none, and for what is no text."""
    try:
        lines = read_bytes(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text in UTF-8: {error}") from None
    if not (names := tuple(line.strip() for line in lines if line.strip())):
        raise InputError(f"{file} is empty: write the name of a class in each line, or remove it")
    return names


def images_beside_masks(root: AnyPath) -> AnyPath | None:
    """Return a folder of images with one of masks beside it, in `root` or a part there; None if there is none."""
    for folder in (root, *(root / part for part in (*TRAIN_NAMES, *TEST_NAMES))):
        if (folder / _IMAGES).is_dir():
            beside = [folder / name for name in _FOLDERS if (folder / name).is_dir()]
            if any(map(image_files, beside)):
                return folder / _IMAGES
    return None


def _stem(file: AnyPath, folder: AnyPath) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _codes(parts: Mapping[str, _Part], ignored: str | None) -> MaskCodes | None:
    """Return the classes of the masks; None if there are no masks."""
    named = {part.names for part in parts.values() if part.names is not None}
    if len(named) > 1:
        raise InputError("the parts of the data name different classes: give them one list of names")
    masks = next((part.masks for part in parts.values() if part.masks is not None), None)
    if masks is None:
        return None
    names = named.pop() if named else tuple(map(str, range(highest_value(masks) + 1)))
    if not 1 <= len(names) <= MOST_MASK_CLASSES:
        raise InputError(f"masks have 1 to {MOST_MASK_CLASSES} classes, and these have {len(names)}")
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise InputError(f"several classes of the masks have the name {twice[0]!r}: give each one of its own")
    if ignored is None:
        return MaskCodes(names)
    code = names.index(ignored) if ignored in names else int(ignored) if ignored.isdecimal() else -1
    if not 0 <= code < len(names):
        raise InputError(f"the ignored class {ignored!r} is none of the data's: {listed(names, 20)}")
    return MaskCodes(names, code)


def _check_all_have_masks(data: Images, name: str) -> None:
    missing = [
        data.name(i) for i in range(len(data)) if not (isinstance(data, MaskedImages) and data.has_mask(i))
    ]
    if missing:
        raise InputError(
            f"{counted(len(missing), 'image')} of {name} {'has' if len(missing) == 1 else 'have'} no mask, such as "
            f"{missing[0]}: add the mask (a file of the same name, or the cell of a table), leave the images out, or "
            "learn without masks (--unlabelled)"
        )
