"""Inputs as they are, for whatever prepares them itself: the models of a cascade, each in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt.data.read_image import AnyImage, Pixels, read_rgb
from exeunt.engine.inputs import raw_rows
from exeunt.errors import InputError

__all__ = ["RawImages", "RawTexts"]


class RawImages:
    """Images as their pixels, in the place of a `Preprocess`."""

    size = None

    def resize(self, image: AnyImage, *, name: str = "given") -> Pixels:
        """Return the pixels, uint8 (h, w, 3). Raises UnreadableImage with `name`."""
        return read_rgb(image, name=name)

    def batch(self, images: Sequence[Pixels]) -> NDArray[Any]:
        """Return images as uint8 (n, h, w, 3); as objects (n,) if they differ in size."""
        if len({image.shape for image in images}) == 1:
            return np.asarray(images)
        return raw_rows(images)

    def check(self, inputs: Any) -> None:
        """Raise InputError for prepared images."""
        if np.asarray(inputs).dtype.kind not in "uO":
            raise InputError(
                "a cascade takes raw images, which each model prepares for itself: make them with runner.prepare"
            )


class RawTexts:
    """Texts as they are, in the place of a tokeniser."""

    def batch(self, texts: Sequence[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return texts or pairs of texts as objects (n,), and that none was cut."""
        return raw_rows(texts), np.zeros(len(texts), dtype=np.bool_)
