"""What becomes of each option is what the table of the documentation says, by the real clients."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from exeunt.errors import InputError
from exeunt.gateway.config import read_config
from exeunt.gateway.mock_provider import MockProvider
from exeunt.gateway.options import CAPPED, CHAT_OPTIONS, PASSED, REFUSED, TAKEN, TAKES, USED, options_table
from exeunt.gateway.protocols import messages, responses

from .running_gateway import TOOL, Running, answer, models, running, written

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "gateway.md"
TABLES = {"chat completions": CHAT_OPTIONS, "messages": messages.OPTIONS, "responses": responses.OPTIONS}
GIVEN: dict[str, Any] = {
    "temperature": 0.5, "top_p": 0.5, "seed": 1, "stop": ["x"], "presence_penalty": 0.1, "frequency_penalty": 0.1,
    "logit_bias": {"5": 1}, "response_format": {"type": "json_object"}, "verbosity": "low", "logprobs": True,
    "top_logprobs": 2, "reasoning_effort": "low", "tools": [TOOL], "tool_choice": "auto",
    "parallel_tool_calls": False, "user": "u", "metadata": {"a": "b"}, "store": True, "safety_identifier": "s",
    "prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "implicit"}, "n": 1,
    "modalities": ["text"], "service_tier": "auto", "audio": {"voice": "alloy", "format": "wav"},
    "web_search_options": {}, "moderation": {"model": "m"}, "prediction": {"type": "content", "content": "x"},
    "functions": [{"name": "f"}], "function_call": "auto", "max_tokens": 5_000, "max_completion_tokens": 4_000,
    "thinking": {"type": "disabled"},
}  # fmt: skip
"""An argument of each option; of those that only some servers take, 1."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    names = ", ".join(name for name, option in CHAT_OPTIONS.items() if option.outcome == TAKES)
    two = models(plain="10, tools: true, reasons: true", vllm=f"10, takes: [{names}]")
    provider = MockProvider(answer, {"plain": (10.0, 10.0), "vllm": (10.0, 10.0)})
    with running(
        tmp_path_factory.mktemp("options"), provider, models=two, reference="plain", shadow=""
    ) as one:
        yield one


@pytest.fixture(scope="module")
def client(run: Running) -> Any:
    with openai.OpenAI(api_key=run.client, base_url=f"{run.url}/v1", max_retries=0) as one:
        yield one


@pytest.mark.parametrize("title", TABLES)
def test_the_table_of_the_page_is_the_one_of_the_code(title: str) -> None:
    _, _, after = PAGE.read_text().partition(f"Options of {title}:\n\n")
    assert after.partition("\n\n")[0].strip() == options_table(TABLES[title])


def test_each_option_that_the_clients_have_is_in_a_table() -> None:
    def options(function: Any) -> set[str]:
        names = set(inspect.signature(function).parameters)
        return names - {"self", "extra_headers", "extra_query", "extra_body", "timeout", "betas"}

    ours, theirs = openai.OpenAI(api_key="x"), anthropic.Anthropic(api_key="x")
    with ours, theirs:
        assert options(ours.chat.completions.create) <= CHAT_OPTIONS.keys()
        assert options(ours.responses.create) <= responses.OPTIONS.keys()
        assert (
            options(theirs.messages.create) | options(theirs.beta.messages.create) <= messages.OPTIONS.keys()
        )


def ask(client: openai.OpenAI, model: str, name: str, argument: Any, **more: Any) -> Any:
    own = inspect.signature(client.chat.completions.create).parameters
    passed = {name: argument} if name in own else {"extra_body": {name: argument}}
    said: Any = [{"role": "user", "content": "easy 1"}]
    return client.chat.completions.with_raw_response.create(model=model, messages=said, **passed, **more)


def sent(run: Running) -> Any:
    return run.provider.received[-1]["body"]


@pytest.mark.parametrize(
    "name", [name for name in CHAT_OPTIONS if name not in ("model", "messages", "stream", "stream_options")]
)
def test_what_becomes_of_an_option(run: Running, client: openai.OpenAI, name: str) -> None:
    option, argument = CHAT_OPTIONS[name], GIVEN.get(name, 1)
    if option.outcome == REFUSED:
        before = len(run.provider.received)
        with pytest.raises(openai.BadRequestError, match=f"'{name}' is refused: "):
            ask(client, "plain", name, argument)
        assert len(run.provider.received) == before
        return
    more = {"tools": [TOOL]} if name in ("tool_choice", "parallel_tool_calls") else {}
    if option.outcome == TAKES:
        assert ask(client, "vllm", name, argument).http_response.status_code == 200
        assert sent(run)[name] == argument
        if name == "thinking":
            assert ask(client, "plain", name, argument).headers["x-exeunt-dropped"] == name
            assert name not in sent(run)
        else:
            with pytest.raises(openai.BadRequestError, match=f"plain takes no {name}: ask another model"):
                ask(client, "plain", name, argument)
        return
    answered = ask(client, "plain", name, argument, **more)
    if option.outcome == PASSED:
        assert sent(run)[name] == argument
    elif option.outcome == CAPPED:
        assert sent(run)["max_completion_tokens"] == 100
        assert answered.headers["x-exeunt-max-tokens"] == "100"
    else:
        assert option.outcome == (USED if name == "prompt_cache_key" else TAKEN)
        assert name not in sent(run)
    assert ("x-exeunt-max-tokens" in answered.headers) == (option.outcome == CAPPED)


@pytest.mark.parametrize(
    ("name", "argument"), [("n", 2), ("service_tier", "priority"), ("modalities", ["audio"])]
)
def test_what_an_option_may_not_be(client: openai.OpenAI, name: str, argument: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{name} may be .* alone here, got"):
        ask(client, "plain", name, argument)


def test_an_answer_in_parts_says_that_its_limit_was_capped(run: Running) -> None:
    for limit, said in ((100, None), (101, "100")):
        told = run.ask("easy 1", stream=True, max_tokens=limit)
        assert told.headers.get("x-exeunt-max-tokens") == said


def test_a_model_takes_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=re.escape("model 'small': takes names 'n', and there are bad_words, chat")
    ):
        read_config(written(tmp_path, models=models(small="1, takes: [n]"), reference="small", shadow=""))
