"""Images that an attacker would send: small files whose decoding takes long, or fills the memory."""

from __future__ import annotations

import io
import struct
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PNG = b"\x89PNG\r\n\x1a\n"


def saved(format_: str, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, size, options.pop("colour", 0)).save(file, format_, **options)
    return file.getvalue()


def many_scans(width: int = 5000, height: int = 4990, scans: int = 1500) -> bytes:
    """A progressive JPEG whose last scan is repeated: each goes over all pixels."""
    whole = saved("JPEG", (width, height), "L", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + whole[-2:]


def many_segments(segments: int = 500_000) -> bytes:
    """A JPEG with empty comments, which are read in Python one after the other."""
    whole = saved("JPEG")
    return whole[:2] + b"\xff\xfe\0\x02" * segments + whole[2:]


def hidden_segments(segments: int = 500_000) -> bytes:
    """Where a parser that gives every marker a length sees a scan, Pillow sees comments."""
    whole = saved("JPEG")
    return whole[:2] + b"\xff\x01\0\x06\xff\xfe\0\x02\xff\xda" + b"\xff\xfe\0\x02" * segments + whole[2:]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*extra: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    """A PNG with chunks before its pixels."""
    whole = saved("PNG", size)
    return whole[:33] + b"".join(extra) + whole[33:]


def many_profiles(profiles: int = 5000) -> bytes:
    """Colour profiles of a kilobyte which are a megabyte each once decompressed; Pillow keeps the last."""
    return png(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 20), 9)) * profiles)


def many_texts(texts: int = 5000) -> bytes:
    return png(chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * (1 << 20), 9)) * texts)


def empty_chunks(chunks: int = 1_000_000) -> bytes:
    whole = saved("PNG")
    return whole[:33] + chunk(b"IDAT", b"") * chunks + whole[33:]


def many_tags(bytes_each: int = 4 << 20) -> bytes:
    """EXIF in which 65,000 entries share the same megabytes."""
    entries = b"".join(struct.pack("<HHII", tag, 7, bytes_each, 8) for tag in range(1, 65_000))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 64_999) + entries + bytes(4)
    return png(chunk(b"eXIf", exif.ljust(bytes_each + 8, b"\0")))


def many_frames(format_: str, frames: int = 300) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    images = [Image.new("RGB", (500, 500), (i % 256, 0, 0)) for i in range(frames)]
    options = {"duration": 10} | ({"lossless": True, "method": 0} if format_ == "WEBP" else {})
    images[0].save(file, format_, save_all=True, append_images=images[1:], **options)
    return file.getvalue()


def gif_comments(comments: int = 1_000_000) -> bytes:
    whole = saved("GIF")
    start = whole.index(b",", 13 + 3 * (2 << (whole[10] & 7)) if whole[10] & 128 else 13)
    return whole[:start] + b"!\xfe\x01a\0" * comments + whole[start:]


def gif_noise() -> bytes:
    whole = saved("GIF")
    return whole[:13] + bytes(5_000_000) + whole[13:]


def plain_numbers(side: int = 2000) -> bytes:
    """A PPM in text, which Pillow reads in Python."""
    return b"P3 %d %d 255\n" % (side, side) + b"1 " * (3 * side * side)


def packed_bmp(side: int = 2000) -> bytes:
    """A BMP whose runs are one pixel long, which Pillow unpacks in Python."""
    pixels = b"\1\0" * (side * side) + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    body = head + bytes(1024) + pixels
    return b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + 40 + 1024) + body


def many_layers(side: int = 4000, tile: int = 64) -> bytes:
    layers = {"quality_layers": [80, 40, 20, 10], "num_resolutions": 1}
    return saved("JPEG2000", (side, side), tile_size=(tile, tile), **layers)


def frames_of(format_: str) -> tuple[Callable[[], bytes], Callable[[], bytes]]:
    return partial(many_frames, format_), partial(many_frames, format_, 3)


huge_png = partial(saved, "PNG", (16_000, 9_000), "1")
huge_jpeg = partial(saved, "JPEG", (16_000, 9_000), "L")


BOMBS: dict[str, tuple[Callable[[], bytes], Callable[[], bytes]]] = {
    "scans": (many_scans, lambda: many_scans(1000, 1000, 500)),
    "more scans": (lambda: many_scans(scans=3500), lambda: saved("PNG", (5000, 4990), "1")),
    "as many scans as may be": (lambda: many_scans(scans=30), lambda: many_scans(300, 300, 30)),
    "segments": (many_segments, lambda: many_segments(5000)),
    "hidden segments": (hidden_segments, lambda: hidden_segments(5000)),
    "profiles": (many_profiles, lambda: many_profiles(100)),
    "texts": (many_texts, lambda: many_texts(100)),
    "empty chunks": (empty_chunks, lambda: empty_chunks(12_000)),
    "tags": (many_tags, lambda: many_tags(1 << 17)),
    **{f"frames of a {name}": frames_of(name) for name in ("GIF", "PNG", "WEBP")},
    "comments of a GIF": (gif_comments, lambda: gif_comments(5000)),
    "noise in a GIF": (gif_noise, lambda: saved("TIFF")),
    "a PPM in text": (plain_numbers, lambda: plain_numbers(100)),
    "a packed BMP": (packed_bmp, lambda: packed_bmp(100)),
    "tiles of a JPEG 2000": (many_layers, lambda: many_layers(300, 8)),
    "a huge PNG": (huge_png, huge_png),
    "a huge JPEG": (huge_jpeg, huge_jpeg),
}
"""Each as large as an attacker would send it, and one like it in little time, for requests by the thousand."""
