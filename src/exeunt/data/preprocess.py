"""From an image of any size to a network's input: resize, then normalise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.checked_types import check_fields
from exeunt.data.dataset import Images
from exeunt.data.read_image import AnyImage, Pixels, read_rgb
from exeunt.engine.inputs import raw_rows
from exeunt.errors import InputError, UnreadableImage, require

MODES = ("crop", "stretch", "pad")
_WIDTHS = 2  # tolerance of `check`, in widths of the range of prepared pixels: 0 to 255 is beyond it
_MOST_PIXELS = 2 * 89_478_485  # of a scaled image: as many as Pillow decodes
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image of any size becomes a network's input.

    size: (height, width) in pixels, or None to keep each image's own size.
    mode: "crop" scales the image until it just covers `size / crop_share` and cuts out the centre; "stretch" scales
        each side to `size`; "pad" scales the image until it just fits into `size` and pads it with black.
        An image that already has `size` is left untouched in every mode.
    crop_share: share of the scaled image's side that the crop keeps, in (0, 1].
    interpolation: "nearest", "bilinear", "bicubic" or "lanczos", antialiased.
    mean, std: per channel, of pixels scaled to [0, 1].
    """

    size: tuple[int, int] | None = None
    mode: str = "crop"
    crop_share: float = 1.0
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.size is not None and not (len(self.size) == 2 and min(self.size) >= 1):
            raise InputError(f"size must be (height, width), both at least 1, got {self.size!r}")
        for name, allowed in (("mode", MODES), ("interpolation", INTERPOLATIONS)):
            if (setting := getattr(self, name)) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {setting!r}")
        if not 0 < self.crop_share <= 1:
            raise InputError(f"crop_share must lie in (0, 1], got {self.crop_share!r}")
        if len(self.mean) != 3 or not all(map(math.isfinite, self.mean)):
            raise InputError(f"mean must be three finite numbers, got {self.mean!r}")
        if len(self.std) != 3 or not all(0 < number < math.inf for number in self.std):
            raise InputError(f"std must be three numbers above 0, got {self.std!r}")

    @property
    def geometry(self) -> str:
        """Size, mode, crop and interpolation as a short text for file names."""
        if self.size is None:
            return "native"
        height, width = self.size
        return f"{height}x{width}-{self.mode}-{self.crop_share:g}-{self.interpolation}"

    @cached_property
    def scale(self) -> NDArray[np.float32]:
        """Factor of a pixel 0..255 in `normalise`, shape (3,)."""
        return np.asarray(1.0 / (255.0 * np.array(self.std)), dtype=np.float32)

    @cached_property
    def shift(self) -> NDArray[np.float32]:
        """Summand in `normalise`, after `scale`, shape (3,)."""
        return np.asarray(-np.array(self.mean) / np.array(self.std), dtype=np.float32)

    def resize(self, image: AnyImage, *, name: str = "given") -> Pixels:
        """Return the image at `size`: uint8, shape (h, w, 3). Raises UnreadableImage with `name`."""
        pixels = read_rgb(image, name=name)
        if self.size is None or pixels.shape[:2] == self.size:
            return pixels
        sides = self.scaled_sides(*pixels.shape[:2])
        if math.prod(sides) > _MOST_PIXELS:
            was, scaled = (f"{height} x {width}" for height, width in (pixels.shape[:2], sides))
            raise UnreadableImage(name, f"its {was} pixels would be {scaled} once it is scaled: cut it first")
        return self._fitted(pixels, *sides)

    def scaled_sides(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that an image is scaled to before it is cut or padded."""
        if self.size is None or self.size == (height, width):
            return height, width
        if self.mode == "stretch":
            return self.size
        ratios = (self.size[0] / height, self.size[1] / width)
        factor = min(ratios) if self.mode == "pad" else max(ratios) / self.crop_share
        return max(1, round(height * factor)), max(1, round(width * factor))

    def normalise(self, pixels: Pixels) -> NDArray[np.float32]:
        """Return uint8 pixels (..., h, w, 3) as normalised float32 (..., 3, h, w)."""
        channels = np.ascontiguousarray(np.moveaxis(pixels, -1, -3))  # bytes move faster than numbers
        values = np.multiply(channels, self.scale[:, None, None], dtype=np.float32)
        values += self.shift[:, None, None]
        return values

    def batch(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return resized images as float32 (n, 3, h, w). Raises InputError if they differ in size."""
        if len(images) == 0:
            return np.zeros((0, 3, *(self.size or (1, 1))), dtype=np.float32)
        if len({image.shape for image in images}) > 1:
            raise InputError(
                "these images differ in size, and the network takes any: give it images of one size at a time "
                "(--batch-size 1)"
            )
        return self.normalise(np.asarray(images))

    def check(self, inputs: Any) -> None:
        """Raise InputError for images whose values `normalise` cannot have returned: raw pixels, most likely."""
        low, high = float(inputs.min()), float(inputs.max())
        least, highest = float(self.shift.min()), float((self.shift + 255 * self.scale).max())
        slack = _WIDTHS * (highest - least)
        if math.isfinite(low) and math.isfinite(high) and not least - slack <= low <= high <= highest + slack:
            raise InputError(
                f"the inputs lie between {low:.4g} and {high:.4g}, prepared images between {least:.3g} and "
                f"{highest:.3g}: prepare raw images with runner.prepare(images)"
            )

    def measured_on(self, images: Images, *, n_sample: int = 5000, seed: int = 0) -> Preprocess:
        """Return a copy whose mean and std are those of `images`, or of a random sample of `n_sample` of them.

        A channel that never varies gets std 1. Raises InputError without images.
        """
        if len(images) == 0:
            raise InputError("mean and std need at least one image, got none")
        chosen = np.arange(len(images))
        if len(images) > n_sample:
            chosen = np.sort(np.random.default_rng(seed).choice(len(images), n_sample, False))
        total, squares, count = np.zeros(3), np.zeros(3), 0
        for i in chosen:
            values = self.resize(images.content(int(i))).reshape(-1, 3) / 255.0
            total += values.sum(axis=0)
            squares += (values**2).sum(axis=0)
            count += len(values)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        std[std < 1e-6] = 1.0
        return replace(self, mean=_triple(mean), std=_triple(std))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Preprocess:
        """Rebuild from `to_dict`, also after JSON, or from the entry "inputs" of a run's manifest, which has a "kind".

        Raises InputError for unknown options.
        """
        options: dict[str, Any] = {name: option for name, option in body.items() if name != "kind"}
        if unknown := set(options) - set(cls.__dataclass_fields__):
            raise InputError(f"unknown preprocessing option(s): {', '.join(sorted(unknown))}")
        for name in ("size", "mean", "std"):
            if options.get(name) is not None:
                options[name] = tuple(options[name])
        check_fields(cls, options)
        if math.prod(options.get("size") or ()) > _MOST_PIXELS:
            raise InputError(f"size may be at most {_MOST_PIXELS:,} pixels, got {options['size']!r}")
        return cls(**options)

    def _fitted(self, pixels: Pixels, height: int, width: int) -> Pixels:
        """Return pixels scaled to these sides, then cut to `size` around the centre, or padded with black."""
        image_module = require("PIL.Image", extra="onnx")
        method = getattr(image_module.Resampling, self.interpolation.upper())
        image = image_module.fromarray(np.ascontiguousarray(pixels))
        # Rows, then columns: Pillow 13 scales tall images the other way round, which moves some pixels by a few levels.
        image = image.resize((width, image.height), method).resize((width, height), method)
        to_height, to_width = self.size or (height, width)
        left, top = int((width - to_width) / 2), int((height - to_height) / 2)  # below 0 where it is padded
        return np.array(image.crop((left, top, left + to_width, top + to_height)), dtype=np.uint8)


class RawImages:
    """Images as their pixels, in the place of a `Preprocess`: each model of a cascade prepares them itself."""

    size = None

    def resize(self, image: AnyImage, *, name: str = "given") -> Pixels:
        """Return the pixels, uint8 (h, w, 3). Raises UnreadableImage with `name`."""
        return read_rgb(image, name=name)

    def batch(self, images: Sequence[Pixels]) -> NDArray[Any]:
        """Return images as uint8 (n, h, w, 3), or as objects (n,) if they differ in size."""
        if len({image.shape for image in images}) == 1:
            return np.asarray(images)
        return raw_rows(images)

    def check(self, inputs: Any) -> None:
        """Raise InputError for prepared images."""
        if np.asarray(inputs).dtype.kind not in "uO":
            raise InputError(
                "a cascade takes raw images, which each model prepares for itself: make them with runner.prepare"
            )


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(number), 6) for number in values)
    return red, green, blue
