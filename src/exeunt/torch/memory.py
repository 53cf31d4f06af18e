"""Refusing what takes more memory than there is, before it is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from exeunt._limits import check_memory

__all__ = ["bounded_memory"]

_MAKERS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})


@contextmanager
def bounded_memory(what: str) -> Iterator[None]:
    """Raise InputError before the tensors made inside the block take more memory than this process may use.

    Otherwise the system would end the process without a word. Tensors that are given up inside the block count, too.
    """
    with _Counting(what):
        yield


class _Counting(TorchFunctionMode):
    """Adds up the sizes of new tensors, which it learns from the meta device."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what, self._total = what, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            plain = {name: kwargs[name] for name in ("size", "fill_value", "dtype") if name in kwargs}
            shape: Tensor = func(*args, **plain, device="meta")
            self._total += shape.nbytes
            check_memory(self._total, self._what, "choose a smaller one")
        return func(*args, **kwargs)
