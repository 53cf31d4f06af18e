"""Reading the inputs of a request: images and texts are checked, decoded and prepared for the engine.

An input that cannot be read is an error of its row alone.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Integers, Keys
from exeunt.data.dataset import content_key
from exeunt.data.preprocess import RawImages
from exeunt.data.read_image import Pixels
from exeunt.data.tokens import RawTexts, text_batch
from exeunt.errors import InputError, UnreadableImage, require
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import holds_texts, load_preparation, text_columns
from exeunt.serve.image_decoding import (
    EXTRA_BYTES,
    Allowance,
    ImageReader,
    MayTakeLong,
    SentImage,
    is_bounded,
)
from exeunt.serve.limited_processes import LimitedProcesses

_ROOM, _MOST_ROWS = 1 << 30, 1 << 16
_TOGETHER = 10
"""A request may hold as much as this many of the largest images, or of the longest texts."""
_MOST_ERRORS = 1000
"""Inputs of a request that cannot be read: after more of them, the request is refused."""
_FEW_ROWS, _FEW_PIXELS, _FEW_CHARS, _FEW_EXTRA_BYTES = 32, 1 << 16, 1 << 12, 1 << 11
"""At most, of a request that is read in the event loop, which takes some milliseconds: its inputs, pixels, characters,
and the bytes beside the pixels of a PNG, which may be a thousand times as many once decompressed."""
_SECONDS, PROCESS_BYTES = 5.0, 4 << 30
"""Processor time of a request for images that may take long, and address space of a process that reads them."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a request. `errors` (n,): why a row cannot be read, None for those that can.

    `inputs`: the readable ones, prepared; None if there are none. `keys`: theirs, see `Runner.__call__`; None for the
    keys of their content. `places`: theirs among the n.
    """

    inputs: Any
    keys: Keys | None
    places: Integers
    errors: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.errors)


class InputReader:
    """Reads the inputs of a run as `exeunt predict` does. Threads may share it.

    Limits: `max_rows` of a request, by default as many as 1 GiB holds; `max_pixels` of an image, before it is decoded;
    `max_chars` of a text, since all other requests wait while it is read; and ten times as many pixels or characters of
    all inputs of a request together.

    Raises InputError for a network that takes images of any size: a server warms up at one.
    `left` is set once the client disconnects. `processes` read the images that may take long; without them
    `MayTakeLong` is raised. `little`: whether it is raised for more than little, too.
    """

    left = threading.Event()
    processes: LimitedProcesses | None = None
    little = False

    def __init__(self, run: RunFolder, *, max_rows: int | None, max_pixels: float, max_chars: int) -> None:
        self.kind: str = run.manifest["inputs"]["kind"]
        self.text_columns = text_columns(run) if self.kind == "text" else ()
        self.size: tuple[int, int] | None = None
        self.gives_masks = run.masks
        self._way = load_preparation(run)
        self._max_pixels, self._max_chars = max_pixels, max_chars
        self._tokenising = threading.Lock()  # tokenisers are not thread-safe
        if self.kind == "image":
            warnings.filterwarnings("ignore", module="PIL")  # Python remembers each, and they quote the image
            ways = [load_preparation(run.open_model(entry.name)) for entry in run.cascade] or [self._way]
            self.size = ways[0].size
            # If all models resize alike, it is done here, in many threads, and rows of all sizes can be joined.
            alike = len({getattr(way, "geometry", None) for way in ways}) == 1
            self._read_image = ImageReader(ways[0].resize if alike else self._way.resize, ways, max_pixels)
            if self.size is None:
                raise InputError(
                    f"the network of {run.path} takes images of any size, and a server needs one: train it with "
                    "--size"
                )
            self._as_it_is = math.prod(self.size) <= max_pixels and all(way.size == self.size for way in ways)
        self.max_rows = _room(self.example(1)) if max_rows is None else max_rows

    @cached_property
    def for_little(self) -> InputReader:
        """The reader of what is read in the event loop."""
        reader = copy(self)
        reader.little = True
        return reader

    @property
    def strings_each(self) -> int:
        """Number of strings per input in JSON: an image is one, in base64."""
        return max(1, len(self.text_columns))

    def example(self, n: int) -> Any:
        """Return n prepared inputs, all the same, to warm up with."""
        if self.kind == "image":
            return self._way.batch([np.zeros((*self.size, 3), dtype=np.uint8)] * n)  # type: ignore[misc]
        return text_batch(self._way, [self._example_text] * n)[0]

    @property
    def _example_text(self) -> Any:
        return "example" if self.strings_each == 1 else ("example",) * self.strings_each

    def warm_up(self) -> Rows:
        """Read inputs as clients send them, so that the first request need not wait for imports."""
        if self.kind == "text":
            return self.texts([self._example_text])
        blank = require("PIL.Image", extra="onnx").new("RGB", self.size)
        for format_ in ("PNG", "JPEG"):
            blank.save(file := io.BytesIO(), format_)
            rows = self.images([file.getvalue()])
        return rows

    def check_tensor(self, kind: str, shape: Sequence[int]) -> None:
        """Raise InputError unless a tensor of this type and shape may hold inputs; called before it is decoded."""
        self.check_count(shape[0])
        if kind == "FP32":
            if self.kind != "image" or isinstance(self._way, (RawImages, RawTexts)):
                raise InputError("the network takes raw inputs: it prepares them itself")
            height, width = self.size or (0, 0)
            if tuple(shape[1:]) != (3, height, width):
                raise InputError(
                    f"prepared images must have the shape (n, 3, {height}, {width}), got {tuple(shape)}"
                )
            return
        limit = 3 * _TOGETHER * self._max_pixels
        pixels = kind == "UINT8" and self.kind == "image" and len(shape) == 4 and math.prod(shape) <= limit
        strings = kind == "BYTES" and (len(shape) == 1 or list(shape[1:]) in ([1], [self.strings_each]))
        if not (pixels or strings):
            raise InputError(f"the network does not take {kind} {list(shape)}: see its metadata")

    def check_count(self, n: int) -> None:
        """Raise InputError for too many inputs in a request: a few bytes may hold any number of inputs of size 0."""
        if not 0 < n <= self.max_rows:
            raise InputError(f"a request must hold 1 to {self.max_rows} inputs, got {n}")

    def images(self, images: Sequence[SentImage]) -> Rows:
        """Read encoded images, or pixels (h, w, 3), uint8. Anything else is an error of its row."""
        if self.kind != "image":
            raise InputError(f"the network takes inputs of kind {self.kind!r}, got images")
        self.check_count(len(images))
        most_extra = _FEW_EXTRA_BYTES if self.little else EXTRA_BYTES
        bounded = [is_bounded(image, most_extra) for image in images]
        if self.processes is None and not all(bounded):
            raise MayTakeLong
        few = _FEW_PIXELS if self.little else math.inf
        allowance = Allowance(_TOGETHER * self._max_pixels, _SECONDS, few=few)

        def read(place: int) -> tuple[Pixels, int]:
            name, image = f"number {place}", images[place]
            if self.processes is None or bounded[place]:
                return self._read_image(image, name, allowance)[:2]
            return self._read_apart(self.processes, image, name, allowance)

        images_read, places, errors = self._each(read, len(images))
        keys = np.array([key for _, key in images_read], dtype=np.uint64)
        inputs = self._way.batch([pixels for pixels, _ in images_read]) if images_read else None
        return Rows(inputs, keys, places, errors)

    def pixels(self, images: NDArray[np.uint8]) -> Rows:
        """Read images as pixels, (n, h, w, channels): all at once where there is nothing to scale or to convert."""
        n, *sides, channels = images.shape
        as_it_is = self.kind == "image" and self._as_it_is and (*sides, channels) == (*self.size, 3)  # type: ignore[misc]
        if not as_it_is or n == 0 or self.left.is_set():
            return self.images(list(images))
        if self.little and (n > _FEW_ROWS or n * math.prod(sides) > _FEW_PIXELS):
            raise MayTakeLong
        keys = np.array([content_key(image) for image in images], dtype=np.uint64)
        return Rows(self._way.batch(images), keys, np.arange(n), [None] * n)

    def _read_apart(
        self, processes: LimitedProcesses, image: SentImage, name: str, allowance: Allowance
    ) -> tuple[Pixels, int]:
        seconds, allowance.seconds = allowance.seconds, 0.0
        if seconds > 0:
            with suppress(TimeoutError):
                read, taken = processes.call(seconds, self._read_image, image, name, allowance)
                allowance.seconds = seconds - taken
                if isinstance(read, UnreadableImage):
                    raise read
                if not isinstance(read, Exception):  # such as MemoryError
                    allowance.taken = read[2].taken
                    return read[:2]  # type: ignore[no-any-return]
        why = f"it may take long; all such images of a request may take {_SECONDS:g} s and {PROCESS_BYTES >> 30} GB"
        raise UnreadableImage(name, f"{why}: send a smaller image, or a plain JPEG or PNG")

    def texts(self, texts: Sequence[Any]) -> Rows:
        """Read texts, or pairs of texts if the network was trained on such."""
        if self.kind != "text":
            raise InputError(f"the network takes inputs of kind {self.kind!r}, got texts")

        left = allowed = _TOGETHER * self._max_chars

        def read(place: int) -> Any:
            nonlocal left
            text = self._text(texts[place], place)
            left -= len(text) if isinstance(text, str) else sum(map(len, text))
            if self.little and allowed - left > _FEW_CHARS:
                raise MayTakeLong
            if left < 0:
                raise InputError(
                    f"the texts of a request may have {allowed:,} characters together: send fewer at a time"
                )
            return text

        texts_read, places, errors = self._each(read, len(texts))
        keys = np.array([content_key(text) for text in texts_read], dtype=np.uint64)
        if not self._tokenising.acquire(blocking=not self.little):
            raise MayTakeLong
        try:
            inputs = text_batch(self._way, texts_read)[0] if texts_read else None
        finally:
            self._tokenising.release()
        return Rows(inputs, keys, places, errors)

    def prepared(self, values: NDArray[Any]) -> Rows:
        """Take prepared images, (n, 3, h, w), float32 (see `Runner.prepare`). `check_tensor` has checked the shape."""

        def check(place: int) -> int:
            self._way.check(values[place])
            return place

        valid_rows, places, errors = self._each(check, len(values))
        return Rows(values[valid_rows] if valid_rows else None, None, places, errors)

    def _text(self, text: Any, place: int) -> Any:
        wanted = len(self.text_columns)
        parts = [text] if wanted == 1 else text
        if not holds_texts(text, wanted):
            expected = "a text" if wanted == 1 else f"{wanted} texts ({', '.join(self.text_columns)})"
            raise InputError(f"input number {place} must be {expected}")
        for part in parts:
            if len(part) > self._max_chars:
                raise InputError(
                    f"input number {place} has {len(part):,} characters, at most {self._max_chars:,} are taken"
                )
            part.encode()  # raises for half a surrogate pair
        return text if wanted == 1 else tuple(parts)

    def _each(self, read: Callable[[int], Any], n: int) -> tuple[list[Any], Integers, list[str | None]]:
        """Return the results of reading the rows that can be read, their places, and the errors of the others (n,)."""
        self.check_count(n)
        if self.little and n > _FEW_ROWS:
            raise MayTakeLong
        read_inputs: list[Any] = []
        places: list[int] = []
        errors: list[str | None] = [None] * n
        for place in range(n):
            if self.left.is_set():
                raise InputError("the client disconnected")  # nobody hears it
            try:
                read_inputs.append(read(place))
                places.append(place)
            except ValueError as error:
                errors[place] = str(error)
                if place + 1 - len(read_inputs) > _MOST_ERRORS:
                    why = f"more than {_MOST_ERRORS:,} inputs of the request cannot be read; {error}"
                    raise InputError(why) from error
        return read_inputs, np.array(places, dtype=np.int64), errors


def _room(row: Any) -> int:
    """Return how many rows like this one fit into `_ROOM` bytes, up to a limit, as rows of objects are small."""
    arrays = row.values() if hasattr(row, "items") else [row]
    return max(1, min(_MOST_ROWS, _ROOM // sum(int(array.nbytes) for array in arrays)))
