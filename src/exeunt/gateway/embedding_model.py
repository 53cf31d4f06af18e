"""Models of providers that embed texts."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from exeunt._support.outside_json import outside_json
from exeunt._support.threads import read_beside
from exeunt.costs.budget_text import amount_text
from exeunt.errors import InputError
from exeunt.gateway.chat_model import ChatModel, ChatReply
from exeunt.gateway.deployments import Use
from exeunt.gateway.embedding_request import BASE64, EmbeddingRequest
from exeunt.live.live_model import FailedAttempt, Reply

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class EmbeddingModel(ChatModel):
    """A model of a provider that answers /embeddings of OpenAI's protocol. It is paid by its input alone.

    `price`: as of other models, without `output`. `template_tokens`: the most tokens that the endpoint adds to each
    text of its own. Other options: see `ChatModel`.
    """

    _path = "/embeddings"

    def __init__(
        self, model: str, *, price: Mapping[str, Any], template_tokens: int = 16, **options: Any
    ) -> None:
        if "input" not in price:
            raise InputError("price has input, US dollars for a million tokens, such as {input: 0.02}")
        super().__init__(model, price={"output": 0, **price}, template_tokens=template_tokens, **options)

    def _check_limit(self) -> None:
        """Raise InputError if the shortest text may cost more than a request may."""
        if (least := self._cost(1 + self.template_tokens, 0)) > self.at_most:
            raise InputError(
                f"a text of one token may cost {amount_text(least, 'usd')}, and a request "
                f"{amount_text(self.at_most, 'usd')} (request of spend): let a request cost more"
            )

    def refusal(self, request: Any) -> str:
        """Return why this model does not take a request, "" if it does."""
        if (highest := self.most(request)) <= self.at_most:
            return ""
        return f"may cost {amount_text(highest, 'usd')} for this, and a request {amount_text(self.at_most, 'usd')}"

    def most(self, request: Any) -> float:
        """Return the most that a call can cost: every byte a token, and what the endpoint adds to each text."""
        return self._cost(request.n_bytes + self.template_tokens * request.n_texts, 0)

    def _body(self, request: Any, *, stream: bool = False) -> dict[str, Any]:  # noqa: ARG002 - there are none
        return {"model": self.model, "input": request.input, **request.options}

    async def _completion(self, request: Any, client: Any, use: Use) -> Any:
        """Return the usage, and the embeddings in the order of the texts; None for what are no embeddings of them."""
        async with self._sent(self._body(request), client, use) as answer:
            return await read_beside(partial(_answer, request), b"".join([piece async for piece in answer]))

    def _read(self, data: Any, request: Any, cost: float, lied: bool) -> Reply:
        if data["embeddings"] is None:
            raise FailedAttempt("its answer is not understood", again=True)
        embeddings = [
            {"object": "embedding", "index": index, "embedding": embedding}
            for index, embedding in enumerate(data["embeddings"])
        ]
        body: dict[str, Any] = {"object": "list", "data": embeddings, "model": self.name}
        if data["usage"] and (n_tokens := data["usage"]["prompt_tokens"]) > 0:
            body["usage"] = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        return ChatReply(f"{request.n_texts} embeddings", 0.0, cost, lied=lied, body=body)


def _answer(request: EmbeddingRequest, data: bytes) -> dict[str, Any]:
    """Read an answer. Raises ValueError for what is no JSON."""
    answer = outside_json(data)
    try:
        embeddings = _embeddings(answer["data"], request)
    except (AttributeError, KeyError, TypeError, ValueError):
        embeddings = None
    return {"usage": _usage(answer), "embeddings": embeddings}


def _embeddings(entries: Any, request: EmbeddingRequest) -> list[Any]:
    """Return the embeddings in the order of the texts. Raises TypeError, KeyError or ValueError if these are none."""
    by_index = {entry.get("index", place): entry["embedding"] for place, entry in enumerate(entries)}
    embeddings = [by_index.pop(index) for index in range(request.n_texts)]
    may_be_text = request.options.get("encoding_format") == BASE64
    sizes = {_size(embedding, may_be_text=may_be_text) for embedding in embeddings}
    if by_index or sizes != {request.options.get("dimensions", max(sizes))}:
        raise ValueError("other embeddings than were asked for")
    return embeddings


def _size(embedding: Any, *, may_be_text: bool) -> int:
    """Return how many numbers an embedding has. Raises ValueError if it is none."""
    if isinstance(embedding, str) and may_be_text:
        numbers = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
        if numbers.size and np.isfinite(numbers).all():
            return int(numbers.size)
    elif isinstance(embedding, list) and embedding and set(map(type, embedding)) <= {int, float}:
        return len(embedding)
    raise ValueError("no embedding")


def _usage(answer: Any) -> Any:
    """Return the usage of an answer: all of its tokens are input. Some providers give the total alone."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return None
    counts = [usage[name] for name in _COUNTS if usage.get(name) is not None]
    if not counts or any(type(count) is not int or count < 0 for count in counts):
        return {**usage, "prompt_tokens": -1}
    return {**usage, "prompt_tokens": max(counts), "completion_tokens": 0, "total_tokens": max(counts)}
