"""A provider that speaks three protocols by itself: it checks what it is asked, and builds what it answers, with the
types of the packages `openai` and `anthropic`.

What it answers depends on all that it understood of the request, in words that the three protocols share: whoever
translates a request wrongly gets another answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import anthropic.types as at
import openai.types.chat as ct
import openai.types.responses as rt
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as MessageParams
from openai.types.chat import chat_completion_chunk as chunk_types
from openai.types.chat.chat_completion import Choice
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_usage import CompletionTokensDetails, CompletionUsage, PromptTokensDetails
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as ResponseParams
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails, ResponseUsage
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

CHAT, MESSAGES, RESPONSES = ChatParams, MessageParams, ResponseParams
N_INPUT, CACHED, N_OUTPUT, THOUGHT = 50, 20, 30, 10
FURTHER_COUNTS: dict[str, Any] = {}
"""What a message's usage counts beside tokens; a test may change it for its time."""
CALL = {"q": "Lima", "n": [1, 2.5, None, "é"]}


@dataclass
class Said:
    """What a model says."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    finish: str = "stop"
    ended_by: str | None = None


def script(name: str, digest: str) -> Said:
    """Return what is said where a request asks for a script."""
    one, two = ("call_1", "find", json.dumps(CALL)), ("call_2", "find", "{}")
    return {
        "text": Said(f"I understood {digest}"),
        "thinks": Said(f"I understood {digest}", thinking="Let me think about it. Done."),
        "call": Said(calls=[(one[0], one[1], json.dumps({"digest": digest}))], finish="tool_calls"),
        "calls": Said(f"Calling {digest}", calls=[one, two], finish="tool_calls"),
        "thinks_and_calls": Said(thinking=f"Perhaps {digest}", calls=[one], finish="tool_calls"),
        "refuses": Said(refusal=f"I will not {digest}"),
        "is_long": Said(f"And so on {digest}", finish="length"),
        "is_filtered": Said(f"It is {digest}", finish="content_filter"),
        "is_stopped": Said(f"It is {digest}", ended_by="END"),
        "says_nothing": Said(finish="length"),
    }[name]


SCRIPTS = (
    "text", "thinks", "call", "calls", "thinks_and_calls", "refuses", "is_long", "is_filtered", "is_stopped",
    "says_nothing",
)  # fmt: skip


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def consumed(checked: Any) -> Any:
    """Check what pydantic checks only when it is read."""
    if isinstance(checked, Mapping):
        return {name: consumed(part) for name, part in checked.items()}
    return (
        checked
        if isinstance(checked, str | bytes) or not hasattr(checked, "__iter__")
        else list(map(consumed, checked))
    )


class ScriptedProvider:
    """`received`: bodies by path."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        routes = {"chat/completions": self._chat, "messages": self._messages, "responses": self._responses}
        self.app = Starlette(
            routes=[Route(f"/v1/{path}", route, methods=["POST"]) for path, route in routes.items()]
        )

    async def _body(self, request: Request, kind: Any) -> Any:
        body = json.loads(await request.body())
        assert not body.keys() - kind.__required_keys__ - kind.__optional_keys__ - {"temperature", "top_p"}
        consumed(
            _adapter(kind).validate_python({name: part for name, part in body.items() if name != "stream"})
        )
        self.received.append(body)
        return body

    async def _chat(self, request: Request) -> Response:
        body = await self._body(request, CHAT)
        said = said_to(*chat_conversation(body))
        return _answered(body, chat_answer(said), chat_chunks(said), named=False)

    async def _messages(self, request: Request) -> Response:
        body = await self._body(request, MESSAGES)
        said = said_to(*messages_conversation(body))
        return _answered(body, message(said), message_events(said), named=True)

    async def _responses(self, request: Request) -> Response:
        body = await self._body(request, RESPONSES)
        said = said_to(*responses_conversation(body))
        return _answered(body, response(said, body), response_events(said, body), named=True)


def _answered(body: Mapping[str, Any], answer: Any, events: Iterator[Any], *, named: bool) -> Response:
    if not body.get("stream"):
        return JSONResponse(dumped(answer))
    texts = [
        f"event: {event.type}\ndata: {json.dumps(dumped(event))}\n\n"
        if named
        else f"data: {json.dumps(dumped(event))}\n\n"
        for event in events
    ]
    return StreamingResponse(
        iter(texts if named else [*texts, "data: [DONE]\n\n"]), media_type="text/event-stream"
    )


def dumped(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True)


# -- what requests say, in words that the protocols share: parts of the conversation, and options ------------------


def said_to(parts: list[Any], options: Mapping[str, Any]) -> Said:
    digest = hashlib.sha256(json.dumps([parts, options], sort_keys=True).encode()).hexdigest()[:12]
    texts = [part[2] for part in parts if part[0] == "user" and part[1] == "text"]
    name = texts[-1].split()[-1]
    return script(name if name in SCRIPTS else "text", digest)


def chat_conversation(body: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    parts: list[Any] = []
    for sent in body["messages"]:
        role, content = sent["role"], sent.get("content")
        assert not sent.keys() - {"role", "content", "tool_calls", "tool_call_id"}
        if role == "tool":
            texts = content if isinstance(content, str) else "".join(part["text"] for part in content)
            parts.append(("result", sent["tool_call_id"], texts))
            continue
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            if part["type"] == "image_url":
                parts.append((role, "image", part["image_url"]["url"]))
            else:
                parts.append((role, "text", part["text"]))
        for call in sent.get("tool_calls") or ():
            function = call["function"]
            parts += [("call", call["id"], function["name"], json.loads(function["arguments"]))]
    choice, form = body.get("tool_choice"), body.get("response_format")
    tools = [tool["function"] for tool in body.get("tools") or ()]
    return parts, {
        "temperature": body.get("temperature"), "top_p": body.get("top_p"), "stop": body.get("stop"),
        "effort": body.get("reasoning_effort"), "parallel": body.get("parallel_tool_calls"),
        "schema": form and form["json_schema"]["schema"],
        "tools": [[tool["name"], tool.get("description"), tool["parameters"]] for tool in tools],
        "choice": choice["function"]["name"] if isinstance(choice, dict) else choice and f"<{choice}>",
    }  # fmt: skip


def messages_conversation(body: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    parts: list[Any] = []
    system = body.get("system") or []
    sent = [{"role": "system", "content": system}, *body["messages"]]
    for turn in sent:
        role, content = turn["role"], turn["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        results = [block for block in blocks if block["type"] == "tool_result"]
        images: list[Any] = []
        for block in results:
            inner = block.get("content", "")
            inner = [{"type": "text", "text": inner}] if isinstance(inner, str) else inner
            texts = "".join(part["text"] for part in inner if part["type"] == "text")
            parts.append(("result", block["tool_use_id"], texts))
            images += [part for part in inner if part["type"] == "image"]
        calls = [
            ("call", block["id"], block["name"], block["input"])
            for block in blocks
            if block["type"] == "tool_use"
        ]
        for block in [*images, *blocks]:
            if block["type"] == "text":
                parts.append((role, "text", block["text"]))
            elif block["type"] == "image":
                source = block["source"]
                data = source.get("url") or f"data:{source['media_type']};base64,{source['data']}"
                parts.append((role, "image", data))
        parts += calls
    choice, config = body.get("tool_choice") or {}, body.get("output_config") or {}
    words = {"auto": "<auto>", "any": "<required>", "none": "<none>", "tool": choice.get("name"), None: None}
    return parts, {
        "temperature": body.get("temperature"), "top_p": body.get("top_p"), "stop": body.get("stop_sequences"),
        "effort": config.get("effort"), "parallel": False if choice.get("disable_parallel_tool_use") else None,
        "schema": config.get("format", {}).get("schema"),
        "tools": [[tool["name"], tool.get("description"), tool["input_schema"]] for tool in body.get("tools") or ()],
        "choice": words[choice.get("type")],
    }  # fmt: skip


def responses_conversation(body: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    parts: list[Any] = [("system", "text", body["instructions"])] if body.get("instructions") else []
    sent = body["input"]
    images: list[Any] = []
    for item in [{"role": "user", "content": sent}] if isinstance(sent, str) else sent:
        kind, content = item.get("type", "message"), item.get("content", item.get("output"))
        if kind != "function_call_output":
            parts, images = [*parts, *images], []
        inner = [{"type": "input_text", "text": content}] if isinstance(content, str) else content or []
        if kind == "message":
            for part in inner:
                is_image = part["type"] == "input_image"
                data = part["image_url"] if is_image else part["text"]
                parts.append((item["role"], "image" if is_image else "text", data))
        elif kind == "function_call":
            parts.append(("call", item["call_id"], item["name"], json.loads(item["arguments"])))
        elif kind == "function_call_output":
            texts = "".join(part["text"] for part in inner if part["type"] == "input_text")
            parts.append(("result", item["call_id"], texts))
            images += [
                ("user", "image", part["image_url"]) for part in inner if part["type"] == "input_image"
            ]
    choice, form = body.get("tool_choice"), body.get("text", {}).get("format")
    return parts + images, {
        "temperature": body.get("temperature"), "top_p": body.get("top_p"), "stop": None,
        "effort": body.get("reasoning", {}).get("effort"), "parallel": body.get("parallel_tool_calls"),
        "schema": form and form["schema"],
        "tools": [[tool["name"], tool.get("description"), tool["parameters"]] for tool in body.get("tools") or ()],
        "choice": choice["name"] if isinstance(choice, dict) else choice and f"<{choice}>",
    }  # fmt: skip


# -- answers --------------------------------------------------------------------------------------------------------


def pieces(text: str) -> list[str]:
    return [text[start : start + 7] for start in range(0, len(text), 7)]


def chat_usage() -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=N_INPUT, completion_tokens=N_OUTPUT, total_tokens=N_INPUT + N_OUTPUT,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=CACHED, cache_write_tokens=0),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=THOUGHT),
    )  # fmt: skip


def chat_answer(said: Said) -> ct.ChatCompletion:
    calls = [
        {"id": identity, "type": "function", "function": {"name": name, "arguments": written}}
        for identity, name, written in said.calls
    ]
    more: dict[str, Any] = {"reasoning_content": said.thinking} if said.thinking else {}
    more |= {"tool_calls": calls} if calls else {}
    answer = ct.ChatCompletionMessage(
        role="assistant", content=said.text or None, refusal=said.refusal or None, **more
    )
    ended: dict[str, Any] = {"stop_reason": said.ended_by} if said.ended_by else {}
    choice = Choice(index=0, message=answer, finish_reason=said.finish, **ended)
    return ct.ChatCompletion(
        id="1", object="chat.completion", created=1, model="m", choices=[choice], usage=chat_usage()
    )


def chat_chunks(said: Said) -> Iterator[ct.ChatCompletionChunk]:
    def chunk(finish: str | None = None, **delta: Any) -> ct.ChatCompletionChunk:
        ended: dict[str, Any] = {"stop_reason": said.ended_by} if finish and said.ended_by else {}
        choice = chunk_types.Choice(
            index=0, delta=chunk_types.ChoiceDelta(**delta), finish_reason=finish, **ended
        )
        about: dict[str, Any] = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return ct.ChatCompletionChunk(**about, choices=[choice])

    yield chunk(role="assistant", content="")
    for name, text in (
        ("reasoning_content", said.thinking),
        ("content", said.text),
        ("refusal", said.refusal),
    ):
        for piece in pieces(text):
            yield chunk(**{name: piece})
    for index, (identity, name, written) in enumerate(said.calls):
        function = {"name": name, "arguments": ""}
        yield chunk(tool_calls=[{"index": index, "id": identity, "type": "function", "function": function}])
        for piece in pieces(written):
            yield chunk(tool_calls=[{"index": index, "function": {"arguments": piece}}])
    yield chunk(said.finish)
    usage = chat_usage()
    about: dict[str, Any] = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    yield ct.ChatCompletionChunk(**about, choices=[], usage=usage)


def message_usage() -> dict[str, Any]:
    return {
        "input_tokens": N_INPUT - CACHED, "cache_read_input_tokens": CACHED, "cache_creation_input_tokens": 0,
        "output_tokens": N_OUTPUT, "output_tokens_details": {"thinking_tokens": THOUGHT},
        **FURTHER_COUNTS,
    }  # fmt: skip


def message_blocks(said: Said) -> list[Any]:
    blocks: list[Any] = []
    if said.thinking:
        blocks.append(at.ThinkingBlock(type="thinking", thinking=said.thinking, signature=""))
    if text := said.text or said.refusal:
        blocks.append(at.TextBlock(type="text", text=text))
    for identity, name, written in said.calls:
        blocks.append(at.ToolUseBlock(type="tool_use", id=identity, name=name, input=json.loads(written)))
    return blocks


def message_end(said: Said) -> dict[str, Any]:
    if said.ended_by:
        return {"stop_reason": "stop_sequence", "stop_sequence": said.ended_by}
    reasons = {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "content_filter": "refusal",
    }
    return {"stop_reason": "refusal" if said.refusal else reasons[said.finish], "stop_sequence": None}


def message(said: Said) -> at.Message:
    return at.Message(
        id="1", type="message", role="assistant", model="m", content=message_blocks(said),
        usage=at.Usage(**message_usage()), **message_end(said),
    )  # fmt: skip


def message_events(said: Said) -> Iterator[Any]:
    begun = at.Message(
        id="1", type="message", role="assistant", model="m", content=[], usage=at.Usage(**message_usage())
    )
    yield at.RawMessageStartEvent(type="message_start", message=begun)
    for index, block in enumerate(message_blocks(said)):
        if block.type == "tool_use":
            empty, deltas = block.model_copy(update={"input": {}}), []
            written = next(call[2] for call in said.calls if call[0] == block.id)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(written)]
        else:
            empty = block.model_copy(update={block.type: ""})
            kind = f"{block.type}_delta"
            deltas = [{"type": kind, block.type: piece} for piece in pieces(getattr(block, block.type))]
        yield at.RawContentBlockStartEvent(type="content_block_start", index=index, content_block=empty)
        for delta in deltas:
            yield at.RawContentBlockDeltaEvent(type="content_block_delta", index=index, delta=delta)
        yield at.RawContentBlockStopEvent(type="content_block_stop", index=index)
    usage = at.MessageDeltaUsage(**message_usage())
    yield at.RawMessageDeltaEvent(type="message_delta", delta=message_end(said), usage=usage)
    yield at.RawMessageStopEvent(type="message_stop")


def response_items(said: Said, status: str) -> list[Any]:
    items: list[Any] = []
    if said.thinking:
        content: Any = [{"type": "reasoning_text", "text": said.thinking}]
        items.append(
            rt.ResponseReasoningItem(
                id="r", type="reasoning", summary=[], content=content, status="completed"
            )
        )
    if said.text or said.refusal:
        part: Any = rt.ResponseOutputRefusal(type="refusal", refusal=said.refusal)
        if said.text:
            part = rt.ResponseOutputText(type="output_text", text=said.text, annotations=[], logprobs=[])
        items.append(
            rt.ResponseOutputMessage(
                id="m", type="message", role="assistant", status="completed", content=[part]
            )
        )
    for identity, name, written in said.calls:
        items.append(
            rt.ResponseFunctionToolCall(
                id=identity,
                type="function_call",
                call_id=identity,
                name=name,
                arguments=written,
                status="completed",
            )
        )
    if items:
        items[-1].status = status
    return items


def response(said: Said, body: Mapping[str, Any], **more: Any) -> rt.Response:
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    reason = reasons.get(said.finish)
    status = "incomplete" if reason else "completed"
    echoed = ("instructions", "max_output_tokens", "temperature", "top_p", "metadata", "user", "top_logprobs")
    fields: dict[str, Any] = {
        "id": "1", "object": "response", "created_at": 1, "model": "m", "status": status, "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": [dumped(item) for item in response_items(said, status)],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "tool_choice": body.get("tool_choice", "auto"), "tools": body.get("tools", []),
        "text": body.get("text", {"format": {"type": "text"}}), "reasoning": body.get("reasoning", {}),
        "truncation": "disabled", "background": False, "previous_response_id": None, "store": False,
        "usage": ResponseUsage(
            input_tokens=N_INPUT, input_tokens_details=InputTokensDetails(cached_tokens=CACHED, cache_write_tokens=0),
            output_tokens=N_OUTPUT, output_tokens_details=OutputTokensDetails(reasoning_tokens=THOUGHT),
            total_tokens=N_INPUT + N_OUTPUT,
        ),
        **{name: body.get(name) for name in echoed}, "metadata": body.get("metadata", {}), **more,
    }  # fmt: skip
    return rt.Response(**fields)


def response_events(said: Said, body: Mapping[str, Any]) -> Iterator[Any]:
    number = iter(range(10_000))
    begun = response(said, body, status="in_progress", output=[], usage=None, incomplete_details=None)
    final = response(said, body)
    for kind, cls in (("created", rt.ResponseCreatedEvent), ("in_progress", rt.ResponseInProgressEvent)):
        yield cls(type=f"response.{kind}", sequence_number=next(number), response=begun)
    calls = []
    for index, item in enumerate(final.output):
        place: dict[str, Any] = {"item_id": item.id, "output_index": index}
        if item.type == "function_call":
            calls.append((place, item))
            empty = item.model_copy(update={"arguments": "", "status": "in_progress"})
        else:
            empty = item.model_copy(update={"content": [], "status": "in_progress"})
        yield rt.ResponseOutputItemAddedEvent(
            type="response.output_item.added", output_index=index, item=empty, sequence_number=next(number)
        )
        if item.type == "function_call":
            for piece in pieces(item.arguments):
                yield rt.ResponseFunctionCallArgumentsDeltaEvent(
                    type="response.function_call_arguments.delta",
                    delta=piece,
                    sequence_number=next(number),
                    **place,
                )
            continue
        yield from _text_events(item, {**place, "content_index": 0}, number)
        yield rt.ResponseOutputItemDoneEvent(
            type="response.output_item.done", output_index=index, item=item, sequence_number=next(number)
        )
    for place, item in calls:
        yield rt.ResponseFunctionCallArgumentsDoneEvent(
            type="response.function_call_arguments.done", arguments=item.arguments, sequence_number=next(number),
            **place,
        )  # fmt: skip
        yield rt.ResponseOutputItemDoneEvent(
            type="response.output_item.done", output_index=place["output_index"], item=item,
            sequence_number=next(number),
        )  # fmt: skip
    cls = rt.ResponseIncompleteEvent if final.status == "incomplete" else rt.ResponseCompletedEvent
    yield cls(type=f"response.{final.status}", sequence_number=next(number), response=final)


def _text_events(item: Any, place: dict[str, Any], number: Iterator[int]) -> Iterator[Any]:
    (part,) = item.content
    name = "refusal" if part.type == "refusal" else "text"
    about = {"logprobs": []} if part.type == "output_text" else {}
    kinds: dict[str, tuple[Any, Any]] = {
        "output_text": (rt.ResponseTextDeltaEvent, rt.ResponseTextDoneEvent),
        "refusal": (rt.ResponseRefusalDeltaEvent, rt.ResponseRefusalDoneEvent),
        "reasoning_text": (rt.ResponseReasoningTextDeltaEvent, rt.ResponseReasoningTextDoneEvent),
    }
    delta, done = kinds[part.type]
    yield rt.ResponseContentPartAddedEvent(
        type="response.content_part.added",
        part={**dumped(part), name: ""},
        sequence_number=next(number),
        **place,
    )
    said = getattr(part, name)
    for piece in pieces(said):
        yield delta(
            type=f"response.{part.type}.delta", delta=piece, sequence_number=next(number), **place, **about
        )
    yield done(
        type=f"response.{part.type}.done", sequence_number=next(number), **{name: said}, **place, **about
    )
    yield rt.ResponseContentPartDoneEvent(
        type="response.content_part.done", part=dumped(part), sequence_number=next(number), **place
    )
