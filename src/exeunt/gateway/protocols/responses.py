"""OpenAI's responses, without stored state: each request holds its whole conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exeunt.errors import InputError
from exeunt.gateway.chat_request import THINKING
from exeunt.gateway.completion_chunks import Calls
from exeunt.gateway.options import CACHE_KEY, CAPPED, DROPPED, PASSED, REFUSED, TAKEN, USED, Option
from exeunt.gateway.protocols.chat_completions import ChatCompletions
from exeunt.gateway.protocols.exchange import (
    CUT_OFF,
    Exchange,
    Writer,
    counts,
    merged,
    named_event,
    objects,
    schema_format,
    text,
    thinking_of,
    words,
)

_STATELESS = "it needs stored state, and nothing is stored here: send the whole conversation as `input`"

OPTIONS: Mapping[str, Option] = {
    "model": Option(USED, "`auto`, `auto:POLICY`, or the name of a model"),
    "input": Option(PASSED, "texts, images, calls of tools and their results; no files and no references"),
    "instructions": Option(PASSED, "as the first message"),
    "max_output_tokens": Option(
        CAPPED, "at the model's `max_tokens`; the header `x-exeunt-max-tokens` says what it is"
    ),
    "stream": Option(USED),
    **dict.fromkeys(("temperature", "top_p", "parallel_tool_calls"), Option(PASSED)),
    "tools": Option(PASSED, "of type `function` or `custom`; those that OpenAI runs do not translate"),
    "tool_choice": Option(PASSED),
    "text": Option(PASSED, "`format` as `response_format`, `verbosity`"),
    "reasoning": Option(PASSED, "`effort` as `reasoning_effort`"),
    "top_logprobs": Option(PASSED),
    "include": Option(PASSED, "`message.output_text.logprobs`; the rest is dropped, and named"),
    "metadata": Option(TAKEN, "`conversation` names the conversation"),
    "user": Option(TAKEN, "the unit, with `units: user`"),
    "store": Option(TAKEN, "no answer is stored to be fetched later"),
    "safety_identifier": Option(TAKEN),
    "prompt_cache_key": Option(USED, CACHE_KEY),
    **dict.fromkeys(("prompt_cache_retention", "prompt_cache_options", "stream_options"), Option(TAKEN)),
    **dict.fromkeys(("truncation", "max_tool_calls", "context_management"), Option(DROPPED)),
    **dict.fromkeys(("image", "access_programs"), Option(DROPPED)),
    "service_tier": Option(TAKEN, "other tiers have other prices", ("auto", "default")),
    "background": Option(TAKEN, _STATELESS, (False,)),
    **dict.fromkeys(("previous_response_id", "conversation", "prompt"), Option(REFUSED, _STATELESS)),
    "background_options": Option(REFUSED, _STATELESS),
    "moderation": Option(REFUSED, "it could cost more than is known before a call"),
}
"""What becomes of every option of OpenAI's responses."""

_LOGPROBS = "message.output_text.logprobs"
_TEXTS = ("input_text", "output_text", "text")
_ECHOED = ("instructions", "max_output_tokens", "temperature", "top_p", "top_logprobs", "user")


class Responses(Exchange):
    """A request for a response."""

    path = "/v1/responses"
    options = OPTIONS

    def translated(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the request as a chat completion."""
        items = body.get("input")
        items = [{"role": "user", "content": items}] if isinstance(items, str) else objects("input", items)
        if body.get("instructions"):
            items = [{"role": "system", "content": text(body, "instructions")}, *items]
        chat: dict[str, Any] = {
            **{name: body.get(name) for name in ("model", "temperature", "top_p", "parallel_tool_calls")},
            **{name: body.get(name) for name in ("stream", "user", "metadata", "top_logprobs")},
            "prompt_cache_key": body.get("prompt_cache_key"),
            "messages": self._messages(items),
            "max_tokens": body.get("max_output_tokens"),
            "stream_options": {"include_usage": True},
            **self._text(body.get("text") or {}),
        }
        (reasoning,) = objects("reasoning", [body.get("reasoning") or {}])
        self.rest(reasoning, "effort")
        chat["reasoning_effort"] = reasoning.get("effort")
        include = body.get("include") or []
        if not isinstance(include, list):
            raise InputError(f"include is a list of texts, got {include!r:.60}")
        self.rest({str(name): True for name in include if name != _LOGPROBS})
        if body.get("top_logprobs") or _LOGPROBS in include:
            chat["logprobs"] = True
        if body.get("tools"):
            chat["tools"] = [self._tool(tool) for tool in objects("tools", body["tools"])]
        if body.get("tool_choice") is not None:
            chat["tool_choice"] = self._tool_choice(body["tool_choice"])
        return chat

    def _text(self, config: Any) -> dict[str, Any]:
        """Return how an answer is to be as options of chat completions."""
        (config,) = objects("text", [config])
        self.rest(config, "format", "verbosity")
        options = {"verbosity": config.get("verbosity")}
        (form,) = objects("format", [config.get("format") or {"type": "text"}])
        if form.get("type") == "json_schema":
            options["response_format"] = schema_format({name: form[name] for name in form if name != "type"})
        elif form.get("type") != "text":
            options["response_format"] = form
        return options

    def _messages(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return items as messages. What the assistant says and calls between two others is one message; images that
        tools return come from the user, after all results.
        """
        messages: list[dict[str, Any]] = []
        images: list[dict[str, Any]] = []
        for item in items:
            kind = text(item, "type", "message")
            if images and not kind.endswith("_output"):
                messages.append({"role": "user", "content": images})
                images = []
            if kind == "message" and item.get("role") != "assistant":
                self.rest(item, "type", "role", "content", "id", "status")
                messages.append({"role": item.get("role"), "content": self._content(item)})
            elif kind in ("message", "function_call", "custom_tool_call", "reasoning"):
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                self._add(messages[-1], kind, item)
            elif kind in ("function_call_output", "custom_tool_call_output"):
                self.rest(item, "type", "call_id", "output", "id", "status")
                content = self._content({"type": kind, "content": item.get("output")})
                if not isinstance(content, str):
                    images += [part for part in content if part["type"] != "text"]
                    texts = [part for part in content if part["type"] == "text"]
                    content = merged(texts or [{"type": "text", "text": ""}])
                messages.append({"role": "tool", "tool_call_id": text(item, "call_id"), "content": content})
            else:
                raise InputError(
                    f"items of type {kind!r:.40} do not translate: {_STATELESS}".replace("`", "")
                )
        # An answer that only thinks says nothing.
        said = [message for message in messages if len(message) > 2 or message["content"] is not None]
        return said + ([{"role": "user", "content": images}] if images else [])

    def _add(self, message: dict[str, Any], kind: str, item: Mapping[str, Any]) -> None:
        """Add an item to a message of the assistant."""
        if kind == "reasoning":
            thinking = "".join(
                text(part, "text") for part in objects("content of reasoning", item.get("content") or [])
            )
            blocks = [{"type": "thinking", "thinking": thinking, "signature": ""}] if thinking else []
            if blocks:
                message.setdefault(THINKING, []).extend(blocks)
        elif kind == "message":
            self.rest(item, "type", "role", "content", "id", "status")
            content = self._content(item)
            before = message["content"]
            message["content"] = content if before is None else _joined([before, content])
        else:
            self.rest(item, "type", "call_id", "name", "arguments", "input", "id", "status")
            named = {"name": text(item, "name")}
            called = (
                {"type": "function", "function": {**named, "arguments": text(item, "arguments")}}
                if kind == "function_call"
                else {"type": "custom", "custom": {**named, "input": text(item, "input")}}
            )
            message.setdefault("tool_calls", []).append({"id": text(item, "call_id"), **called})

    def _content(self, item: Mapping[str, Any]) -> Any:
        """Return the content of a message. Raises InputError for what has no known price, or does not translate."""
        content = item.get("content")
        if isinstance(content, str):
            return content
        parts = [self._part(part) for part in objects("the content of an item", content)]
        return merged(parts) if parts else ""

    def _part(self, part: Mapping[str, Any]) -> dict[str, Any]:
        kind = part.get("type")
        if kind in _TEXTS:
            self.rest(part, "type", "text", *(("annotations", "logprobs") if kind == "output_text" else ()))
            return {"type": "text", "text": text(part, "text")}
        if kind == "refusal":
            return {"type": "refusal", "refusal": text(part, "refusal")}
        if kind == "input_image" and part.get("image_url") is not None:
            self.rest(part, "type", "image_url", "detail")
            detail = {} if part.get("detail") is None else {"detail": part["detail"]}
            return {"type": "image_url", "image_url": {"url": text(part, "image_url"), **detail}}
        raise InputError(
            f"parts of type {kind!r:.40} do not translate: send input_text, output_text, refusal, or input_image with "
            "an image_url"
        )

    def _tool(self, tool: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tool. Raises InputError for one that the provider runs."""
        kind = tool.get("type")
        if kind == "function":
            self.rest(tool, "type", "name", "description", "parameters", "strict")
            fields = {
                name: tool[name]
                for name in ("description", "parameters", "strict")
                if tool.get(name) is not None
            }
            return {"type": kind, kind: {"name": text(tool, "name"), **fields}}
        if kind == "custom":
            self.rest(tool, "type", "name", "description", "format")
            custom: dict[str, Any] = {"name": text(tool, "name")}
            custom |= {"description": tool["description"]} if tool.get("description") is not None else {}
            if tool.get("format") is not None:
                (form,) = objects("format", [tool["format"]])
                grammar = {name: form.get(name) for name in ("syntax", "definition")}
                custom["format"] = (
                    {"type": "grammar", "grammar": grammar} if form.get("type") == "grammar" else form
                )
            return {"type": kind, kind: custom}
        raise InputError(
            f"tools of type {kind!r:.40} do not translate: their provider runs them. Give those of type function or "
            "custom"
        )

    def _tool_choice(self, choice: Any) -> Any:
        """Return which tools may be called, as chat completions say it."""
        if isinstance(choice, str):
            return choice
        (choice,) = objects("tool_choice", [choice])
        kind = choice.get("type")
        if kind in ("function", "custom"):
            return {"type": kind, kind: {"name": text(choice, "name")}}
        if kind == "allowed_tools":
            tools = [self._tool_choice(tool) for tool in objects("tools of tool_choice", choice.get("tools"))]
            return {"type": kind, kind: {"mode": choice.get("mode"), "tools": tools}}
        raise InputError(f"tool_choice of type {kind!r:.40} does not translate")

    def answer(self, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a completion as a response."""
        choice = completion["choices"][0]
        message, end = choice["message"], _end(choice)
        said = {"reasoning_text": thinking_of(message), "output_text": words(message.get("content"))}
        said["refusal"] = words(message.get("refusal"))
        logs = (choice.get("logprobs") or {}).get("content") if self.chat.options.get("logprobs") else None
        items: list[dict[str, Any]] = []
        for kind, content in said.items():
            if content:
                items.append(_item(kind, _identity(kind, completion, len(items)), "completed", content, logs))
        for call in message.get("tool_calls") or ():
            items.append(_call(call, _identity("call", completion, len(items))))
        if items:
            items[-1]["status"] = end["status"]
        return {**self.head(completion), **end, "output": items, "usage": _usage(completion.get("usage"))}

    def head(self, completion: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a response says of itself and of its request, before there is an answer."""
        asked = self.asked
        return {
            "id": f"resp_{completion.get('id') or ''}",
            "object": "response",
            "created_at": created if type(created := completion.get("created")) is int else 0,
            "error": None,
            "incomplete_details": None,
            "model": completion.get("model"),
            "output": [],
            "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "store": False,
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": asked.get("tools") or [],
            "metadata": asked.get("metadata") or {},
            "reasoning": asked.get("reasoning") or {},
            "text": asked.get("text") or {"format": {"type": "text"}},
            "truncation": "disabled",
            "background": False,
            "usage": None,
            **{name: asked.get(name) for name in _ECHOED},
        }

    def begin(self) -> Writer:
        """Return what writes the events of a response."""
        return _Events(self)

    @classmethod
    def error(cls, status: int, why: str) -> Mapping[str, Any]:
        """Return an error as OpenAI's clients read it."""
        return ChatCompletions.error(status, why)


class _Events(Writer):
    """Writes texts one after the other, and calls of tools beside each other, which end with the answer."""

    def __init__(self, exchange: Responses) -> None:
        self._exchange, self._logprobs = exchange, bool(exchange.chat.options.get("logprobs"))
        self._number, self._first = 0, dict[str, Any]()
        self._items: list[dict[str, Any]] = []
        self._open, self._said, self._logs = "", list[str](), list[Any]()
        self._calls, self._called = Calls(), dict[int, int]()
        self._choice: dict[str, Any] = {}
        self._usage: Any = None

    def _event(self, kind: str, **fields: Any) -> str:
        self._number += 1
        return named_event({"type": f"response.{kind}", "sequence_number": self._number - 1, **fields})

    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[str]:
        if not self._first:
            self._first = {**self._exchange.head(chunk), "status": "in_progress"}
            yield self._event("created", response=self._first)
            yield self._event("in_progress", response=self._first)
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self._choice |= {"finish_reason": choice["finish_reason"]} if choice.get("finish_reason") else {}
            delta, logs = choice["delta"], (choice.get("logprobs") or {}).get("content") or []
            yield from self._text("reasoning_text", thinking_of(delta))
            yield from self._text("output_text", words(delta.get("content")), logs if self._logprobs else [])
            yield from self._text("refusal", words(delta.get("refusal")))
            for call in delta.get("tool_calls") or ():
                yield from self._call(call)

    def _text(self, kind: str, said: str, logs: Sequence[Any] = ()) -> Iterator[str]:
        """Yield a part of a text, which begins an item unless one of its kind is open."""
        if not said:
            return
        if self._open != kind:
            yield from self._stop()
            self._open = kind
            item = {
                **_item(kind, _identity(kind, self._first, len(self._items)), "in_progress", ""),
                "content": [],
            }
            yield from self._begin(item)
            yield self._event("content_part.added", **self._place(), part=_part(kind, ""))
        self._said.append(said)
        self._logs += logs
        about = {"logprobs": list(logs)} if kind == "output_text" else {}
        yield self._event(f"{kind}.delta", **self._place(), delta=said, **about)

    def _begin(self, item: dict[str, Any]) -> Iterator[str]:
        yield self._event("output_item.added", output_index=len(self._items), item=item)
        self._items.append(item)

    def _place(self) -> dict[str, Any]:
        """Where the open text belongs."""
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1, "content_index": 0}

    def _stop(self, status: str = "completed") -> Iterator[str]:
        """End the text that is open."""
        if not self._open:
            return
        kind, said = self._open, "".join(self._said)
        item = _item(kind, self._items[-1]["id"], status, said, self._logs)
        about = {"logprobs": self._logs} if kind == "output_text" else {}
        name = "refusal" if kind == "refusal" else "text"
        yield self._event(f"{kind}.done", **self._place(), **{name: said}, **about)
        yield self._event("content_part.done", **self._place(), part=item["content"][0])
        yield self._event("output_item.done", output_index=len(self._items) - 1, item=item)
        self._items[-1] = item
        self._open, self._said, self._logs = "", [], []

    def _call(self, delta: Mapping[str, Any]) -> Iterator[str]:
        """Yield a part of a call of a tool, which begins an item if it is the first one."""
        index = self._calls.index(delta)
        call = _call(delta, "")
        if index not in self._called:
            yield from self._stop()
            self._called[index] = len(self._items)
            begun = _call(delta, _identity("call", self._first, len(self._items)))
            yield from self._begin({**begun, "status": "in_progress", _written(begun): ""})
        place = self._called[index]
        item, name = self._items[place], _written(self._items[place])
        if part := call.get(name):
            item[name] += part
            about = {"item_id": item["id"], "output_index": place, "delta": part}
            yield self._event(f"{_CALLS[item['type']]}.delta", **about)

    def end(self) -> Iterator[str]:
        end = _end(self._choice)
        yield from self._stop(end["status"])
        for place in self._called.values():
            is_last = place == len(self._items) - 1
            item = self._items[place] = {
                **self._items[place],
                "status": end["status"] if is_last else "completed",
            }
            name = _written(item)
            about = {"item_id": item["id"], "output_index": place, name: item[name]}
            yield self._event(f"{_CALLS[item['type']]}.done", **about)
            yield self._event("output_item.done", output_index=place, item=item)
        response = {**self._first, **end, "output": self._items, "usage": _usage(self._usage)}
        yield self._event(end["status"], response=response)

    def cut_off(self) -> Iterator[str]:
        error = {"code": "server_error", "message": CUT_OFF}
        yield self._event("failed", response={**self._first, "status": "failed", "error": error})


_CALLS = {"function_call": "function_call_arguments", "custom_tool_call": "custom_tool_call_input"}
_NAMES = {"reasoning_text": "rs", "output_text": "msg", "refusal": "msg", "call": "fc"}


def _identity(kind: str, about: Mapping[str, Any], index: int) -> str:
    return f"{_NAMES[kind]}_{str(about.get('id') or '').removeprefix('resp_')}_{index}"


def _part(kind: str, said: str, logs: Sequence[Any] | None = ()) -> dict[str, Any]:
    if kind == "refusal":
        return {"type": kind, "refusal": said}
    about = {"annotations": [], "logprobs": list(logs or ())} if kind == "output_text" else {}
    return {"type": kind, "text": said, **about}


def _item(
    kind: str, identity: str, status: str, said: str, logs: Sequence[Any] | None = ()
) -> dict[str, Any]:
    """Return an item that holds a text."""
    about: dict[str, Any] = {"type": "message", "role": "assistant"}
    if kind == "reasoning_text":
        about = {"type": "reasoning", "summary": []}
    return {"id": identity, **about, "status": status, "content": [_part(kind, said, logs)]}


def _call(call: Mapping[str, Any], identity: str) -> dict[str, Any]:
    """Return a call of a tool, or a part of one, as an item."""
    kind, name = ("custom", "input") if call.get("custom") else ("function", "arguments")
    called = call.get(kind) or {}
    return {
        "id": identity,
        "type": "custom_tool_call" if kind == "custom" else "function_call",
        "call_id": str(call.get("id") or ""),
        "name": str(called.get("name") or ""),
        name: str(called.get(name) or ""),
        "status": "completed",
    }


def _written(item: Mapping[str, Any]) -> str:
    """Return which field of a call the model has written."""
    return "input" if item["type"] == "custom_tool_call" else "arguments"


def _end(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return how an answer ends."""
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    if (reason := reasons.get(choice.get("finish_reason") or "")) is None:
        return {"status": "completed"}
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def _usage(usage: Any) -> dict[str, Any] | None:
    tokens = counts(usage)
    if not usage:
        return None
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.written},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.input + tokens.output,
    }


def _joined(contents: list[Any]) -> list[dict[str, Any]]:
    """Return contents of messages, texts or parts, as the parts of one."""
    return [
        part
        for content in contents
        for part in ([{"type": "text", "text": content}] if isinstance(content, str) else content)
    ]
