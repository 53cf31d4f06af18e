"""Whether a network answers with classes or with masks, as it was asked to."""

from __future__ import annotations

from torch import Tensor

from exeunt.errors import InputError
from exeunt.score.mask_confidence import MOST_MASK_CLASSES
from exeunt.torch.calls import Inputs, as_call


def check_kind(logits: Tensor, example: Inputs, *, masks: bool) -> None:
    """Raise InputError unless logits are of masks of the example's images, or without `masks` of classes."""
    if not masks:
        if logits.ndim != 2:
            raise InputError(
                f"the network returns masks, logits of shape {tuple(logits.shape)}: say masks=True (--task segment)"
            )
        return
    shape = tuple(logits.shape)
    if logits.ndim != 4:
        raise InputError(
            f"the network returns logits of shape {shape}, and masks need (images, classes, height, width)"
        )
    mask_scale_of((shape[2], shape[3]), example)
    if shape[1] > MOST_MASK_CLASSES:
        raise InputError(f"masks have at most {MOST_MASK_CLASSES} classes, and the network has {shape[1]}")


def mask_scale_of(size: tuple[int, int], example: Inputs) -> int:
    """Return how many times as high and wide the images of an example are as logits of this height and width.

    Raises InputError for a size that is no whole fraction of theirs.
    """
    height, width = _size(example)
    scale = height // size[0]
    if scale and (size[0] * scale, size[1] * scale) == (height, width):
        return scale
    raise InputError(
        f"the network returns masks of {size[0]}x{size[1]} pixels for images of {height}x{width}: let it return logits "
        "of the size of its input, or of a half, a quarter, ... of its height and width "
        "(torch.nn.functional.interpolate)"
    )


def _size(example: Inputs) -> tuple[int, int]:
    """Return height and width of the images of an example. Raises InputError for other inputs."""
    args, kwargs = as_call(example)
    tensors = [tensor for tensor in (*args, *kwargs.values()) if isinstance(tensor, Tensor)]
    if not tensors or tensors[0].ndim != 4:
        raise InputError("masks are of images: give inputs of shape (images, channels, height, width)")
    return tensors[0].shape[2], tensors[0].shape[3]
