"""Reading one image of any format and mode as 8-bit RGB; what cannot be read exactly is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from exeunt._support.paths import AnyPath, RemotePath, read_bytes, read_patiently
from exeunt.data.stored_inputs import BadCell
from exeunt.errors import FileError, UnreadableImage, require

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels: TypeAlias = NDArray[np.uint8]
AnyImage: TypeAlias = "AnyPath | bytes | Pixels | Image | BadCell"
"""An image as a file's path (here or in an object store), its encoded bytes, uint8 pixels (h, w), (h, w, 1) or
(h, w, 3), a PIL image, or an empty cell of a table."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # of EXIF
_COMMON = ("JPEG", "PNG", "WEBP")
"""Formats that are tried first. Pillow tries one after the other, WebP as one of the last."""


def read_rgb(image: AnyImage, *, name: str = "given") -> Pixels:
    """Decode an image to RGB pixels, shape (h, w, 3), uint8.

    The first frame of an animation is read. EXIF rotation is applied, transparent pixels are blended with white,
    16-bit grey is scaled to 8 bits, CMYK is converted. Colour profiles are not applied. `name`: for messages.

    Raises UnreadableImage, naming the file, if it is missing, truncated, not an image, a PNG with a wrong checksum, or
    has pixels whose range is unknown (32-bit integers above 65535, floats outside [0, 1]). FileError if its disk or
    store does not answer.
    """
    if isinstance(image, np.ndarray):
        return _rgb_array(image, name)
    if isinstance(image, BadCell):
        raise UnreadableImage(name, image.reason)
    image_module = require("PIL.Image", extra="onnx")
    try:
        if isinstance(image, image_module.Image):
            return _rgb(image, name)
        if not isinstance(image, bytes):
            path = image if isinstance(image, RemotePath) else Path(cast("Path", image))
            image = read_patiently(path, partial(read_bytes, path))
        with open_image(image) as opened:
            return _rgb(opened, name)
    except (UnreadableImage, FileError):
        raise
    except FileNotFoundError:
        link = isinstance(image, Path) and is_dangling(image)
        why = "it is a link to a file that does not exist" if link else "there is no such file"
        raise UnreadableImage(name, why) from None
    except image_module.UnidentifiedImageError:
        raise UnreadableImage(name, "it is not an image in a format that Pillow knows") from None
    except Exception as error:  # decoders of damaged files raise almost anything
        raise UnreadableImage(name, f"{type(error).__name__}: {error}") from error


def is_dangling(path: Path) -> bool:
    """Return whether a path is a link to nothing, or to itself."""
    return path.is_symlink() and not os.path.exists(path)  # noqa: PTH110 - Path.exists raises for a link to itself


def open_image(encoded: bytes, *, formats: Iterable[str] | None = None) -> Image:
    """Open an encoded image without decoding it. Raises what Pillow raises, ValueError for a PNG with a wrong checksum.

    `formats`: names in Pillow of the formats to try after the common ones; None for all.
    """
    image_module = require("PIL.Image", extra="onnx")
    for _ in png_chunks(encoded) if encoded.startswith(PNG_SIGNATURE) else ():
        pass
    file = io.BytesIO(encoded)
    try:
        return image_module.open(file, formats=_COMMON)  # type: ignore[no-any-return]
    except image_module.UnidentifiedImageError:
        image_module.init()  # some are missing where Pillow was built without them
        tried = [
            format_
            for format_ in (image_module.ID if formats is None else formats)
            if format_ in image_module.OPEN
        ]
        return image_module.open(file, formats=tried)  # type: ignore[no-any-return]


def png_chunks(png: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield name and length of a PNG's chunks. Raises ValueError for a wrong checksum: Pillow ignores the pixels'."""
    position, name, view = len(PNG_SIGNATURE), b"", memoryview(png)
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", png, position) if position + 8 <= len(png) else (0, b"")
        end = position + 8 + length
        if view[end : end + 4] != zlib.crc32(view[position + 4 : end]).to_bytes(4, "big"):
            raise ValueError(f"it is damaged or cut off: the checksum at byte {end:,} is wrong")
        yield name, length
        position = end + 4


def _rgb(image: Image, name: str) -> Pixels:
    image.load()
    upright = image
    # EXIF may be damaged: Pillow raises SyntaxError, KeyError, struct.error and more.
    with suppress(Exception):
        may_turn = image.format != "PNG" or image.info  # a PNG that tells nothing has no EXIF
        if may_turn and image.getexif().get(ORIENTATION, 1) != 1:  # else it would be copied
            upright = require("PIL.ImageOps", extra="onnx").exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _eight_bits(upright, name)
    elif upright.has_transparency_data:
        upright = _on_white(upright)
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"), dtype=np.uint8)


def _on_white(image: Image) -> Image:
    """Blend a transparent image with white: the colour of fully transparent pixels is arbitrary."""
    image_module = require("PIL.Image", extra="onnx")
    ground = image_module.new("RGBA", image.size, "white")
    return image_module.alpha_composite(ground, image.convert("RGBA"))  # type: ignore[no-any-return]


def _eight_bits(image: Image, name: str) -> Image:
    """Scale 16-bit integers, or floats in [0, 1], to 8 bits."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (values.size and values.min() >= 0 and values.max() <= top):  # NaN fails too
        low, high = (values.min(), values.max()) if values.size else (np.nan, np.nan)
        raise UnreadableImage(
            name,
            f"its pixels (mode {image.mode}) range from {low:g} to {high:g}, outside 0 to {top:g}: "
            "convert it to 8 bits first",
        )
    grey = np.rint(values * (255.0 / top)).astype(np.uint8)
    return require("PIL.Image", extra="onnx").fromarray(grey)  # type: ignore[no-any-return]


def _rgb_array(pixels: NDArray[Any], name: str) -> Pixels:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise UnreadableImage(name, f"pixels must be uint8 (h, w, 3), got {pixels.dtype} {pixels.shape}")
    planes = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if planes.shape[2] not in (1, 3):
        raise UnreadableImage(name, f"pixels must have 1 or 3 channels, got shape {pixels.shape}")
    return np.repeat(planes, 3, axis=2) if planes.shape[2] == 1 else planes
