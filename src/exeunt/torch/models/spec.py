"""Names of models, taken apart: "torchvision:NAME", "timm:NAME?img_size=64", "package.module:factory?width=8"."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exeunt.errors import InputError

__all__ = ["FORMS", "ModelSpec", "current_spec", "runs_custom_code"]

FORMS = "torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER or package.module:factory"
LIBRARIES = ("torchvision", "timm", "hf")
_OUR_FACTORIES = tuple(f"exeunt.zoo:{name}" for name in ("digits", "resnet18", "resnet20", "resnet56"))
_DECIDED_ELSEWHERE = {
    "num_classes": "the data say how many classes there are",
    "n_classes": "the data say how many classes there are",
    "pretrained": "--weights says so",
    "weights": "--weights says so",
}


@dataclass(frozen=True)
class ModelSpec:
    """A model's name: the library or the module of a function (`kind`), the `name` there, and keyword arguments.

    `text`: the whole name as it was written.
    """

    text: str
    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Take "KIND:NAME?ARGUMENT=VALUE&..." apart; a value is a Python literal, else a string.

        "hf:" models take no arguments. Those of the libraries are numbers, as they come from run folders, too: what a
        library does with a string, such as a path, is not known.
        Raises InputError for anything else.
        """
        kind, separator, rest = text.partition(":")
        name, question, query = (rest, "", "") if kind == "hf" else rest.partition("?")
        if not separator or not kind or not name:
            raise InputError(f"model {text!r} is not understood: write {FORMS}")
        options = dict(_argument(text, part) for part in query.split("&")) if question else {}
        for option, value in options.items():
            if option in _DECIDED_ELSEWHERE:
                raise InputError(f"leave {option} out of {text!r}: {_DECIDED_ELSEWHERE[option]}")
            if kind in LIBRARIES and not _is_numeric(value):
                raise InputError(
                    f"arguments of {kind} models must be numbers, got {option}={value!r} in {text!r}"
                )
        return cls(text, kind, name, options)


def runs_custom_code(spec: str) -> bool:
    """Return whether building the model calls code other than the known libraries and this package's networks."""
    known = ModelSpec.parse(spec)
    return known.kind not in LIBRARIES and f"{known.kind}:{known.name}" not in _OUR_FACTORIES


def current_spec(spec: str) -> str:
    """Return a model's name as it is written today: until 0.1 `exeunt.zoo` was `exeunt.torch.zoo`."""
    old = "exeunt.torch.zoo:"
    return f"exeunt.zoo:{spec.removeprefix(old)}" if spec.startswith(old) else spec


def _argument(text: str, part: str) -> tuple[str, Any]:
    name, equals, value = part.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(
            f"arguments of a model are written NAME?ARGUMENT=VALUE&ARGUMENT=VALUE, got {part!r} in {text!r}"
        )
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _is_numeric(value: Any) -> bool:
    """Return whether a value is a number, True, False, None, or a tuple or list of such."""
    if isinstance(value, (tuple, list)):
        return all(_is_numeric(item) for item in value)
    return value is None or isinstance(value, (bool, int, float))
