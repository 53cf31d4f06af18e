"""What a request asks for, and its answers, a row each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, model_validator
from pydantic_core import PydanticCustomError

from exeunt._arrays import Integers
from exeunt.errors import one_line

if TYPE_CHECKING:
    from exeunt.engine.answers import Ticket
    from exeunt.serve.engine_thread import EngineThread
    from exeunt.serve.input_reading import Rows

__all__ = ["ANSWER_TYPES", "Answered", "Asked", "OnlyKnown", "Options", "answer_columns", "called", "tickets"]

T = TypeVar("T")

ANSWER_TYPES: Final = {
    "label": np.int64,
    "class_name": np.object_,
    "confidence": np.float64,
    "exit": np.int64,
    "cost": np.float64,
    "policy": np.object_,
    "degraded": np.bool_,
    "expired": np.bool_,
    "borderline": np.bool_,
    "error": np.object_,
}
"""The columns of answers with their types, in order; objects are texts."""

_MANY_ROWS = 1000
_NO_ANSWER = "the network's output for this input is not finite"
_EXPIRED = "the deadline passed before any exit had answered"


class OnlyKnown(BaseModel):
    """What has fields that it does not know is refused with the names of those that it does."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if unknown:
            fields = {"name": str(unknown[0]), "known": ", ".join(cls.model_fields)}
            raise PydanticCustomError("unknown", "{name} is unknown, choose of {known}", fields)
        return given


class Options(OnlyKnown):
    """How a request is to be answered. `budget`: mean cost per row, as "50%" or "30 MMACs"; `tier`: a named budget."""

    budget: StrictFloat | str | None = Field(
        None, description='Such as "50%" or "30 MMACs"; else what is active.'
    )
    tier: str | None = Field(None, description="A budget by the name that the server gave it.")
    deadline_ms: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Milliseconds after which a row is answered with what the exits so far said, if any has.",
    )


class Asked(NamedTuple):
    """What a request holds: its rows, and how they are to be answered."""

    rows: Rows
    options: Options


class Answered(NamedTuple):
    """The answers to a request: columns (n,), see `ANSWER_TYPES`, and the unit of cost."""

    columns: dict[str, NDArray[Any]]
    unit: str


async def called(function: Callable[..., T], rows: int, *given: Any) -> T:
    """Return what a function returns that does something for so many rows. For many it is called in a thread of its
    own: nobody else would be answered meanwhile.
    """
    return function(*given) if rows <= _MANY_ROWS else await asyncio.to_thread(function, *given)


def answer_columns(
    rows: Rows,
    parts: Iterable[tuple[Integers, Ticket]],
    class_names: Sequence[str],
    exits: Sequence[int],
) -> dict[str, NDArray[Any]]:
    """Return the columns `ANSWER_TYPES` (n,) for the rows of a request.

    `parts`: places of rows, and the ticket that they were answered on. `exits`: which of the run's exits the executor's
    are.
    A row without an answer has an error; its label and exit are -1, its confidence is 0.
    """
    n = len(rows)
    columns: dict[str, NDArray[Any]] = {name: np.zeros(n, dtype=kind) for name, kind in ANSWER_TYPES.items()}
    columns["label"][:] = columns["exit"][:] = -1
    columns["class_name"][:] = columns["policy"][:] = None
    columns["error"][:] = rows.errors
    for places, ticket in parts:
        answers, valid = ticket.answers, ticket.answers.valid
        columns["policy"][places] = ticket.policies
        for name in ("cost", "degraded", "expired", "borderline"):
            columns[name][places] = getattr(answers, name)
        for name in ("label", "confidence"):
            columns[name][places[valid]] = getattr(answers, name)[valid]
        columns["exit"][places[valid]] = np.asarray(exits)[answers.exit[valid]]
        columns["class_name"][places[valid]] = [
            class_names[label] if label < len(class_names) else str(label)
            for label in answers.label[valid].tolist()
        ]
        for which in np.flatnonzero(~valid).tolist():
            why = _EXPIRED if columns["expired"][places[which]] else _NO_ANSWER
            columns["error"][places[which]] = why if ticket.error is None else one_line(ticket.error)
    return columns


async def tickets(engine: EngineThread, rows: Rows, **when: Any) -> list[tuple[Integers, Ticket]]:
    """Return tickets of the rows that could be read: one, or where the network fails, one for each row.

    `when`: what `EngineThread.answer` takes beside inputs and keys.
    """

    async def answered(which: slice) -> tuple[Integers, Ticket]:
        inputs, keys = _rows_of(rows.inputs, which), None if rows.keys is None else rows.keys[which]
        return rows.places[which], await engine.answer(inputs, id=keys, **when)

    if len(rows.places) == 0:
        return []
    whole = await answered(slice(None))
    if whole[1].error is None or len(rows.places) == 1:
        return [whole]
    each = (answered(slice(i, i + 1)) for i in range(len(rows.places)))
    found = await asyncio.gather(*each, return_exceptions=True)  # none goes on once the request is answered
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found  # type: ignore[return-value]


def _rows_of(inputs: Any, which: slice) -> Any:
    return {name: rows[which] for name, rows in inputs.items()} if hasattr(inputs, "items") else inputs[which]
