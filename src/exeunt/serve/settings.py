"""The settings of a server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exeunt._support.limits import usable_cores
from exeunt.errors import InputError
from exeunt.ledger import ledger_of
from exeunt.web.limits import Limits, check_proxies, host_names, listens_everywhere

_LIVE_FILE = "serving.json"
_PER_CORE = 4  # threads and workers at most
_ON_DRIFT = ("tell", "quota", "reference", "recalibrate")
_POSITIVE = (
    "decoders",
    "max_body",
    "max_pixels",
    "max_chars",
    "max_open",
    "max_connections",
    "max_rows",
    "slow_s",
    "slo_s",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server.

    `run`: the run folder. `name`: of the model in the Open Inference Protocol; by default the folder's.
    `executor`, `threads`, `trusted`: see `exeunt.load`. `models`: the file of live models, of a run that asks them.
    `budget`: the largest mean cost per row, as people write it, until somebody sets another; by default the largest
    that there is a policy for.
    `live_file`: holds the budget that somebody has set, and is watched; by default `serving.json` in the run folder.
    `slo_s`: the latency target: the share `slo_quantile` of rows is to be answered within so many seconds. Under load,
    rows then return the predictions of earlier exits, and policies below the budget become active, down to
    `min_accuracy`, as estimated; below that where rows would else be cut off at their deadlines. None leaves both as
    they are.
    `host`, `port`: where to listen. `allowed_hosts`: names, beside that and those of the machine itself, by which
    requests may call the server; `*` stands for any letters.
    `tiers`: budgets by a name that requests may give.
    `workers`: processes behind one address. They share nothing but the run folder and the counts for /metrics.
    `decoders`: threads that decode inputs. `max_body`: bytes of a request. `max_pixels`: of an image.
    `max_chars`: of a text.
    `max_open`: requests that are open at a time; more are refused. `max_connections`: of all workers together, of which
    one address may have a quarter, unless it is one of the `proxies`, addresses or networks. `max_rows`: rows in
    the engine, by default as many as 1 GiB holds before they run, at most 65,536. `when_full`: "refuse" refuses more,
    "degrade" first finishes rows that have the output of some exit.
    `slow_s`: seconds in which a request must have come in. `api_keys`: one of them must come with a request; none for
    an open server. `max_spend`, `max_spend_per_key`: what all answers, and those of each key, may cost, such as
    "100 usd" or "20 usd/day". `on_drift`: what follows once inputs have drifted: "tell" is a warning alone; with
    "quota" each exit answers its planned share then, with "reference" the last exit answers; "recalibrate" records
    inputs there, and calibrates the policy again.
    """

    run: Path
    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: tuple[str, ...] = ()
    name: str | None = None
    executor: str | None = None
    threads: int | None = None
    trusted: str | None = None
    models: Path | None = None
    budget: str | None = None
    live_file: Path | None = None
    slo_s: float | None = None
    slo_quantile: float = 0.99
    min_accuracy: float = 0.0
    tiers: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    decoders: int = field(default_factory=lambda: max(2, usable_cores()))
    max_body: int = 64 << 20
    max_pixels: float = 25e6
    max_chars: int = 100_000
    max_open: int = 4096
    max_connections: int = 4096
    proxies: tuple[str, ...] = ()
    max_rows: int | None = None
    when_full: str = "degrade"
    slow_s: float = 30.0
    api_keys: tuple[str, ...] = ()
    on_drift: str = "tell"
    max_spend: str | None = None
    max_spend_per_key: str | None = None
    log_requests: bool = False

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            number: Any = getattr(self, name)
            if number is not None and not 0 < number < math.inf:
                raise InputError(f"{name} must be above 0 and finite, got {number:g}")
        limit = _PER_CORE * usable_cores()
        for option, count in (("--threads", self.threads), ("--workers", self.workers)):
            if count is not None and not 1 <= count <= limit:
                raise InputError(
                    f"{option} must be 1 to {limit}, {_PER_CORE} for each core of this machine, got {count}"
                )
        self._check_hosts()
        self._check_limits()
        if "/" in self.model_name:
            raise InputError(f"the name of the model is a part of addresses and has no /, got {self.name!r}")
        file = self.live_budget_file
        if not file.parent.is_dir():
            raise InputError(f"there is no folder {file.parent} for the file of the live budget")
        if file.is_dir():
            raise InputError(f"--live-file must be a file, {file} is a folder")
        if self.when_full not in ("refuse", "degrade"):
            raise InputError(f"--when-full must be refuse or degrade, got {self.when_full!r}")
        if self.on_drift not in _ON_DRIFT:
            raise InputError(f"--on-drift must be one of {', '.join(_ON_DRIFT)}, got {self.on_drift!r}")

    def _check_limits(self) -> None:
        for limit in (self.max_spend, self.max_spend_per_key):
            if limit is not None:
                ledger_of(limit)  # raises for what is no limit
        if self.max_spend_per_key is not None and not self.api_keys:
            raise InputError(
                "--max-spend-per-key is for servers with keys: name their file with --api-key-file"
            )

    def _check_hosts(self) -> None:
        host_names(self.host, self.allowed_hosts)  # raises for what is no name
        check_proxies(self.proxies, option="--proxy")
        if listens_everywhere(self.host) and not (self.api_keys or self.allowed_hosts):
            raise InputError(
                f"--host {self.host} opens the server to every network: require keys with --api-key-file, or say with "
                "--allowed-host by which names it may be called, such as models.example.com"
            )

    @property
    def limits(self) -> Limits:
        """What requests may take."""
        return Limits(
            hosts=host_names(self.host, self.allowed_hosts),
            max_body=self.max_body,
            max_open=self.max_open,
            slow_s=self.slow_s,
            log_requests=self.log_requests,
            proxies=self.proxies,
        )

    @property
    def model_name(self) -> str:
        """Name of the model in the Open Inference Protocol."""
        return self.name or self.run.name or self.run.resolve().name

    @property
    def money_file(self) -> Path:
        """The file of the ledgers: beside the run, since its path may come to lead to another one."""
        file = self.run if self.live_file is None else self.live_file.with_suffix("")
        return file.parent / f"{file.name}-money.db"

    @property
    def live_budget_file(self) -> Path:
        """The file that holds the live budget."""
        return self.run / _LIVE_FILE if self.live_file is None else self.live_file
