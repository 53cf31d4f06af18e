"""From raw images or texts to what a run's network takes, as in training. It needs no PyTorch."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._files import is_inside
from exeunt.data.preprocess import Preprocess
from exeunt.data.tokens import load_tokenizer, tokenised
from exeunt.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from exeunt.run.folder import RunFolder

__all__ = ["InputPreparation", "load_preparation", "restore_preparation", "text_columns"]

_WIDTHS = 2  # beyond the range of prepared pixels: noise and augmentation stay within, 0 to 255 does not


def load_preparation(run: RunFolder) -> Any:
    """Return what prepares raw inputs for a run's network: a Preprocess or a tokeniser."""
    run.files.check_folder("tokenizer")
    return restore_preparation(run.manifest["inputs"], run.path)


def restore_preparation(entry: Mapping[str, Any], folder: Path) -> Any:
    """Return the Preprocess or tokeniser of a manifest's entry, from the run folder `folder` alone.

    Raises ArtefactError if the tokeniser is outside it.
    """
    if entry["kind"] == "image":
        return Preprocess.from_manifest(entry)
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

    def __call__(self, inputs: Iterable[Any]) -> NDArray[np.float32] | dict[str, NDArray[Any]]:
        """Return images as float32 (n, 3, h, w), texts as tokens (n, t) by name (see `Runner.prepare`)."""
        given = _listed(inputs, self.kind)
        return self._texts(given) if self.kind == "text" else self._images(given)

    def check(self, inputs: Any) -> None:
        """Raise InputError for images whose values cannot have come out of `__call__`: raw pixels, most likely."""
        values: Any = list(inputs.values()) if hasattr(inputs, "items") else inputs
        values = values[0] if isinstance(values, (tuple, list)) and len(values) == 1 else values
        if self.kind == "text" or not hasattr(values, "dtype") or math.prod(values.shape) == 0:
            return
        low, high = float(values.min()), float(values.max())
        least, most = self._range
        slack = _WIDTHS * (most - least)
        if math.isfinite(low) and math.isfinite(high) and not least - slack <= low <= high <= most + slack:
            raise InputError(
                f"the inputs lie between {low:.4g} and {high:.4g}, prepared images between {least:.3g} and {most:.3g}: "
                "prepare raw images with runner.prepare(images)"
            )

    def _images(self, images: list[Any]) -> NDArray[np.float32]:
        prepare: Preprocess = self._way
        pixels = [
            prepare.resize(Path(image) if isinstance(image, str) else image, name=_name(image, place))
            for place, image in enumerate(images)
        ]
        if len({image.shape for image in pixels}) > 1:
            raise InputError(
                "these images differ in size, and the network takes any: prepare those of one size"
            )
        if not pixels:
            return np.zeros((0, 3, *(prepare.size or (1, 1))), dtype=np.float32)
        return prepare.normalise(np.stack(pixels))

    def _texts(self, texts: list[Any]) -> dict[str, NDArray[Any]]:
        columns = text_columns(self._run)
        fits, takes = _is_text, "texts: give a list of str"
        if len(columns) == 2:
            fits, takes = _is_pair, f"pairs of texts: give a list of ({', '.join(columns)})"
        wrong = [text for text in texts if not fits(text)]
        if wrong:
            raise InputError(f"the network takes {takes}, got a {_kind(wrong[0])}")
        return tokenised(self._way, texts)[0]

    @cached_property
    def _way(self) -> Any:
        return load_preparation(self._run)

    @cached_property
    def _range(self) -> tuple[float, float]:
        """The least and the highest value of a prepared image."""
        shift, top = self._way.shift, self._way.shift + 255 * self._way.scale
        return float(shift.min()), float(top.max())


def _listed(inputs: Any, kind: str) -> list[Any]:
    """Return the inputs as a list. Raises InputError for a single one, whose parts would be taken for inputs."""
    alone = isinstance(inputs, (str, bytes, Path)) or hasattr(inputs, "convert")  # a PIL image has that
    if not alone and isinstance(inputs, np.ndarray):
        alone = inputs.ndim == 3 and inputs.shape[2] in (1, 3)
    if alone or not hasattr(inputs, "__iter__") or hasattr(inputs, "items"):
        raise InputError(
            f"prepare takes a list of {kind}s, got a {type(inputs).__name__}: put it into a list"
        )
    return list(inputs)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_text, value))


def _kind(value: Any) -> str:
    """Return of which type a value is, and of which the first things in a tuple or list are."""
    if not isinstance(value, (tuple, list)):
        return type(value).__name__
    inside = [type(one).__name__ for one in value[:3]] + ["..."] * (len(value) > 3)
    return f"{type(value).__name__} of {', '.join(inside) or 'nothing'}"


def _name(image: Any, place: int) -> str:
    return str(image) if isinstance(image, (str, Path)) else f"number {place}"
