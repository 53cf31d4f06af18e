"""What is refused, dropped and remembered where a request comes in one protocol and is answered in another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from exeunt.errors import InputError
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import read_config
from exeunt.gateway.mock_provider import MockProvider, served
from exeunt.gateway.protocols import protocol_of
from exeunt.gateway.protocols.messages import Messages
from exeunt.gateway.protocols.responses import Responses

from .made_state import made_policy
from .running_gateway import PRICES, Running, answer, eventually, right_answer, running, written
from .scripted_provider import (
    FURTHER_COUNTS,
    N_INPUT,
    N_OUTPUT,
    Said,
    ScriptedProvider,
    dumped,
    message,
    message_events,
)
from .test_hostile import Raw, said, stream

PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses")
ALL = "price: {input: 10, output: 10}, max_tokens: 3000, retries: 0, tools: true, reasons: true, image_tokens: 100"
CLAUDE = f"{{claude: {{provider: claudes, {ALL}}}}}"


def anthropics(run: Running, key: str = "") -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=key or run.client, base_url=run.url, max_retries=0)


def openais(run: Running, key: str = "") -> openai.OpenAI:
    return openai.OpenAI(api_key=key or run.client, base_url=f"{run.url}/v1", max_retries=0)


def ask(run: Running, path: str, text: str = "easy 1", key: str = "", **more: Any) -> Any:
    """Ask with the client of a protocol; parts as a list of events."""
    asked = {"model": "auto", **more}
    said = [{"role": "user", "content": text}]
    if path == "/v1/messages":
        with anthropics(run, key) as client:
            answered = client.messages.create(**{"max_tokens": 50, "messages": said, **asked})
            return list(answered) if more.get("stream") else answered
    with openais(run, key) as client:
        if path == "/v1/responses":
            answered = client.responses.create(**{"input": text, **asked})
        else:
            answered = client.chat.completions.create(**{"messages": said, **asked})
        return list(answered) if more.get("stream") else answered


def error_in(path: str, body: Any) -> tuple[str, str]:
    """Return the type and the message of an error, which has just the form of its protocol."""
    error = body["error"]
    if path == "/v1/messages":
        assert (body.keys(), body["type"], error.keys()) == ({"type", "error"}, "error", {"type", "message"})
    else:
        assert (body.keys(), error.keys()) == ({"error"}, {"message", "type", "code"})
    return error["type"], error["message"]


@pytest.mark.parametrize("path", PATHS)
def test_errors_have_the_form_of_the_protocol_that_asked(tmp_path: Path, path: str) -> None:
    of = anthropic if path == "/v1/messages" else openai
    with running(tmp_path, shadow="", spend="{key: '0.004 usd'}", listen="{max_body: 1000}") as run:
        with pytest.raises(of.AuthenticationError, match="the API key is missing or not known"):
            ask(run, path, key="wrong")
        with pytest.raises(of.PermissionDeniedError, match="this key administers the gateway"):
            ask(run, path, key=run.admin)
        with pytest.raises(of.NotFoundError, match="there is no model 'other'"):
            ask(run, path, model="other")
        with pytest.raises(of.BadRequestError, match="'nonsense' could cost more") as wrong:
            ask(run, path, extra_body={"nonsense": 1})
        assert error_in(path, wrong.value.response.json())[0] == "invalid_request_error"
        with pytest.raises(of.APIStatusError, match="at most 1,000 bytes") as large:
            ask(run, path, text="x" * 2000)
        assert large.value.status_code == 413
        run.provider.fails = 1.0
        with pytest.raises(of.InternalServerError, match="no model answered: large: status 503") as down:
            ask(run, path)
        assert error_in(path, down.value.response.json())[0] == "api_error"
        run.provider.fails = 0.0
        while run.gateway.money.of(run.gateway.keys.named("alice")).available > 0.001:
            ask(run, path)
        with pytest.raises(of.APIStatusError, match="of what may be spent is left") as poor:
            ask(run, path)
        kind, _ = error_in(path, poor.value.response.json())
        assert (poor.value.status_code, kind) == (
            402,
            "billing_error" if of is anthropic else "invalid_request_error",
        )
        wrong_method = run.open.get(path, headers={"x-api-key": run.client})
        assert "GET is not taken" in error_in(path, wrong_method.json())[1]


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_that_is_cut_off_says_so_in_its_protocol(tmp_path: Path, path: str) -> None:
    with running(tmp_path, Raw(stream(said("begin"), {"choices": []})), shadow="") as run:
        if path == "/v1/responses":
            last = ask(run, path, stream=True)[-1]
            assert (last.type, last.response.error.message) == ("response.failed", "the answer was cut off")
        else:
            of = anthropic if path == "/v1/messages" else openai
            with pytest.raises(of.APIError, match="the answer was cut off"):
                ask(run, path, stream=True)


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_was_held_back_streams_in_each_protocol(run: Running, path: str) -> None:
    run.gateway.policies.add(made_policy())  # it asks small first, whose answer may be replaced
    events = ask(run, path, model="auto:p1", stream=True)
    assert "small" in str(events[0])
    whole = ask(run, path, model="auto:p1")
    for told in (str(whole), "".join(str(event) for event in events)):
        assert right_answer("easy 1") in told
    kinds = {"/v1/messages": "message_stop", "/v1/responses": "response.completed"}
    assert path not in kinds or events[-1].type == kinds[path]


def asked(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


REFUSED: list[tuple[type[Any], dict[str, Any], str]] = [
    (Messages, {"messages": asked({"type": "document", "source": {}})}, "type 'document' do not"),
    (Messages, {"messages": asked({"type": "image", "source": {"type": "file", "file_id": "f"}})},
     "as base64 or as url, got 'file'"),
    (Messages, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
     "beginning of an answer"),
    (Messages, {"messages": [{"role": "tool", "content": "a"}]}, "got 'tool'"),
    (Messages, {"messages": asked({"type": "text"})}, "text of 'text' is a text, got None"),
    (Messages, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
     "'web_search_20250305' does not translate"),
    (Messages, {"tool_choice": {"type": "some"}}, "tool_choice is of type auto, any, none, tool, got 'some'"),
    (Messages, {"container": "c"}, "'container' is refused: it needs stored state"),
    (Messages, {"speed": "fast"}, 'speed may be "standard" alone'),
    (Messages, {"max_tokens": None}, "max_tokens is missing"),
    (Messages, {"max_tokens": 0}, "at least 1, got 0"),
    (Messages, {"input": "x"}, "'input' could cost more"),
    (Responses, {"previous_response_id": "r"}, "send the whole conversation as input"),
    (Responses, {"input": [{"type": "item_reference", "id": "i"}]},
     "type 'item_reference' do not translate: it needs stored"),
    (Responses, {"input": asked({"type": "input_file", "file_id": "f"})}, "'input_file' do not"),
    (Responses, {"input": asked({"type": "input_image", "file_id": "f"})}, "'input_image' do not"),
    (Responses, {"tools": [{"type": "web_search"}]}, "'web_search' do not translate: their provider runs them"),
    (Responses, {"tool_choice": {"type": "mcp"}}, "'mcp' does not translate"),
    (Responses, {"background": True}, "background may be false alone"),
    (Responses, {"max_tokens": 5}, "'max_tokens' could cost more"),
    (Responses, {"messages": []}, "'messages' could cost more"),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "more", "why"), REFUSED)
def test_what_does_not_translate_is_named(protocol: type[Any], more: dict[str, Any], why: str) -> None:
    asked = (
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
        if protocol is Messages
        else {"input": "x"}
    )
    with pytest.raises(InputError, match=why):
        protocol({"model": "auto", **asked, **more})


def test_what_changes_no_answer_is_dropped_and_named(standing: Running) -> None:
    def dropped(path: str, **body: Any) -> str | None:
        headers = {"authorization": f"Bearer {standing.client}"}
        told = standing.open.post(path, headers=headers, json={"model": "large", **body})
        assert told.status_code == 200, told.text
        return told.headers.get("x-exeunt-dropped")

    text = {"type": "text", "text": "easy 1", "cache_control": {"type": "ephemeral"}, "citations": None}
    said = [{"role": "user", "content": [text]}]
    asked = {"messages": said, "max_tokens": 5}
    assert dropped("/v1/messages", **asked) == "cache_control"
    more = {"thinking": {"type": "adaptive"}, "context_management": {}, "diagnostics": None}
    assert dropped("/v1/messages", **asked, **more) == "context_management, cache_control, thinking"
    include = ["reasoning.encrypted_content", "message.output_text.logprobs"]
    reasoning = {"summary": "auto", "effort": None}
    assert (
        dropped("/v1/responses", input="x", include=include, reasoning=reasoning)
        == "summary, reasoning.encrypted_content"
    )
    assert dropped("/v1/responses", input="x", store=True) is None
    assert dropped("/v1/chat/completions", messages=said) is None


def test_log_probabilities_come_in_responses(tmp_path: Path) -> None:
    with running(tmp_path, shadow="") as run:
        for more, wanted in (
            ({}, 0),
            ({"include": ["message.output_text.logprobs"]}, 1),
            ({"top_logprobs": 1}, 1),
        ):
            whole = ask(run, "/v1/responses", model="small", **more).output[0].content[0]
            assert len(whole.logprobs) == wanted
            events = ask(run, "/v1/responses", model="small", stream=True, **more)
            assert dumped(events[-1].response.output[0].content[0]) == dumped(whole)


def test_a_conversation_goes_on_in_each_protocol(tmp_path: Path) -> None:
    """Its answers come back as clients repeat them: calls with arguments as objects, thinking, several items."""
    provider: Any = ScriptedProvider()
    with served(provider.app) as url:
        providers = (
            f"{{mock: {{base_url: '{url}/v1'}}, claudes: {{base_url: '{url}/v1', protocol: anthropic}}}}"
        )
        models = f"{{large: {{provider: mock, {ALL}}}, claude: {{provider: claudes, {ALL}}}}}"
        for reference in ("large", "claude"):
            (folder := tmp_path / reference).mkdir()
            more = {"providers": providers, "models": models, "reference": reference, "shadow": ""}
            with running(folder, provider, **more) as run:
                for path in PATHS:
                    turns(run, path)
                eventually(lambda run=run: run.gateway.records.count() == 9)
                units = [(record.unit, record.row) for record in run.gateway.records.read()]
            assert [row for _, row in units] == [0, 1, 2] * 3
            assert len({unit for unit, _ in units}) == 3


def turns(run: Running, path: str) -> None:
    """Hold a conversation of three requests, as agents do."""
    scripts = ("thinks_and_calls", "calls", "text")
    conversation: list[Any] = [{"role": "user", "content": f"{path}: {scripts[0]}"}]
    for after in (*scripts[1:], ""):
        if path == "/v1/messages":
            told = ask(run, path, messages=conversation)
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": "Lima"}
                for block in told.content
                if block.type == "tool_use"
            ]
            content = [*results, {"type": "text", "text": after or "bye"}]
            conversation += [{"role": "assistant", "content": told.model_dump(exclude_none=True)["content"]}]
            conversation += [{"role": "user", "content": content}]
        elif path == "/v1/responses":
            told = ask(run, path, input=conversation)
            conversation += told.model_dump(exclude_none=True)["output"]
            conversation += [
                {"type": "function_call_output", "call_id": item.call_id, "output": "Lima"}
                for item in told.output
                if item.type == "function_call"
            ]
            conversation += [{"role": "user", "content": after}]
        else:
            said = ask(run, path, messages=conversation).choices[0].message
            conversation += [
                {"role": "assistant", "content": said.content, "tool_calls": dumped(said).get("tool_calls")}
            ]
            conversation += [
                {"role": "tool", "tool_call_id": call.id, "content": "Lima"} for call in said.tool_calls or ()
            ]
            conversation += [{"role": "user", "content": after}]
        for turn in conversation:
            if isinstance(turn, dict) and turn.get("tool_calls", 0) is None:
                del turn["tool_calls"]


def test_tokens_are_counted_as_in_earlier_requests(run: Running) -> None:
    asked: Any = {"model": "large", "messages": [{"role": "user", "content": "easy " * 50}]}
    with anthropics(run) as client:
        for _ in range(40):
            used = client.messages.create(max_tokens=50, **asked).usage.input_tokens
        counted = client.messages.count_tokens(**asked).input_tokens
        assert counted == pytest.approx(used, rel=0.1)
        assert client.messages.count_tokens(**{**asked, "model": "auto"}).input_tokens == counted
        with pytest.raises(anthropic.NotFoundError, match="there is no model 'other'"):
            client.messages.count_tokens(**{**asked, "model": "other"})
        image: Any = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
        with pytest.raises(anthropic.BadRequestError, match="'pdf' do not translate"):
            client.messages.count_tokens(
                model="auto", messages=[{"role": "user", "content": [image, {"type": "pdf"}]}]
            )


def test_the_models_of_the_gateway_are_listed_for_both_clients(standing: Running) -> None:
    with anthropics(standing) as theirs, openais(standing) as ours:
        assert [model.id for model in theirs.models.list()] == [model.id for model in ours.models.list()]


# -- models behind Anthropic's protocol -----------------------------------------------------------------------------


class Claude(MockProvider):
    """Answers with a message, which it builds of blocks; `body`: of the latest request."""

    def __init__(self, said: Said, *, status: int = 200) -> None:
        super().__init__(answer, PRICES)
        self.said, self.status = said, status
        self.app.routes.append(Route("/v1/messages", self._messages, methods=["POST"]))

    async def _messages(self, request: Request) -> Response:
        self.received.append({"body": json.loads(await request.body()), "headers": dict(request.headers)})
        whole = dumped(message(self.said))
        for block in whole["content"]:
            if block["type"] == "thinking":
                block["signature"] = "signed"
        hidden = {"type": "redacted_thinking", "data": "hidden"}
        if not self.received[-1]["body"].get("stream"):
            return JSONResponse({**whole, "content": [hidden, *whole["content"]]}, self.status)
        events = [dumped(event) for event in message_events(self.said)]
        place = next(k for k, event in enumerate(events) if event["type"] == "content_block_stop")
        signature = {"type": "signature_delta", "signature": "signed"}
        events.insert(place, {"type": "content_block_delta", "index": 0, "delta": signature})
        text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        return Response(text, self.status, media_type="text/event-stream")


@pytest.fixture
def claude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return what runs a gateway before a model of Anthropic's protocol."""
    monkeypatch.setenv("CLAUDE_KEY", "the key of the provider")
    provider = Claude(Said("Yes.", thinking="Let me think."))
    with served(provider.app) as url:
        claudes = f"{{base_url: '{url}/v1', protocol: anthropic, key: CLAUDE_KEY}}"
        providers = f"{{claudes: {claudes}, mock: {{base_url: '{url}/v1'}}}}"
        small = "small: {provider: mock, price: {input: 1, output: 1}}"
        models = f"{{{small}, {CLAUDE[1:]}"
        more = {
            "providers": providers,
            "models": models,
            "reference": "claude",
            "fallback": "[small]",
            "shadow": "",
        }
        with running(tmp_path, provider, **more) as run:
            yield run


def test_thinking_goes_back_to_the_model_that_signed_it(claude: Running) -> None:
    signed = {"type": "thinking", "thinking": "Let me think.", "signature": "signed"}
    hidden = {"type": "redacted_thinking", "data": "hidden"}
    told = ask(claude, "/v1/messages", thinking={"type": "enabled", "budget_tokens": 2000}, max_tokens=2500)
    blocks = [dumped(block) for block in told.content]
    assert blocks == [hidden, signed, {"type": "text", "text": "Yes."}]
    first = claude.provider.received[-1]
    assert first["body"]["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert (first["headers"]["x-api-key"], first["headers"]["anthropic-version"]) == (
        "the key of the provider",
        "2023-06-01",
    )
    said = [
        {"role": "user", "content": "easy 1"},
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": "a"},
    ]
    ask(claude, "/v1/messages", messages=said)
    assert claude.provider.received[-1]["body"]["messages"][1]["content"] == blocks
    ask(claude, "/v1/messages", messages=said, model="small")
    assert "thinking_blocks" not in json.dumps(claude.provider.received[-1]["body"])
    unsigned = {**signed, "signature": ""}
    ask(
        claude,
        "/v1/messages",
        messages=[said[0], {"role": "assistant", "content": [unsigned, blocks[2]]}, said[2]],
    )
    assert claude.provider.received[-1]["body"]["messages"][1]["content"] == [blocks[2]]
    with anthropics(claude) as client, client.messages.stream(
        model="claude", max_tokens=50, messages=said[:1]
    ) as parts:  # fmt: skip
        streamed = [block.model_dump(exclude_none=True) for block in parts.get_final_message().content]
    assert streamed == [signed, {"type": "text", "text": "Yes."}]


@pytest.mark.parametrize(("limit", "budget"), [(2500, 2499), (1025, 1024), (1024, None), (500, None)])
def test_a_budget_of_thinking_is_less_than_the_limit(claude: Running, limit: int, budget: int | None) -> None:
    ask(claude, "/v1/messages", thinking={"type": "enabled", "budget_tokens": 9000}, max_tokens=limit)
    thinking = claude.provider.received[-1]["body"].get("thinking")
    assert (thinking and thinking["budget_tokens"]) == budget


def costs(run: Running) -> list[float]:
    """Return what a request costs in each protocol."""
    key = {"authorization": f"Bearer {run.client}"}
    said = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 50}
    bodies = [{"model": "claude", **({"input": "x"} if path == "/v1/responses" else said)} for path in PATHS]
    told = [run.open.post(path, headers=key, json=body) for path, body in zip(PATHS, bodies, strict=True)]
    return [float(each.headers["x-exeunt-cost"]) for each in told]


def test_what_was_cached_is_billed_although_it_is_not_among_the_input_tokens(claude: Running) -> None:
    assert costs(claude) == pytest.approx([(N_INPUT + N_OUTPUT) * 10 / 1e6] * len(PATHS))


NOT_BILLED = {
    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 0},
    "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
    "service_tier": "standard",
}


def test_what_a_message_counts_beside_tokens_has_no_price_and_costs_the_most(
    claude: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in NOT_BILLED.items():
        monkeypatch.setitem(FURTHER_COUNTS, name, count)
    usual = [(N_INPUT + N_OUTPUT) * 10 / 1e6] * len(PATHS)
    assert costs(claude) == pytest.approx(usual)
    monkeypatch.setitem(
        FURTHER_COUNTS, "server_tool_use", {"web_search_requests": 2, "web_fetch_requests": 0}
    )
    assert min(costs(claude)) > 2 * usual[0]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"seed": 1}, "claude takes no seed"),
        ({"logprobs": True}, "claude takes no logprobs"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "claude takes no tools of type custom"),
        (
            {"response_format": {"type": "json_object"}},
            "claude takes no response_format of type 'json_object'",
        ),
        ({"top_k": 5}, "claude takes no top_k"),
    ],
)
def test_what_its_protocol_does_not_have_is_asked_of_others(claude: Running, options: Any, why: str) -> None:
    passed = {"extra_body": options}
    with pytest.raises(openai.BadRequestError, match=why):
        ask(claude, "/v1/chat/completions", model="claude", **passed)
    if "tools" not in options and "top_k" not in options:
        assert ask(claude, "/v1/chat/completions", **passed).model == "small"


@pytest.mark.parametrize("streams", [False, True])
def test_the_fallback_answers_where_it_is_overloaded(claude: Running, *, streams: bool) -> None:
    claude.provider.status = 529
    told = claude.ask("easy 1", stream=streams)
    assert (told.status_code, told.headers["x-exeunt-model"]) == (200, "small")


def test_calls_whose_parts_have_no_number_are_told_apart() -> None:
    """Some providers count nothing, and begin each call with its id."""

    def call(arguments: str, **more: Any) -> dict[str, Any]:
        delta = {"tool_calls": [{"function": {"name": more.get("id"), "arguments": arguments}, **more}]}
        return {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}

    chunks = [call("{", id="a"), call("}"), call('{"b":', id="b"), call(" 1}")]
    for protocol, asked in (
        (Messages, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}),
        (Responses, {"input": "x"}),
    ):
        writer = protocol({"model": "auto", **asked}).begin()
        text = "".join(event for chunk in chunks for event in writer.chunk(chunk)) + "".join(writer.end())
        events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]
        parts: dict[Any, str] = {}
        for event in events:
            place = event.get("index", event.get("output_index"))
            part = event.get("delta", "")
            if isinstance(part, dict):
                part = part.get("partial_json", "")
            parts[place] = parts.get(place, "") + part
        assert [parts[0], parts[1]] == ["{}", '{"b": 1}']


def test_a_request_is_read_alike_in_each_protocol() -> None:
    """So that what is the same request counts as one, whoever asks it."""
    asked = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5},
        "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5},
        "/v1/responses": {"input": "x", "max_output_tokens": 5},
    }
    chats = [protocol_of(path)({"model": "auto", **body}).chat for path, body in asked.items()]
    assert len({chat.content for chat in chats}) == 1
    assert ChatRequest.of({"model": "auto", **asked[PATHS[0]]}) == chats[0]


@pytest.mark.parametrize(
    ("providers", "models", "why"),
    [
        ("protocol: grpc", "", "protocol is openai or anthropic, got 'grpc'"),
        ("protocol: anthropic", ", logprobs: true", "logprobs: Anthropic's protocol gives none"),
    ],
)
def test_a_file_that_names_another_protocol(tmp_path: Path, providers: str, models: str, why: str) -> None:
    more = {
        "providers": f"{{mock: {{base_url: 'http://127.0.0.1:1/v1', {providers}}}}}",
        "models": f"{{large: {{provider: mock, price: {{input: 1, output: 1}}{models}}}}}",
    }
    with pytest.raises(InputError, match=why):
        read_config(written(tmp_path, shadow="", **more))
