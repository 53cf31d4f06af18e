"""Inputs that cannot be read."""

from __future__ import annotations

from exeunt.errors import InputError

__all__ = ["UnreadableImage", "UnreadableInput", "UnreadableText"]


class UnreadableInput(InputError):  # noqa: N818 - reads as what the input is
    """An input cannot be read. `name` says which one and `reason` why."""

    kind = "input"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the {self.kind} {self.name}: {self.reason}"


class UnreadableImage(UnreadableInput):
    """An image cannot be decoded in full."""

    kind = "image"


class UnreadableText(UnreadableInput):
    """A cell that should hold a text holds something else, or nothing."""

    kind = "text"
