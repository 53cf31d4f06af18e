"""The file that configures a gateway."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from exeunt._support.arrays import check_between, check_delta, check_positive
from exeunt._support.yaml_text import read_yaml
from exeunt.costs.budget_text import exact_quantity, parse_budget
from exeunt.errors import ExeuntError, InputError, UnitError
from exeunt.gateway.anthropic_model import AnthropicModel
from exeunt.gateway.breaker import Breaker
from exeunt.gateway.chat_model import ChatModel
from exeunt.gateway.deployments import Deployment, DeploymentOptions, deployments_of
from exeunt.gateway.embedding_model import EmbeddingModel
from exeunt.gateway.entries import Amount, Budget, Limit, Seconds, mapping, options_of, read_as, read_entry
from exeunt.gateway.folder import JUDGE
from exeunt.gateway.graders import find_grader_beside
from exeunt.ledger import Limit as LedgerLimit
from exeunt.ledger import ledger_of
from exeunt.ledger.calendar import PERIODS, UTC, zone_of
from exeunt.live.function_model import checked_price
from exeunt.live.http_model import checked_url, checked_variable
from exeunt.stream.units import DAY_S, HOUR_S, UnitRules
from exeunt.web.limits import Limits, check_proxies, host_names

_MODEL = re.compile(r"[!-~]{1,100}")
OPTED_OUT = ("reference", "policy")
_MODEL_CLASSES: Mapping[str, type[ChatModel]] = {"openai": ChatModel, "anthropic": AnthropicModel}
"""By the protocol of their provider."""
_USUAL_BYTES = 1 << 15
"""Bytes of the longest request that is compared where nothing says what one may cost."""
FEATURES = "features"
"""The name of the model that tells features, in policies and records."""
_OF_A_MODEL = {
    "provider": "str",
    "model": "str",
    "price": "Mapping",
    "deployments": "Mapping | None",
    "prompt_cache_key": "bool",
    "max_tokens": "int",
    "tools": "bool",
    "image_tokens": "int | None",
    "logprobs": "bool",
    "reasons": "bool",
    "takes": "tuple[str, ...]",
    "template_tokens": "int",
    "concurrency": "int",
    "timeout_s": "float",
    "retries": "int",
}
"""The options of a model, each with its kind: see `ChatModel`."""
_SHARED = ("provider", "model", "price", "template_tokens", "concurrency", "timeout_s", "retries")
_OF_AN_EMBEDDING = {name: _OF_A_MODEL[name] for name in _SHARED}
"""The options of a model that embeds texts, each with its kind: see `EmbeddingModel`."""


def check_limit(text: str, name: str, *, time_zone: str | None = None) -> None:
    """Raise InputError unless the text is a limit in US dollars, such as "5 usd" or "2 usd/day". `time_zone`: in which
    days, weeks and months are those of the calendar; None for rates alone.
    """
    try:
        unit = ledger_of(text, time_zone=time_zone).unit
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if unit != "usd":
        raise InputError(f"{name}: prices are in usd, and {text!r} is in {unit}: write it in usd")


def check_amount(text: str, name: str) -> None:
    """Raise InputError unless the text is an amount in US dollars, such as "5 usd"."""
    if "/" in text:
        raise InputError(f"{name} is an amount such as '20 usd', got {text!r}")
    check_limit(text, name)


def check_base_url(url: str, prefix: str = "") -> None:
    """Raise InputError for an address that holds what is added to it."""
    path = url.rstrip("/")
    for end in ("/chat/completions", "/messages", "/embeddings"):
        if path.endswith(end):
            raise InputError(f"{prefix}base_url ends before {end}: write {path.removesuffix(end)!r}")


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@dataclass(frozen=True)
class Provider:
    """An endpoint of a provider. `key`: the environment variable that holds its key. `protocol`: that it speaks.

    `failures`: of a model in a row until it is left alone, for `pause_s` seconds at first; so many failed connections
    or refused keys, and all of its models are. `max_answer`: the most bytes of an answer; a longer one is a failure.
    """

    base_url: str
    key: str | None = None
    failures: int = 5
    pause_s: float = 5.0
    max_answer: int = 16 << 20
    protocol: str = "openai"

    def __post_init__(self) -> None:
        checked_url(self.base_url)
        checked_variable(self.key)
        check_positive(self.max_answer, "max_answer")
        if self.protocol not in _MODEL_CLASSES:
            raise InputError(f"protocol is {' or '.join(_MODEL_CLASSES)}, got {self.protocol!r:.60}")
        check_base_url(self.base_url)
        if self.failures < 1:
            raise InputError(f"failures must be at least 1, got {self.failures}")
        check_positive(self.pause_s, "pause_s")


@dataclass(frozen=True)
class Shadow:
    """Which units of requests are also sent to which models, to be compared with the reference's answers.

    `share`: of the units, while the reference answers everything. `audit`: of the units, while a policy answers.
    `spend`: what this may cost, such as "5 usd/day", a rate. `cap`: the most that a request may cost whoever answers
    it; dearer ones are answered by the reference and not compared. `grader`: see `exeunt.gateway.graders.grader_named`.
    `opted_out`: who answers clients whose requests are not compared: "reference", or also the "policy", of which nobody
    knows how good it is for them.
    """

    models: tuple[str, ...]
    spend: Limit
    share: float = 0.1
    audit: float = 0.05
    grader: str = "match"
    cap: Amount | None = None
    opted_out: str = "reference"

    def __post_init__(self) -> None:
        check_limit(self.spend, "spend")
        if self.cap is not None:
            check_amount(self.cap, "cap")
            check_positive(float(exact_quantity(self.cap)[0]), "cap")
        if self.opted_out not in OPTED_OUT:
            raise InputError(f"opted_out is {' or '.join(OPTED_OUT)}, got {self.opted_out!r}")
        if not self.models:
            raise InputError("models is empty: name the models that are compared, or leave shadow out")
        for name in ("share", "audit"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share of the units, such as 10%, got {getattr(self, name):g}")


@dataclass(frozen=True)
class Promise:
    """What the gateway is to certify. `max_loss`: by how much the mean grade per request may be below the reference's.
    `max_early_loss`: the same on average over the requests that are answered without the reference; `max_early_worse`:
    the share of these that may have a lower grade. `max_tail`: an amount such as "0.01 usd", or a share of what the
    reference costs for a request, and the share of the requests that may cost more. `budget`: the mean cost per
    request, as a share of the reference's such as "40%", or an amount such as "0.002 usd".
    `delta`: the probability that a certificate is ever false, however often one looks.

    Raises InputError if nothing is promised, or a limit is out of range.
    """

    max_loss: float | None = None
    budget: Budget | None = None
    delta: float = 0.05
    max_early_loss: float | None = None
    max_early_worse: float | None = None
    max_tail: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        early = self.max_early_loss is not None or self.max_early_worse is not None
        if self.max_loss is None and self.budget is None and not early:
            raise InputError(
                "give max_loss, such as 5%, or budget, such as 40%, or both"
                + " (max_tail alone is kept by asking the cheapest model)" * bool(self.max_tail)
            )
        _ = self.tail
        for name in ("max_loss", "max_early_loss", "max_early_worse", "delta"):
            if (share := getattr(self, name)) is None:
                continue
            if 1 <= share < 100:
                raise InputError(
                    f"{name} is a share between 0 and 1, got {share:g}: write {share:g}% if {share:g} in 100 is meant"
                )
            check_delta(share) if name == "delta" else check_between(share, name, 0.0, 1.0)
        if self.budget is not None:
            share, amount = self.parts_of(self.budget)
            if not (0 < share < 1 or amount > 0):
                raise InputError(
                    f"budget is a share of the reference's cost below 100%, such as 40%, or an amount per request such "
                    f"as '0.002 usd', got {self.budget!r}"
                )

    @property
    def tail(self) -> tuple[str, float] | None:
        """The amount of `max_tail`, and the share of the requests that may cost more. Raises InputError for others."""
        if not self.max_tail:
            return None
        if len(self.max_tail) != 2:
            raise InputError(
                f"max_tail is an amount and a share, such as ['0.01 usd', 1%], got {list(self.max_tail)!r:.80}"
            )
        cost, share = self.max_tail
        if sum(self.parts_of(cost)) <= 0:
            raise InputError(f"the amount of max_tail must be above 0, got {cost!r}")
        return cost, check_between(
            read_as("float", share, "the share of max_tail"), "the share of max_tail", 0.0, 1.0
        )

    @staticmethod
    def parts_of(budget: str) -> tuple[float, float]:
        """Return a budget as a share of the reference's cost and an amount in US dollars, one of which is 0.

        Raises InputError if the budget has no unit, or another one.
        """
        if budget.replace(".", "", 1).strip().isdigit():
            raise InputError(f"budget {budget} has no unit: write {budget}%, or '{budget} usd'")
        try:
            share = parse_budget(budget, full=1.0, unit="usd")
        except UnitError:
            raise InputError(
                f"budget {budget!r} is neither a share nor in usd: write a share of the reference's cost such as "
                "'40%', or an amount per request such as '0.002 usd'"
            ) from None
        return (share, 0.0) if "%" in budget else (0.0, share)


@dataclass(frozen=True)
class Features:
    """What a router looks at: the embedding of the user's last message by an `encoder` (see `TextEncoder`), if one is
    named, and how long the messages are. `price`: US dollars of an embedding.
    """

    encoder: str | None = None
    price: float = 0.0

    def __post_init__(self) -> None:
        checked_price(self.price)


@dataclass(frozen=True)
class Spend:
    """The most that all requests may cost, such as "100 usd" in `total` or "20 usd" a `day`, `week` or `month` of the
    calendar in the `time_zone`; those of each client key, such as "5 usd/month" or "50 usd"; and an attempt at one
    model for one `request`. What is not named has no limit. `warn`: the share of a limit at which it is nearly reached;
    `webhook`: the URL that is then told.
    """

    total: Amount | None = None
    day: Amount | None = None
    week: Amount | None = None
    month: Amount | None = None
    key: Limit | None = None
    request: Amount | None = None
    time_zone: str = UTC
    warn: float = 0.8
    webhook: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        zone_of(self.time_zone)
        if not 0 < self.warn <= 1:
            raise InputError(
                f"warn is a share of the limit above 0, up to 100%, such as 80%, got {self.warn:g}"
            )
        if self.webhook is not None and not _is_web(self.webhook):
            raise InputError(
                "webhook is a URL that begins with http:// or https:// and a host: this does not"
            )
        for name in ("total", *PERIODS, "request"):
            if (limit := getattr(self, name)) is not None:
                check_amount(limit, name)
        if self.key is not None:
            check_limit(self.key, "key", time_zone=self.time_zone)

    @property
    def periods(self) -> dict[str, str]:
        """The limits by the calendar for all requests, such as "20 usd" by "day"."""
        return {name: limit for name in PERIODS if (limit := getattr(self, name)) is not None}

    def is_near(self, limit: LedgerLimit) -> bool:
        """Whether a limit is nearly reached."""
        return limit.used >= self.warn - 1e-9  # of floats that were divided

    @property
    def is_limited(self) -> bool:
        """Whether all requests together have a limit."""
        return bool(self.total or self.periods)

    @property
    def of_a_request(self) -> float:
        """US dollars that an attempt may cost."""
        return math.inf if self.request is None else float(exact_quantity(self.request)[0])


@dataclass(frozen=True)
class Keep:
    """What of requests is kept beside scores, costs and grades. `days`: how long records are kept."""

    texts: bool = False
    features: bool = False
    days: float = 90.0

    def __post_init__(self) -> None:
        check_positive(self.days, "days")


@dataclass(frozen=True)
class Listen:
    """Where the gateway listens. `allowed_hosts`: further names by which it may be called. `max_body`: bytes of a
    request. `max_open`: requests that are open at a time. `max_connections`: of which one address may have a quarter,
    unless it is one of the `proxies`, addresses or networks.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    max_body: int = 16 << 20
    max_open: int = 1024
    max_connections: int = 4096
    proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_between(self.port, "port", 0, 65_535, inclusive=True)
        host_names(self.host, self.allowed_hosts, option="allowed_hosts")  # raises if one is not a host name
        check_proxies(self.proxies, option="proxies")
        for name in ("max_body", "max_open", "max_connections"):
            check_positive(getattr(self, name), name)

    @property
    def limits(self) -> Limits:
        """The limits of a request in size, number and time."""
        return Limits(
            hosts=host_names(self.host, self.allowed_hosts),
            max_body=self.max_body,
            max_open=self.max_open,
            proxies=self.proxies,
        )


@dataclass(frozen=True)
class GatewayConfig:
    """A gateway. `models`: by name. `embeddings`: models that embed texts, by name. `reference`: the model that answers
    until there is a policy, and against which others are measured. `fallback`: models that answer, in this order, where
    those asked give no answer. `folder`:
    holds keys, records, policies and money.

    `promise`: what is to be certified; None for nothing. `units`: which requests belong together, a "request", a
    "conversation" (by default) or a "user"; `sticky`: whether the model that answers the first request of a unit
    answers the others, too; `unit_idle`, `unit_rows`, `unit_time`: see `UnitRules`. `period`: seconds
    of the periods after which evidence is read; `min_periods`: periods until a certificate, at least. `run_length`:
    units until a false alarm of the watch, on average at least.
    """

    folder: Path
    providers: Mapping[str, Provider]
    models: Mapping[str, ChatModel]
    reference: str
    embeddings: Mapping[str, EmbeddingModel] = field(default_factory=dict)
    fallback: tuple[str, ...] = ()
    shadow: Shadow | None = None
    features: Features | None = None
    spend: Spend = field(default_factory=Spend)
    keep: Keep = field(default_factory=Keep)
    listen: Listen = field(default_factory=Listen)
    promise: Promise | None = None
    units: str | None = None
    sticky: bool = False
    unit_idle: Seconds = HOUR_S
    unit_rows: int = 20
    unit_time: Seconds | None = None
    period: Seconds = DAY_S
    min_periods: int = 7
    run_length: float = 1e5

    @cached_property
    def unit_rules(self) -> UnitRules:
        """What a unit is."""
        kind: Any = self.units or "conversation"
        if kind == "request" and self.sticky:
            raise InputError(
                "sticky is about later requests of a unit, and units: request has none: leave one out"
            )
        time_s = self.unit_time or (7 * DAY_S if kind == "user" else DAY_S)
        return UnitRules(kind, self.unit_idle, self.unit_rows, time_s)

    @property
    def audit(self) -> float:
        """The share of the units that is compared while a policy answers."""
        return 0.0 if self.shadow is None else self.shadow.audit

    @property
    def cap(self) -> float:
        """US dollars that a request may cost, whoever answers it, to be compared and answered by a policy."""
        shadow = self.shadow
        if shadow is not None and shadow.cap is not None:
            return float(exact_quantity(shadow.cap)[0])
        if math.isfinite(self.spend.of_a_request):
            return self.spend.of_a_request
        return sum(self.models[name].dearest(_USUAL_BYTES) for name in self.compared)

    def _check_budget(self) -> None:
        """Raise InputError for a budget that is below the prices of all compared models."""
        promise, reference = self.promise, self.models[self.reference]
        if promise is None or promise.budget is None:
            return
        share, _ = promise.parts_of(promise.budget)
        least = min(self.models[name].price_share(reference) for name in self.compared)
        if 0 < share < least:
            raise InputError(
                f"promise: no compared model costs as little as {share:.4g} of {self.reference}: by their prices it is "
                f"{least:.4g} at least, so give a higher budget, or add a cheaper model"
            )

    @property
    def resting(self) -> list[tuple[Breaker, list[str]]]:
        """The breakers of models, deployments and providers that rest, each with the models that are not asked."""
        models: dict[Breaker, list[str]] = {}
        for name, model in self.all_models.items():
            models.setdefault(model.breaker, []).append(name)
            for deployment in model.deployments.all:
                models.setdefault(deployment.breaker, []).extend([name] * model.deployments.rest)
        return [(breaker, names) for breaker, names in models.items() if breaker.rests]

    @property
    def all_models(self) -> Mapping[str, ChatModel]:
        """Whatever is asked and paid: models, and those that embed texts."""
        return {**self.models, **self.embeddings}

    @property
    def compared(self) -> tuple[str, ...]:
        """The models that are compared, the reference the last of them."""
        return (*(() if self.shadow is None else self.shadow.models), self.reference)

    @property
    def offered(self) -> tuple[str, ...]:
        """The models that clients may ask: all but a judge that does nothing else."""
        kind, _, judge = (self.shadow.grader if self.shadow else "").partition(" ")
        own = {self.reference, *self.fallback, *self.compared}
        return tuple(name for name in self.models if kind != JUDGE or name != judge.strip() or name in own)

    def _check_names(self) -> None:
        """Raise InputError for a name that no model may have, or that two have."""
        if wrong := [
            name for name in self.all_models if not _MODEL.fullmatch(name) or name.split(":")[0] == "auto"
        ]:
            raise InputError(
                f"a model's name is at most 100 characters of ASCII without blanks and does not start with auto: as "
                f"policies do, got {wrong[0]!r:.80}"
            )
        if FEATURES in self.all_models:
            raise InputError(f"no model may be called {FEATURES!r}: that is what a router looks at")
        if both := [name for name in self.embeddings if name in self.models]:
            raise InputError(
                f"{both[0]!r} stands in models and in embeddings: give one of them another name, and its name at the "
                "provider as model"
            )

    def __post_init__(self) -> None:
        _ = self.unit_rules  # raises if they are wrong
        check_positive(self.period, "period")
        if self.min_periods < 1:
            raise InputError(f"min_periods must be at least 1, got {self.min_periods}")
        if self.promise is not None and self.shadow is None:
            raise InputError("a promise is tested on requests that are compared: name the models in shadow")
        named = {
            "reference": (self.reference,),
            "fallback": self.fallback,
            "shadow": () if self.shadow is None else self.shadow.models,
        }
        for entry, names in named.items():
            if unknown := [name for name in names if name not in self.models]:
                raise InputError(f"{entry} names {unknown[0]!r}, and the models are {', '.join(self.models)}")
        if self.shadow is not None and self.reference in self.shadow.models:
            raise InputError(
                "shadow names the models that are compared with the reference, not the reference"
            )
        self._check_names()
        if self.keep.features != (self.features is not None):
            raise InputError(
                "a router needs both, what it looks at and records of that: give features and keep: "
                "{features: true}, or neither"
            )
        check_between(self.run_length, "run_length", 10, 1e12, inclusive=True)
        self._check_budget()
        if self.shadow is not None and self.cap > ledger_of(self.shadow.spend).left:
            raise InputError(
                f"a comparison may cost {self.cap:.4g} usd, more than the spend of shadow, {self.shadow.spend!r}, so "
                "nothing could be compared: give shadow a lower cap (dearer requests are then left to the reference), "
                "or let it spend more"
            )


def read_config(path: str | Path) -> GatewayConfig:
    """Read a file. The module of a grader of one's own is found beside it.

    Raises InputError, which names the entry, for what is missing or wrong.
    """
    if not (file := Path(path)).is_file():
        reason = f"{file} is a folder" if file.is_dir() else f"there is no file {file}"
        raise InputError(f"{reason}: name the YAML file of a gateway")
    body = read_yaml(file, extra="gateway")
    try:
        return _config(body, file)
    except ExeuntError as error:
        raise InputError(f"{file}: {error}") from None


def _config(body: Any, file: Path) -> GatewayConfig:
    """Return the configuration that a file holds."""
    entries = dict(mapping(body, "the file"))
    for name in ("providers", "models"):
        if not entries.get(name):
            raise InputError(f"{name} is missing: give {name} by name, each with its options")
    providers = {
        str(name): read_entry(Provider, entry, f"provider {name!r}")
        for name, entry in mapping(entries.pop("providers"), "providers").items()
    }
    breakers = {
        name: Breaker(name, provider.failures, provider.pause_s) for name, provider in providers.items()
    }
    parts: dict[str, type] = {
        "shadow": Shadow,
        "features": Features,
        "spend": Spend,
        "keep": Keep,
        "listen": Listen,
        "promise": Promise,
    }
    built: dict[str, Any] = {
        name: read_entry(kind, entry, name)
        for name, kind in parts.items()
        if (entry := entries.pop(name, None)) is not None  # nothing below its name is as if it were not there
    }
    at_most = built.get("spend", Spend()).of_a_request
    models = {
        str(name): _model(str(name), entry, providers, breakers, at_most)
        for name, entry in mapping(entries.pop("models"), "models").items()
    }
    embeddings = {
        str(name): _model(str(name), entry, providers, breakers, at_most, embeds=True)
        for name, entry in mapping(entries.pop("embeddings", None) or {}, "embeddings").items()
    }
    folder = file.resolve().parent / read_as("str", entries.pop("folder", "gateway"), "folder")
    config = read_entry(
        GatewayConfig,
        {
            **entries,
            **built,
            "folder": folder,
            "providers": providers,
            "models": models,
            "embeddings": embeddings,
        },
        "",
    )
    if config.shadow is not None:
        find_grader_beside(config.shadow.grader, file.resolve().parent)
    return config


def _model(
    name: str,
    entry: Any,
    providers: Mapping[str, Provider],
    breakers: Mapping[str, Breaker],
    at_most: float,
    *,
    embeds: bool = False,
) -> Any:
    """Return a model, or one that embeds texts. Raises InputError, which names the entry."""
    where = f"{'embedding' if embeds else 'model'} {name!r}"
    kinds = _OF_AN_EMBEDDING if embeds else _OF_A_MODEL
    options = options_of(entry, kinds, ("provider", "price"), where)
    if (of := options.pop("provider")) not in providers:
        raise InputError(f"{where}: provider is one of {', '.join(providers)}, got {of!r}")
    model_class = EmbeddingModel if embeds else _MODEL_CLASSES[providers[of].protocol]
    if embeds and providers[of].protocol != "openai":
        raise InputError(f"{where}: the protocol of {of}, {providers[of].protocol}, has no embeddings")
    provider, entries = providers[of], options.pop("deployments", None)
    connection: dict[str, Any] = {
        "base_url": provider.base_url,
        "key": provider.key,
        "provider": breakers[of],
        "breaker": Breaker(name, provider.failures, provider.pause_s),
        "max_answer": provider.max_answer,
    }
    try:
        if entries is not None:
            connection["deployments"] = _deployments(name, entries, provider)
        return model_class(options.pop("model", name), name=name, at_most=at_most, **options, **connection)
    except ExeuntError as error:
        raise InputError(f"{where}: {error}") from None


def _deployments(model: str, entries: Mapping[str, Any], provider: Provider) -> list[Deployment]:
    """Return the deployments that the entry of a model names."""
    if not entries:
        raise InputError("deployments is empty: name at least one, or leave it out")
    if wrong := [name for name in entries if not _MODEL.fullmatch(str(name))]:
        raise InputError(
            f"a deployment's name is at most 100 characters of ASCII without blanks, got {wrong[0]!r:.80}"
        )
    read = {
        str(name): read_entry(DeploymentOptions, entry or {}, f"deployment {name!r}")
        for name, entry in entries.items()
    }
    for name, deployment in read.items():
        check_base_url(deployment.base_url or provider.base_url, f"deployment {name!r}: ")

    def breaker(name: str) -> Breaker:
        return Breaker(name, provider.failures, provider.pause_s)

    return deployments_of(model, read, DeploymentOptions(provider.base_url, provider.key), breaker)
