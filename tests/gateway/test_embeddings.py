"""Embeddings are passed through and paid by the ledger, as the real client of OpenAI asks for them."""

from __future__ import annotations

import base64
import inspect
import json
import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from exeunt.cli.app import run as exeunt
from exeunt.errors import InputError
from exeunt.gateway.config import _OF_AN_EMBEDDING, read_config
from exeunt.gateway.embedding_request import EMBEDDING_OPTIONS, EmbeddingRequest
from exeunt.gateway.mock_provider import MockProvider
from exeunt.gateway.options import PASSED, TAKEN, USED, options_table

from .running_gateway import (
    PRICES,
    Running,
    answer,
    config_text,
    error_of,
    free_port,
    models,
    running,
    written,
)

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "gateway.md"
PRICE, SIZE = 1000.0, 5
EMBEDDINGS = "{embed: {provider: mock, model: theirs, price: {input: 1000}, retries: 0}}"
"""A dollar for a thousand tokens: enough for limits to be told apart."""


def numbers(text: Any, size: int) -> list[float]:
    """Return the embedding of a text, or of tokens, whose numbers single precision holds."""
    rng = np.random.default_rng(list(str(text).encode()))
    return [float(number) for number in rng.normal(size=size).astype(np.float32)]


def texts_of(asked: Any) -> list[Any]:
    return [asked] if isinstance(asked, str) or isinstance(asked[0], int) else list(asked)


class Embedder(MockProvider):
    """Also embeds, at a token for each character of a text. `change`: of what it answers; a status instead of it."""

    def __init__(self) -> None:
        super().__init__(answer, {**PRICES, "theirs": (PRICE, 0.0)})
        self.app.router.routes.append(Route("/v1/embeddings", self._embeddings, methods=["POST"]))
        self.change: Any = lambda body: body

    async def _embeddings(self, request: Request) -> Response:
        asked = json.loads(await request.body())
        self.received.append({"body": asked, "headers": dict(request.headers)})
        texts = texts_of(asked["input"])
        made = [numbers(text, asked.get("dimensions") or SIZE) for text in texts]
        data = [
            {"object": "embedding", "index": k, "embedding": coded(one, asked.get("encoding_format"))}
            for k, one in enumerate(made)
        ]
        n = sum(map(len, texts))
        self.calls["theirs"] += 1
        usage = {"prompt_tokens": n, "total_tokens": n}
        body = self.change({"object": "list", "data": data, "model": "theirs-1", "usage": usage})
        if isinstance(body, int):
            return JSONResponse({"error": {"message": "no", "code": "why"}}, body)
        if "usage" in body:
            self.spent += PRICE * n / 1e6
        return Response(json.dumps(body), media_type="application/json")


def coded(embedding: list[float], form: str | None) -> Any:
    if form != "base64":
        return embedding
    return base64.b64encode(np.array(embedding, "<f4").tobytes()).decode()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("embeddings")
    with running(folder, Embedder(), embeddings=EMBEDDINGS, spend="{key: '1000 usd'}") as one:
        yield one


@pytest.fixture
def run(shared: Running) -> Running:
    shared.provider.change = lambda body: body  # type: ignore[attr-defined]
    return shared


@pytest.fixture(scope="module")
def client(shared: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=shared.client, base_url=f"{shared.url}/v1", max_retries=0) as one:
        yield one


def embed(run: Running, asked: Any, **options: Any) -> httpx.Response:
    with run.http() as http:
        return http.post("/v1/embeddings", json={"model": "embed", "input": asked, **options})


# -- what is passed through ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked", ["Lima", ["Lima", "Quito", "Lima"], [5, 6, 7], [[5], [6, 7, 8]], "é\u200b" * 3]
)
@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
@pytest.mark.parametrize("dimensions", [{}, {"dimensions": 3}])
def test_the_client_of_openai_gets_what_the_provider_says(
    run: Running, client: openai.OpenAI, asked: Any, options: Any, dimensions: Any
) -> None:
    got = client.embeddings.create(model="embed", input=asked, **options, **dimensions)
    wanted = [numbers(text, dimensions.get("dimensions", SIZE)) for text in texts_of(asked)]
    said = [
        list(np.frombuffer(base64.b64decode(one.embedding), "<f4"))  # type: ignore[arg-type]
        if isinstance(one.embedding, str)
        else one.embedding
        for one in got.data
    ]
    assert said == wanted
    assert [one.index for one in got.data] == list(range(len(wanted)))
    n = sum(map(len, texts_of(asked)))
    assert (got.model, got.usage.prompt_tokens, got.usage.total_tokens) == ("embed", n, n)
    sent = run.provider.received[-1]["body"]
    assert sent["model"] == "theirs"
    assert sent["input"] == asked
    # Where it is not told, this client asks for base64 and decodes it.
    assert sent["encoding_format"] == options.get("encoding_format", "base64")
    assert sent.keys() == {"model", "input", "encoding_format", *dimensions}


def test_answers_in_another_order_are_put_in_that_of_the_texts(run: Running, client: openai.OpenAI) -> None:
    run.provider.change = lambda body: {**body, "data": body["data"][::-1]}  # type: ignore[attr-defined]
    got = client.embeddings.create(model="embed", input=["a", "b", "c"])
    assert [one.embedding for one in got.data] == [numbers(text, SIZE) for text in "abc"]


def test_a_provider_that_gives_numbers_in_place_of_bytes_is_understood(
    run: Running, client: openai.OpenAI
) -> None:
    def plain(body: Any) -> Any:
        data = [{"embedding": numbers("a", SIZE)}]  # nor does it say the index
        return {"data": data, "usage": {"total_tokens": 1}}  # nor what of the total is input

    run.provider.change = plain  # type: ignore[attr-defined]
    got = client.embeddings.with_raw_response.create(model="embed", input="a")
    assert got.parse().data[0].embedding == numbers("a", SIZE)
    assert got.parse().usage.prompt_tokens == 1
    assert float(got.headers["x-exeunt-cost"]) == pytest.approx(PRICE / 1e6)


def test_each_option_of_the_client_is_in_the_table_and_does_what_it_says(
    run: Running, client: openai.OpenAI
) -> None:
    own = set(inspect.signature(client.embeddings.create).parameters)
    assert own - {"extra_headers", "extra_query", "extra_body", "timeout"} == EMBEDDING_OPTIONS.keys()
    given = {"encoding_format": "float", "dimensions": 2, "user": "u"}
    client.embeddings.create(model="embed", input="a", **given)
    sent = run.provider.received[-1]["body"]
    for name, option in EMBEDDING_OPTIONS.items():
        assert option.outcome in (PASSED, TAKEN, USED)
        if name not in ("model", "input"):
            assert sent.get(name) == (given[name] if option.outcome == PASSED else None), name
    _, _, after = PAGE.read_text().partition("Options of embeddings:\n\n")
    assert after.partition("\n\n")[0].strip() == options_table(EMBEDDING_OPTIONS)


def test_models_that_embed_are_named_and_asked_nowhere_else(run: Running, client: openai.OpenAI) -> None:
    assert "embed" in {model.id for model in client.models.list()}
    said: Any = [{"role": "user", "content": "a"}]
    with pytest.raises(openai.NotFoundError, match="embed embeds texts: ask it at /v1/embeddings"):
        client.chat.completions.create(model="embed", messages=said)
    for name in ("large", "auto", "other"):
        with pytest.raises(openai.NotFoundError, match=f"no model '{name}' embeds texts; there are embed"):
            client.embeddings.create(model=name, input="a")


# -- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        *(
            ({"input": wrong}, "input is a text, a list of texts, a list of tokens, or a list of lists of")
            for wrong in ("", [], None, 5, {}, [""], ["a", ""], ["a", 5], [5, "a"], [[]], [[5], []], [5, 6.5],
                          [True], [5, True], [[5], "a"], [["a"]], [[[5]]], [{"text": "a"}])
        ),
        ({"dimensions": 0}, "dimensions must be a whole number of at least 1, got 0"),
        ({"dimensions": True}, "dimensions must be a whole number of at least 1, got True"),
        ({"dimensions": 2.0}, "dimensions must be a whole number of at least 1, got 2.0"),
        ({"encoding_format": "hex"}, 'encoding_format may be "float" or "base64" alone here, got \'hex\''),
        ({"truncate": True}, "the option 'truncate' could cost more than is known before a call"),
        ({"model": 5}, "a request for embeddings is a JSON object with a model and an input"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(run: Running, more: Any, message: str) -> None:
    before = len(run.provider.received)
    refused = embed(run, "a", **more) if "input" not in more else embed(run, more["input"])
    assert refused.status_code == 400
    assert message in error_of(refused)
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert len(run.provider.received) == before


@pytest.mark.parametrize("data", [b"", b"[]", b'"a"', b"{", b'{"model": "embed", "input": "\\ud83d"}'])
def test_what_is_no_json_is_refused(run: Running, data: bytes) -> None:
    with run.http() as http:
        assert http.post("/v1/embeddings", content=data).status_code == 400


def test_it_needs_the_key_of_a_client(run: Running) -> None:
    body = {"model": "embed", "input": "a"}
    with run.http("wrong") as http:
        assert http.post("/v1/embeddings", json=body).status_code == 401
    assert run.owner.post("/v1/embeddings", json=body).status_code == 403
    with run.http() as http:
        assert http.get("/v1/embeddings").status_code == 405


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ("[embed]", "embeddings must hold options by name, got"),
        ("{e: {provider: mock}}", "embedding 'e': price is missing"),
        ("{e: {price: {input: 1}}}", "embedding 'e': provider is missing"),
        ("{e: {provider: mock, price: {}}}", r"embedding 'e': price has input, .* such as \{input: 0.02\}"),
        ("{e: {provider: mock, price: {input: -1}}}", "embedding 'e': price: input: a price is"),
        ("{e: {provider: mock, price: {input: 1, tokens: 2}}}", "embedding 'e': a price has input, output"),
        ("{e: {provider: other, price: {input: 1}}}", "embedding 'e': provider is one of mock, claude, got"),
        (
            "{e: {provider: claude, price: {input: 1}}}",
            "embedding 'e': the protocol of claude, anthropic, has no embeddings",
        ),
        (
            "{e: {provider: mock, price: {input: 1}, max_tokens: 5}}",
            "embedding 'e': there is no 'max_tokens'; there are provider, model, price, template_tokens",
        ),
        ("{e: {provider: mock, price: {input: 1}, retries: -1}}", "embedding 'e': .*retries at least 0"),
        ("{small: {provider: mock, price: {input: 1}}}", "'small' stands in models and in embeddings: give"),
        ("{'auto:x': {provider: mock, price: {input: 1}}}", "does not start with auto"),
        ("{'a b': {provider: mock, price: {input: 1}}}", "without blanks .*, got 'a b'"),
        ("{features: {provider: mock, price: {input: 1}}}", "no model may be called 'features'"),
        (
            "{e: {provider: mock, price: {input: 100000}}}",
            r"embedding 'e': a text of one token may cost 1.7 usd, and a request 1 usd \(request of spend\): let",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path: Path, embeddings: str, message: str) -> None:
    text = config_text(
        "http://127.0.0.1:1",
        providers="{mock: {base_url: 'http://x/v1'}, claude: {base_url: 'http://x/v1', protocol: anthropic}}",
        embeddings=embeddings,
        spend="{request: '1 usd'}",
    )
    (file := tmp_path / "gateway.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(file)


def test_no_embeddings_are_as_if_they_were_not_named(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, embeddings="null")).embeddings == {}
    with pytest.raises(InputError, match=r"base_url ends before /embeddings: write 'http://x/v1'"):
        read_config(written(tmp_path, providers="{mock: {base_url: 'http://x/v1/embeddings'}}"))
    with pytest.raises(InputError, match="reference names 'embed', and the models are small, large"):
        read_config(written(tmp_path, embeddings=EMBEDDINGS, reference="embed"))


def test_the_page_tells_each_option_of_embeddings() -> None:
    _, _, after = PAGE.read_text().partition("| option of an embedding |")
    told = after.partition("\n\n")[0]
    assert all(f"`{name}`" in told for name in _OF_AN_EMBEDDING)


# -- money -----------------------------------------------------------------------------------------------------


def test_the_headers_the_counts_and_the_ledger_say_what_the_provider_was_paid(tmp_path: Path) -> None:
    with running(tmp_path, Embedder(), embeddings=EMBEDDINGS, spend="{key: '5 usd'}", shadow="") as run:
        costs = []
        for asked in ("a" * 100, ["a", "b" * 20], [7] * 30):
            told = embed(run, asked)
            costs.append(float(told.headers["x-exeunt-cost"]))
            left = float(told.headers["x-exeunt-left"])
            assert left == pytest.approx(5 - sum(costs), abs=1e-6)
            assert (told.headers["x-exeunt-model"], told.headers["x-exeunt-policy"]) == ("embed", "none")
        assert costs == pytest.approx([0.1, 0.021, 0.03])
        assert run.gateway.money.total.spent == pytest.approx(run.provider.spent) == pytest.approx(0.151)
        counted = run.metrics()
        assert 'answers_total{model="embed",policy="none"} 3.0' in counted
        assert 'requests_total{path="/v1/embeddings",status="200"} 3.0' in counted
        spent = next(line for line in counted.splitlines() if 'spent_usd_total{model="embed"}' in line)
        assert float(spent.split()[-1]) == pytest.approx(0.151)
        assert run.gateway.records.read() == []
        held = b"".join(file.read_bytes() for file in run.gateway.folder.rglob("*") if file.is_file())
        assert b"a" * 100 not in held


def test_what_it_may_cost_is_reserved_before_it_is_sent(tmp_path: Path) -> None:
    limits = "{key: '1 usd', request: '0.5 usd'}"
    with running(tmp_path, Embedder(), embeddings=EMBEDDINGS, spend=limits, shadow="") as run:
        # 500 tokens cost half a dollar: 484 bytes, and 16 that the endpoint may add.
        too_long = embed(run, "a" * 485)
        assert too_long.status_code == 400
        assert error_of(too_long) == (
            "embed may cost 0.501 usd for this, and a request 0.5 usd: send less at a time"
        )
        assert embed(run, ["a" * 234] * 2 + [[]]).status_code == 400
        assert embed(run, ["a" * 235, "a" * 234]).status_code == 400  # 16 for each text
        assert not run.provider.received
        assert embed(run, "a" * 484).status_code == 200
        assert embed(run, ["a" * 234] * 2).status_code == 200  # together .952
        refused = embed(run, "a" * 40)
        assert refused.status_code == 402
        assert (
            "this may cost 0.056 usd, and 0.048 usd of what may be spent is left: send less at a time, or"
            in (error_of(refused))
        )
        assert len(run.provider.received) == 2
        assert embed(run, "a" * 32).status_code == 200  # to the cent
    rate = "{key: '24 usd/day'}"
    (tmp_path / "rate").mkdir()
    with running(tmp_path / "rate", Embedder(), embeddings=EMBEDDINGS, spend=rate, shadow="") as run:
        assert embed(run, ["a" * 1000] * 20).status_code == 200
        late = embed(run, ["a" * 1000] * 20)
        assert late.status_code == 429
        assert int(late.headers["retry-after"]) > 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), min_size=1, max_size=4
    )
)
def test_a_text_has_at_most_a_token_for_each_byte_also_in_another_form(texts: list[str]) -> None:
    read = EmbeddingRequest.read(json.dumps({"model": "e", "input": texts}).encode())
    assert read.n_texts == len(texts)
    for form in ("NFC", "NFKC"):
        assert read.n_bytes >= sum(len(unicodedata.normalize(form, text).encode()) for text in texts)
    assert read.n_bytes >= sum(len(text.encode()) for text in texts)


BAD: dict[str, Any] = {
    "nothing": lambda body: {"usage": body["usage"]},
    "one too few": lambda body: {**body, "data": body["data"][:1]},
    "one too many": lambda body: {**body, "data": [*body["data"], {**body["data"][0], "index": 2}]},
    "twice": lambda body: {**body, "data": [{**one, "index": 0} for one in body["data"]]},
    "no objects": lambda body: {**body, "data": [5, 6]},
    "no list": lambda body: {**body, "data": {"a": 1, "b": 2}},
    "no numbers": lambda body: _each(body, ["a"] * SIZE),
    "truths": lambda body: _each(body, [True] * SIZE),
    "empty": lambda body: _each(body, []),
    "null": lambda body: _each(body, None),
    "bytes that were not asked for": lambda body: _each(body, coded([1.0] * SIZE, "base64")),
    "different lengths": lambda body: {
        **body, "data": [body["data"][0], {**body["data"][1], "embedding": [1.0]}]
    },
}  # fmt: skip


def _each(body: Any, embedding: Any) -> Any:
    return {**body, "data": [{**one, "embedding": embedding} for one in body["data"]]}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_is_not_understood_is_502_and_charged_as_it_says(run: Running, name: str) -> None:
    run.provider.change = BAD[name]  # type: ignore[attr-defined]
    run.gateway.config.embeddings["embed"].breaker.failures = 10**9
    before = run.gateway.money.total.spent
    failed = embed(run, ["aaaa", "bb"], encoding_format="float")
    assert failed.status_code == 502
    assert error_of(failed) == "no model answered: embed: its answer is not understood"
    assert failed.headers["retry-after"] == "1"
    assert run.gateway.money.total.spent - before == pytest.approx(6 * PRICE / 1e6)


@pytest.mark.parametrize(
    "embedding",
    ["", "?", "AAA=", "AACA?Pw==", coded([1.0, math.nan], "base64"), coded([math.inf], "base64"), "é"],
)
def test_bytes_that_are_no_numbers_are_not_understood(run: Running, embedding: str) -> None:
    run.provider.change = lambda body: _each(body, embedding)  # type: ignore[attr-defined]
    run.gateway.config.embeddings["embed"].breaker.failures = 10**9
    assert embed(run, "a", encoding_format="base64").status_code == 502


def test_other_dimensions_than_were_asked_for_are_no_answer(run: Running) -> None:
    run.provider.change = lambda body: _each(body, [1.0] * SIZE)  # type: ignore[attr-defined]
    run.gateway.config.embeddings["embed"].breaker.failures = 10**9
    assert embed(run, "a", dimensions=SIZE - 1).status_code == 502
    assert embed(run, "a", dimensions=SIZE).status_code == 200


@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        ({"prompt_tokens": 4, "total_tokens": 4}, 4),
        ({"total_tokens": 4}, 4),
        ({"prompt_tokens": 3, "total_tokens": 4}, 4),  # the dearest reading
        ({"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4, "cost": 1.5}, 4),
        ({"prompt_tokens": 4, "total_tokens": 4, "image_tokens": 0}, 4),
        ({"prompt_tokens": 4, "total_tokens": 4, "audio_tokens": 1}, None),  # of which there is no price
        ({"prompt_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": -4, "total_tokens": 4}, None),
        ({"prompt_tokens": "4"}, None),
        ({"prompt_tokens": True}, None),
        ({}, None),
        (None, None),
        (5, None),
    ],
)
def test_what_a_usage_says_is_charged_and_the_most_where_it_says_nothing(
    run: Running, usage: Any, charged: int | None
) -> None:
    run.provider.change = lambda body: {**body, "usage": usage}  # type: ignore[attr-defined]
    before = run.gateway.money.total.spent
    told = embed(run, "aaaa")
    assert told.status_code == 200
    most = 4 + 16
    paid = (charged or most) * PRICE / 1e6
    assert run.gateway.money.total.spent - before == pytest.approx(paid)
    assert float(told.headers["x-exeunt-cost"]) == pytest.approx(paid)
    said = told.json().get("usage")
    assert said is None or said == {"prompt_tokens": 4, "total_tokens": 4}
    assert charged is None or said is not None


def test_a_bill_that_a_request_cannot_have_stops_the_model_until_it_is_resumed(tmp_path: Path) -> None:
    with running(tmp_path, Embedder(), embeddings=EMBEDDINGS, shadow="") as run:
        run.provider.change = lambda body: {**body, "usage": {"prompt_tokens": 999}}  # type: ignore[attr-defined]
        assert embed(run, "a").status_code == 200
        assert run.gateway.money.total.spent == pytest.approx(17 * PRICE / 1e6)
        run.provider.change = lambda body: body  # type: ignore[attr-defined]
        assert "embed: stopped, since it billed more" in error_of(embed(run, "a"))
        assert run.ask("easy 1").status_code == 200  # others are asked as before
        assert run.owner.post("/admin/models/embed/resume").status_code == 200
        assert embed(run, "a").status_code == 200


@pytest.mark.parametrize(
    ("status", "ours", "said"),
    [
        (400, 400, "the provider refuses this request: embed: status 400 (why)"),
        (404, 400, "the provider refuses this request"),
        (401, 502, "no model answered: embed: status 401 (why)"),
        (500, 502, "no model answered: embed: status 500 (why)"),
    ],
)
def test_a_refusal_of_the_provider_is_told_by_its_status(
    tmp_path: Path, status: int, ours: int, said: str
) -> None:
    with running(tmp_path, Embedder(), embeddings=EMBEDDINGS, shadow="") as run:
        run.provider.change = lambda _: status  # type: ignore[attr-defined]
        failed = embed(run, "a")
        assert failed.status_code == ours
        assert said in error_of(failed)
        paid = 17 * PRICE / 1e6 if status >= 500 else 0.0  # perhaps billed, so it counts at the most
        assert run.gateway.money.total.spent == pytest.approx(paid)


def test_a_model_that_fails_rests_and_chat_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, Embedder(), embeddings=EMBEDDINGS.replace("0}", "1}"), shadow="") as run:
        run.provider.change = lambda _: 503  # type: ignore[attr-defined]
        for _ in range(3):
            assert embed(run, "a").status_code == 502
        before = len(run.provider.received)
        assert "embed: embed failed 3 times in a row and rests" in error_of(embed(run, "a"))
        assert len(run.provider.received) == before
        assert [resting["models"] for resting in run.state()["resting"]] == [["embed"]]
        assert run.ask("easy 1").status_code == 200


def test_a_large_batch_of_numbers_may_exceed_what_an_answer_may_have_and_bytes_do_not(tmp_path: Path) -> None:
    texts, size = ["a", "b" * 200_000], 40_000
    with running(tmp_path, Embedder(), embeddings=EMBEDDINGS.replace("1000}", "0}"), shadow="") as run:
        long = embed(run, texts, dimensions=size)
        assert long.status_code == 502
        assert "its answer has more than 1,000,000 bytes" in error_of(long)
        short = embed(run, texts, dimensions=size, encoding_format="base64")
        assert short.status_code == 200
        said = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in short.json()["data"]]
        assert [list(one) for one in said] == [numbers(text, size) for text in texts]


def test_a_provider_of_embeddings_without_its_key_is_named_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    providers = (
        "{mock: {base_url: 'http://127.0.0.1:1/v1'}, other: {base_url: 'http://x/v1', key: NO_SUCH_KEY}}"
    )
    embeddings, listen = EMBEDDINGS.replace("mock", "other"), f"{{port: {free_port()}}}"
    file = written(tmp_path, providers=providers, embeddings=embeddings, listen=listen)
    for option in ("--add", "--add-admin"):
        exeunt(["gateway", "keys", str(file), option, option.strip("-")])
    with pytest.raises(InputError, match="the environment variable NO_SUCH_KEY is not set"):
        exeunt(["gateway", str(file)])


def test_two_models_that_embed_are_told_apart(tmp_path: Path) -> None:
    two = (
        "{one: {provider: mock, model: theirs, price: {input: 1}},"
        " two: {provider: mock, model: others, price: {input: 2, output: 0}}}"
    )
    with running(tmp_path, Embedder(), embeddings=two, models=models(large="1"), shadow="") as run:
        for name, theirs, price in (("one", "theirs", 1), ("two", "others", 2)):
            told = embed(run, "a" * 1000, model=name)
            assert run.provider.received[-1]["body"]["model"] == theirs
            assert told.json()["model"] == name
            assert float(told.headers["x-exeunt-cost"]) == pytest.approx(price / 1000)
