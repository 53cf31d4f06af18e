"""The network of a run, cut once for many tests, and architectures, exported once: each takes half a second."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exeunt.runs.folder import RunFolder


@contextmanager
def cut_once(same: Callable[[RunFolder], Any]) -> Iterator[None]:
    """Let runs for which `same` returns the same share an executor on PyTorch for each plan, inside the block."""
    from exeunt.torch import open_run

    opened: dict[Any, Any] = {}
    open_eager = open_run.open_eager

    def open_once(run: RunFolder, *, segments: Any = None, **options: Any) -> Any:
        key = same(run), segments
        if key not in opened:
            opened[key] = open_eager(run, segments=segments, **options)
        return opened[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_run, "open_eager", open_once)
        yield


def export_key(model: Any, example: Any, options: Any) -> str:
    """Return all that an export of the network depends on, but for its class and its code."""
    tensors = [*model.state_dict().items(), *example.named.items()]
    facts = [(name, tensor.shape, tensor.dtype, tensor.device) for name, tensor in tensors]
    learns = [module.training for module in model.modules()]
    return f"{model}{getattr(model, 'config', '')}{facts}{learns}{example.by_keyword}{options}"


@contextmanager
def exported_once() -> Iterator[None]:
    """Let networks of one architecture share an export, inside the block: it holds no weights.

    Only where class and configuration are all that the code depends on.
    """
    from exeunt.torch.cutting import graph
    from exeunt.zoo import DigitsNet

    exported, made = graph.exported, {}

    def once(model: Any, example: Any, **options: Any) -> Any:
        kind, known = type(model), ("torchvision.models.", "transformers.models.")
        if kind is not DigitsNet and not kind.__module__.startswith(known):
            return exported(model, example, **options)
        key = kind, export_key(model, example, options)
        if key not in made:
            made[key] = exported(model, example, **options)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "exported", once)
        yield
