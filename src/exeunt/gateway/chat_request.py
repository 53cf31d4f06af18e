"""Chat completions as a client asks for them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from exeunt._support.outside_json import DEEPEST, check_brackets, check_outside, nfkc, outside_json
from exeunt.errors import InputError
from exeunt.gateway.completion_chunks import Sink
from exeunt.gateway.options import CHAT_OPTIONS, LIMITS, PASSED_ON, check_options

THINKING = "thinking_blocks"
"""Where a message of the assistant holds the thinking that came with it, as blocks of Anthropic's protocol."""
_TOOLS = ("function", "custom")
_SORTED = msgspec.json.Encoder(order="sorted")
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class ChatRequest:
    """What a client asks: the body of a request to /v1/chat/completions.

    `options`: those that are passed on. `limit`: the most output tokens that the client wants, None if it does not say.
    `user`: whom the client names as its user; `conversation`: which conversation (`metadata.conversation`). `usage`:
    whether a stream ends with its usage. `cache_key`: the `prompt_cache_key`, where models take one. `sink`: gets
    the chunks of an answer that is given whatever it says.

    A large one takes long to read, to write and to hash, so each is done once.
    """

    model: str
    messages: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any]
    limit: int | None
    stream: bool
    user: str
    usage: bool = False
    conversation: str = ""
    cache_key: str = field(default="", compare=False)
    is_retry: bool = field(default=False, compare=False)
    sink: Sink | None = field(default=None, compare=False)

    @classmethod
    def read(cls, data: bytes) -> ChatRequest:
        """Read a body, in a thread if it is large: all that takes long is known then. Raises InputError as `of` does,
        and for what is no JSON.
        """
        return cls.of(request_body(data))

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> ChatRequest:
        """Return the request that a body asks.

        Raises InputError if the body is not a chat completion, or has an option of unbounded cost.
        """
        if not isinstance(body.get("model"), str):
            raise InputError("a request is a JSON object with a model and messages")
        check_options(body, CHAT_OPTIONS)
        _check_objects(body)
        limits = [body[name] for name in LIMITS if body.get(name) is not None]
        if any(type(limit) is not int or limit < 1 for limit in limits):
            raise InputError(f"{LIMITS[0]} must be a whole number of at least 1, got {limits[0]!r:.40}")
        request = cls(
            model=body["model"],
            messages=_checked_messages(body.get("messages")),
            options={name: body[name] for name in PASSED_ON if body.get(name) is not None},
            limit=min(limits, default=None),
            stream=body.get("stream") is True,
            user=str(body.get("user") or ""),
            usage=bool((body.get("stream_options") or {}).get("include_usage")),
            conversation=_conversation(body.get("metadata")),
            cache_key=str(body.get("prompt_cache_key") or ""),
        )
        _ = request.n_bytes, request.content  # they are kept
        return request

    def changed(self, **fields: Any) -> ChatRequest:
        """Return the same request with another `sink`, `is_retry` or `cache_key`. What was computed for this one is not
        again.
        """
        request = copy.copy(self)
        request.__dict__.update(fields)
        return request

    @cached_property
    def written(self) -> tuple[bytes, ...]:
        """The messages as JSON."""
        return tuple(map(_SORTED.encode, self.messages))

    @property
    def sent(self) -> tuple[bytes, ...]:
        """The messages as JSON, as chat completions take them: without the thinking of earlier answers."""
        return tuple(
            _SORTED.encode({name: part for name, part in message.items() if name != THINKING})
            if THINKING in message
            else written
            for message, written in zip(self.messages, self.written, strict=True)
        )

    @property
    def texts(self) -> list[bytes]:
        """The messages as JSON, without images."""
        texts = list(self.written)
        for k, message in enumerate(self.messages):
            if parts := _parts(message):
                texts[k] = _SORTED.encode({**message, "content": [_without_image(part) for part in parts]})
        return texts

    @cached_property
    def n_images(self) -> int:
        """Images in the messages."""
        return sum(part["type"] == "image_url" for message in self.messages for part in _parts(message))

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of the messages and options without images: a tokenizer counts at most a token for each."""
        options = _SORTED.encode(self.options)
        blanks = options.count(b",") + options.count(b":")  # a provider may write some there
        return blanks + sum(
            max(len(text), len(nfkc(text.decode()).encode())) for text in (*self.texts, options)
        )

    @property
    def has_tools(self) -> bool:
        """Whether the answer may call tools, or an earlier one has."""
        called = any(message["role"] == "tool" or message.get("tool_calls") for message in self.messages)
        return called or bool(self.options.get("tools"))

    @property
    def for_graders(self) -> Mapping[str, Any]:
        """What graders get of it."""
        return {"messages": self.messages, **self.options}

    @cached_property
    def text(self) -> str:
        """The text of the last message of the user, for features."""
        by_user = [message for message in self.messages if message["role"] == "user"]
        return text_of((by_user or self.messages)[-1])

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The digest of each message, in hexadecimal digits."""
        return tuple(hashlib.sha256(message).hexdigest() for message in self.written)

    @cached_property
    def content(self) -> bytes:
        """The content of the request as JSON: requests with the same content may have the same answer."""
        return _SORTED.encode([self.digests, self.options, self.limit])

    @cached_property
    def beginnings(self) -> tuple[bytes, ...]:
        """The digests of the first message, the first two, and so on to all messages.

        An assistant's message is what it says and the tools that it calls: clients repeat no more of an answer.
        """
        digests, before = [], b""
        for message, digest in zip(self.messages, self.digests, strict=True):
            own = said_digest(message) if message["role"] == "assistant" else digest.encode()
            before = hashlib.sha256(before + own).digest()
            digests.append(before)
        return tuple(digests)

    @property
    def answers(self) -> tuple[bytes, ...]:
        """The digests of the messages up to each assistant's message, the longest first."""
        places = [k for k, message in enumerate(self.messages) if message["role"] == "assistant"]
        return tuple(self.beginnings[k] for k in reversed(places))

    @property
    def opening(self) -> bytes:
        """The digest of the messages before the first one of the assistant; b"" if there are none."""
        roles = [message["role"] for message in self.messages]
        n = roles.index("assistant") if "assistant" in roles else len(roles)
        return self.beginnings[n - 1] if n else b""

    def followed_by(self, answer: Mapping[str, Any]) -> bytes:
        """Return the digest of the messages and an answer to them."""
        return hashlib.sha256(self.beginnings[-1] + said_digest(answer)).digest()


def request_body(data: bytes) -> dict[str, Any]:
    """Return the object that a request holds as JSON. Raises InputError if it holds none, or one too large to read."""
    try:
        check_brackets(data)
        check_outside(body := msgspec.json.decode(data))
    except msgspec.DecodeError:
        raise InputError("the request is no JSON in UTF-8") from None
    except RecursionError:
        raise InputError(f"the request cannot be read: it has more than {DEEPEST} levels") from None
    except ValueError as error:
        raise InputError(f"the request cannot be read: {error}") from None
    if not isinstance(body, dict):
        raise InputError("a request is a JSON object with a model and messages")
    return body


def said_digest(message: Mapping[str, Any]) -> bytes:
    """Return the digest of an assistant's message: of its text and its calls of tools, however these write JSON."""
    calls = message.get("tool_calls")
    objects = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    parts = [
        text_of(message),
        [
            {name: _with_arguments(call.get(name)) for name in ("id", "function", "custom")}
            for call in objects
        ],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def _with_arguments(called: Any) -> Any:
    """Return what is called, with its arguments as an object: some protocols pass them on as one."""
    return {**called, "arguments": arguments_of(called)} if isinstance(called, dict) else called


def arguments_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of a tool. What is no JSON object is named so, as Anthropic's documentation has
    it.
    """
    written = function.get("arguments")
    try:
        arguments = outside_json(str(written or "{}"))
    except ValueError:
        arguments = None
    return arguments if isinstance(arguments, dict) else {"INVALID_JSON": str(written)}


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message; that of its parts, in lines."""
    if parts := _parts(message):
        return "\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and "text" in part)
    return str(message.get("content") or "")


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _without_image(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "image_url" or part["type"] != "image_url"}


def _check_objects(body: Mapping[str, Any]) -> None:
    """Raise InputError for tools that cost what nobody knows, and for options that are no objects."""
    tools = body.get("tools") or []
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and tool.get("type") in _TOOLS for tool in tools
    ):
        raise InputError(
            f"tools are of type {' or '.join(_TOOLS)}: those of a provider could cost more than is known"
        )
    if not isinstance(body.get("stream_options") or {}, dict):
        raise InputError('stream_options is an object, such as {"include_usage": true}')


def _conversation(metadata: Any) -> str:
    """Return the name of the conversation that a client gives. Raises InputError if the name is not a text."""
    if not isinstance(metadata, dict) or "conversation" not in metadata:
        return ""
    name = metadata["conversation"]
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"metadata.conversation names a conversation by a text, got {name!r:.60}")
    return name


def _checked_messages(messages: Any) -> tuple[Mapping[str, Any], ...]:
    """Return the messages of a request. Raises InputError for content without a known price, such as audio."""
    if not isinstance(messages, list) or not messages:
        raise InputError("messages must be a list of at least one message")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise InputError(f"a message has a role ({', '.join(_ROLES)}) and a content")
        if message.get("audio"):
            raise InputError("messages may hold no audio")
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                if not isinstance(part, dict) or part.get("type") not in ("text", "image_url", "refusal"):
                    raise InputError("parts of a message are of type text or image_url")
        elif content is not None and not isinstance(content, str):
            raise InputError("the content of a message is a text, or a list of parts")
    return tuple(messages)
