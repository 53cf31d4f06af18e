"""How a module's output is laid out: a vector, tokens, or a feature map with its channels first or last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import nn

from exeunt.errors import InputError

__all__ = ["CHANNELS_FIRST", "CHANNELS_LAST", "FLAT", "TOKENS", "Layout", "layout_of"]

Layout: TypeAlias = Literal["channels_first", "channels_last", "tokens", "flat"]
CHANNELS_FIRST: Layout = "channels_first"
CHANNELS_LAST: Layout = "channels_last"
TOKENS: Layout = "tokens"
FLAT: Layout = "flat"


def layout_of(module: nn.Module, shape: Sequence[int]) -> Layout:
    """Return the layout of a module's output, whose shape has no batch axis here.

    Three axes are a feature map with its channels first, or last (Swin): the widths of the module's own layers
    decide; where they do not, the two equal axes are taken for positions.
    Raises InputError for other than one to three axes.
    """
    if len(shape) == 1:
        return FLAT
    if len(shape) == 2:
        return TOKENS
    if len(shape) != 3:
        raise InputError(
            f"features of shape {tuple(shape)} (without the batch axis) cannot carry a head: choose an exit "
            "whose output is a vector, a sequence of tokens or a feature map, or give head= a function"
        )
    first, last = _widths(module)
    if shape[0] in first:
        return CHANNELS_FIRST
    if shape[-1] in last:
        return CHANNELS_LAST
    return CHANNELS_LAST if shape[0] == shape[1] != shape[2] else CHANNELS_FIRST


def _widths(module: nn.Module) -> tuple[set[int], set[int]]:
    """Return the widths of the layers with channels first, and of those with channels last."""
    first: set[int] = set()
    last: set[int] = set()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            first.add(layer.out_channels)
        elif isinstance(layer, nn.BatchNorm2d):
            first.add(layer.num_features)
        elif isinstance(layer, nn.Linear):
            last.add(layer.out_features)
        elif isinstance(layer, nn.LayerNorm):
            last.add(layer.normalized_shape[-1])
    return first, last
