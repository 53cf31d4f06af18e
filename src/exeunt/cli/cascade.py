"""`exeunt cascade RUN RUN --out RUN`: join runs into a cascade."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from exeunt._support.text import counted, echo
from exeunt.cli.options import option, seed_option, this_command, with_groups
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.runs.folder import RunFolder

_PICKLES = (".pkl", ".pickle", ".joblib")


@dataclass(frozen=True, kw_only=True)
class _Options:
    out: Path = option("Folder of the cascade's run.", default=MISSING)
    seed: int = seed_option()


@with_groups
def cascade(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs of the same task, the cheaper ones first: run folders, RUN@int8, or NAME=RUN.",
        ),
    ],
    options: _Options,
) -> None:
    """Join runs into a cascade: what an earlier model is not sure of, a later one answers.

    A policy chooses the models and exits that are used. The runs stay where they are.
    """
    from exeunt.jobs.cascade_run import make_cascade

    run = make_cascade(options.out, _opened(models), command=this_command(), seed=options.seed, say=echo)
    cost, out = run.cost, options.out
    for entry in run.cascade:
        echo(f"{entry.name}: {counted(entry.n_exits, 'exit')}, {entry.run}")
    sizes = ", ".join(f"{run.trace(part).n:,} to {part}" for part in ("fit", "calibrate", "test"))
    echo(
        f"{sizes}; all of them together cost {cost.show(cost.full)}, the most expensive alone "
        f"{cost.show(cost.reference)}, of which shares such as 30% are\n"
        f"written to {out}; next: exeunt calibrate {quote(str(out))} --budget {cost.share_to_try(0.3):.0%}"
    )


def _opened(models: Sequence[str]) -> dict[str, RunFolder]:
    """Open runs by name: the name given, or that of the folder."""
    from exeunt.runs.folder import RunFolder
    from exeunt.runs.run_path import at_precision

    runs: dict[str, RunFolder] = {}
    for text in models:
        name, is_named, path = text.partition("=")
        if not is_named or os.path.lexists(at_precision(Path(text))):  # a path may hold a = as well
            name, path = Path(text).absolute().name, text
        if name in runs:
            raise InputError(f"two models are named {name!r}: give names of their own, such as small={path}")
        if Path(path).suffix in _PICKLES:
            raise InputError(
                f"{path} is taken for a pickled model, which is not opened, since a pickle runs code: in Python, "
                "exeunt.jobs.cascade_run.make_cascade and exeunt.cascade take models themselves"
            )
        runs[name] = RunFolder.open(path)
    return runs
