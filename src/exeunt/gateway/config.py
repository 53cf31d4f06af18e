"""The file that configures a gateway."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from exeunt._arrays import check_positive
from exeunt.budget_text import exact_quantity
from exeunt.errors import ExeuntError, InputError, one_line, require
from exeunt.gateway.breaker import Breaker
from exeunt.gateway.chat_model import ChatModel
from exeunt.ledger import ledger_of
from exeunt.live.http_model import checked_url, checked_variable

T = TypeVar("T")

_MODEL = re.compile(r"[!-~]{1,100}")
FEATURES = "features"
"""The name of the model that tells features, in policies and records."""


@dataclass(frozen=True)
class Provider:
    """An endpoint of chat completions. `key`: the environment variable that holds its key.

    `failures`: in a row until it is left alone, for `pause_s` seconds at first. `max_answer`: the most bytes of an
    answer; a longer one is a failure.
    """

    base_url: str
    key: str | None = None
    failures: int = 5
    pause_s: float = 5.0
    max_answer: int = 16 << 20

    def __post_init__(self) -> None:
        checked_url(self.base_url)
        checked_variable(self.key)
        check_positive(self.max_answer, "max_answer")


@dataclass(frozen=True)
class Shadow:
    """Which requests are also sent to which models, to be compared with the reference's answers.

    `share`: of the requests, while the reference answers everything. `audit`: of those that a policy answers.
    `spend`: what this may cost, such as "5 usd/day". `grader`: see `exeunt.gateway.graders.grader_named`.
    """

    models: tuple[str, ...]
    spend: str
    share: float = 0.1
    audit: float = 0.05
    grader: str = "match"

    def __post_init__(self) -> None:
        ledger_of(self.spend)
        for name in ("share", "audit"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"{name} is a share of the requests, such as 10%, got {getattr(self, name):g}"
                )


@dataclass(frozen=True)
class Features:
    """What a router looks at: the embedding of the user's last message by an `encoder` (see `TextEncoder`), if one is
    named, and how long the messages are. `price`: US dollars of an embedding.
    """

    encoder: str | None = None
    price: float = 0.0


@dataclass(frozen=True)
class Spend:
    """The most that all requests may cost, such as "100 usd" in `total` or "20 usd" a `day`; those of each client key,
    such as "5 usd/day" or "50 usd"; and an attempt at one model for one `request`. What is not named has no limit.
    """

    total: str | None = None
    day: str | None = None
    key: str | None = None
    request: str | None = None

    def __post_init__(self) -> None:
        for name in ("total", "day", "request"):
            if (given := getattr(self, name)) is not None and "/" in given:
                raise InputError(f"{name} is an amount such as '20 usd', got {given!r}")
        for given in (self.total, self.day and f"{self.day}/day", self.key, self.request):
            if given is not None and (unit := ledger_of(given).unit) != "usd":
                raise InputError(f"prices are in usd, and {given!r} is in {unit}")

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


@dataclass(frozen=True)
class Listen:
    """Where the gateway listens. `allowed_hosts`: further names by which it may be called."""

    host: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    max_body: int = 16 << 20
    max_open: int = 1024


@dataclass(frozen=True)
class GatewayConfig:
    """A gateway. `models`: by name. `reference`: the model that answers until there is a policy, and against which
    others are measured. `fallback`: models that answer, in this order, where those asked give no answer. `folder`:
    holds keys, records, policies and money. `run_length`: requests until a false alarm of the watch, on average at
    least.
    """

    folder: Path
    providers: Mapping[str, Provider]
    models: Mapping[str, ChatModel]
    reference: str
    fallback: tuple[str, ...] = ()
    shadow: Shadow | None = None
    features: Features | None = None
    spend: Spend = field(default_factory=Spend)
    keep: Keep = field(default_factory=Keep)
    listen: Listen = field(default_factory=Listen)
    run_length: float = 1e5

    def __post_init__(self) -> None:
        named = {
            "reference": (self.reference,),
            "fallback": self.fallback,
            "shadow": () if self.shadow is None else self.shadow.models,
        }
        for what, names in named.items():
            if unknown := [name for name in names if name not in self.models]:
                raise InputError(f"{what} names {unknown[0]!r}, and the models are {', '.join(self.models)}")
        if self.shadow is not None and self.reference in self.shadow.models:
            raise InputError(
                "shadow names the models that are compared with the reference, not the reference"
            )
        if wrong := [
            name for name in self.models if not _MODEL.fullmatch(name) or name.split(":")[0] == "auto"
        ]:
            raise InputError(
                f"a model's name is at most 100 characters of ASCII without blanks and does not start with auto: as "
                f"policies do, got {wrong[0]!r:.80}"
            )
        if FEATURES in self.models:
            raise InputError(f"no model may be called {FEATURES!r}: that is what a router looks at")


def read_config(path: str | Path) -> GatewayConfig:
    """Read a file. Raises InputError, which names the entry, for what is missing or wrong."""
    yaml: Any = require("yaml", extra="gateway")
    if not (file := Path(path)).is_file():
        raise InputError(f"there is no file {file}: name the YAML file of a gateway")
    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError) as error:
        raise InputError(f"{file} is no YAML: {one_line(error)}") from None
    try:
        return _config(body, file)
    except ExeuntError as error:
        raise InputError(f"{file}: {error}") from None


def _config(body: Any, file: Path) -> GatewayConfig:
    """Return the configuration that a file holds."""
    given = dict(_mapping(body, "the file"))
    providers = {
        str(name): _made(Provider, entry, f"provider {name!r}")
        for name, entry in _mapping(given.pop("providers", None), "providers").items()
    }
    breakers = {
        name: Breaker(name, failures=one.failures, pause_s=one.pause_s) for name, one in providers.items()
    }
    parts: dict[str, type] = {
        "shadow": Shadow, "features": Features, "spend": Spend, "keep": Keep, "listen": Listen,
    }  # fmt: skip
    made: dict[str, Any] = {
        name: _made(of, given.pop(name), name) for name, of in parts.items() if given.get(name) is not None
    }
    at_most = made.get("spend", Spend()).of_a_request
    models = {
        str(name): _model(
            str(name), {**_mapping(entry, f"model {name!r}"), "at_most": at_most}, providers, breakers
        )
        for name, entry in _mapping(given.pop("models", None), "models").items()
    }
    folder = file.resolve().parent / str(given.pop("folder", "gateway"))
    return _made(
        GatewayConfig, {**given, **made, "folder": folder, "providers": providers, "models": models}, ""
    )


def _model(
    name: str, entry: dict[str, Any], providers: Mapping[str, Provider], breakers: Mapping[str, Breaker]
) -> ChatModel:
    of = entry.pop("provider", None)
    if of not in providers:
        raise InputError(f"model {name!r} names its provider, one of {', '.join(providers)}, it has {of!r}")
    known: dict[str, Any] = {
        "base_url": providers[of].base_url,
        "key": providers[of].key,
        "breaker": breakers[of],
        "max_answer": providers[of].max_answer,
    }
    try:
        return ChatModel(entry.pop("model", name), name=name, **entry, **known)
    except TypeError as error:
        raise InputError(f"model {name!r}: {str(error).partition('__init__() ')[2] or error}") from None
    except ExeuntError as error:
        raise InputError(f"model {name!r}: {error}") from None


def _made(of: type[T], entry: Any, what: str) -> T:
    """Make a part of the configuration. Raises InputError for options that it does not have, or that are missing."""
    known: Any = fields(of)  # type: ignore[arg-type]
    given = dict(_mapping(entry, what))
    where = f"{what}: " if what else ""
    if unknown := [name for name in given if name not in {one.name for one in known}]:
        raise InputError(
            f"{where}there is no {unknown[0]!r}; there are {', '.join(one.name for one in known)}"
        )
    needed = [one.name for one in known if one.default is MISSING and one.default_factory is MISSING]
    if missing := [name for name in needed if name not in given]:
        raise InputError(f"{where}{missing[0]} is missing")
    try:
        return of(**{one.name: _read(one.type, given[one.name]) for one in known if one.name in given})
    except ExeuntError as error:
        raise InputError(f"{where}{error}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}{one_line(error)}") from None


def _read(kind: str, value: Any) -> Any:
    """Return a value as the kind that a field has: lists as tuples, shares such as "10%" as numbers."""
    if kind.startswith("tuple"):
        if not isinstance(value, list):
            raise InputError(f"give a list, got {value!r:.60}")
        return tuple(map(str, value))
    if kind == "float":
        return float(value[:-1]) / 100 if isinstance(value, str) and value.endswith("%") else float(value)
    if kind in ("int", "bool") and type(value).__name__ != kind:
        raise InputError(f"give {'a whole number' if kind == 'int' else 'true or false'}, got {value!r:.60}")
    if kind.startswith("str") and value is not None and not isinstance(value, str):
        raise InputError(f"give a text, got {value!r:.60}: write it in quotes")
    return value


def _mapping(entry: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping) or not entry:
        raise InputError(f"{what} must hold options by name")
    return entry
