"""What an exit says of its inputs, computed as far as it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from exeunt.scores import PROBABILITY_SCORES, softmax

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exeunt._arrays import Floats

__all__ = ["Evidence"]

_NAMES = ("prediction", *PROBABILITY_SCORES)


class Evidence(Mapping[str, Any]):
    """`evidence_of(softmax(logits))`, bit for bit, of finite logits (rows, k) in double precision.

    A policy that decides by one score needs neither the others nor the prediction of rows that stay.
    """

    __slots__ = ("_found", "probabilities")

    def __init__(self, logits: Floats) -> None:
        self.probabilities = softmax(logits)
        self._found: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Return "prediction" or a score (rows,)."""
        if name not in self._found:
            if name == "prediction":
                self._found[name] = self.probabilities.argmax(axis=1)
            else:
                self._found[name] = PROBABILITY_SCORES[name](self.probabilities)
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in _NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)
