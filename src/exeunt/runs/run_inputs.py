"""The inputs of a run: the data of its parts, and raw inputs prepared for its network, without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.files import is_inside
from exeunt._support.sealed_json import built
from exeunt.data import Dataset, SplitPlan, open_source
from exeunt.data.preprocess import Preprocess, RawImages
from exeunt.data.tokens import RawTexts, load_tokenizer, text_batch
from exeunt.errors import ArtefactError, InputError
from exeunt.runs.file_digests import MANIFEST, TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.manifest import REMEDY


def part_data(run: RunFolder, part: str, *, moved_to: str | None = None) -> Dataset:
    """Return the inputs of "train", "fit", "calibrate" or "test".

    `moved_to`: where the data are now, by default where they were in training. Raises InputError if they are not there
    or have changed.
    """
    about = run.manifest["data"]
    unlabelled = bool(about.get("unlabelled"))
    source = open_source(
        moved_to or about["name"],
        label=about.get("label"),
        text=about.get("text") or (),
        calibration_data=about.get("calibration_data"),
        unlabelled=unlabelled,
        **(about.get("masks") or {}),
    )
    if unlabelled:
        source = source.with_classes(run.manifest["class_names"])
    if about.get("unreadable"):
        source, _ = source.without_unreadable()
    data = split_of(run).select(source, part)
    return data.without_some_labels() if part in TRACED else data


def split_of(run: RunFolder) -> SplitPlan:
    """Return which inputs of a run's data belong to which part. Raises ArtefactError for a manifest without a plan."""
    return built(
        run.path / MANIFEST, run.manifest["split"], SplitPlan.from_dict, kind="split of data", remedy=REMEDY
    )


def load_preparation(run: RunFolder) -> Any:
    """Return the Preprocess or tokeniser that prepares raw inputs for a run's network."""
    run.files.check_folder("tokenizer")
    return built(
        run.path / MANIFEST,
        run.manifest["inputs"],
        lambda entry: restore_preparation(entry, run.path),
        kind="preparation of inputs",
        remedy=REMEDY,
    )


def restore_preparation(entry: Mapping[str, Any], folder: Path) -> Any:
    """Return the Preprocess or tokeniser of a manifest's entry, from the run folder `folder` alone.

    For a cascade, which takes raw inputs, RawImages or RawTexts. Raises ArtefactError if the tokeniser is outside it.
    """
    if entry.get("raw"):
        return RawImages() if entry["kind"] == "image" else RawTexts()
    if entry["kind"] == "image":
        return Preprocess.from_dict(entry)
    name = entry.get("folder")
    if not isinstance(name, str) or not is_inside(folder / name, folder) or not (folder / name).is_dir():
        raise ArtefactError(f"the tokeniser must be in a folder of {folder}, but its manifest names {name!r}")
    return load_tokenizer(str(folder / name))


def text_columns(run: RunFolder) -> tuple[str, ...]:
    """Return the columns of the texts that a run was trained on: one, or two for pairs of texts."""
    return tuple(run.manifest["data"].get("text") or ("text",))


class InputPreparation:
    """Prepares raw inputs for a run's network. Tokenisers are opened when they are first needed."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self.kind: str = run.manifest["inputs"]["kind"]

    def __call__(self, inputs: Iterable[Any]) -> Any:
        """Return images as float32 (n, 3, h, w), texts as tokens (n, t) by name (see `Runner.prepare`)."""
        if _is_pixels(inputs, self._way.size if self.kind == "image" else None):
            return self._way.batch(inputs)
        listed = _listed(inputs, self.kind)
        return self._texts(listed) if self.kind == "text" else self._images(listed)

    def check(self, inputs: Any) -> None:
        """Raise InputError for images with values that preparing never gives: raw pixels, most likely."""
        values: Any = list(inputs.values()) if hasattr(inputs, "items") else inputs
        values = values[0] if isinstance(values, (tuple, list)) and len(values) == 1 else values
        if self.kind == "text" or not hasattr(values, "dtype") or math.prod(values.shape) == 0:
            return
        self._way.check(values)

    def _images(self, images: list[Any]) -> NDArray[Any]:
        prepare: Preprocess | RawImages = self._way
        pixels = [
            prepare.resize(Path(image) if isinstance(image, str) else image, name=_name(image, place))
            for place, image in enumerate(images)
        ]
        return prepare.batch(pixels)

    def _texts(self, texts: list[Any]) -> Any:
        columns = text_columns(self._run)
        takes = "texts: give a list of str"
        if len(columns) == 2:
            takes = f"pairs of texts: give a list of ({', '.join(columns)})"
        if wrong := [text for text in texts if not holds_texts(text, len(columns))]:
            raise InputError(f"the network takes {takes}, got a {_kind(wrong[0])}")
        return text_batch(self._way, texts)[0]

    @cached_property
    def _way(self) -> Any:
        return load_preparation(self._run)


def _listed(inputs: Any, kind: str) -> list[Any]:
    """Return the inputs as a list. Raises InputError for a single input, whose parts would be taken for inputs."""
    alone = isinstance(inputs, (str, bytes, Path)) or hasattr(inputs, "convert")  # a PIL image has that
    if not alone and isinstance(inputs, np.ndarray):
        alone = inputs.ndim == 3 and inputs.shape[2] in (1, 3)
    if alone or not hasattr(inputs, "__iter__") or hasattr(inputs, "items"):
        raise InputError(f"prepare takes a list of {kind}s, got a {type(inputs).__name__}: put it in a list")
    return list(inputs)


def _is_pixels(inputs: Any, size: tuple[int, int] | None) -> bool:
    """Whether inputs are one array of pixels (n, h, w, 3) of this size, which need no resizing."""
    array = isinstance(inputs, np.ndarray) and inputs.dtype == np.uint8 and inputs.ndim == 4
    return array and inputs.shape[3] == 3 and inputs.shape[1:3] == size


def holds_texts(row: Any, count: int) -> bool:
    """Return whether a value is a text, or for `count` 2 a pair of texts."""
    parts = [row] if count == 1 else row
    return isinstance(parts, (tuple, list)) and len(parts) == count and all(isinstance(p, str) for p in parts)


def _kind(row: Any) -> str:
    """Return the type of a value, and the types of the first values inside a tuple or list."""
    if not isinstance(row, (tuple, list)):
        return type(row).__name__
    inside = [type(part).__name__ for part in row[:3]] + ["..."] * (len(row) > 3)
    return f"{type(row).__name__} of {', '.join(inside) or 'nothing'}"


def _name(image: Any, place: int) -> str:
    return str(image) if isinstance(image, (str, Path)) else f"number {place}"
