"""Whether a trained classifier and the data mean the same classes by the same numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from exeunt.errors import InputError, require
from exeunt.torch import hugging_face

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

__all__ = ["check_class_order", "known_class_names"]

# Names that say nothing: LABEL_0, plain numbers, WordNet ids (whose order is ImageNet's own).
_GENERIC = re.compile(r"(label_)?\d+|n\d{8}")
_SHOWN = 10


def known_class_names(spec: str, model: nn.Module, *, pretrained: bool) -> list[str] | None:
    """Return a trained model's names of its classes, in order, or None where it has none.

    `pretrained`: the weights are those that the library offers.
    """
    kind, _, name = spec.partition(":")
    if kind == "hf":
        return hugging_face.own_class_names(model)
    if kind == "torchvision" and pretrained:
        models = require("torchvision.models", extra="torch")
        categories = models.get_model_weights(name).DEFAULT.meta.get("categories")
        return None if categories is None else list(categories)
    return None


def check_class_order(model: Sequence[str] | None, data: Sequence[str] | None) -> None:
    """Compare the model's names of its classes with the data's, ignoring case and synonyms after a comma.

    Nothing is compared where either has no names, or names that say nothing (LABEL_0, 3, n01440764).
    Raises InputError showing both orders.
    """
    if not model or not data or _generic(model) or _generic(data):
        return
    theirs, ours = ([_bare(name) for name in names] for names in (model, data))
    if theirs == ours:
        return
    first = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if len(set(pair)) > 1), 0)
    raise InputError(
        f"the model and the data mean different classes by the same number, first by {first}: "
        f"the model's order is {_some(model)}; the data's is {_some(data)}. Rename the data's classes so that "
        "their order is the model's, or train from weights without these names"
    )


def _generic(names: Sequence[str]) -> bool:
    return all(_GENERIC.fullmatch(name.strip().lower()) for name in names)


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.split(",")[0]).strip().casefold()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
