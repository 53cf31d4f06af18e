"""Models behind an endpoint that speaks the protocol of OpenAI's chat completions."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from exeunt._support.outside_json import nfkc
from exeunt.errors import InputError
from exeunt.live.function_model import named
from exeunt.live.http_model import OverHTTP, checked_url, checked_variable, key_named
from exeunt.live.live_model import FailedAttempt, Reply, at_path
from exeunt.live.token_price import TokenPrice, Usage

_log = logging.getLogger("exeunt.live")
_OPENAI = "https://api.openai.com/v1"
_CLASSIFY = "Classify the text. Answer with one of these words and nothing else: {classes}.\n\nText: {text}"
_FREE = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "response_format",
    "reasoning_effort",
)
_LIMITS = ("max_tokens", "max_completion_tokens")
_MOST_TOLD = 20
_LEAST = 1e-6  # probability of a class that is not among the likeliest tokens


class OpenAICompatible(OverHTTP):
    """A model behind an endpoint that speaks the protocol of OpenAI.

    `model`: its name there. `base_url`: of the endpoint, by default OpenAI's. `key`: name of the environment variable
    that holds the key; by default OPENAI_API_KEY for OpenAI's endpoint and none for others. `price`: US dollars for a
    million tokens, {"input": 0.15, "output": 0.6}, and perhaps "cached_input" and more (see `TokenPrice`).

    With `classes` it classifies. Its confidence is the probability of its class, by the `logprobs` likeliest tokens if
    the endpoint gives them, else that of its words. Without classes it answers in text, with the mean log-probability
    of its tokens. `score`: a function of (input, answer) that gives the confidence instead. `logprobs`: None where an
    endpoint knows none; then the confidence is 0.

    `prompt`: with {text} and {classes} in place of these. `options`: what else is sent, such as {"temperature": 0}.
    Only options are allowed whose cost is bounded. max_tokens is sent in any case, `max_tokens` at most. Models that
    reason need {"max_completion_tokens": ...}, which bounds that, too. A prompt has at most a token for each byte that
    is sent, and `template_tokens` of the endpoint's own; `tokenizer` counts the tokens of a text instead. Other
    options: see `LiveModel`.
    """

    def __init__(
        self,
        model: str,
        *,
        price: Mapping[str, Any],
        base_url: str = _OPENAI,
        key: str | None = None,
        prompt: str | None = None,
        score: Callable[[Any, str], float] | None = None,
        max_tokens: int | None = None,
        logprobs: int | None = 5,
        options: Mapping[str, Any] | None = None,
        tokenizer: Callable[[str], int] | None = None,
        template_tokens: int = 256,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.model, self.base_url, self.score, self.logprobs = model, checked_url(base_url), score, logprobs
        self.key = "OPENAI_API_KEY" if key is None and base_url == _OPENAI else checked_variable(key)
        self.price, self._told = TokenPrice.read(price), set[str]()
        self.prompt = prompt or ("{text}" if self.classes is None else _CLASSIFY)
        if "{text}" not in self.prompt:
            raise InputError(f"a prompt holds {{text}} in place of the input, got {self.prompt!r}")
        usual = 512 if self.classes is None else 8 + max(len(name.encode()) for name in self.classes)
        self.options = _checked_options(options or {}, max_tokens or usual)
        self.n_output = max(self.options[name] for name in _LIMITS if name in self.options)
        if type(template_tokens) is not int or template_tokens < 0:
            raise InputError(f"template_tokens must be a whole number of at least 0, got {template_tokens!r}")
        self.tokenizer, self.template_tokens = tokenizer, template_tokens

    @property
    def identity(self) -> str:
        """What tells models apart whose answers differ."""
        score = "" if self.score is None else f" {named(self.score)}"
        return f"{super().identity} {self.model} {self.base_url} {self.prompt} {self.options} {self.logprobs}{score}"

    def most(self, content: Any) -> float:
        """Return the most that a call can cost: every byte a token of input, and all output that is allowed."""
        text = self._prompt(content)
        if self.tokenizer is not None:
            n_input = self.tokenizer(text) + len(json.dumps(self.options))
        else:  # a tokeniser may write characters as others, which are longer
            sent = json.dumps(self._body(content), ensure_ascii=False)
            n_input = max(len(text_sent.encode()) for text_sent in (sent, nfkc(sent)))
        return self._cost(n_input + self.template_tokens, self.n_output)

    def _cost(self, n_input: int, n_output: int) -> float:
        """Return the most that so many tokens can cost."""
        return self.price.most(n_input, n_output)

    def _prompt(self, content: Any) -> str:
        texts = (content,) if isinstance(content, str) else content
        if not isinstance(texts, tuple) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{self.model} answers texts, or pairs of texts, got {type(content).__name__}")
        classes = ", ".join(self.classes or ())
        return self.prompt.replace("{classes}", classes).replace("{text}", "\n\n".join(texts))

    def _body(self, content: Any) -> dict[str, Any]:
        likeliest = {"top_logprobs": self.logprobs} if self.logprobs and self.classes is not None else {}
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self._prompt(content)}],
            **self.options,
            **({} if self.logprobs is None else {"logprobs": True, **likeliest}),
        }

    def _headers(self) -> dict[str, str]:
        return self._headers_with(self.key)

    def _headers_with(self, key: str | None) -> dict[str, str]:
        """Return the headers of a request. `key`: the environment variable of the key."""
        own = {} if key is None else {"authorization": f"Bearer {key_named(key)}"}
        return {"content-type": "application/json", **own}

    @property
    def _url(self) -> str:
        return f"{self.base_url.rstrip('/')}/chat/completions"

    async def _call(self, content: Any, client: Any) -> Reply:
        data = await self._posted(client, self._url, self._body(content))
        cost, lied = self._reported(data)
        try:
            return self._read(data, content, cost, lied)
        except FailedAttempt as failed:
            raise FailedAttempt(failed.why, again=failed.again, cost=cost, lied=lied) from None
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise FailedAttempt("its answer is not understood", again=True, cost=cost, lied=lied) from None

    def _reported(self, data: Any) -> tuple[float, bool]:
        """Return the cost by the reported usage, NaN if there is none that is possible or it counts what has no price;
        and whether it is a lie.
        """
        usage = data.get("usage") if isinstance(data, dict) else None
        if not isinstance(usage, dict):
            return math.nan, False
        try:
            tokens = Usage.read(usage)
        except InputError:
            return math.nan, True
        if unpriced := self.price.unpriced(tokens):
            self._tell(set(unpriced))
            return math.nan, False
        return self.price.cost(tokens), tokens.output > self.n_output

    def _tell(self, unpriced: set[str]) -> None:
        """Log once what a usage counts that has no price. Its names are words of the service, so no text is logged."""
        names = sorted(name if name.isidentifier() and len(name) < 50 else "an entry" for name in unpriced)
        if len(self._told) < _MOST_TOLD and not self._told.issuperset(names):
            self._told |= set(names)
            _log.warning(
                f"the usage of {self.model} counts {', '.join(names[:5])}, of which there is no price: such answers "
                "count at the most that they may cost; name in `free` of the price what costs nothing"
            )

    def _read(self, data: Any, content: Any, cost: float, lied: bool) -> Reply:
        choice = at_path(data, "choices.0")
        message = at_path(choice, "message")
        if message.get("refusal") or choice.get("finish_reason") == "content_filter":
            return Reply(None, cost=cost, failed="refused", lied=lied)
        text = message.get("content")
        if not isinstance(text, str) or not text.strip():
            raise FailedAttempt("its answer has no text", again=True)
        answer = text.strip() if self.classes is None else self._class(text)
        if answer is None:
            return Reply(None, cost=cost, failed="its answer is none of the classes", lied=lied)
        tokens = (choice.get("logprobs") or {}).get("content") or []
        probabilities = self._probabilities(tokens, answer)
        if self.score is not None:
            confidence = self._scored(content, answer)
        elif probabilities is not None and self.classes is not None:
            confidence = probabilities[self.classes.index(answer)]
        else:
            logs = [float(at_path(token, "logprob")) for token in tokens]
            confidence = _confidence(logs, by_class=self.classes is not None)
        return Reply(answer, confidence, cost, probabilities, lied=lied)

    def _scored(self, content: Any, answer: str) -> float:
        try:
            return float(self.score(content, answer))  # type: ignore[misc]
        except Exception as error:  # a user's function may raise anything
            raise FailedAttempt(f"its score failed ({type(error).__name__})") from error

    def _class(self, text: str) -> str | None:
        """Return the class that an answer names, whatever its capitals and the marks around it."""
        names = {_plain(name): name for name in self.classes or ()}
        return names.get(_plain(text))

    def _probabilities(self, tokens: Any, answer: str) -> tuple[float, ...] | None:
        """Return the classes' probabilities by the likeliest first tokens; None unless these tell the classes apart."""
        if self.classes is None or not tokens:
            return None
        mass = dict.fromkeys(self.classes, 0.0)
        for token in tokens[0].get("top_logprobs") or ():
            start = _plain(str(token.get("token", "")))
            begins = [name for name in self.classes if start and _plain(name).startswith(start)]
            if len(begins) == 1:
                mass[begins[0]] += math.exp(min(0.0, float(at_path(token, "logprob"))))
        if mass[answer] == 0.0 or mass[answer] < max(mass.values()):
            return None
        masses = [max(share, _LEAST) for share in mass.values()]
        return tuple(share / sum(masses) for share in masses)


def _plain(text: str) -> str:
    return text.strip(" \t\r\n.,;:!\"'`*").casefold()


def _confidence(logs: list[float], *, by_class: bool) -> float:
    """Return the mean log-probability of an answer's tokens; of a class, the probability of all of them."""
    if not logs:
        return 0.0
    return math.exp(min(0.0, sum(logs))) if by_class else sum(logs) / len(logs)


def _checked_options(options: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """Return the options to send, with a limit of output tokens. Raises InputError for one of unbounded cost."""
    if other := [name for name in options if name not in (*_FREE, *_LIMITS)]:
        raise InputError(
            f"the option {other[0]!r} could cost more than is known before a call; allowed are "
            f"{', '.join((*_FREE, *_LIMITS))}"
        )
    if "reasoning_effort" in options and "max_completion_tokens" not in options:
        raise InputError(
            "tokens of reasoning are bounded by max_completion_tokens alone: add it to the options"
        )
    request_options = dict(options) if set(options) & set(_LIMITS) else {**options, "max_tokens": max_tokens}
    for name in _LIMITS:
        if name in request_options and (type(request_options[name]) is not int or request_options[name] < 1):
            raise InputError(f"{name} must be a whole number of at least 1, got {request_options[name]!r}")
    return request_options
