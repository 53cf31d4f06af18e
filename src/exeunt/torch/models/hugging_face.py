"""Classifiers and tokenisers in the Hugging Face form, and the order of their classes. None of their code is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from exeunt.errors import ArtefactError, InputError, require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

__all__ = [
    "ALL",
    "Made",
    "brings_weights",
    "check_class_order",
    "known_class_names",
    "make",
    "own_class_names",
    "read_tokenizer",
    "rebuild",
    "save_config",
]

ALL = "every part"
_WEIGHTS = "*.safetensors"
_PICKLED = "*.bin"
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")


class Made(NamedTuple):
    """A model, and in words which part of it has random weights, if any."""

    model: nn.Module
    random: str = ""


def brings_weights(name: str) -> bool:
    """Return whether a model brings trained weights: a folder that holds some, or any model of the hub."""
    return not Path(name).is_dir() or any(Path(name).glob(_WEIGHTS))


def make(name: str, n_classes: int | None, pretrained: bool) -> Made:
    """Make the classifier of this name or folder, with its trained weights where it brings some.

    A classifier of another width than `n_classes` is drawn anew. Raises InputError where there is no such
    model, or its weights are in a form that could run code, or `pretrained` and it brings none.
    """
    transformers = require("transformers", extra="hf")
    config = _config(name)
    if n_classes is not None and n_classes != config.num_labels:
        config.num_labels = n_classes
    if not brings_weights(name):
        if any(Path(name).glob(_PICKLED)):
            raise InputError(
                f"the weights in {name} are pickled, and reading those could run code: save the model again "
                "with save_pretrained, which writes safetensors"
            )
        if pretrained:
            raise InputError(f"there are no weights in {name}: leave weights out, or give a file")
        return Made(_from_config(transformers, config), ALL)
    try:
        model, info = _auto_class(transformers, config).from_pretrained(
            name, config=config, ignore_mismatched_sizes=True, trust_remote_code=False, use_safetensors=True,
            output_loading_info=True,
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"the weights of {name!r} cannot be read as safetensors: {error}") from error
    # A weight of another shape is given as (name, shape there, shape here).
    fresh = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    return Made(model.float(), f"a part ({', '.join(fresh[:3])})" if fresh else "")


def rebuild(folder: Path) -> nn.Module:
    """Make the classifier whose configuration `save_config` wrote to `folder`, with random weights."""
    if not (folder / "config.json").is_file():
        raise ArtefactError(f"{folder / 'config.json'} is missing: the run folder is damaged, train it again")
    return _from_config(require("transformers", extra="hf"), _config(str(folder)))


def save_config(model: Any, folder: Path) -> None:
    """Write all that `rebuild` needs."""
    model.config.save_pretrained(folder)


def own_class_names(model: Any) -> list[str]:
    """Return the names that a model gives to its classes, in order; LABEL_0 and so on where it has none."""
    return [str(name) for _, name in sorted(model.config.id2label.items())]


def read_tokenizer(name: str) -> Any:
    """Return the tokeniser of this name or folder. Raises InputError where there is none."""
    auto = require("transformers", extra="hf").AutoTokenizer
    folder = Path(name)
    # Without files the library makes a tokeniser that knows no word, and says nothing.
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise InputError(
            f"there is no tokeniser in {name}: put it there with tokenizer.save_pretrained({name!r})"
        )
    try:
        return auto.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"there is no tokeniser {name!r} here: {error}") from error


def _config(name: str) -> Any:
    auto = require("transformers", extra="hf").AutoConfig
    try:
        return auto.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"there is no Hugging Face model {name!r} here: {error}") from error


def _from_config(transformers: Any, config: Any) -> nn.Module:
    model: nn.Module = _auto_class(transformers, config).from_config(config, trust_remote_code=False)
    return model.float()


def _auto_class(transformers: Any, config: Any) -> Any:
    """Return the class of classifier that a configuration is for: of images if there is one, else of text."""
    image = transformers.AutoModelForImageClassification
    text = transformers.AutoModelForSequenceClassification
    for auto in (image, text):
        if type(config) in auto._model_mapping:  # the public list of what it supports is this mapping
            return auto
    raise InputError(
        f"{config.model_type!r} is neither an image nor a sequence classifier: exits need a classifier"
    )


# Names that say nothing: LABEL_0, plain numbers, WordNet ids (whose order is ImageNet's own).
_GENERIC = re.compile(r"(label_)?\d+|n\d{8}")
_SHOWN = 10


def known_class_names(spec: str, model: nn.Module, *, pretrained: bool) -> list[str] | None:
    """Return a trained model's names of its classes, in order, or None where it has none.

    `pretrained`: the weights are those that the library offers.
    """
    kind, _, name = spec.partition(":")
    if kind == "hf":
        return own_class_names(model)
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
