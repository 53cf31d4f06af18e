"""`exeunt serve RUN`: answer requests over HTTP within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exeunt.cli.options import LiveExecution, RunPath, option, options_under, share, with_groups
from exeunt.errors import InputError, require

_access, _budget, _limit = map(options_under, ("Access", "Budget", "Limits"))


@dataclass(frozen=True, kw_only=True)
class _Plain:
    """Options that are settings of the server under the same name and in the same unit."""

    host: str = _access(
        "Address to listen at; 0.0.0.0 is every one, and needs --api-key-file or --allowed-host.",
        default="127.0.0.1",
    )
    port: int = _access("Port to listen at; 0 takes a free one.", default=8000, min=0, max=65535)
    workers: int = option("Processes behind the address, each with its own model.", default=1, min=1)
    name: str | None = option("Name of the model in the Open Inference Protocol. Default: the folder's.")
    log_requests: bool = option("Log every request, not only those that fail.", default=False)
    threads: int | None = option("Threads that a call of the network computes with.", min=1)
    budget: str | None = _budget(
        "Largest mean cost per input, such as 50%, until PUT /budget changes it. Default: the largest budget there is."
    )
    live_file: Path | None = _budget(
        "File that keeps the budget which PUT /budget has set. Default: serving.json in the run folder."
    )
    max_spend: str | None = _budget(
        "What all answers may cost together: an amount such as '100 usd', or a rate such as '20 usd/day'. Needed for "
        "live models."
    )
    max_spend_per_key: str | None = _budget("The same for each API key, such as '1 usd/day'.")
    on_drift: str = option(
        "What follows once inputs have drifted: tell only warns; quota lets each exit answer its planned share, which "
        "keeps the budget; reference lets the last exit answer; recalibrate does so until 1,000 inputs are recorded "
        "there, and calibrates the policy again on them.",
        default="tell",
    )
    max_chars: int = _limit("Longest text, in characters.", default=100_000, min=1)
    max_open: int = _limit("Requests that may be open at a time; more are refused.", default=4096, min=1)
    max_connections: int = _limit(
        "Connections that there may be at a time, to all workers together; one address may have a quarter.",
        default=4096,
        min=1,
    )
    max_rows: int | None = _limit(
        "Inputs that may be in the engine at a time. Default: as many as fit in 1 GB, at most 65,536.", min=1
    )
    when_full: str = _limit(
        "What happens to more inputs than that: refuse them, or degrade: first return early answers to inputs that "
        "have passed an exit.",
        default="degrade",
    )


@dataclass(frozen=True, kw_only=True)
class _Read:
    """Options that are read or converted first."""

    api_key_file: Path | None = _access("File of keys, one on a line; requests must then carry one of them.")
    allowed_host: list[str] | None = _access(
        "A name by which requests may call the server beside --host and localhost, such as that of a proxy; "
        "*.example.com is every name that ends so. May be repeated."
    )
    proxy: list[str] | None = _access(
        "The address, or the network, of a proxy in front of the server, which may have all connections. May be "
        "repeated."
    )
    slo_ms: float | None = _budget(
        "Deadline of each input in milliseconds. To meet it under load, the server lowers the budget and returns the "
        "predictions of earlier exits."
    )
    slo_quantile: str | None = _budget("Share of inputs that must meet the deadline. Default: 99%.")
    min_accuracy: str | None = _budget(
        "Lowest estimated accuracy to lower the budget to, such as 90%; lower while rows would else be cut off at "
        "their deadlines, which is less accurate still."
    )
    tier: list[str] | None = _budget("A budget by a name that requests give, as gold=90%. May be repeated.")
    max_body: int = _limit("Largest request, in MB.", default=64, min=1)
    max_pixels: float = _limit("Largest image, in millions of pixels.", default=25.0)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the server. Raises InputError for values that make no sense."""
        from exeunt.web.security import read_api_keys

        if self.slo_ms is not None and not 0 < self.slo_ms < math.inf:
            raise InputError(f"--slo-ms must be above 0 and finite, got {self.slo_ms:g}")
        if not 0 < self.max_pixels < math.inf:
            raise InputError(f"--max-pixels must be above 0 and finite, got {self.max_pixels:g}")
        for name, text in (("--min-accuracy", self.min_accuracy), ("--slo-quantile", self.slo_quantile)):
            if self.slo_ms is None and text is not None:
                raise InputError(f"{name} says how --slo-ms is to be kept: give --slo-ms, too")
        return {
            "api_keys": () if self.api_key_file is None else read_api_keys(self.api_key_file),
            "allowed_hosts": tuple(self.allowed_host or ()),
            "proxies": tuple(self.proxy or ()),
            "slo_s": None if self.slo_ms is None else self.slo_ms / 1e3,
            "slo_quantile": share(self.slo_quantile or "99%", "--slo-quantile"),
            "min_accuracy": 0.0 if self.min_accuracy is None else share(self.min_accuracy, "--min-accuracy"),
            "tiers": _tiers(self.tier or []),
            "max_body": self.max_body * 1_000_000,
            "max_pixels": self.max_pixels * 1e6,
        }


@with_groups
def serve(path: RunPath, plain: _Plain, read: _Read, execution: LiveExecution) -> None:
    """Answer requests over HTTP within a budget. Ctrl-C or SIGTERM ends it once open requests are answered."""
    require("fastapi", extra="serve")
    from exeunt.runs.folder import RunFolder
    from exeunt.serve.server import serve as run_server
    from exeunt.serve.settings import Settings

    run = RunFolder.open(path)
    options = {**read.settings(), **vars(plain), **vars(execution)}
    options["budget"] = options["budget"] or run.budget
    run_server(Settings(run=run.path, **options))


def _tiers(texts: list[str]) -> dict[str, str]:
    tiers: dict[str, str] = {}
    for text in texts:
        name, _, budget = text.partition("=")
        if not name or not budget:
            raise InputError(f"--tier must be a name and a budget, such as gold=90%, got {text!r}")
        if name in tiers:
            raise InputError(f"--tier {name} is given twice, with {tiers[name]} and {budget}")
        tiers[name] = budget
    return tiers
