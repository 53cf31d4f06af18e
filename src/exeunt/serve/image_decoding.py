"""Decoding one image of a request. Its headers say whether the time that it takes has a bound."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from exeunt.data.dataset import content_key
from exeunt.data.read_image import PNG_SIGNATURE, Pixels, open_image, png_chunks, read_rgb
from exeunt.errors import UnreadableImage, require

if TYPE_CHECKING:
    from PIL.Image import Image

SentImage: TypeAlias = "bytes | Pixels | None"
"""An encoded image, pixels (h, w, 3), uint8, or None for what is neither."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
"""Files in other formats may hold images larger than they say (TIFF in tiles, AVIF, icons, IPTC), compressed ones
(FITS), or programs (PostScript)."""
_SLOW = (b"P", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
"""How files begin whose headers do not bound the time: most of PPM is read in Python, JPEG 2000 in one long call."""
_PPM = re.compile(rb"P[56]\s+\d{1,9}\s+\d{1,9}\s+255\s")
_SEGMENTS, _CHUNKS, _EXTRAS, EXTRA_BYTES = 100, 10_000, 64, 1 << 20
"""At most: segments before the pixels of a JPEG or GIF; chunks of a PNG; its chunks beside the pixels, each of up to 1
MiB once decompressed; bytes beside the pixels of a JPEG or PNG, such as EXIF."""
_FEW_SCANS, _SCANS = 16, 40
"""A JPEG may have so many scans in any case; if it has more, no more pixels in all than so many largest images."""
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")


class MayTakeLong(Exception):  # noqa: N818 - no error
    """A request holds more than is read where it is read now: an image whose headers do not bound the time that it
    takes to decode; or, in the event loop, more than little.
    """


@dataclass
class Allowance:
    """What the images of a request may take together: pixels, and seconds of processor time in a process.

    `few`: pixels that are decoded here; for more, `MayTakeLong` is raised.
    """

    most: float
    seconds: float
    taken: int = 0
    few: float = math.inf

    def take(self, pixels: int, name: str) -> None:
        """Raise UnreadableImage if there are not so many pixels left."""
        self.taken += pixels
        if self.taken > self.few:
            raise MayTakeLong
        if self.taken > self.most:
            why = f"the images of a request may have {self.most:,.0f} pixels together: send fewer at a time"
            raise UnreadableImage(name, why)


@dataclass(frozen=True)
class ImageReader:
    """Reads images and scales them. `ways`: how the models of the run prepare them. It can be sent to a process."""

    resize: Callable[..., Pixels]
    ways: Sequence[Any]
    max_pixels: float

    def __call__(self, image: SentImage, name: str, allowance: Allowance) -> tuple[Pixels, int, Allowance]:
        """Return the scaled pixels, the key of the content, and the allowance.

        Raises UnreadableImage for too many pixels, and for what is no image in one of `_FORMATS`.
        """
        opened, pixels = self._opened(image, name)
        allowance.take(pixels, name)
        whole = read_rgb(opened, name=name)
        return self.resize(whole, name=name), content_key(whole), allowance

    def _opened(self, image: SentImage, name: str) -> tuple[Pixels | Image, int]:
        """Return an image, not decoded yet, and its number of pixels, or of those that it is scaled to."""
        if isinstance(image, np.ndarray):
            opened: Pixels | Image = image
            sides = image.shape[:2]
        elif not isinstance(image, bytes):  # a text would be opened as a file of the server
            raise UnreadableImage(name, "it is no encoded image, or not in base64, which JSON needs")
        else:
            pillow: Any = require("PIL.Image", extra="onnx")
            pillow.MAX_IMAGE_PIXELS = None  # a larger image would be reported as no image
            try:
                opened = open_image(image, formats=_FORMATS)
            except Exception as error:  # for damaged files, decoders raise almost anything
                why = f"it is damaged, or not an image in a format that is served: {', '.join(_FORMATS)}"
                raise UnreadableImage(name, why) from error
            sides = opened.height, opened.width
        largest = sides
        for way in self.ways if min(sides) else ():
            largest = max(largest, way.scaled_sides(*sides), key=math.prod)
        if math.prod(largest) > self.max_pixels:
            scaled = "" if largest == sides else f", scaled to {largest[0]} x {largest[1]}"
            why = f"it has {sides[0]} x {sides[1]} pixels{scaled}, at most {self.max_pixels:,.0f} are taken"
            raise UnreadableImage(name, why)
        scans = _scans(image) if isinstance(image, bytes) else 0
        if scans > _FEW_SCANS and scans * math.prod(sides) > _SCANS * self.max_pixels:
            why = f"it has {scans:,} scans, at most {_SCANS * self.max_pixels / math.prod(sides):,.0f} are taken"
            raise UnreadableImage(name, f"{why} of {sides[0]} x {sides[1]} pixels")
        return opened, math.prod(largest)


def is_bounded(image: SentImage, most_extra: int = EXTRA_BYTES) -> bool:
    """Whether headers bound the time that reading an image takes to some 0.1 s per million pixels or bytes.

    `most_extra`: bytes beside the pixels of a PNG, which are compressed.
    """
    if not isinstance(image, bytes):
        return True
    if image.startswith(b"\xff\xd8"):
        return _is_bounded_jpeg(image)
    if image.startswith(PNG_SIGNATURE):
        return _is_bounded_png(image, most_extra)
    if image.startswith(b"RIFF"):
        return image[12:16] != b"VP8X" or not (image[20:21] or b"\0")[0] & 2  # not animated
    if image.startswith(b"BM"):
        return image[14:15] >= b"\x28" and image[30:34] == bytes(4)  # not compressed
    if image.startswith(b"GIF8"):
        return _is_bounded_gif(image)
    return not image.startswith(_SLOW) or _PPM.match(image) is not None


def _is_bounded_jpeg(image: bytes) -> bool:
    position = 2
    for _ in range(_SEGMENTS):
        kind, marker = image[position : position + 2].ljust(2, b"\0")
        if image[position : position + 2] == _SCAN:
            return position < EXTRA_BYTES and _few_scans(image)
        if kind != 0xFF or not 0xC0 <= marker < 0xFF or 0xD0 <= marker <= 0xD9:  # these have no length
            return False
        position += 2 + int.from_bytes(image[position + 2 : position + 4], "big")
    return False


def _is_bounded_png(image: bytes, most_extra: int) -> bool:
    try:
        chunks = list(islice(png_chunks(image), _CHUNKS + 1))
    except ValueError:  # it is refused once it is opened
        return True
    extras = [length for name, length in chunks if name[:1].islower()]
    return len(chunks) <= _CHUNKS and len(extras) <= _EXTRAS and sum(extras) < most_extra


def _is_bounded_gif(image: bytes) -> bool:
    colours = 6 << (image[10] & 7) if image[10:11] >= b"\x80" else 0
    position, inside = 13 + colours, False
    for _ in range(_SEGMENTS):
        kind = image[position : position + 1]
        if not inside and kind != b"!":
            return kind == b","  # pixels
        position += 1 + (kind or b"\0")[0] if inside else 2
        inside = not inside or kind > b"\0"
    return False


def _few_scans(jpeg: bytes) -> bool:
    """Whether a JPEG holds the marker of scans a few times, in its pixels or elsewhere."""
    # Eight times as fast as `bytes.count`.
    pairs = [np.frombuffer(jpeg, "<u2", (len(jpeg) - start) // 2, start) for start in (0, 1)]
    return sum(int(np.count_nonzero(each == 0xDAFF)) for each in pairs) <= _FEW_SCANS


def _scans(image: bytes) -> int:
    """Return the number of scans of a JPEG up to its end, which data may follow; 0 if there are few, or none."""
    if not image.startswith(b"\xff\xd8") or _few_scans(image):
        return 0
    position, scans = 2, 0
    while (marker := _MARKER.search(image, position)) and marker[1] != _END[1:]:
        scans += marker[1] == _SCAN[1:]
        position = marker.end() + int.from_bytes(image[marker.end() : marker.end() + 2], "big")
    return scans
