"""Which images can be read: all are decoded to find out."""

from __future__ import annotations

from collections.abc import Callable

from exeunt.data.dataset import Images
from exeunt.data.decode_once import in_threads
from exeunt.data.read_image import AnyImage, read_rgb
from exeunt.errors import UnreadableImage

__all__ = ["select_readable"]


def select_readable(
    images: Images, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Images, list[UnreadableImage]]:
    """Return the images that can be read, and why each of the others cannot. All are decoded for that.

    `progress`: called with (done, n).
    """

    def why_not(stored: AnyImage, name: str) -> UnreadableImage | None:
        try:
            read_rgb(stored, name=name)
        except UnreadableImage as error:
            return error
        return None

    reasons = list(in_threads(why_not, images, progress))
    refused = [reason for reason in reasons if reason is not None]
    readable = [i for i, reason in enumerate(reasons) if reason is None]
    return images.take(readable) if refused else images, refused
