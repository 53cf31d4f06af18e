"""Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from exeunt.errors import InputError
from exeunt.gateway.chat_request import THINKING, arguments_of
from exeunt.gateway.completion_chunks import Calls
from exeunt.gateway.options import CAPPED, DROPPED, PASSED, REFUSED, TAKEN, USED, Option
from exeunt.gateway.protocols.exchange import (
    CUT_OFF,
    Exchange,
    Writer,
    counts,
    merged,
    named_event,
    objects,
    schema_format,
    signed_blocks,
    text,
    thinking_blocks,
    thinking_of,
    words,
)

OPTIONS: Mapping[str, Option] = {
    "model": Option(USED, "`auto`, `auto:POLICY`, or the name of a model"),
    "messages": Option(
        PASSED, "texts, images, `tool_use`, `tool_result` and thinking; no documents, no files"
    ),
    "system": Option(PASSED, "as the first message"),
    "max_tokens": Option(
        CAPPED, "at the model's `max_tokens`; the header `x-exeunt-max-tokens` says what it is"
    ),
    "stream": Option(USED),
    **dict.fromkeys(("temperature", "top_p"), Option(PASSED)),
    "top_k": Option(PASSED, "where `takes` names it"),
    "stop_sequences": Option(PASSED, "as `stop`"),
    "tools": Option(PASSED, "those with an `input_schema`; Anthropic's own tools do not translate"),
    "tool_choice": Option(PASSED, "`disable_parallel_tool_use` as `parallel_tool_calls`"),
    "thinking": Option(
        PASSED, "where `takes` names it, and to models with `protocol: anthropic`; else dropped, and named"
    ),
    "output_config": Option(PASSED, "`effort` as `reasoning_effort`, `format` as `response_format`"),
    "metadata": Option(
        TAKEN, "`user_id` is the unit, with `units: user`; `conversation` names the conversation"
    ),
    **dict.fromkeys(("cache_control", "context_management", "compaction", "diagnostics"), Option(DROPPED)),
    **dict.fromkeys(("user_profile_id", "workspace_id"), Option(DROPPED)),
    "service_tier": Option(TAKEN, "other tiers have other prices", ("auto", "standard_only")),
    "speed": Option(TAKEN, "another speed has another price", ("standard",)),
    **dict.fromkeys(
        ("container", "thread"),
        Option(REFUSED, "it needs stored state, and nothing is stored here: send all messages"),
    ),
    "mcp_servers": Option(REFUSED, "what a provider runs could cost more than is known before a call"),
    **dict.fromkeys(
        ("fallbacks", "fallback_credit_token", "billing_policy"),
        Option(REFUSED, "which model answers, and who pays, is said in the gateway's file"),
    ),
    "inference_geo": Option(REFUSED, "where a model runs is for its provider to say"),
}
"""What becomes of every option of Anthropic's messages."""

_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Messages(Exchange):
    """A request for a message."""

    path = "/v1/messages"
    options = OPTIONS

    def translated(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the request as a chat completion."""
        if body.get("max_tokens") is None:
            raise InputError("max_tokens is missing: say how many tokens the answer may have at most")
        messages = [{"role": "system", "content": body["system"]}] if body.get("system") else []
        messages += objects("messages", body.get("messages"))
        chat: dict[str, Any] = {
            **{
                name: body.get(name)
                for name in ("model", "max_tokens", "temperature", "top_p", "top_k", "thinking")
            },
            "messages": [made for message in messages for made in self._messages(message)],
            "stop": body.get("stop_sequences"),
            "stream": body.get("stream"),
            "stream_options": {"include_usage": True},
            **self._metadata(body.get("metadata") or {}),
            **self._output(body.get("output_config") or {}),
        }
        if chat["messages"] and chat["messages"][-1]["role"] == "assistant":
            raise InputError(
                "the last message is of the assistant: the beginning of an answer does not translate, end with one of "
                "the user"
            )
        if body.get("tools"):
            chat["tools"] = [self._tool(tool) for tool in objects("tools", body["tools"])]
        if body.get("tool_choice") is not None:
            chat |= self._tool_choice(body["tool_choice"])
        return chat

    def _metadata(self, metadata: Any) -> dict[str, Any]:
        if not isinstance(metadata, dict):
            raise InputError(f"metadata is an object, got {metadata!r:.60}")
        return {"user": metadata.get("user_id"), "metadata": metadata}

    def _output(self, config: Any) -> dict[str, Any]:
        """Return how an answer is to be as options of chat completions."""
        (config,) = objects("output_config", [config])
        self.rest(config, "effort", "format")
        options = {"reasoning_effort": config.get("effort")}
        if (form := config.get("format")) is not None:
            (form,) = objects("format", [form])
            if form.get("type") != "json_schema":
                raise InputError(f"a format is of type json_schema, got {form.get('type')!r:.40}")
            schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
            options["response_format"] = schema_format(schema)
        return options

    def _messages(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return a message as those of chat completions: each result of a tool is one of its own, before the rest."""
        role, content = message.get("role"), message.get("content")
        self.rest(message, "role", "content")
        if role not in ("user", "assistant", "system"):
            raise InputError(f"a message is of the user, the assistant or the system, got {role!r:.40}")
        if isinstance(content, str):
            return [{"role": role, "content": content}]
        blocks = objects("the content of a message", content)
        if role == "assistant":
            return [self._of_assistant(blocks)]
        results, parts = [], []
        for block in blocks:
            if block.get("type") == "tool_result":
                result, images = self._result(block)
                results.append(result)
                parts += images
            else:
                parts.append(self._part(block))
        return [*results, *([{"role": role, "content": merged(parts)}] if parts else [])]

    def _of_assistant(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        """Return an earlier answer."""
        parts, calls, thinking = [], [], []
        for block in blocks:
            if block.get("type") in ("thinking", "redacted_thinking"):
                thinking.append(block)
            elif block.get("type") == "tool_use":
                self.rest(block, "type", "id", "name", "input")
                function = {"name": text(block, "name"), "arguments": json.dumps(block.get("input") or {})}
                calls.append({"id": text(block, "id"), "type": "function", "function": function})
            else:
                parts.append(self._part(block))
        message: dict[str, Any] = {"role": "assistant", "content": merged(parts) if parts else None}
        return message | ({"tool_calls": calls} if calls else {}) | ({THINKING: thinking} if thinking else {})

    def _result(self, block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return what a tool returned, and the images in it, which chat completions take from the user alone."""
        self.rest(block, "type", "tool_use_id", "content")
        content = block.get("content") or ""
        texts, images = content, []
        if not isinstance(content, str):
            parts = [self._part(part) for part in objects("the content of a tool_result", content)]
            texts = merged(
                [part for part in parts if part["type"] == "text"] or [{"type": "text", "text": ""}]
            )
            images = [part for part in parts if part["type"] != "text"]
        return {"role": "tool", "tool_call_id": text(block, "tool_use_id"), "content": texts}, images

    def _part(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """Return a text or an image. Raises InputError for what has no known price, or does not translate."""
        kind = block.get("type")
        if kind == "text":
            self.rest(block, "type", "text")
            return {"type": "text", "text": text(block, "text")}
        if kind != "image":
            raise InputError(
                f"blocks of type {kind!r:.40} do not translate: send text, image, tool_use, tool_result or thinking"
            )
        self.rest(block, "type", "source")
        (source,) = objects("the source of an image", [block.get("source")])
        if source.get("type") == "base64":
            url = f"data:{text(source, 'media_type')};base64,{text(source, 'data')}"
        elif source.get("type") == "url":
            url = text(source, "url")
        else:
            raise InputError(f"an image comes as base64 or as url, got {source.get('type')!r:.40}")
        return {"type": "image_url", "image_url": {"url": url}}

    def _tool(self, tool: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tool. Raises InputError for one of Anthropic's own."""
        if tool.get("type") not in (None, "custom"):
            raise InputError(
                f"the tool {tool['type']!r:.60} does not translate: give it an input_schema, and run it yourself"
            )
        self.rest(tool, "type", "name", "description", "input_schema", "strict")
        function = {"name": text(tool, "name"), "parameters": tool.get("input_schema")}
        function |= {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
        return {"type": "function", "function": function}

    def _tool_choice(self, choice: Any) -> dict[str, Any]:
        """Return which tools may be called as options of chat completions."""
        (choice,) = objects("tool_choice", [choice])
        kinds = {"auto": "auto", "any": "required", "none": "none", "tool": None}
        if (kind := text(choice, "type")) not in kinds:
            raise InputError(f"tool_choice is of type {', '.join(kinds)}, got {kind!r:.40}")
        named = kinds[kind] or {"type": "function", "function": {"name": text(choice, "name")}}
        alone = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}
        return {"tool_choice": named, **alone}

    def answer(self, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a completion as a message."""
        choice = completion["choices"][0]
        message = choice["message"]
        blocks: list[dict[str, Any]] = []
        blocks += thinking_blocks(message)
        if said := message.get("content") or message.get("refusal"):
            blocks.append({"type": "text", "text": words(said)})
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            named = {"id": str(call.get("id") or ""), "name": str(function.get("name") or "")}
            blocks.append({"type": "tool_use", **named, "input": arguments_of(function)})
        return {
            **_head(completion),
            "content": blocks,
            **_stop(choice, refused=bool(message.get("refusal")), calls=bool(message.get("tool_calls"))),
            "usage": _usage(completion.get("usage")),
        }

    def begin(self) -> Writer:
        """Return what writes the events of a message."""
        return _Events()

    @classmethod
    def error(cls, status: int, why: str) -> Mapping[str, Any]:
        """Return an error as Anthropic's clients read it."""
        kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": why}}


class _Events(Writer):
    """Writes blocks one after the other. The number of tokens is known at the end alone."""

    def __init__(self) -> None:
        self._begun, self._n, self._open = False, 0, ""
        self._calls, self._blocks = Calls(), dict[int, int]()
        self._choice: dict[str, Any] = {}
        self._refused, self._usage = False, _usage(None)

    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[str]:
        if not self._begun:
            self._begun = True
            message = {**_head(chunk), "content": [], "stop_reason": None, "stop_sequence": None}
            yield named_event({"type": "message_start", "message": {**message, "usage": self._usage}})
        if chunk.get("usage"):
            self._usage = _usage(chunk["usage"])
        for choice in chunk.get("choices") or ():
            self._choice |= {
                name: choice[name] for name in ("finish_reason", "stop_reason") if choice.get(name)
            }
            delta = choice["delta"]
            if thinking := thinking_of(delta):
                block = {"type": "thinking", "thinking": "", "signature": ""}
                yield from self._part(block, {"type": "thinking_delta", "thinking": thinking})
            for thought in signed_blocks(delta):
                yield from self._signed(thought)
            self._refused = self._refused or bool(delta.get("refusal"))
            if said := delta.get("content") or delta.get("refusal"):
                block = {"type": "text", "text": ""}
                yield from self._part(block, {"type": "text_delta", "text": words(said)})
            for call in delta.get("tool_calls") or ():
                yield from self._call(call)

    def _part(self, block: Mapping[str, Any], delta: Mapping[str, Any]) -> Iterator[str]:
        """Yield a part of a text or of thinking, which begins a block unless that is open."""
        if self._open != block["type"]:
            yield from self._start(block)
        yield named_event({"type": "content_block_delta", "index": self._n - 1, "delta": delta})

    def _signed(self, block: Mapping[str, Any]) -> Iterator[str]:
        """Yield the signature of the thinking before it, or thinking that is not shown."""
        if block["type"] == "redacted_thinking":
            yield from self._start(block)
        elif self._open == "thinking":
            yield from self._part(block, {"type": "signature_delta", "signature": block["signature"]})

    def _start(self, block: Mapping[str, Any]) -> Iterator[str]:
        yield from self._stop()
        yield named_event({"type": "content_block_start", "index": self._n, "content_block": block})
        self._open, self._n = str(block["type"]), self._n + 1

    def _stop(self) -> Iterator[str]:
        if self._open:
            yield named_event({"type": "content_block_stop", "index": self._n - 1})
        self._open = ""

    def _call(self, delta: Mapping[str, Any]) -> Iterator[str]:
        """Yield a part of a call of a tool, which begins a block if it is the first one."""
        index, function = self._calls.index(delta), delta.get("function") or {}
        if index not in self._blocks:
            named = {"id": str(delta.get("id") or ""), "name": str(function.get("name") or "")}
            yield from self._start({"type": "tool_use", **named, "input": {}})
            self._blocks[index] = self._n - 1
        if function.get("arguments"):
            part = {"type": "input_json_delta", "partial_json": str(function["arguments"])}
            yield named_event({"type": "content_block_delta", "index": self._blocks[index], "delta": part})

    def end(self) -> Iterator[str]:
        yield from self._stop()
        stop = _stop(self._choice, refused=self._refused, calls=bool(self._blocks))
        yield named_event({"type": "message_delta", "delta": stop, "usage": self._usage})
        yield named_event({"type": "message_stop"})

    def cut_off(self) -> Iterator[str]:
        yield named_event(dict(Messages.error(502, CUT_OFF)))


def _head(completion: Mapping[str, Any]) -> dict[str, Any]:
    identity = "msg_" + str(completion.get("id") or "").removeprefix("msg_")
    return {"id": identity, "type": "message", "role": "assistant", "model": completion.get("model")}


def _stop(choice: Mapping[str, Any], *, refused: bool, calls: bool) -> dict[str, Any]:
    """Return why an answer ends. Some servers say in `stop_reason` which text ended it."""
    reason = _STOPS.get(choice.get("finish_reason") or "", "end_turn")
    ended_by = choice.get("stop_reason")
    if refused:
        reason = "refusal"
    elif calls and reason == "end_turn":  # so some servers say
        reason = "tool_use"
    elif reason == "end_turn" and isinstance(ended_by, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": ended_by}
    return {"stop_reason": reason, "stop_sequence": None}


def _usage(usage: Any) -> dict[str, Any]:
    tokens = counts(usage)
    return {
        "input_tokens": tokens.input - tokens.cached - tokens.written,
        "cache_creation_input_tokens": tokens.written,
        "cache_read_input_tokens": tokens.cached,
        "output_tokens": tokens.output,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning},
    }
