"""The columns of a table that hold the inputs and the classes: named by the caller, or with usual names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from exeunt.errors import InputError

_IMAGES = ("img", "image")
_TEXTS = ("text", "sentence")
_LABELS = ("label", "fine_label", "labels")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns that a caller asks for.

    `text`: the column of the texts, or two for pairs of texts; () for the usual names. `label`: the column of the
    classes; None for the usual names. `to_predict`: the table holds inputs to predict, so classes may be missing.
    `of_training`: the names are those of the network's training data; the caller named none for these data.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    to_predict: bool = False
    of_training: bool = False

    def __post_init__(self) -> None:
        if len(self.text) > 2:
            raise InputError(
                f"a text column is one column, or two for pairs of texts, got {len(self.text)}: {', '.join(self.text)}"
            )
        if self.label in self.text:
            raise InputError(
                f"column {self.label!r} cannot hold both the texts and their classes: name two columns"
            )

    @property
    def possible_texts(self) -> tuple[str, ...]:
        """Names of columns that may hold texts."""
        return self.text or _TEXTS


class Found(NamedTuple):
    """The columns to read: `kind` is "image" or "text"; `inputs` holds two columns for pairs; `label` may be None."""

    kind: str
    inputs: tuple[str, ...]
    label: str | None


def find_columns(schema: pa.Schema, where: str, wanted: Columns) -> Found:
    """Return the columns to read. Raises InputError, which lists the columns that there are."""
    names = list(schema.names)
    possible_labels = _LABELS if wanted.label is None else (wanted.label,)
    label = next((name for name in possible_labels if name in names), None)
    needed = [*wanted.text, *([] if wanted.label is None or wanted.to_predict else [wanted.label])]
    for name in needed:
        if name not in names:
            option = "--text-column" if name in wanted.text else "--label-column"
            raise InputError(
                f"{where} has no column {name!r}; its columns are {', '.join(names)} (name another with {option})"
            )
    if wanted.text:
        for name in wanted.text:
            if not _holds_texts(kind := schema.field(name).type):
                raise InputError(f"{where}: the column {name!r} holds {kind}, not texts")
        return Found("text", wanted.text, label)
    images = [c for c in names if _holds_images(schema.field(c).type)]
    image = next((c for c in _IMAGES if c in images), images[0] if images else None)
    if image is not None:
        return Found("image", (image,), label)
    text = next((c for c in _TEXTS if c in names and _holds_texts(schema.field(c).type)), None)
    if text is None:
        found = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        raise InputError(
            f"{where} has no column of images ({', '.join(_IMAGES)}) or texts ({', '.join(_TEXTS)}); its columns are "
            f"{found}. If one of them holds the texts, name it (--text-column)"
        )
    return Found("text", (text,), label)


def check_names(names: Collection[str], needed: Sequence[str], file: object, first: object) -> None:
    """Raise InputError for a shard without a column of the first file."""
    for name in needed:
        if name not in names:
            raise InputError(f"{file} has no column {name!r}, and {first} has one: mend or remove it")


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_texts(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))
