"""`exeunt train --model tfidf`: which of the options it takes, and what it does with them."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

import typer

from exeunt.cli.arguments import column_names, count_or_share, this_command
from exeunt.cli.config_file import as_config
from exeunt.errors import InputError

_TAKEN = {
    "model", "data", "out", "seen", "text_column", "label_column", "fit", "calibrate", "test", "seed", "config",
}  # fmt: skip


def train_tfidf(context: typer.Context) -> None:
    """Train it with the options of `exeunt train`. Raises InputError that names those that it does not take."""
    from exeunt.making import tfidf_run

    given: Mapping[str, Any] = context.params
    others = [one for one in context.command.params if one.name in given and one.name not in _TAKEN]
    refused = [one.opts[0] for one in others if given[str(one.name)] != one.get_default(context, call=True)]
    if refused:
        raise InputError(
            f"--model tfidf takes no {', '.join(refused)}: it is no network, has one exit, and chooses its "
            "regularisation itself"
        )
    run = tfidf_run.train_tfidf(
        given["data"], given["out"], label=given["label_column"], text=column_names(given["text_column"]),
        seen=bool(given["seen"]), seed=given["seed"],
        **{part: count_or_share(given[part], part) for part in ("fit", "calibrate", "test")},
        command=this_command(),
        config=as_config(context, without=("out", *(str(one.name) for one in others))), say=typer.echo,
    )  # fmt: skip
    out, cost = given["out"], run.cost
    typer.echo(
        f"error rate on the test part: {run.trace('test').risk[0]:.3f}; an answer costs {cost.show(cost.full)}\n"
        f"written to {out}; next: exeunt cascade {quote(str(out))} RUN --out CASCADE, with a larger network of the "
        "same data"
    )
