"""`exeunt watch RUN predictions.parquet`: whether inputs that were answered are still like those of calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exeunt._support.text import echo
from exeunt.cli.options import RunPath, option, with_groups

if TYPE_CHECKING:
    from exeunt.policy import Policy
    from exeunt.watch import Watch


@dataclass(frozen=True, kw_only=True)
class _Options:
    run_length: float | None = option(
        "Inputs, or groups, until an alarm without drift, on average at least this many. Default: 100,000, or that of "
        "--state.",
        min=10,
    )
    group_column: str | None = option(
        "Column that names the group of each row, where inputs come in groups such as conversations or users; `exeunt "
        "predict` writes it with --group-column or --keep. A group counts once, by its first row."
    )
    state: Path | None = option(
        "File that keeps the watch: if it is there, the predictions follow those that it was told of before."
    )
    figure: Path | None = option(
        "Draw the evidence over time and the shares of the exits into this file, as PNG and SVG."
    )
    restart: bool = option("Take back an alarm that stands in --state, and watch for another.", default=False)


@with_groups
def watch(
    path: RunPath,
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS",
            help="File that `exeunt predict --out` wrote, or a folder of parts.",
            show_default=False,
        ),
    ],
    options: _Options,
) -> None:
    """Watch predictions for drift, in the order of their rows: since when, which exits, and what it costs.

    Needs no labels. Rows must be in order of arrival. Inputs without an answer are left out. Inputs that come in groups
    need --group-column: else alarms come without drift.
    """
    from exeunt._support.files import check_writable
    from exeunt.errors import InputError
    from exeunt.jobs.watching import watch_file, watched_text
    from exeunt.runs.folder import RunFolder

    run = RunFolder.open(path)
    if not predictions.exists():
        raise InputError(
            f"there are no predictions at {predictions}: make them with `exeunt predict {path} --data DATA --out "
            f"{predictions}`"
        )
    for out in filter(None, (options.state, options.figure)):
        if not out.parent.is_dir():
            raise InputError(f"cannot write {out}: the folder {out.parent} does not exist, create it first")
        check_writable(out.parent, f"cannot write {out}")
    watcher = _begun_or_kept(run.policy, options)
    left_out = watch_file(run, watcher, predictions, options.group_column)
    echo(watched_text(watcher, left_out, by_group=options.group_column is not None))
    if options.figure is not None:
        from exeunt.evaluation.figures import draw_watch, save_figure

        for file in save_figure(draw_watch(watcher), options.figure):
            echo(f"written to {file}")
    if options.state is not None:
        watcher.save(options.state)
        echo(f"written to {options.state}")


def _begun_or_kept(policy: Policy, options: _Options) -> Watch:
    """Return the watch that the state holds, or if there is none a new one."""
    from exeunt.errors import InputError
    from exeunt.watch import Watch

    state, length = options.state, options.run_length
    if state is None or not state.exists():
        if options.restart:
            raise InputError(
                "--restart takes back an alarm that stands: name the file of the watch with --state"
            )
        return Watch(policy, run_length=1e5 if length is None else length)
    stored = Watch.load(state, policy)
    if length not in (None, stored.run_length):
        raise InputError(
            f"the watch in {state} has a run length of {stored.run_length:,.0f}: leave out --run-length, or begin "
            "another watch in another file"
        )
    if options.restart:
        stored.restart()
    return stored
