"""A request in a protocol, and its answer: the inner form of both is that of chat completions."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from exeunt.errors import InputError
from exeunt.gateway.chat_request import THINKING, ChatRequest
from exeunt.gateway.options import DROPPED, Option, check_options
from exeunt.live.token_price import Usage

CUT_OFF = "the answer was cut off"


class Exchange(ABC):
    """A request that came in a protocol, and how its answer is written there.

    `path`: where clients ask. `chat`: what they ask. `dropped`: what they say that chat completions have no place for,
    such as "cache_control"; it changes no answer. Raises InputError for what is no request, and for what does not
    translate and would change the answer.
    """

    path: ClassVar[str]
    options: ClassVar[Mapping[str, Option]]

    def __init__(self, body: Mapping[str, Any]) -> None:
        check_options(body, self.options)
        self.asked, self.dropped = body, dict[str, None]()
        self.rest(body, *(name for name, option in self.options.items() if option.outcome != DROPPED))
        self.chat = ChatRequest.of(self.translated(body))

    @abstractmethod
    def translated(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the request as a chat completion."""

    @abstractmethod
    def answer(self, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the answer in this protocol."""

    @abstractmethod
    def begin(self) -> Writer:
        """Return what writes the answer in parts."""

    @classmethod
    @abstractmethod
    def error(cls, status: int, why: str) -> Mapping[str, Any]:
        """Return an error as this protocol's clients read it."""

    # -- reading ----------------------------------------------------------------------------------------------

    def rest(self, part: Mapping[str, Any], *used: str) -> None:
        """Note which fields of a part of the request are not used."""
        self.dropped |= dict.fromkeys(
            name[:40] for name, field in part.items() if name not in used and field not in (None, False)
        )


class Writer(ABC):
    """Writes an answer in parts: yields server-sent events for each chunk, and for its end."""

    @abstractmethod
    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[str]:
        """Yield the events of a chunk of a chat completion."""

    @abstractmethod
    def end(self) -> Iterator[str]:
        """Yield the events that end an answer."""

    @abstractmethod
    def cut_off(self) -> Iterator[str]:
        """Yield the events that say that the answer ends before its time."""


def objects(name: str, content: Any) -> list[dict[str, Any]]:
    """Return a list of objects. Raises InputError for anything else, which `name` names."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise InputError(f"{name} is a list of objects, got {content!r:.60}")
    return content


def text(part: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return a text of a part of a request. Raises InputError if it is none."""
    content = part.get(name, default)
    if not isinstance(content, str):
        raise InputError(f"{name} of {part.get('type', 'this')!r:.40} is a text, got {content!r:.60}")
    return content


def named_event(body: Mapping[str, Any]) -> str:
    """Return an event that is named by its type."""
    return f"event: {body['type']}\ndata: {json.dumps(body)}\n\n"


def merged(parts: list[dict[str, Any]]) -> Any:
    """Return the parts of a message as its content: a lone text as that."""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def thinking_of(message: Mapping[str, Any]) -> str:
    """Return what a model that thinks says before its answer, in a message or a part of one."""
    thinking = message.get("reasoning_content") or message.get("reasoning")
    return thinking if isinstance(thinking, str) else ""


def words(said: Any) -> str:
    """Return the text of an answer, also of one that comes in parts; "" for none."""
    return said if isinstance(said, str) else "".join(str(part.get("text") or "") for part in said or ())


def schema_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the format of an answer that has a JSON schema."""
    return {"type": "json_schema", "json_schema": dict(schema)}


def thinking_blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a model thinks as blocks of Anthropic's protocol, which have a signature if they come from there."""
    if blocks := signed_blocks(message):
        return blocks
    thinking = thinking_of(message)
    return [{"type": "thinking", "thinking": thinking, "signature": ""}] if thinking else []


def signed_blocks(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the blocks of thinking in a message or a part of one, that have a signature, or are not shown."""
    blocks = part.get(THINKING)
    signed: list[dict[str, Any]] = []
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, dict) and block.get("signature"):
            about = {name: str(block.get(name) or "") for name in ("thinking", "signature")}
            signed.append({"type": "thinking", **about})
        elif isinstance(block, dict) and block.get("data"):
            signed.append({"type": "redacted_thinking", "data": str(block["data"])})
    return signed


def counts(usage: Any) -> Usage:
    """Return the tokens of a usage; 0 for what it does not say."""

    def count(name: str, details: str = "") -> int:
        part = usage.get(details) if details and isinstance(usage, dict) else usage
        number = part.get(name) if isinstance(part, dict) else 0
        return number if type(number) is int and number >= 0 else 0

    n_input, cached = count("prompt_tokens"), count("cached_tokens", "prompt_tokens_details")
    written = count("cache_write_tokens", "prompt_tokens_details")
    if cached + written > n_input:
        cached = written = 0
    reasoning = count("reasoning_tokens", "completion_tokens_details")
    return Usage(n_input, count("completion_tokens"), cached, written, reasoning)
