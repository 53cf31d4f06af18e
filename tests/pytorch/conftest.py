"""A model that was exported once is not exported again: attaching exits to it and cutting it need the same graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from cut_once import export_key


@pytest.fixture(autouse=True, scope="session")
def _each_model_exported_once(_exported_once: None) -> Iterator[None]:
    from exeunt.torch.cutting import graph

    exported, made = graph.exported, WeakKeyDictionary()

    def once(model: Any, example: Any, **options: Any) -> Any:
        key, programs = export_key(model, example, options), made.setdefault(model, {})
        if key not in programs:
            programs[key] = exported(model, example, **options)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "exported", once)
        yield
