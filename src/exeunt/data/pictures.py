"""Reading one image, of any format and mode, into 8-bit RGB; never silently garbage."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exeunt.errors import InputError, require

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

Pixels: TypeAlias = NDArray[np.uint8]
Picture: TypeAlias = "bytes | Path | Pixels"


class UnreadableImage(InputError):  # noqa: N818 - reads as what the file is
    """An image that cannot be decoded in full; `name` says which one and `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the image {self.name}: {self.reason}"


def read_rgb(picture: Picture | Image, *, name: str = "given") -> Pixels:
    """Decode a picture to RGB pixels, shape (h, w, 3), uint8.

    `picture` is a file's path, its encoded bytes, a PIL image, or uint8 pixels (h, w), (h, w, 1) or
    (h, w, 3). Of an animation the first frame is read; EXIF rotation is carried out; transparency is laid
    on white; 16-bit grey is scaled to 8 bits; CMYK is converted. Colour profiles are not applied.

    Raises UnreadableImage, naming the file, when it is missing, truncated, no image, or has pixels
    whose range is unknown (32-bit integers above 65535, floats outside [0, 1]).
    """
    if isinstance(picture, np.ndarray):
        return _rgb_array(picture, name)
    image_module = require("PIL.Image", extra="torch")
    try:
        if isinstance(picture, image_module.Image):
            return _rgb(picture, name)
        file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
        with image_module.open(file) as image:
            return _rgb(image, name)
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage(name, "there is no such file") from None
    except image_module.UnidentifiedImageError:
        raise UnreadableImage(name, "it is not an image in a format that Pillow knows") from None
    except Exception as error:  # decoders of damaged files raise almost anything
        raise UnreadableImage(name, f"{type(error).__name__}: {error}") from error


def _rgb(image: Image, name: str) -> Pixels:
    image.load()
    upright = _upright(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _eight_bits(upright, name)
    elif upright.has_transparency_data:
        upright = _on_white(upright)
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def _upright(image: Image) -> Image:
    """Carry out the rotation that EXIF asks for; where EXIF is damaged, the pixels are as they lie."""
    try:
        return require("PIL.ImageOps", extra="torch").exif_transpose(image)  # type: ignore[no-any-return]
    except Exception:  # Pillow raises SyntaxError, KeyError, struct.error and more
        return image


def _on_white(image: Image) -> Image:
    """Lay a transparent image on white: the colour under full transparency is arbitrary."""
    layer = image.convert("RGBA")
    ground = require("PIL.Image", extra="torch").new("RGBA", layer.size, (255, 255, 255, 255))
    ground.alpha_composite(layer)
    return ground  # type: ignore[no-any-return]


def _eight_bits(image: Image, name: str) -> Image:
    """Scale 16-bit integers, or floats in [0, 1], to 8 bits."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (values.size and values.min() >= 0 and values.max() <= top):  # NaN fails too
        low, high = (values.min(), values.max()) if values.size else (np.nan, np.nan)
        raise UnreadableImage(
            name,
            f"its pixels (mode {image.mode}) go from {low:g} to {high:g}, beyond 0 to {top:g}: "
            "convert it to 8 bits first",
        )
    grey = np.rint(values * (255.0 / top)).astype(np.uint8)
    return require("PIL.Image", extra="torch").fromarray(grey)  # type: ignore[no-any-return]


def _rgb_array(pixels: NDArray[Any], name: str) -> Pixels:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise UnreadableImage(name, f"pixels must be uint8 (h, w, 3), got {pixels.dtype} {pixels.shape}")
    planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if planes.shape[2] not in (1, 3):
        raise UnreadableImage(name, f"pixels must have 1 or 3 channels, got shape {pixels.shape}")
    return np.repeat(planes, 3, axis=2) if planes.shape[2] == 1 else planes
