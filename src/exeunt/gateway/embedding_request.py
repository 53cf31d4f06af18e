"""Embeddings as a client asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from exeunt._support.outside_json import nfkc
from exeunt.errors import InputError
from exeunt.gateway.chat_request import request_body
from exeunt.gateway.options import PASSED, TAKEN, USED, Option, check_options

PATH = "/v1/embeddings"
FORMATS = FLOAT, BASE64 = "float", "base64"

EMBEDDING_OPTIONS: Mapping[str, Option] = {
    "model": Option(USED, "a name below `embeddings` in the gateway's file"),
    "input": Option(PASSED, "a text, a list of texts, a list of tokens, or a list of lists of tokens"),
    "encoding_format": Option(PASSED, "numbers, or their bytes, which are shorter", FORMATS),
    "dimensions": Option(PASSED),
    "user": Option(TAKEN, "embeddings are in no unit and in no record"),
}
"""What becomes of every option of embeddings."""


@dataclass(frozen=True)
class EmbeddingRequest:
    """What a client asks: the body of a request to /v1/embeddings.

    `options`: those that are passed on. `n_texts`: how many embeddings it asks for. `n_bytes`: of all texts, of which a
    tokenizer counts at most a token for each; tokens count as one each.
    """

    model: str
    input: Any
    options: Mapping[str, Any]
    n_texts: int
    n_bytes: int

    n_images, sink = 0, None
    """As of a `ChatRequest`: there are no images, and nothing comes in parts."""

    @classmethod
    def read(cls, data: bytes) -> EmbeddingRequest:
        """Read a body. Raises InputError if it asks for no embeddings, or has an option of unbounded cost."""
        body = request_body(data)
        if not isinstance(body.get("model"), str):
            raise InputError("a request for embeddings is a JSON object with a model and an input")
        check_options(body, EMBEDDING_OPTIONS)
        dimensions = body.get("dimensions")
        if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
            raise InputError(f"dimensions must be a whole number of at least 1, got {dimensions!r:.40}")
        sizes = _sizes(body.get("input"))
        options = {
            name: body[name] for name in ("encoding_format", "dimensions") if body.get(name) is not None
        }
        return cls(body["model"], body["input"], options, len(sizes), sum(sizes))


def _sizes(asked: Any) -> list[int]:
    """Return the most tokens of each text. Raises InputError for what is no input of embeddings."""
    one = isinstance(asked, str) or (isinstance(asked, list) and bool(asked) and type(asked[0]) is int)
    inputs = [asked] if one else asked
    if isinstance(inputs, list) and inputs:
        if all(isinstance(text, str) and text for text in inputs):
            return [max(len(text.encode()), len(nfkc(text).encode())) for text in inputs]
        if all(isinstance(tokens, list) and tokens and set(map(type, tokens)) == {int} for tokens in inputs):
            return list(map(len, inputs))
    raise InputError(
        f"input is a text, a list of texts, a list of tokens, or a list of lists of tokens, none of them empty, got "
        f"{asked!r:.60}"
    )
