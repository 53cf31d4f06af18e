"""Forms of requests in three protocols: through the gateway and directly to a provider, the answer is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import anthropic
import openai
import pytest

from exeunt.gateway.mock_provider import served

from .running_gateway import Running, running
from .scripted_provider import CALL, SCRIPTS, ScriptedProvider

PNG = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
ALL = "price: {input: 10, output: 10}, max_tokens: 100, retries: 0, tools: true, reasons: true, image_tokens: 1000"
MODELS = f"{{large: {{provider: mock, {ALL}}}, claude: {{provider: claudes, {ALL}}}}}"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    """Return a gateway before a provider, and the address of the provider."""
    provider: Any = ScriptedProvider()
    with (
        served(provider.app) as direct,
        running(
            tmp_path_factory.mktemp("both"),
            provider,
            shadow="",
            models=MODELS,
            providers=(
                f"{{mock: {{base_url: '{direct}/v1'}}, claudes: {{base_url: '{direct}/v1', protocol: anthropic}}}}"
            ),
        ) as run,
    ):
        yield run, direct


# -- Anthropic's messages -------------------------------------------------------------------------------------------

TOOL = {"name": "find", "description": "Find it", "input_schema": SCHEMA}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
AT_URL = {"type": "image", "source": {"type": "url", "url": "http://example.com/x.png"}}


def block(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def round_of(result: Any, *after: Any, thinks: bool = False) -> list[dict[str, Any]]:
    """Return a conversation in which a tool was called."""
    thought = [{"type": "thinking", "thinking": "I need it.", "signature": "abc"}] * thinks
    call = {"type": "tool_use", "id": "t1", "name": "find", "input": CALL}
    called = {"role": "assistant", "content": [*thought, block("Let me look."), call]}
    returned = {"type": "tool_result", "tool_use_id": "t1", "content": result}
    return [user("Find it."), called, user([returned, *after])]


def messages_forms(script: str) -> dict[str, dict[str, Any]]:
    """Return requests for messages that ask for a script."""
    ask = user(f"Please: {script}")
    two = [{"type": "tool_use", "id": f"t{k}", "name": "find", "input": {}} for k in (1, 2)]
    results = [{"type": "tool_result", "tool_use_id": f"t{k}", "content": str(k)} for k in (1, 2)]
    cached = {"cache_control": {"type": "ephemeral"}}
    return {
        "text": {"messages": [ask]},
        "system": {"messages": [ask], "system": "Be short.",
                   "extra_body": {"temperature": 0.5, "top_p": 0.9}},
        "systems": {"messages": [ask], "system": [block("Be short.", **cached), block("Be kind.")]},
        "parts": {"messages": [user([block("One."), block(f"Two: {script}", **cached)])], "stop_sequences": ["END"]},
        "images": {"messages": [user([IMAGE, AT_URL, block(script)])]},
        "turns": {"messages": [user("Hi."), {"role": "assistant", "content": "Hello."}, ask]},
        "instructed": {"messages": [user("Hi."), {"role": "assistant", "content": [block("Hello.")]},
                                    {"role": "system", "content": "Now be kind."}, ask]},
        "tool": {"messages": [ask], "tools": [{**TOOL, **cached}], "tool_choice": {"type": "auto"}},
        "tools": {"messages": [ask], "tools": [TOOL, {**TOOL, "name": "other", "type": "custom"}],
                  "tool_choice": {"type": "tool", "name": "other", "disable_parallel_tool_use": True}},
        "any": {"messages": [ask], "tools": [TOOL], "tool_choice": {"type": "any"}},
        "none": {"messages": [ask], "tools": [TOOL], "tool_choice": {"type": "none"}},
        "result": {"messages": round_of("Lima", block(script)), "tools": [TOOL]},
        "result_in_parts": {"messages": round_of([block("Li"), block("ma")], block(script)), "tools": [TOOL]},
        "result_with_image": {"messages": round_of([block("See:"), IMAGE], block(script)), "tools": [TOOL]},
        "thought": {"messages": round_of("Lima", block(script), thinks=True), "tools": [TOOL],
                    "thinking": {"type": "enabled", "budget_tokens": 1024}},
        "results": {"messages": [user("Find both."), {"role": "assistant", "content": two},
                                 user([*results, block(script)])], "tools": [TOOL]},
        "effort": {"messages": [ask], "output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}},
        "schema": {"messages": [ask],
                   "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
                   "metadata": {"user_id": "u"}},
    }  # fmt: skip


# -- OpenAI's responses ---------------------------------------------------------------------------------------------

FUNCTION = {
    "type": "function",
    "name": "find",
    "description": "Find it",
    "parameters": SCHEMA,
    "strict": True,
}
INPUT_IMAGE = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"}


def inputs(*texts: Any) -> list[dict[str, Any]]:
    return [{"type": "input_text", "text": part} if isinstance(part, str) else part for part in texts]


def round_of_items(output: Any, *after: Any, thinks: bool = False) -> list[dict[str, Any]]:
    """Return a conversation in which a tool was called."""
    thought = {
        "type": "reasoning",
        "id": "r",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
    }
    text = {"type": "output_text", "text": "Let me look.", "annotations": []}
    said = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
    call = {
        "type": "function_call",
        "id": "f",
        "call_id": "t1",
        "name": "find",
        "arguments": json.dumps(CALL),
    }
    returned = {"type": "function_call_output", "call_id": "t1", "output": output}
    return [user("Find it."), *[thought] * thinks, said, call, returned, *after]


def responses_forms(script: str) -> dict[str, dict[str, Any]]:
    """Return requests for responses that ask for a script."""
    ask = user(f"Please: {script}")
    two = [{"type": "function_call", "call_id": f"t{k}", "name": "find", "arguments": "{}"} for k in (1, 2)]
    results = [{"type": "function_call_output", "call_id": f"t{k}", "output": str(k)} for k in (1, 2)]
    return {
        "text": {"input": f"Please: {script}"},
        "item": {"input": [ask], "temperature": 0.5, "top_p": 0.9, "user": "u", "metadata": {"a": "b"}},
        "instructions": {"input": [ask], "instructions": "Be short.", "store": True, "prompt_cache_key": "k"},
        "parts": {"input": [{"type": "message", **user(inputs("One.", f"Two: {script}"))}]},
        "images": {"input": [user(inputs(INPUT_IMAGE, script))]},
        "turns": {"input": [user("Hi."), {"role": "assistant", "content": "Hello."}, ask]},
        "instructed": {"input": [{"role": "system", "content": "Be kind."}, ask]},
        "tool": {"input": [ask], "tools": [FUNCTION], "tool_choice": "auto"},
        "tools": {"input": [ask], "tools": [FUNCTION, {**FUNCTION, "name": "other"}], "parallel_tool_calls": False,
                  "tool_choice": {"type": "function", "name": "other"}},
        "any": {"input": [ask], "tools": [FUNCTION], "tool_choice": "required"},
        "none": {"input": [ask], "tools": [FUNCTION], "tool_choice": "none"},
        "result": {"input": round_of_items("Lima", ask), "tools": [FUNCTION]},
        "result_in_parts": {"input": round_of_items(inputs("Li", "ma"), ask), "tools": [FUNCTION]},
        "result_with_image": {"input": round_of_items(inputs("See:", INPUT_IMAGE), ask), "tools": [FUNCTION]},
        "thought": {"input": round_of_items("Lima", ask, thinks=True), "tools": [FUNCTION],
                    "include": ["reasoning.encrypted_content"]},
        "results": {"input": [user("Find both."), *two, *results, ask], "tools": [FUNCTION]},
        "effort": {"input": [ask], "reasoning": {"effort": "low"}},
        "schema": {"input": [ask], "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}},
    }  # fmt: skip


# -- chat completions -----------------------------------------------------------------------------------------------


def chat_forms(script: str) -> dict[str, dict[str, Any]]:
    """Return chat completions that ask for a script."""
    function = {"name": "find", "description": "Find it", "parameters": SCHEMA}
    tools = [{"type": "function", "function": function}]
    call = {"id": "t1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    ask = user(f"Please: {script}")
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    return {
        "text": {"messages": [ask], "temperature": 0.5, "stop": ["END"]},
        "image": {"messages": [user([image, block(script)])], "response_format": schema},
        "tools": {"messages": [ask], "tools": tools, "tool_choice": "required", "parallel_tool_calls": False},
        "result": {"messages": [ask, called, {"role": "tool", "tool_call_id": "t1", "content": "Lima"}, ask],
                   "tools": tools, "reasoning_effort": "low"},
    }  # fmt: skip


def forms(protocol: str, n: int) -> list[tuple[str, str, bool]]:
    """Return forms, each with n scripts, as a whole and in parts."""
    names = {"messages": messages_forms, "responses": responses_forms, "chat": chat_forms}[protocol]("")
    return [
        (form, SCRIPTS[(k + j) % len(SCRIPTS)], streams)
        for k, form in enumerate(names)
        for j, streams in product(range(n), (False, True))
    ]


def same(answer: Any) -> Any:
    """Return an answer without what each answer has for itself; calls of tools keep their names."""
    if isinstance(answer, dict):
        keeps_id = answer.get("type") in ("tool_use", "function")
        own = {"created", "created_at", "model", "thinking_blocks"} | (set() if keeps_id else {"id"})
        return {name: same(part) for name, part in answer.items() if name not in own}
    return [same(part) for part in answer] if isinstance(answer, list) else answer


@pytest.mark.parametrize("model", ["large", "claude"])
@pytest.mark.parametrize("protocol", ["messages", "responses", "chat"])
@pytest.mark.parametrize("n", [1, pytest.param(len(SCRIPTS), marks=pytest.mark.slow)])
def test_the_answer_is_that_of_the_provider(
    both: tuple[Running, str], protocol: str, model: str, n: int
) -> None:
    run, direct = both
    with (
        anthropic.Anthropic(api_key=run.client, base_url=run.url, max_retries=0) as a1,
        anthropic.Anthropic(api_key="x", base_url=direct, max_retries=0) as a2,
        openai.OpenAI(api_key=run.client, base_url=f"{run.url}/v1", max_retries=0) as o1,
        openai.OpenAI(api_key="x", base_url=f"{direct}/v1", max_retries=0) as o2,
    ):
        clients = {"messages": (a1, a2), "responses": (o1, o2), "chat": (o1, o2)}
        ask = {"messages": ask_message, "responses": ask_response, "chat": ask_chat}[protocol]
        table = {"messages": messages_forms, "responses": responses_forms, "chat": chat_forms}[protocol]
        for form, script, streams in forms(protocol, n):
            if (model, script) == ("claude", "refuses") and protocol != "messages":
                continue  # a refusal has no field of its own there
            request = {"model": model, **table(script)[form]}
            through, directly = (ask(client, request, streams) for client in clients[protocol])
            assert same(through) == same(directly), (form, script, streams)


def ask_message(client: anthropic.Anthropic, request: Any, streams: bool) -> Any:
    request = {"max_tokens": 100, **request}
    if not streams:
        return client.messages.create(**request).model_dump()
    with client.messages.stream(**request) as stream:
        kinds = [event.type for event in stream]
        return {"kinds": once_each(kinds), **stream.get_final_message().model_dump()}


def ask_response(client: openai.OpenAI, request: Any, streams: bool) -> Any:
    if not streams:
        return client.responses.create(**request).model_dump()
    with client.responses.stream(**request) as stream:
        events = list(stream)
    numbers = [event.sequence_number for event in events]
    assert numbers == list(range(len(numbers)))
    last = events[-1].response.model_dump()
    if events[-1].type == "response.completed":
        assert stream.get_final_response().model_dump() == last
    return {"kinds": once_each([event.type for event in events]), **last}


def ask_chat(client: openai.OpenAI, request: Any, streams: bool) -> Any:
    if not streams:
        return client.chat.completions.create(**request).model_dump()
    options = {"stream_options": {"include_usage": True}, **request}
    with client.chat.completions.stream(**options) as stream:
        for _ in stream:
            pass
        try:
            return stream.get_final_completion().model_dump()
        except (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError) as error:
            return getattr(error, "completion", None) and error.completion.model_dump()


def once_each(kinds: list[str]) -> list[str]:
    """Return kinds of events without those that repeat the one before."""
    return [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before]
