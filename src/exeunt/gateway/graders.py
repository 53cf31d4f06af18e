"""How good a model's answer is beside the reference's: graders of messages as OpenAI's protocol has them."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from exeunt._support.files import file_digest, parse_json
from exeunt._support.outside_json import nfkc
from exeunt.errors import InputError, one_line
from exeunt.gateway.chat_request import text_of
from exeunt.live.own_functions import Signature, find_beside, function_named
from exeunt.live.text_encoder import TextEncoder

Message: TypeAlias = Mapping[str, Any]
Grader: TypeAlias = Callable[[Mapping[str, Any], Message, Message], float]
"""A function of (request, answer, reference) that returns the answer's grade in [0, 1]. Answer and reference are the
`message` of a choice, with `content` and perhaps `tool_calls`."""

_SIGNATURE = Signature("request, answer, reference", "a number from 0 to 1")
_FENCE = re.compile(r"^\s*```\w*\n(.*?)\n?```\s*$", re.DOTALL)
_AROUND = " \t\n\"'`*_.,;:!?()[]{}<>#-«»“”‘’„"


class NoGrade(InputError):  # noqa: N818 - says what happened
    """A grader gave no grade. The message holds nothing of what was graded."""


def normalised_match(
    request: Mapping[str, Any],  # noqa: ARG001 - what every grader takes
    answer: Message,
    reference: Message,
) -> float:
    """Return 1 if both say the same, else 0.

    Texts are compared without case, white space beyond a blank, and marks around; texts that are both JSON by their
    values; calls of tools by their names and arguments, in any order, without the text beside them.

    >>> normalised_match({}, {"content": "**Paris**."}, {"content": "paris"})
    1.0
    >>> normalised_match({}, {"content": '{"a": 1, "b": [2]}'}, {"content": '{"b":[2.0],"a":1}'})
    1.0
    """
    calls = _calls(answer), _calls(reference)
    if any(calls):
        return float(calls[0] == calls[1])
    texts = text_of(answer), text_of(reference)
    values = [_canonical_json(text) for text in texts]
    if None not in values:
        return float(values[0] == values[1])
    return float(_plain(texts[0]) == _plain(texts[1]))


def similarity(encoder: Callable[[str], Any], threshold: float | None = None) -> Grader:
    """Return a grader by the cosine of two texts' embeddings, 0 where it is negative; or 1 from `threshold` on, else 0.

    `encoder`: returns the embedding (d,) of a text, such as an `exeunt.TextEncoder`. Calls of tools are compared as
    `normalised_match` does.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(f"the threshold of a similarity is above 0 and at most 1, got {threshold}")

    def grade(request: Mapping[str, Any], answer: Message, reference: Message) -> float:
        texts = text_of(answer), text_of(reference)
        if _calls(answer) or _calls(reference) or not all(text.strip() for text in texts):
            return normalised_match(request, answer, reference)
        embedding, of_reference = (np.asarray(encoder(text), dtype=np.float64) for text in texts)
        lengths = float(np.linalg.norm(embedding) * np.linalg.norm(of_reference))
        cosine = float(np.clip(embedding @ of_reference / lengths, 0.0, 1.0)) if lengths else 0.0
        return cosine if threshold is None else float(cosine >= threshold)

    return grade


def grader_named(text: str) -> Grader:
    """Return the grader that a text names: "match", "similarity hf:FOLDER [THRESHOLD]", or a "module:function".

    Raises InputError for another text, and for a function that is not there, takes other arguments, or is to be
    awaited. The grader raises InputError if a function returns no grade.
    """
    try:
        kind, *options = shlex.split(text) or [""]
    except ValueError:
        raise InputError(
            f"the grader {text!r} has a quote that is not closed, or ends with a backslash"
        ) from None
    if kind == "match" and not options:
        return normalised_match
    if kind == "similarity" and len(options) in (1, 2) and all(map(_is_number, options[1:])):
        encoder = TextEncoder(options[0])
        grade = similarity(encoder, *map(float, options[1:]))
        encoder.open()
        return grade
    if ":" not in kind or options:
        raise InputError(
            f"a grader is match, similarity hf:FOLDER [THRESHOLD], module:function, or judge MODEL, got {text!r}"
        )
    try:
        grader = function_named(kind, _SIGNATURE)
    except Exception as error:  # of the user's module
        raise InputError(f"the grader {kind} cannot be opened: {one_line(error)}") from error
    if inspect.iscoroutinefunction(grader):
        raise InputError(
            f"the grader {kind} is to be awaited: write {_SIGNATURE.of(grader.__name__)}, without async"
        )
    return partial(_checked, grader, kind)


def find_grader_beside(text: str, folder: Path) -> None:
    """Let the module of a grader of one's own be imported from a folder: see `find_beside`, which this raises as."""
    kind, _, options = text.partition(" ")
    if ":" in kind and not options:
        find_beside(kind, folder)


def code_digest(text: str) -> str:
    """Return a digest of the module of a grader of one's own: another text grades otherwise. "" for other graders."""
    kind, _, options = text.partition(" ")
    spec = find_spec(kind.partition(":")[0]) if ":" in kind and not options else None
    return file_digest(Path(spec.origin)) if spec is not None and spec.has_location and spec.origin else ""


def _checked(
    grader: Grader, name: str, request: Mapping[str, Any], answer: Message, reference: Message
) -> float:
    """Return the grade of a user's function. What else it returned is not told: it may be a part of a request."""
    grade = grader(request, answer, reference)
    with suppress(TypeError, ValueError):
        if 0 <= float(grade) <= 1:
            return float(grade)
    got = f"{grade!r:.60}" if isinstance(grade, int | float) else type(grade).__name__
    raise NoGrade(f"the grader {name} must return a number from 0 to 1, got {got}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plain(text: str) -> str:
    return " ".join(nfkc(text).casefold().split()).strip(_AROUND)


def _canonical_json(text: str) -> str | None:
    """Return JSON in a form that equal values share; None for a text that is no JSON."""
    fenced = _FENCE.match(text)
    try:
        return json.dumps(_with_whole_numbers(parse_json(fenced[1] if fenced else text)), sort_keys=True)
    except (ValueError, RecursionError, OverflowError):
        return None


def _with_whole_numbers(body: Any) -> Any:
    """Return a JSON value whose whole numbers are written without a point."""
    if isinstance(body, dict):
        return {name: _with_whole_numbers(each) for name, each in body.items()}
    if isinstance(body, list):
        return [_with_whole_numbers(each) for each in body]
    return int(body) if isinstance(body, float) and body.is_integer() else body


def _calls(message: Message) -> list[tuple[str, str]]:
    """Return the names and arguments of the tools that a message calls, sorted; anything else as JSON."""
    calls = message.get("tool_calls") or ()
    named = []
    try:
        for call in calls:
            function = call.get("function") or {}
            arguments = str(function.get("arguments") or "{}")
            named.append((str(function.get("name")), _canonical_json(arguments) or arguments.strip()))
    except (AttributeError, TypeError):  # of a provider that does not keep to the protocol
        return [("", json.dumps(calls, sort_keys=True))]
    return sorted(named)
