"""Models of providers that answer chat completions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import msgspec

from exeunt._support.outside_json import outside_json
from exeunt._support.threads import read_beside
from exeunt.costs.budget_text import amount_text
from exeunt.errors import InputError, require
from exeunt.gateway.breaker import Breaker, Call
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.completion_chunks import Assembled, data_of, lines_of, understood, without_logprobs
from exeunt.live.http_model import error_code
from exeunt.live.live_model import FailedAttempt, Reply, at_path, status_failure, transport_failure
from exeunt.live.openai_compatible import OpenAICompatible

_LEAST = -100.0
"""The score of an answer of which no log-probabilities came although they were asked for, such as a call of a tool."""
_KEY_REFUSED, _MODEL_REFUSED = 401, re.compile(r"status (403|404)\b")


@dataclass(frozen=True)
class ChatReply(Reply):
    """A reply with the completion (`body`) as the provider gave it. `scored`: whether its confidence means anything."""

    body: Mapping[str, Any] | None = None
    scored: bool = False

    @property
    def message(self) -> Mapping[str, Any]:
        """The message of the answer."""
        message: Mapping[str, Any] = at_path(self.body, "choices.0.message")
        return message


class ChatModel(OpenAICompatible):
    """A model of a provider that answers chat completions as they come.

    `name`: in the gateway. `tools`: whether it takes tools. `image_tokens`: the most tokens that it counts an image as;
    None if it takes none. `max_tokens`: the most output of an answer; fewer if the client wants fewer. `reasons`:
    whether that limit is called max_completion_tokens, as of models that reason. `logprobs`: whether its score is the
    mean log-probability of its tokens, which the endpoint must give. `breaker`: its own; `provider`: that of its
    provider, which counts failed connections and refused keys alone. `at_most`: US dollars that an attempt may cost;
    requests that may cost more are refused. Other options: see `OpenAICompatible`.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str,
        breaker: Breaker,
        provider: Breaker,
        max_tokens: int = 4096,
        tools: bool = False,
        image_tokens: int | None = None,
        logprobs: bool = False,
        reasons: bool = False,
        at_most: float = math.inf,
        **options: Any,
    ) -> None:
        wanted = {"max_completion_tokens" if reasons else "max_tokens": max_tokens}
        super().__init__(model, logprobs=1 if logprobs else None, options=wanted, **options)
        self.name, self.breaker, self.provider = name, breaker, provider
        self.at_most = at_most
        self.tools, self.image_tokens, self.reasons = tools, image_tokens, reasons
        if image_tokens is not None and image_tokens < 0:
            raise InputError(f"image_tokens must be at least 0, got {image_tokens}")
        self._check_limit()

    def _check_limit(self) -> None:
        """Raise InputError if each request that does not ask for fewer tokens may cost more than one may."""
        if (highest := self._cost(self.template_tokens, self.n_output)) <= self.at_most:
            return
        a_token = self._cost(0, 1) - self._cost(0, 0)
        room = int((self.at_most - self._cost(self.template_tokens, 0)) / a_token) if a_token else 0
        fewer = f"set max_tokens to {room:,} or fewer, or " if room > 0 else ""
        raise InputError(
            f"an answer of {self.n_output:,} tokens (max_tokens) may cost {amount_text(highest, 'usd')}, and a request "
            f"{amount_text(self.at_most, 'usd')} (request of spend): {fewer}let a request cost more"
        )

    def refusal(self, request: ChatRequest) -> str:
        """Return why this model does not take a request, "" if it does."""
        if request.has_tools and not self.tools:
            return "takes no tools"
        if request.n_images and self.image_tokens is None:
            return "takes no images"
        if "reasoning_effort" in request.options and not self.reasons:
            return "takes no reasoning_effort"
        if request.limit is not None and request.limit > self.n_output:
            return f"answers with at most {self.n_output:,} tokens"
        if (highest := self.most(request)) > self.at_most:
            return f"may cost {amount_text(highest, 'usd')} for this, and a request {amount_text(self.at_most, 'usd')}"
        return ""

    def most(self, request: Any) -> float:
        """Return the most that a call can cost: every byte a token of input, and all output that is allowed."""
        if self.tokenizer is not None:
            n_input = self.tokenizer(b"".join(request.texts).decode()) + len(json.dumps(request.options))
        else:
            n_input = request.n_bytes
        n_input += (self.image_tokens or 0) * request.n_images + self.template_tokens
        return self._cost(n_input, request.limit or self.n_output)

    def input_cost(self, tokens: int | None) -> float | None:
        """Return what an input of so many tokens costs; None if their number is not known."""
        return None if tokens is None else self._cost(tokens, 0)

    def price_share(self, other: ChatModel) -> float:
        """Return the least that a token costs here, as a share of what one costs at another model."""
        names = [name for name in ("input", "output") if other.price[name] > 0]
        return min((self.price[name] / other.price[name] for name in names), default=0.0)

    def dearest(self, max_bytes: int) -> float:
        """Return the most that an attempt at a request of so many bytes can cost."""
        return min(self.at_most, self._cost(max_bytes, self.n_output))

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        messages = msgspec.Raw(b"[" + b",".join(request.written) + b"]")
        body = {"model": self.model, "messages": messages, **request.options, **self.options}
        for name in self.options:
            body[name] = request.limit or self.n_output
        if self.logprobs is not None:
            body["logprobs"] = True
        return body

    async def ask(self, content: Any, *, final: bool = False, **options: Any) -> Reply:
        """Ask as any live model. Only the chunks of a `final` answer go to the sink.

        While it or its provider rests it gives no answer, at once. A request that failed after all retries counts as a
        failure, and so does a refusal of the model; one that the provider finds wrong does not.
        """
        for breaker in (self.provider, self.breaker):
            if breaker.rests:
                return Reply(None, failed=breaker.reason, attempts=0)
        if not final and content.sink is not None:
            content = content.changed(sink=None)
        call, failed = self.breaker.begin(), cast("str | None", None)
        try:
            reply = await super().ask(content, **options)
            if reply.is_given:
                failed = ""
            elif reply.attempts > 1 or (reply.attempts and reply.again) or _MODEL_REFUSED.match(reply.failed):
                failed = reply.failed
            return reply
        finally:
            call.end(failed)

    async def _call(self, request: Any, client: Any) -> Reply:
        httpx = require("httpx", extra="gateway")
        if request.sink is not None and request.sink.begun:  # the client has the beginning of another answer
            raise FailedAttempt("its answer was cut off", cost=0.0)
        if self.provider.rests:
            raise FailedAttempt(self.provider.reason, cost=0.0)
        call, failed = self.provider.begin(), cast("str | None", None)
        try:
            data = await (self._completion if request.sink is None else self._streamed)(request, client, call)
        except httpx.HTTPError as error:
            failure = transport_failure(error)
            failed = failure.why if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else None
            raise failure from None
        except FailedAttempt:
            failed = ""
            raise
        except ValueError:
            raise FailedAttempt("its answer is no JSON", again=True) from None
        except (AttributeError, KeyError, TypeError):
            raise FailedAttempt("its answer is not understood", again=True) from None
        finally:
            call.end(failed)
        cost, lied = self._reported(data)
        try:
            reply = self._read(data, request, cost, lied)
        except (AttributeError, FailedAttempt, KeyError, TypeError, ValueError):
            raise FailedAttempt("its answer is not understood", again=True, cost=cost, lied=lied) from None
        if request.sink is not None:
            request.sink.complete = True
        return replace(reply, lied=reply.lied or cost > self.most(request) * (1 + 1e-9))

    async def _completion(self, request: ChatRequest, client: Any, call: Call) -> Any:
        """Return the completion."""
        async with self._sent(self._body(request), client, call) as answer:
            return await read_beside(outside_json, b"".join([piece async for piece in answer]))

    async def _streamed(self, request: ChatRequest, client: Any, call: Call) -> Any:
        """Return the completion, whose chunks go to the sink as they come."""
        sink: Any = request.sink
        body = {**self._body(request), "stream": True, "stream_options": {"include_usage": True}}
        assembled = Assembled()
        async with self._sent(body, client, call) as answer:
            async for line in lines_of(answer):
                if (chunk := await data_of(line)) is not None:
                    if chunk.get("error"):  # its words stay here
                        raise FailedAttempt("its answer was cut off", again=True)
                    chunk = understood(chunk, "delta")
                    assembled.add(chunk)
                    if chunk.get("choices") or request.usage:
                        own = chunk if request.options.get("logprobs") else without_logprobs(chunk)
                        sink.put({**own, "model": self.name})
        if not assembled.ended:
            raise FailedAttempt("its answer was cut off", again=True)
        return assembled.body

    @asynccontextmanager
    async def _sent(
        self, body: Mapping[str, Any], client: Any, call: Call
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a request; give the bytes of the answer as they come. Raises FailedAttempt for other statuses.

        The status says all about the connection and the key that the `call` of the provider is to know.
        """

        async def traced(event: str, _: Any) -> None:
            if event.endswith(".send_request_body.complete"):
                call.reached()

        content, traces = msgspec.json.encode(body), {"trace": traced}
        async with client.stream("POST", self._url, content=content, extensions=traces) as sent:
            call.end(f"status {_KEY_REFUSED}" if sent.status_code == _KEY_REFUSED else "")
            answer = sent.aiter_raw()
            if not sent.is_success:
                error = b"".join([piece async for piece in answer])
                raise status_failure(sent.status_code, sent.headers, await read_beside(error_code, error))
            yield answer

    def _read(self, data: Any, request: Any, cost: float, lied: bool) -> Reply:  # noqa: ARG002 - asks more than this
        body = understood(data, "message")
        choice, calls = at_path(body, "choices.0"), ""
        message = choice["message"]
        text = message.get("content") or message.get("refusal")
        if not text and (message.get("tool_calls") or not choice.get("finish_reason")):
            calls = json.dumps(message["tool_calls"])
        logs = [float(token["logprob"]) for token in (choice.get("logprobs") or {}).get("content") or ()]
        scored = self.logprobs is not None
        score = sum(logs) / len(logs) if logs else _LEAST * scored
        # Nothing is an answer, too: reasoning may have taken all tokens, which are paid for.
        return ChatReply(str(text or calls), max(score, _LEAST), cost, lied=lied, body=body, scored=scored)
