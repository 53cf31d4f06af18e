"""Feedback: grades that clients give to answers of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from exeunt.errors import InputError
from exeunt.gateway.chat_request import request_body
from exeunt.stream.records import Record, Records

PATH = "/v1/feedback"
_PREFIXES = ("resp_", "msg_")
"""What protocols put before the id of a provider."""


class NoSuchAnswer(InputError):  # noqa: N818 - says what happened
    """A client has no answer of this id."""


class GradedAlready(InputError):  # noqa: N818 - says what happened
    """An answer has a grade already."""


@dataclass(frozen=True)
class FeedbackRequest:
    """What a client says: the `id` of an answer in any protocol, and its `grade` in [0, 1]."""

    id: str
    grade: float

    @classmethod
    def read(cls, data: bytes) -> FeedbackRequest:
        """Read a body. Raises InputError if it is no feedback."""
        body = request_body(data)
        identity, grade = body.get("id"), body.get("grade")
        if body.keys() != {"id", "grade"} or not isinstance(identity, str) or not identity:
            raise InputError('send {"id": ..., "grade": ...}: the id of an answer, and a number from 0 to 1')
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not 0 <= grade <= 1:
            raise InputError(f"grade is a number from 0 to 1, got {grade!r:.40}")
        return cls(identity, float(grade))


def provider_id(identity: object) -> str:
    """Return the id of an answer as its provider gave it, for an id in any protocol; "" for none."""
    text = identity if isinstance(identity, str) else ""
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return text


class Feedback:
    """Keeps grades with the records of answers. Until an answer is recorded, which waits for comparisons, its grade
    waits here. Answers are named by their digests (see `Record.answer`).
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._waiting: dict[bytes, float | None] = {}
        self._told, self._is_current = feedback_told(records.feedback()), True

    def expect(self, answer: bytes) -> None:
        """Take note that an answer is given now, and recorded later."""
        if answer:
            self._waiting.setdefault(answer, None)

    def drop(self, answer: bytes) -> None:
        """Take note that an answer is recorded, or will not be."""
        self._waiting.pop(answer, None)

    @property
    def told(self) -> str:
        """What is known of all grades, as sentences. The file is asked again only after something has changed."""
        if not self._is_current:
            self._is_current = True  # before it is read, so that no change after it is missed
            self._told = feedback_told(self._records.feedback())
        return self._told

    def changed(self) -> None:
        """Take note that grades came, or were removed."""
        self._is_current = False

    async def give(self, answer: bytes, request: FeedbackRequest) -> None:
        """Keep a grade. Raises NoSuchAnswer and GradedAlready."""
        if answer in self._waiting:
            is_new: bool | None = self._waiting[answer] is None
            if is_new:
                self._waiting[answer] = request.grade
        else:
            is_new = await asyncio.to_thread(self._records.give_feedback, answer, request.grade)
            self.changed()
        if is_new is None:
            raise NoSuchAnswer(f"there is no answer {request.id!r:.80} to you that is still kept")
        if not is_new:
            raise GradedAlready(f"the answer {request.id!r:.80} has a grade already, which stays")

    async def add(self, record: Record, writing: Callable[[Record], Callable[[], None]]) -> None:
        """Keep a record with the grade that its answer has by now. `writing`: returns what writes a record."""
        grade = self._waiting.get(record.answer)
        await asyncio.to_thread(writing(replace(record, feedback=grade)))
        late = self._waiting.pop(record.answer, None)
        if grade is None and late is not None:  # it came while the record was written
            await asyncio.to_thread(self._records.give_feedback, record.answer, late)
        if grade is not None or late is not None:
            self.changed()


def feedback_told(feedback: Mapping[str, tuple[int, float]]) -> str:
    """Return the mean grades that clients gave, by model, as sentences; "" for none. `feedback`: see
    `Records.feedback`.

    >>> feedback_told({"large": (1200, 0.9), "small": (3, 0.5)})[:72]
    'Feedback of clients, as mean grades: large 0.90 (1,200), small 0.50 (3).'
    """
    if not feedback:
        return ""
    means = ", ".join(f"{model} {mean:.2f} ({n:,})" for model, (n, mean) in sorted(feedback.items()))
    return (
        f"Feedback of clients, as mean grades: {means}. It certifies nothing, since who gives feedback is no random "
        "part of the requests."
    )
