"""OpenAI's chat completions, which need no translation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from exeunt.gateway.completion_chunks import DONE, event, without_logprobs
from exeunt.gateway.options import CHAT_OPTIONS
from exeunt.gateway.protocols.exchange import CUT_OFF, Exchange, Writer


class ChatCompletions(Exchange):
    """A chat completion."""

    path = "/v1/chat/completions"
    options = CHAT_OPTIONS

    def translated(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the request as it is."""
        return body

    def answer(self, completion: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the completion, with log-probabilities if they were asked for: the gateway may have."""
        return completion if self.chat.options.get("logprobs") else without_logprobs(completion)

    def begin(self) -> Writer:
        """Return what writes the chunks."""
        return _Chunks(usage=self.chat.usage)

    @classmethod
    def error(cls, status: int, why: str) -> Mapping[str, Any]:
        """Return an error as OpenAI's clients read it."""
        kind = "invalid_request_error" if status < 500 else "api_error"
        return {"error": {"message": why, "type": kind, "code": status}}


class _Chunks(Writer):
    def __init__(self, *, usage: bool) -> None:
        self._usage = usage

    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[str]:
        if chunk.get("choices") or self._usage:
            yield event(chunk)

    def end(self) -> Iterator[str]:
        yield DONE

    def cut_off(self) -> Iterator[str]:
        yield event(ChatCompletions.error(502, CUT_OFF))
        yield DONE
