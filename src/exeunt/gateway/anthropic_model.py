"""Models behind Anthropic's protocol: they are asked what a chat completion asks, and answer as one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from exeunt.errors import InputError
from exeunt.gateway.chat_model import ChatModel, Reader
from exeunt.gateway.chat_request import THINKING, ChatRequest, arguments_of
from exeunt.live.http_model import key_named
from exeunt.live.live_model import FailedAttempt

_VERSION = "2023-06-01"
_TEMPLATE_TOKENS = 1024
"""What the endpoint adds of its own where there are tools."""
_LEAST_BUDGET = 1024
_NONE_OF = (
    "seed",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "verbosity",
)
"""Options of chat completions that Anthropic's protocol does not have."""
_USAGE = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_PARTS_OF_USAGE = ("cache_creation", "output_tokens_details")
_GOES_ON = {"finish_reason": None}
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class AnthropicModel(ChatModel):
    """A model behind Anthropic's protocol. Options: see `ChatModel`."""

    _path = "/messages"

    def __init__(
        self, model: str, *, logprobs: bool = False, template_tokens: int = _TEMPLATE_TOKENS, **options: Any
    ):
        if logprobs:
            raise InputError("logprobs: Anthropic's protocol gives none, leave it out")
        takes = tuple({*options.pop("takes", ()), "thinking"})
        super().__init__(model, template_tokens=template_tokens, takes=takes, **options)

    def refusal(self, request: ChatRequest) -> str:
        """Return why this model does not take a request, "" if it does."""
        options = request.options
        if missing := [name for name in _NONE_OF if options.get(name)]:
            return f"takes no {missing[0]}"
        if any(tool.get("type") != "function" for tool in options.get("tools") or ()):
            return "takes no tools of type custom"
        choice = options.get("tool_choice")
        if isinstance(choice, dict) and choice.get("type") != "function":
            return f"takes no tool_choice of type {choice.get('type')!r:.40}"
        form = options.get("response_format")
        if isinstance(form, dict) and form.get("type") not in ("text", "json_schema"):
            return f"takes no response_format of type {form.get('type')!r:.40}"
        return super().refusal(request)

    def _headers_with(self, key: str | None) -> dict[str, str]:
        own = {} if key is None else {"x-api-key": key_named(key)}
        return {"content-type": "application/json", "anthropic-version": _VERSION, **own}

    def _body(self, request: ChatRequest, *, stream: bool = False) -> dict[str, Any]:
        limit, options = self.limit(request), request.options
        system, messages = _conversation(request.messages)
        passed = {name: options[name] for name in ("temperature", "top_p", "top_k") if name in options}
        stop = options.get("stop")
        body = {
            "model": self.model, "max_tokens": limit, "messages": messages, **passed, **_tools(options),
            "system": system, "stream": stream,
            "stop_sequences": [stop] if isinstance(stop, str) else stop,
            "output_config": _output(options),
            "thinking": _thinking(options, limit),
        }  # fmt: skip
        return {name: part for name, part in body.items() if part}

    def _understood(self, data: Any) -> dict[str, Any]:
        """Return a message as a completion. Raises AttributeError, KeyError, TypeError or ValueError if it is none."""
        text = "".join(block["text"] for block in data["content"] if block["type"] == "text")
        answer: dict[str, Any] = {"role": "assistant", "content": text or None}
        calls = [
            _call(block, json.dumps(block["input"]))
            for block in data["content"]
            if block["type"] == "tool_use"
        ]
        answer |= {"tool_calls": calls} if calls else {}
        if thinking := [
            block for block in data["content"] if block["type"] in ("thinking", "redacted_thinking")
        ]:
            answer["reasoning_content"] = "".join(block.get("thinking") or "" for block in thinking)
            answer[THINKING] = thinking
        choice = {"index": 0, "message": answer, **_end(data)}
        return {
            **_head(data),
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(data.get("usage")),
        }

    def _reader(self) -> Reader:
        return MessageReader()


class MessageReader(Reader):
    """Reads the events of a message as chunks of a completion."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._calls: dict[int, int] = {}

    def chunks(self, event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the chunks of an event. Raises FailedAttempt for an error that ends the stream."""
        kind = event.get("type")
        if kind == "error":  # its words stay here
            raise FailedAttempt("its answer was cut off", again=True)
        if kind == "message_start":
            message = event["message"]
            self._head, self._usage = _head(message), dict(message.get("usage") or {})
            yield self._chunk(role="assistant", content="")
        elif kind == "content_block_start":
            yield from self._begin(event["index"], event["content_block"])
        elif kind == "content_block_delta":
            yield from self._delta(event["index"], event["delta"])
        elif kind == "message_delta":
            self._usage |= {
                name: count for name, count in (event.get("usage") or {}).items() if count is not None
            }
            if event["delta"].get("stop_reason"):
                yield self._chunk(_end(event["delta"]))
        elif kind == "message_stop":
            yield {
                **self._head,
                "object": "chat.completion.chunk",
                "choices": [],
                "usage": _usage(self._usage),
            }

    def _chunk(self, end: Mapping[str, Any] = _GOES_ON, /, **delta: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, **end}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _begin(self, index: int, block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if block["type"] == "tool_use":
            self._calls[index] = len(self._calls)
            yield self._chunk(tool_calls=[{"index": self._calls[index], **_call(block, "")}])
        elif block["type"] == "redacted_thinking":
            thought: dict[str, Any] = {THINKING: [block]}
            yield self._chunk(**thought)
        elif text := block.get("text") or block.get("thinking"):
            said: dict[str, Any] = {"content" if block["type"] == "text" else "reasoning_content": text}
            yield self._chunk(**said)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if delta["type"] == "text_delta":
            yield self._chunk(content=delta["text"])
        elif delta["type"] == "thinking_delta":
            yield self._chunk(reasoning_content=delta["thinking"])
        elif delta["type"] == "signature_delta":
            thought: dict[str, Any] = {THINKING: [{"type": "thinking", "signature": delta["signature"]}]}
            yield self._chunk(**thought)
        elif delta["type"] == "input_json_delta":
            function = {"arguments": delta["partial_json"]}
            yield self._chunk(tool_calls=[{"index": self._calls[index], "function": function}])


def _conversation(
    messages: tuple[Mapping[str, Any], ...],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the system prompt as blocks, and messages. What one role says in a row is one message."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role, blocks = message["role"], _blocks(message)
        role = {"developer": "system", "tool": "user"}.get(role, role)
        if role == "system" and not turns:
            system += blocks
        elif turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return system, turns


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a message holds. Empty texts, which the protocol does not take, are left out."""
    content = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    blocks = [block for part in parts if (block := _block(part))]
    if message["role"] == "tool":
        return [{"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": blocks}]
    if message["role"] != "assistant":
        return blocks
    # What others than Anthropic's models thought has no signature, and is not taken.
    thinking = message.get(THINKING)
    signed = [
        block
        for block in (thinking if isinstance(thinking, list) else ())
        if isinstance(block, dict) and (block.get("signature") or block.get("data"))
    ]
    calls = message.get("tool_calls")
    return [*signed, *blocks, *map(_tool_use, calls if isinstance(calls, list) else ())]


def _block(part: Mapping[str, Any]) -> dict[str, Any] | None:
    if part["type"] == "image_url":
        url = str(_object(part.get("image_url")).get("url"))
        if match := _DATA.fullmatch(url):
            return {"type": "image", "source": {"type": "base64", "media_type": match[1], "data": match[2]}}
        return {"type": "image", "source": {"type": "url", "url": url}}
    text = part.get("text") or part.get("refusal")
    return {"type": "text", "text": text} if text else None


def _tool_use(call: Any) -> dict[str, Any]:
    function = _object(_object(call).get("function"))
    about = {"id": _object(call).get("id"), "name": function.get("name")}
    return {"type": "tool_use", **about, "input": arguments_of(function)}


def _object(part: Any) -> dict[str, Any]:
    """Return an object; an empty one for anything else, which the provider then refuses."""
    return part if isinstance(part, dict) else {}


def _tools(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tools and which of them may be called."""
    if not options.get("tools"):
        return {}
    tools = []
    for tool in options["tools"]:
        function = _object(tool.get("function"))
        schema = {"input_schema": function.get("parameters") or {"type": "object", "properties": {}}}
        tools.append(
            {name: function[name] for name in ("name", "description", "strict") if function.get(name)}
            | schema
        )
    choice, alone = options.get("tool_choice"), options.get("parallel_tool_calls") is False
    if choice is None and not alone:
        return {"tools": tools}
    if isinstance(choice, dict):
        chosen = {"type": "tool", "name": _object(choice.get("function")).get("name")}
    else:
        chosen = {"type": {"required": "any"}.get(str(choice), str(choice or "auto"))}
    if alone and chosen["type"] != "none":
        chosen["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": chosen}


def _output(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the answer is to be."""
    form, effort = options.get("response_format"), options.get("reasoning_effort")
    config: dict[str, Any] = (
        {} if effort in (None, "none") else {"effort": "low" if effort == "minimal" else effort}
    )
    if isinstance(form, dict) and form.get("type") == "json_schema":
        config["format"] = {"type": "json_schema", "schema": _object(form.get("json_schema")).get("schema")}
    return config


def _thinking(options: Mapping[str, Any], limit: int) -> Mapping[str, Any] | None:
    """Return how a model is to think: its budget is less than the limit of an answer, or it does not think."""
    thinking = options.get("thinking")
    if not isinstance(thinking, dict):
        return {"type": "disabled"} if options.get("reasoning_effort") == "none" else None
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < limit:
        return thinking
    return {**thinking, "budget_tokens": limit - 1} if limit > _LEAST_BUDGET else None


def _call(block: Mapping[str, Any], arguments: str) -> dict[str, Any]:
    return {
        "id": block["id"],
        "type": "function",
        "function": {"name": block["name"], "arguments": arguments},
    }


def _head(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": message.get("id"), "created": int(time.time()), "model": message.get("model")}


def _end(ended: Mapping[str, Any]) -> dict[str, Any]:
    """Return why an answer ends; in `stop_reason`, as some servers do, which text ended it."""
    finish = {"finish_reason": _FINISHES.get(ended["stop_reason"], "stop")}
    return finish | ({"stop_reason": ended["stop_sequence"]} if ended.get("stop_sequence") else {})


def _usage(usage: Any) -> dict[str, Any] | None:
    """Return the usage of a message as that of a completion, whose input includes what was cached. What else it counts
    keeps its name.
    """
    if not usage:
        return None
    read, written = (usage.get(f"cache_{kind}_input_tokens") or 0 for kind in ("read", "creation"))
    n_input, n_output = usage.get("input_tokens", -1), usage.get("output_tokens", -1)
    if any(type(count) is not int or count < 0 for count in (read, written, n_input, n_output)):
        return {"prompt_tokens": -1, "completion_tokens": -1}
    details = usage.get("output_tokens_details") or {}
    total = n_input + read + written
    return {
        **{name: count for name, count in usage.items() if name not in (*_USAGE, *_PARTS_OF_USAGE)},
        "prompt_tokens": total,
        "completion_tokens": n_output,
        "total_tokens": total + n_output,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "completion_tokens_details": {
            {"thinking_tokens": "reasoning_tokens"}.get(name, name): count for name, count in details.items()
        },
    }
