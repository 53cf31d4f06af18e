"""Requests for predictions, whatever protocol they come in: their options, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar, get_type_hints

import msgspec
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, model_validator
from pydantic_core import PydanticCustomError

from exeunt._support.arrays import Integers
from exeunt.errors import one_line
from exeunt.score.mask_confidence import runs_of
from exeunt.serve.input_reader import Rows

T = TypeVar("T")

_MANY_ROWS = 1000
_NO_ANSWER = "the network's output for this input is not finite"
_EXPIRED = "the deadline passed before any exit had answered"


class Answer(msgspec.Struct):
    """The answer to one input. `error`: why there is none; its label and exit are then -1, its confidence is 0."""

    label: int = -1
    class_name: str | None = None
    confidence: float = 0.0
    exit: int = -1
    cost: float = 0.0
    policy: str | None = None
    degraded: bool = False
    expired: bool = False
    borderline: bool = False
    error: str | None = None


class MaskAnswer(Answer):
    """The answer of a network that answers with masks. `mask`: its runs as text, see
    `exeunt.score.mask_confidence.mask_of`; the label is the class of most pixels.
    """

    mask: str | None = None


def answer_kind(*, masks: bool) -> type[Answer]:
    """Return the kind of answers, of a network that answers with masks or of another one."""
    return MaskAnswer if masks else Answer


_COLUMNS: Final[dict[Any, Any]] = {int: np.int64, float: np.float64, bool: np.bool_, str | None: np.object_}


@cache
def answer_types(*, masks: bool) -> Mapping[str, Any]:
    """Return the types of the columns that answers make, in order; objects are texts."""
    return {name: _COLUMNS[kind] for name, kind in get_type_hints(answer_kind(masks=masks)).items()}


ANSWER_TYPES: Final = answer_types(masks=False)


class StrictModel(BaseModel):
    """A body that refuses unknown fields, with the names of those that it knows."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, body: Any) -> Any:
        unknown = [name for name in body if name not in cls.model_fields] if isinstance(body, dict) else []
        if unknown:
            fields = {"name": str(unknown[0]), "known": ", ".join(cls.model_fields)}
            raise PydanticCustomError("unknown", "{name} is unknown, choose of {known}", fields)
        return body


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


_NO_OPTIONS: Final = Options.model_validate({})


def options_of(options: Mapping[str, Any]) -> Options:
    """Return options by name, checked."""
    return Options.model_validate(options) if options else _NO_OPTIONS


class PredictRequest(NamedTuple):
    """The rows of a request, and how they are to be answered."""

    rows: Rows
    options: Options


class PredictResponse(NamedTuple):
    """The answers to a request, and the unit of their costs."""

    answers: Sequence[Answer]
    unit: str


async def in_thread_if_large(function: Callable[..., T], rows: int, *arguments: Any) -> T:
    """Return the result of a function that handles so many rows. For many it runs in a thread of its own: meanwhile
    the event loop answers other requests.
    """
    return function(*arguments) if rows <= _MANY_ROWS else await asyncio.to_thread(function, *arguments)


def answers_of(
    rows: Rows,
    parts: Iterable[tuple[Integers, Any]],
    class_names: Sequence[str],
    exits: Sequence[int],
    *,
    masks: bool = False,
) -> list[Answer]:
    """Return the answers to the rows of a request, an error where there is none.

    `parts`: places of rows, and their ticket. `exits`: which of the run's exits the executor's are. `masks`: whether
    the network answers with masks.
    """
    kind: Any = answer_kind(masks=masks)
    answers = [kind(error=why) for why in rows.errors]
    for places, ticket in parts:
        answers_of_ticket, names = ticket.answers, ticket.policies
        columns = (
            answers_of_ticket.label,
            answers_of_ticket.confidence,
            answers_of_ticket.exit,
            answers_of_ticket.cost,
            answers_of_ticket.valid,
            answers_of_ticket.borderline,
            answers_of_ticket.expired,
            answers_of_ticket.degraded,
        )
        each = zip(places.tolist(), names, *(column.tolist() for column in columns), strict=True)
        for which, (
            place,
            name,
            label,
            confidence,
            exit_,
            cost,
            valid,
            borderline,
            expired,
            degraded,
        ) in enumerate(each):
            row_answer = answers[place]
            (
                row_answer.policy,
                row_answer.cost,
                row_answer.borderline,
                row_answer.expired,
                row_answer.degraded,
            ) = (
                name,
                cost,
                borderline,
                expired,
                degraded,
            )
            if valid:
                row_answer.label, row_answer.confidence, row_answer.exit = label, confidence, exits[exit_]
                row_answer.class_name = class_names[label] if label < len(class_names) else str(label)
                if masks and answers_of_ticket.masks is not None:
                    row_answer.mask = runs_of(answers_of_ticket.masks[which])
            elif ticket.error is not None:
                row_answer.error = one_line(ticket.error)
            else:
                row_answer.error = _EXPIRED if expired else ticket.why.get(which, _NO_ANSWER)
    return answers
