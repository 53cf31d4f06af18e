"""What an answer is, and the kinds of answer that a policy file may name.

An answer of your own implements `Answer`. To be read back from a policy file, its kind needs an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from exeunt.answer.ensemble import EnsembleAnswer
from exeunt.errors import InputError
from exeunt.trace import ExitTrace

__all__ = ["Answer", "OwnAnswer", "answer_from_dict"]


class Answer(Protocol):
    """What is said at an exit, from what the exits so far have shown.

    It turns the evidence of an exit into that of the answer given there: its prediction and its confidences. The
    score, the thresholds and the caller see nothing else. `memory` is as for `Score`.
    """

    @property
    def name(self) -> str:
        """The name that tables and plots show."""
        ...

    def hears(self, exit_: int) -> bool:
        """Whether it needs the evidence of this exit although nobody can answer there."""
        ...

    def __call__(
        self, exit_: int, evidence: Mapping[str, Any], memory: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return the evidence of the answer at this exit, and the memory for the next one."""
        ...

    def on(self, trace: ExitTrace) -> ExitTrace:
        """Return what would be answered at every exit, as a trace of the same inputs and costs."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form with a "kind"."""
        ...


@dataclass(frozen=True)
class OwnAnswer:
    """The exit's own answer, as in the paper: what earlier exits said is forgotten."""

    name: str = "own"

    def hears(self, exit_: int) -> bool:  # noqa: ARG002 - part of the protocol
        """Nothing is remembered between exits."""
        return False

    def __call__(
        self,
        exit_: int,  # noqa: ARG002 - part of the protocol
        evidence: Mapping[str, Any],
        memory: Mapping[str, Any],  # noqa: ARG002 - part of the protocol
    ) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return the evidence as it is."""
        return evidence, {}

    def on(self, trace: ExitTrace) -> ExitTrace:
        """Return the trace as it is."""
        return trace

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": "own"}."""
        return {"kind": "own"}


_KINDS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "own": lambda _: OwnAnswer(),
    "pooled": EnsembleAnswer.from_dict,
}


def answer_from_dict(body: dict[str, Any]) -> Answer:
    """Rebuild an answer from its `to_dict`. Raises InputError for a kind that this version does not know."""
    if body["kind"] not in _KINDS:
        raise InputError(f"unknown kind of answer {body['kind']!r}: this version knows {sorted(_KINDS)}")
    return _KINDS[body["kind"]](body)
