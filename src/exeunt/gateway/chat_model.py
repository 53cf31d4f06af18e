"""Models of providers that answer chat completions."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import msgspec

from exeunt._support.outside_json import outside_json
from exeunt._support.threads import read_beside
from exeunt.costs.budget_text import amount_text
from exeunt.errors import InputError, require
from exeunt.gateway.breaker import Breaker
from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.completion_chunks import Assembled, data_of, lines_of, understood, without_logprobs
from exeunt.gateway.deployments import Deployment, Deployments, Use
from exeunt.gateway.options import HINTS, OF_SOME_MODELS
from exeunt.live.http_model import error_code, http_client
from exeunt.live.live_model import FailedAttempt, Reply, at_path, status_failure, transport_failure
from exeunt.live.openai_compatible import OpenAICompatible
from exeunt.live.token_price import Usage

_LEAST = -100.0
"""The score of an answer of which no log-probabilities came although they were asked for, such as a call of a tool."""
_FEW_BYTES = 4_000
"""As if so many had been counted as a token for four bytes, before any request."""
_KEY_REFUSED, _MODEL_REFUSED = 401, re.compile(r"status (403|404)\b")
_DEPLOYMENT_REFUSED = re.compile(r"status (401|402|403|404)\b")
"""Statuses that are about a key or an address: another deployment may answer."""


@dataclass(frozen=True)
class ChatReply(Reply):
    """A reply with the completion (`body`) as the provider gave it. `scored`: whether its confidence means anything.
    `cached`: US dollars that it would cost more if nothing of its prompt had been in the provider's cache.
    """

    body: Mapping[str, Any] | None = None
    scored: bool = False
    cached: float = 0.0

    @property
    def message(self) -> Mapping[str, Any]:
        """The message of the answer."""
        message: Mapping[str, Any] = at_path(self.body, "choices.0.message")
        return message


class Reader:
    """Reads an answer in parts: what comes in a server-sent event as chunks of a completion."""

    def chunks(self, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the chunks. Raises FailedAttempt for an error that ends the stream, whose words stay here."""
        if data.get("error"):
            raise FailedAttempt("its answer was cut off", again=True)
        yield data


class ChatModel(OpenAICompatible):
    """A model of a provider that answers chat completions as they come.

    `name`: in the gateway. `tools`: whether it takes tools. `image_tokens`: the most tokens that it counts an image as;
    None if it takes none. `max_tokens`: the most output of an answer; fewer if the client wants fewer. `reasons`:
    whether that limit is called max_completion_tokens, as of models that reason. `takes`: options that its server takes
    beside those of OpenAI. `logprobs`: whether its score is the mean log-probability of its tokens, which the endpoint
    must give. `breaker`: its own; `provider`: that of its provider, which counts failed connections and refused keys
    alone. `deployments`: further keys or addresses, each with a breaker of its own in place of these two; the model
    rests where all of them do. `at_most`: US dollars that an attempt may cost;
    requests that may cost more are refused. `prompt_cache_key`: whether its endpoint takes one. Other options: see
    `OpenAICompatible`.
    """

    _path = "/chat/completions"

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
        takes: tuple[str, ...] = (),
        at_most: float = math.inf,
        prompt_cache_key: bool = False,
        deployments: Sequence[Deployment] = (),
        **options: Any,
    ) -> None:
        wanted = {"max_completion_tokens" if reasons else "max_tokens": max_tokens}
        super().__init__(model, logprobs=1 if logprobs else None, options=wanted, **options)
        self.name, self.breaker, self.provider = name, breaker, provider
        self.deployments = Deployments(
            name, deployments or [Deployment(self.base_url, self.key, provider)], several=bool(deployments)
        )
        self.at_most, self.prompt_cache_key = at_most, prompt_cache_key
        self.tools, self.image_tokens, self.reasons = tools, image_tokens, reasons
        if image_tokens is not None and image_tokens < 0:
            raise InputError(f"image_tokens must be at least 0, got {image_tokens}")
        if unknown := [option for option in takes if option not in OF_SOME_MODELS]:
            raise InputError(
                f"takes names {unknown[0]!r:.60}, and there are {', '.join(sorted(OF_SOME_MODELS))}"
            )
        self.takes = frozenset(takes)
        self._counted = _FEW_BYTES, _FEW_BYTES // 4
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
        if missing := OF_SOME_MODELS & request.options.keys() - self.takes - HINTS:
            return f"takes no {min(missing)}"
        if (highest := self.most(request)) > self.at_most:
            return f"may cost {amount_text(highest, 'usd')} for this, and a request {amount_text(self.at_most, 'usd')}"
        return ""

    def limit(self, request: ChatRequest) -> int:
        """Return the most output tokens that a request may have here: those that it wants, or fewer."""
        allowed: int = self.n_output
        return min(request.limit or allowed, allowed)

    def most(self, request: Any) -> float:
        """Return the most that a call can cost: every byte a token of input, and all output that is allowed."""
        if self.tokenizer is not None:
            n_input = self.tokenizer(b"".join(request.texts).decode()) + len(json.dumps(request.options))
        else:
            n_input = request.n_bytes
        n_input += (self.image_tokens or 0) * request.n_images + self.template_tokens
        return self._cost(n_input, self.limit(request))

    def input_tokens(self, request: ChatRequest) -> int:
        """Estimate the tokens of an input: by its bytes, as in earlier requests, and the most of its images."""
        n_bytes, n_tokens = self._counted
        return math.ceil(request.n_bytes * n_tokens / n_bytes) + (self.image_tokens or 0) * request.n_images

    def input_cost(self, tokens: int | None) -> float | None:
        """Return what an input of so many tokens costs, none of them cached; None if their number is not known."""
        return None if tokens is None else self.price.cost(Usage(tokens))

    def price_share(self, other: ChatModel) -> float:
        """Return the least that a token costs here, as a share of the most that one costs at another model."""
        return self.price.least_share(other.price)

    def dearest(self, max_bytes: int) -> float:
        """Return the most that an attempt at a request of so many bytes can cost."""
        return min(self.at_most, self._cost(max_bytes, self.n_output))

    def drops(self, request: ChatRequest) -> list[str]:
        """Return the options that are not sent to this model, and change no answer by much."""
        return [name for name in HINTS if name in request.options and name not in self.takes]

    def _body(self, request: ChatRequest, *, stream: bool = False) -> dict[str, Any]:
        messages = msgspec.Raw(b"[" + b",".join(request.sent) + b"]")
        body = {"model": self.model, "messages": messages, **request.options, **self.options}
        for name in self.drops(request):
            del body[name]
        for name in self.options:
            body[name] = self.limit(request)
        if self.logprobs is not None:
            body["logprobs"] = True
        if self.prompt_cache_key and request.cache_key:
            body["prompt_cache_key"] = request.cache_key
        return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body

    def _connect(self) -> Any:
        return http_client(self)  # the key belongs to each request, since deployments have keys of their own

    def _understood(self, data: Any) -> Any:
        """Return an answer as a completion."""
        return data

    def _reader(self) -> Reader:
        """Return what reads an answer in parts as chunks of a completion."""
        return Reader()

    async def ask(self, content: Any, *, final: bool = False, **options: Any) -> Reply:
        """Ask as any live model. Only the chunks of a `final` answer go to the sink.

        While it or its provider rests it gives no answer, at once. A request that failed after all retries counts as a
        failure, and so does a refusal of the model; one that the provider finds wrong does not.
        """
        if self.deployments.rest:
            return Reply(None, failed=self.deployments.reason, attempts=0)
        if self.breaker.rests:
            return Reply(None, failed=self.breaker.reason, attempts=0)
        if not final and content.sink is not None:
            content = content.changed(sink=None)
        call, failed = self.breaker.begin(), cast("str | None", None)
        try:
            reply = await super().ask(content, **options)
            again = reply.attempts > 1 or (reply.attempts and reply.again)
            if reply.is_given:
                failed = ""
            elif not self.deployments.several and (again or _MODEL_REFUSED.match(reply.failed)):
                failed = reply.failed  # several deployments count their own failures
            return reply
        finally:
            call.end(failed)

    async def _call(self, request: Any, client: Any) -> Reply:
        """Ask a deployment. Where one fails without a bill, another is asked within the same attempt."""
        tokens, conversation, goes_on = self._size(request) if self.deployments.several else (0, 0, False)
        tried, failure, again = list[Deployment](), cast("FailedAttempt | None", None), False
        while True:
            # Where the client has the beginning of another answer, none can follow.
            if request.sink is not None and request.sink.begun:
                raise FailedAttempt("its answer was cut off", cost=0.0)
            if (use := self.deployments.begin(tokens, conversation, tried, goes_on=goes_on)) is None:
                raise self._none_free(tokens, failure, again=again)
            try:
                return await self._ask_deployment(use, request, client)
            except FailedAttempt as failed:
                if not self.deployments.several:
                    raise
                tried.append(use.deployment)
                failure, again = failed, again or failed.again
                if failed.cost != 0.0:  # it may be billed: the next attempt has money of its own
                    failed.after = self.deployments.wait_s(tokens) if failed.again else 0.0
                    raise
                if not (failed.again or _DEPLOYMENT_REFUSED.match(failed.why)):
                    raise

    def _size(self, request: ChatRequest) -> tuple[int, int, bool]:
        """Return the tokens that a request may take, and a number of its conversation, and whether that goes on."""
        roles = [message["role"] for message in request.messages]
        goes_on = "assistant" in roles
        conversation = hash(request.written[: roles.index("assistant") if goes_on else None])
        return self.input_tokens(request) + self.template_tokens + self.limit(request), conversation, goes_on

    def _none_free(self, tokens: int, failure: FailedAttempt | None, *, again: bool) -> FailedAttempt:
        """Return why no deployment can be asked now. `failure`: of the last that was."""
        if failure is None and self.deployments.rest:
            return FailedAttempt(self.deployments.reason, cost=0.0)
        why = "all deployments are at their limits a minute" if failure is None else failure.why
        after = self.deployments.wait_s(tokens)
        return FailedAttempt(why, again=again or failure is None, cost=0.0, after=after)

    async def _ask_deployment(self, use: Use, request: Any, client: Any) -> Reply:
        """Ask a deployment once, and note how it went."""
        httpx = require("httpx", extra="gateway")
        several, loop = self.deployments.several, asyncio.get_running_loop()
        started, failed, after_s = loop.time(), cast("str | None", None), 0.0
        try:
            reply = await self._asked(use, request, client)
        except httpx.HTTPError as error:
            failure = transport_failure(error)
            if several or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                failed = failure.why
            if failure.cost == 0.0:
                use.took(0)
            raise failure from None
        except FailedAttempt as failure:
            failed = ""
            if several and (failure.again or _DEPLOYMENT_REFUSED.match(failure.why)):
                failed, after_s = failure.why, failure.after
            raise
        except asyncio.CancelledError:
            if several and loop.time() - started > 0.9 * self.timeout_s:
                failed = f"no answer within {self.timeout_s:g} s"
            raise
        else:
            failed = ""
            return reply
        finally:
            use.end(failed, after_s=after_s)

    async def _asked(self, use: Use, request: Any, client: Any) -> Reply:
        """Ask a deployment, and read its answer. Raises FailedAttempt, and what httpx raises."""
        try:
            data = await (self._completion if request.sink is None else self._streamed)(request, client, use)
        except ValueError:
            raise FailedAttempt("its answer is no JSON", again=True) from None
        except (AttributeError, KeyError, TypeError):
            raise FailedAttempt("its answer is not understood", again=True) from None
        cost, lied = self._reported(data)
        try:
            reply = self._read(data, request, cost, lied)
        except (AttributeError, FailedAttempt, KeyError, TypeError, ValueError):
            raise FailedAttempt("its answer is not understood", again=True, cost=cost, lied=lied) from None
        if request.sink is not None:
            request.sink.complete = True
        if not (math.isnan(cost) or lied or request.n_images):
            n_bytes, n_tokens = self._counted
            self._counted = n_bytes + request.n_bytes, n_tokens + data["usage"]["prompt_tokens"]
        if not (math.isnan(cost) or lied):
            use.took(data["usage"]["prompt_tokens"] + data["usage"]["completion_tokens"])
        return replace(reply, lied=reply.lied or cost > self.most(request) * (1 + 1e-9))

    async def _completion(self, request: ChatRequest, client: Any, use: Use) -> Any:
        """Return the completion."""
        async with self._sent(self._body(request), client, use) as answer:
            data = await read_beside(outside_json, b"".join([piece async for piece in answer]))
            return self._understood(data)

    async def _streamed(self, request: ChatRequest, client: Any, use: Use) -> Any:
        """Return the completion, whose chunks go to the sink as they come."""
        assembled, reader = Assembled(), self._reader()
        async with self._sent(self._body(request, stream=True), client, use) as answer:
            async for line in lines_of(answer):
                if (data := await data_of(line)) is not None:
                    for chunk in reader.chunks(data):
                        chunk = understood(chunk, "delta")
                        assembled.add(chunk)
                        self._pass_on(chunk, request)
        if not assembled.ended:
            raise FailedAttempt("its answer was cut off", again=True)
        return assembled.body

    def _pass_on(self, chunk: Mapping[str, Any], request: ChatRequest) -> None:
        """Pass a chunk on to the client."""
        sink: Any = request.sink
        if chunk.get("choices") or request.usage:
            own = chunk if request.options.get("logprobs") else without_logprobs(chunk)
            sink.put({**own, "model": self.name})

    @asynccontextmanager
    async def _sent(
        self, body: Mapping[str, Any], client: Any, use: Use
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a request; give the bytes of the answer as they come. Raises FailedAttempt for other statuses.

        Where a model has one address, its status says all about the connection and the key that the breaker of the
        provider is to know.
        """

        async def traced(event: str, _: Any) -> None:
            if event.endswith(".send_request_body.complete"):
                use.call.reached()

        content, traces = msgspec.json.encode(body), {"trace": traced}
        url = f"{use.deployment.base_url.rstrip('/')}{self._path}"
        headers = self._headers_with(use.deployment.key)
        async with client.stream("POST", url, content=content, headers=headers, extensions=traces) as sent:
            use.arrived()
            if not self.deployments.several:
                use.end(f"status {_KEY_REFUSED}" if sent.status_code == _KEY_REFUSED else "")
            answer = sent.aiter_raw()
            if not sent.is_success:
                error = b"".join([piece async for piece in answer])
                failure = status_failure(sent.status_code, sent.headers, await read_beside(error_code, error))
                if failure.cost == 0.0:
                    use.took(0)
                raise failure
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
        cached = 0.0 if math.isnan(cost) else self.price.saved_by_cache(Usage.read(body["usage"]))
        said = str(text or calls)
        return ChatReply(said, max(score, _LEAST), cost, lied=lied, body=body, scored=scored, cached=cached)
