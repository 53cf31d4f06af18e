"""Reading `hf:NAME`, a data set of the Hugging Face Hub or a local folder, through the package `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exeunt._hub import hub_access
from exeunt.data.columns import Columns
from exeunt.data.source import TEST_NAMES, TRAIN_NAMES, RawData, RawParts, first_labelled
from exeunt.data.stored_inputs import row_names
from exeunt.data.tables import from_arrow
from exeunt.errors import InputError, require


def read_hugging_face(text: str, columns: Columns) -> RawParts:
    """Read `hf:NAME` or `hf:NAME:CONFIG`; NAME may be a local folder, also one that `save_to_disk` wrote.

    Raises InputError if there is no name, or `datasets` cannot load it, MissingExtra without `datasets`.
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

    def read(names: Sequence[str]) -> RawData | None:
        return first_labelled(_read(splits[n], f"{name}/{n}", columns) for n in names if n in splits)

    train, test = read(TRAIN_NAMES), read(TEST_NAMES)
    if train is None and test is None:
        raise InputError(f"{text} has no train or test data, only {', '.join(splits)}")
    return RawParts(train, test)


def _read(split: Any, where: str, columns: Columns) -> RawData:
    names = {
        column: tuple(feature.names)
        for column, feature in split.features.items()
        if getattr(feature, "names", None)
    }
    table = split.with_format("arrow")[:]
    name = row_names([Path(where).name], [len(table)])
    return from_arrow(table, columns, where=Path(where), name=name, class_names=names)
