"""`exeunt bench RUN --profile`: how far time falls with the multiply-adds on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from exeunt.cli.arguments import ExecutorName, RunPath, TrustedModel
from exeunt.errors import InputError


def bench(
    path: RunPath,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="First measure every segment at several batch sizes, plan how to run them fastest on this machine, "
            "and keep profile and plan in the run. `exeunt predict` then uses the plan.",
        ),
    ] = False,
    executor: ExecutorName = None,
    batch_size: Annotated[
        str, typer.Option(help="Inputs per batch, one or more numbers separated by commas.")
    ] = "1,64,256",
    repeats: Annotated[
        int, typer.Option(help="Rounds; each times everything once, in a different order.", min=1, max=10_000)
    ] = 9,
    max_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds for the profile, and for each batch size. At least three rounds are timed.",
            min=0,
            max=604_800,
        ),
    ] = 60.0,
    trusted: TrustedModel = None,
) -> None:
    """Time the network of a run on this machine: original, in stages, and by its plan, at several budgets.

    Prints the shares of multiply-adds and of time that are left, and draws one against the other into RUN/figures, and
    accuracy against time beside what else you could run: the original model at each precision it was exported at, and
    the models of a cascade alone.
    Other work on the machine disturbs the times; their spread is shown.
    """
    from exeunt._files import check_writable
    from exeunt.cli.bench_cascade import bench_cascade
    from exeunt.cli.bench_network import bench_network
    from exeunt.cli.timed_network import TimedNetwork
    from exeunt.run.folder import RunFolder

    sizes = _sizes(batch_size)
    run = RunFolder.open(path)
    if run.cost.n_exits == 1:
        raise InputError(f"{path} has one exit: all inputs take the same, there is nothing to compare")
    timed = TimedNetwork.of(run, executor, trusted)
    check_writable(run.path / "figures", f"cannot keep what is measured in {path}")
    if run.cascade:
        if profile:
            raise InputError("--profile is for one network: profile the models of a cascade, each alone")
        bench_cascade(timed, sizes, repeats=repeats, max_seconds=max_seconds)
    else:
        bench_network(timed, sizes, profile=profile, repeats=repeats, max_seconds=max_seconds)


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputError(f"batch sizes must be whole numbers of at least 1, such as 1,64,256, got {text!r}")
    return sorted(set(sizes))
