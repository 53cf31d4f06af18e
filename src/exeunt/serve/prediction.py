"""Requests for predictions, whatever protocol they come in: their options, and their answers as columns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect, Request

from exeunt._arrays import Integers
from exeunt.errors import one_line
from exeunt.score.masks import MASK, runs_of
from exeunt.serve.decoding import InputReader, Rows

T = TypeVar("T")

_MANY_ROWS = 1000
_NO_ANSWER = "the network's output for this input is not finite"
_EXPIRED = "the deadline passed before any exit had answered"


class Answer(BaseModel):
    """The answer to one input. `error`: why there is none; its label and exit are then -1.

    Of a network that answers with masks there is one more field, `mask`: its runs as text, see
    `exeunt.score.masks.mask_of`; the label is the class of most pixels.
    """

    label: int
    class_name: str | None
    confidence: float
    exit: int
    cost: float
    policy: str | None
    degraded: bool
    expired: bool
    borderline: bool
    error: str | None


_COLUMNS: Final[dict[Any, Any]] = {int: np.int64, float: np.float64, bool: np.bool_, str | None: np.object_}
ANSWER_TYPES: Final = {name: _COLUMNS[field.annotation] for name, field in Answer.model_fields.items()}
"""The columns of answers with their types, in order; objects are texts."""


def answer_types(*, masks: bool) -> dict[str, Any]:
    """Return the columns of answers with their types; those of networks that answer with masks hold them, too."""
    return {**ANSWER_TYPES, **({MASK: np.object_} if masks else {})}


class StrictModel(BaseModel):
    """A body that refuses unknown fields, with the names of those that it knows."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if unknown:
            fields = {"name": str(unknown[0]), "known": ", ".join(cls.model_fields)}
            raise PydanticCustomError("unknown", "{name} is unknown, choose of {known}", fields)
        return given


class Options(StrictModel):
    """How a request is to be answered. `budget`: mean cost per row, as "50%" or "30 MMACs"; `tier`: a named budget."""

    budget: StrictFloat | str | None = Field(
        None, description='Such as "50%" or "30 MMACs". Default: the active policy answers.'
    )
    tier: str | None = Field(None, description="A budget by the name that the server gave it.")
    deadline_ms: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Milliseconds after which a row returns the prediction of its latest exit, if it has one.",
    )


class PredictRequest(NamedTuple):
    """The rows of a request, and how they are to be answered."""

    rows: Rows
    options: Options


class PredictResponse(NamedTuple):
    """The answers to a request: columns (n,), see `ANSWER_TYPES`, and the unit of cost."""

    columns: dict[str, NDArray[Any]]
    unit: str


async def predicted(request: Request, read: Callable[[InputReader], PredictRequest]) -> PredictResponse:
    """Return the answers to a request whose body has come in. If its client disconnects, its rows are dropped.

    `read`: see `Service.answer`. Raises what that raises, ClientDisconnect if the client disconnects.
    """
    state = request.state
    work: Coroutine[Any, Any, PredictResponse] = request.app.state.service.answer(
        read, state.begun, state.read, getattr(state, "key", "")
    )
    answering, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def in_thread_if_large(function: Callable[..., T], rows: int, *given: Any) -> T:
    """Return the result of a function that handles so many rows. For many it runs in a thread of its own: meanwhile
    the event loop answers other requests.
    """
    return function(*given) if rows <= _MANY_ROWS else await asyncio.to_thread(function, *given)


def answer_columns(
    rows: Rows,
    parts: Iterable[tuple[Integers, Any]],
    class_names: Sequence[str],
    exits: Sequence[int],
    masks: bool = False,
) -> dict[str, NDArray[Any]]:
    """Return the columns `ANSWER_TYPES` (n,) for the rows of a request, and "mask" where the answers are masks.

    `masks`: whether they are. `parts`: places of rows, and their ticket. `exits`: which of the run's exits the
    executor's are.
    A row without an answer has an error; its label and exit are -1, its confidence is 0.
    """
    n = len(rows)
    columns: dict[str, NDArray[Any]] = {name: np.zeros(n, dtype=kind) for name, kind in ANSWER_TYPES.items()}
    columns["label"][:] = columns["exit"][:] = -1
    columns["class_name"][:] = columns["policy"][:] = None
    columns["error"][:] = rows.errors
    if masks:
        columns[MASK] = np.full(n, None, dtype=np.object_)
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
        if answers.masks is not None:
            columns[MASK][places[valid]] = [runs_of(mask) for mask in answers.masks[valid]]
        for which in np.flatnonzero(~valid).tolist():
            why = _EXPIRED if columns["expired"][places[which]] else ticket.why.get(which, _NO_ANSWER)
            columns["error"][places[which]] = why if ticket.error is None else one_line(ticket.error)
    return columns
