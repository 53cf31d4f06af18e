"""Completions in chunks: as they come from a provider, and those that are known, cut into chunks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from exeunt._support.outside_json import outside_json
from exeunt._support.threads import read_beside

_LENGTH = 20
"""Characters in a chunk."""
DONE = "data: [DONE]\n\n"
"""The event that ends a stream."""
_SAID = ("reasoning_content", "reasoning", "thinking_blocks", "content", "refusal")
"""What a message says, in this order: some servers tell what a model thinks."""
_ABOUT = ("id", "created", "model", "system_fingerprint")


class Sink:
    """Where the chunks of an answer go while it comes in. `begun`: whether there was one; `complete`: it has its end.

    `policy`: the name of the one that chose who answers; "" where the client named the model.
    """

    def __init__(self) -> None:
        self.begun, self.complete, self.policy = False, False, ""
        self._chunks: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()

    def put(self, chunk: Mapping[str, Any]) -> None:
        """Pass a chunk on."""
        self.begun = True
        self._chunks.put_nowait(chunk)

    @property
    def cut_off(self) -> bool:
        """Whether the client has the beginning of an answer that has no end."""
        return self.begun and not self.complete

    def end(self) -> None:
        """Say that there are no more."""
        self._chunks.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Mapping[str, Any]]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk


class Calls:
    """Tells to which call of a tool a part of a call belongs."""

    def __init__(self) -> None:
        self._seen = set[int]()

    def index(self, delta: Mapping[str, Any]) -> int:
        """Return the number of the call."""
        index = delta.get("index")
        if index is None:  # some providers count nothing, and begin each call with its id
            index = max(len(self._seen) - (not delta.get("id")), 0)
        self._seen.add(index)
        return int(index)


class Assembled:
    """Puts the completion together of which chunks come in."""

    def __init__(self) -> None:
        self._about: dict[str, Any] = {}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._calls: dict[int, dict[str, Any]] = {}
        self._indices = Calls()
        self._logs: list[Any] = []
        self._finish: Any = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add a chunk of which `understood` has been asked."""
        self._about |= {name: chunk[name] for name in (*_ABOUT, "usage") if chunk.get(name) is not None}
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for name in ("content", "refusal"):
                if delta.get(name):
                    self._message[name] = (self._message.get(name) or "") + delta[name]
            for call in delta.get("tool_calls") or ():
                self._add_call(call)
            self._logs += (choice.get("logprobs") or {}).get("content") or []
            self._finish = choice.get("finish_reason") or self._finish

    def _add_call(self, delta: Mapping[str, Any]) -> None:
        call = self._calls.setdefault(self._indices.index(delta), {})
        kind, said = ("custom", "input") if delta.get("custom") else ("function", "arguments")
        if not call:
            call |= {"type": kind, kind: {"name": "", said: ""}}
        if delta.get("id"):
            call["id"] = delta["id"]
        for name, text in (delta.get(kind) or {}).items():
            call[kind][name] = call[kind].get(name, "") + (text or "")

    @property
    def ended(self) -> bool:
        """Whether a chunk said that it was the last."""
        return self._finish is not None

    @property
    def body(self) -> dict[str, Any]:
        """The completion."""
        message = dict(self._message)
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        choice = {"index": 0, "message": message, "finish_reason": self._finish}
        if self._logs:
            choice["logprobs"] = {"content": self._logs}
        return {**self._about, "object": "chat.completion", "choices": [choice]}


def understood(body: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return a completion, or a chunk of one, with its first choice alone: no request asks for more.

    `part`: where a choice says something, "message" or "delta". Raises TypeError where texts or calls of tools are of
    another type than who reads them expects.
    """
    choices = body.get("choices")
    choices = _objects(choices[:1] if isinstance(choices, list) else choices)
    if not choices:
        return {**body, "choices": []}
    (choice,) = choices
    message = choice.get(part)
    if message is None and part == "delta":
        message = {}
    (message,) = _objects([message])
    texts, content = [choice.get("finish_reason"), message.get("refusal")], message.get("content")
    if isinstance(content, list):
        _objects(content)
    else:
        texts.append(content)
    if not all(text is None or isinstance(text, str) for text in texts):
        raise TypeError("it is no text")
    calls = _objects(message.get("tool_calls"))
    _objects([call.get(kind) or {} for kind in ("function", "custom") for call in calls])
    _objects([choice.get("logprobs") or {}])
    return {**body, "choices": [{**choice, part: message}]}


def _objects(items: Any) -> list[dict[str, Any]]:
    """Return a list of objects; none for None. Raises TypeError for anything else."""
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise TypeError("it is no list of objects")
    return items


def chunks_of(body: Mapping[str, Any], *, logprobs: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a completion that is known, the last one with its usage.

    `logprobs`: with the log-probabilities of its tokens, if it has any. They come with what they are about, in one
    chunk.
    """
    head = {name: body[name] for name in _ABOUT if name in body}
    choice = body["choices"][0]
    message = choice["message"]

    def chunk(*choices: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        return {**head, "object": "chat.completion.chunk", "choices": choices, **fields}

    def choice_chunk(finish: Any = None, logs: Any = None, **delta: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return chunk({**choice, "logprobs": logs} if logs else choice)

    yield choice_chunk(role="assistant", content="")
    texts = {name: message[name] for name in _SAID if message.get(name)}
    if logprobs and choice.get("logprobs"):
        yield choice_chunk(logs=choice["logprobs"], **texts)
    else:
        for name, text in texts.items():
            if isinstance(text, str):
                for start in range(0, len(text), _LENGTH):
                    yield choice_chunk(**{name: text[start : start + _LENGTH]})
            else:
                yield choice_chunk(**{name: text})
    if calls := message.get("tool_calls"):
        yield choice_chunk(tool_calls=[{"index": i, **call} for i, call in enumerate(calls)])
    yield choice_chunk(choice.get("finish_reason"))
    if "usage" in body:
        yield chunk(usage=body["usage"])


def without_logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a completion, or a chunk of one, without log-probabilities."""
    choices = [dict(choice) for choice in body.get("choices") or ()]
    for choice in choices:
        choice.pop("logprobs", None)
    return {**body, "choices": choices}


def event(chunk: Mapping[str, Any]) -> str:
    """Return a chunk as a server-sent event."""
    return f"data: {json.dumps(chunk)}\n\n"


async def data_of(line: str) -> dict[str, Any] | None:
    """Return the chunk in a line of server-sent events; None for any other line. Raises ValueError for no JSON."""
    if not line.startswith("data:") or (text := line[5:].strip()) == "[DONE]":
        return None
    chunk = await read_beside(outside_json, text)
    if not isinstance(chunk, dict):
        raise ValueError("a chunk is an object")
    return chunk


async def lines_of(data: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the lines in bytes. They end with a line feed alone: JSON may hold other ends of lines, such as U+2028."""
    line: list[bytes] = []
    async for piece in data:
        end, *starts = piece.split(b"\n")
        line.append(end)
        for start in starts:
            yield b"".join(line).decode()
            line = [start]
    if any(line):
        yield b"".join(line).decode()
