"""`exeunt serve RUN`: answer requests over HTTP within a budget."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from exeunt.cli.arguments import ExecutorName, RunPath, TrustedModel, share
from exeunt.errors import InputError, require

_budget = partial(typer.Option, rich_help_panel="Budget")
_limit = partial(typer.Option, rich_help_panel="Limits")


def serve(
    path: RunPath,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen at; 0 takes a free one.", min=0, max=65535)
    ] = 8000,
    workers: Annotated[
        int, typer.Option(help="Processes behind the address, each with its own model.", min=1)
    ] = 1,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model in the Open Inference Protocol. Default: the folder's."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File of keys, one on a line; requests must then carry one of them.")
    ] = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Log every request, not only those that fail.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Threads that a call of the network computes with.", min=1)
    ] = None,
    executor: ExecutorName = None,
    trusted: TrustedModel = None,
    policies: Annotated[
        Path | None,
        _budget(help="Policies for several budgets. Default: those of the run, else its one policy."),
    ] = None,
    budget: Annotated[
        str | None,
        _budget(
            help="The most to spend per input on average, until PUT /budget changes it. Default: the largest."
        ),
    ] = None,
    slo_ms: Annotated[
        float | None,
        _budget(
            help="Milliseconds within which inputs are to be answered. To keep it under load, the budget is lowered "
            "and inputs are answered by the exits they have come to."
        ),
    ] = None,
    slo_quantile: Annotated[
        str | None, _budget(help="The share of inputs that are to be answered in time. Default: 99%.")
    ] = None,
    min_accuracy: Annotated[
        str | None, _budget(help="The least accuracy, as estimated, that the budget may be lowered to: 90%.")
    ] = None,
    tier: Annotated[
        list[str] | None,
        _budget(help="A budget by a name that requests may give, as gold=90%. May be repeated."),
    ] = None,
    live_file: Annotated[
        Path | None,
        _budget(help="File that holds what PUT /budget has set. Default: serving.json in the run folder."),
    ] = None,
    max_body: Annotated[int, _limit(help="Largest request, in MB.", min=1)] = 64,
    max_pixels: Annotated[float, _limit(help="Largest image, in millions of pixels.")] = 25.0,
    max_chars: Annotated[int, _limit(help="Longest text, in characters.", min=1)] = 100_000,
    max_open: Annotated[
        int, _limit(help="Requests that may be open at a time; more are refused.", min=1)
    ] = 4096,
    max_rows: Annotated[
        int | None,
        _limit(
            help="Inputs that may be in the engine at a time. Default: as 1 GB holds, at most 65,536.", min=1
        ),
    ] = None,
    when_full: Annotated[
        str,
        _limit(
            help="What more inputs than that do: refuse them, or degrade: first finish what an exit has answered."
        ),
    ] = "degrade",
) -> None:
    """Answer requests over HTTP within a budget. Ctrl-C or SIGTERM ends it once what is open is answered."""
    require("fastapi", extra="serve")
    from exeunt.run.folder import RunFolder
    from exeunt.serve.security import read_api_keys
    from exeunt.serve.server import serve as run_server
    from exeunt.serve.settings import Settings

    if slo_ms is not None and not 0 < slo_ms < math.inf:
        raise InputError(f"--slo-ms must be above 0 and finite, got {slo_ms:g}")
    if not 0 < max_pixels < math.inf:
        raise InputError(f"--max-pixels must be above 0 and finite, got {max_pixels:g}")
    for option, value in (("--min-accuracy", min_accuracy), ("--slo-quantile", slo_quantile)):
        if slo_ms is None and value is not None:
            raise InputError(f"{option} says how --slo-ms is to be kept: give --slo-ms, too")
    settings = Settings(
        run=RunFolder.open(path).path, policies=policies, name=name,
        executor=executor, threads=threads, trusted=trusted,
        budget=budget, live_file=live_file, tiers=_tiers(tier or []),
        slo_s=None if slo_ms is None else slo_ms / 1e3,
        slo_quantile=share("99%" if slo_quantile is None else slo_quantile, "--slo-quantile"),
        min_accuracy=0.0 if min_accuracy is None else share(min_accuracy, "--min-accuracy"),
        max_body=max_body * 1_000_000, max_pixels=max_pixels * 1e6, max_chars=max_chars, max_open=max_open,
        max_rows=max_rows, when_full=when_full,
        api_keys=() if api_key_file is None else read_api_keys(api_key_file),
        log_requests=log_requests, workers=workers,
    )  # fmt: skip
    run_server(settings, host=host, port=port)


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
