"""`exeunt train --model ... --data ... --out RUN`: attach exits to a network and train them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import typer

from exeunt._text import echo
from exeunt.cli import interruptible
from exeunt.cli.config_file import as_config, config_option
from exeunt.cli.options import (
    column_names,
    count_or_share,
    given,
    numbers,
    seed_option,
    this_command,
    with_groups,
)
from exeunt.cli.training_options import Heads, Images, Network, Parts, Training
from exeunt.errors import InputError, require

_MOST_EXITS = 1000
_COLOURS = "must be three numbers such as 0.49,0.48,0.45"
_OF_TFIDF = {
    "model", "data", "out", "seen", "text_column", "label_column", "fit", "calibrate", "test", "seed", "config",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Job:
    seed: int = seed_option()
    config: Path | None = config_option()  # which gives other options their values


@with_groups
def train(
    context: typer.Context,
    network: Network,
    heads: Heads,
    training: Training,
    images: Images,
    parts: Parts,
    job: _Job,
) -> None:
    """Attach exits to a network, train them, and record the outputs of every exit.

    If killed at any moment, the same command resumes. The run keeps the options in RUN/config.yaml.
    """
    if network.model == "tfidf":  # it needs no PyTorch
        _train_tfidf(context, network, parts, job.seed)
        return
    out = network.out
    require("torch", extra="torch")
    from exeunt.data import default_cache
    from exeunt.torch.training.job import TrainingJob
    from exeunt.torch.training.run import run_training

    recipe = given(training, without=("heads_first", "batch_size"))
    if any(map(str.isdigit, training.exit_weights or "")):
        allowed = "exit-weights must be uniform, linear, last, or numbers such as 1,1,2"
        recipe["exit_weights"] = numbers(training.exit_weights, allowed)
    # A frozen network sees images unchanged, so that its features are computed once.
    augment = "none" if training.mode == "frozen" else "crop-flip"
    asked = TrainingJob(
        model=network.model, data=network.data, weights=network.weights, pretrained=network.seen,
        label=parts.label_column, text=column_names(parts.text_column), exits=_places(network.exits),
        head=given(heads), recipe=recipe, heads_first=training.heads_first, batch_size=training.batch_size,
        augment=augment if images.augment is None else images.augment, workers=images.workers, size=images.size,
        mean=numbers(images.mean, f"mean {_COLOURS}", count=3), std=numbers(images.std, f"std {_COLOURS}", count=3),
        skip_unreadable=images.skip_unreadable, seed=job.seed, **_sizes(parts),
    )  # fmt: skip
    command, options = this_command(), as_config(context, without=("out",))
    with interruptible(lambda: _kept(out)):
        run = run_training(asked, out, command=command, config=options, say=echo, cache=default_cache())
    if run is None:
        return  # one of several processes: the first one reports
    risks = ", ".join(f"{risk:.3f}" for risk in run.trace("test").risk)
    echo(f"error rate of each exit on the test part: {risks}")
    if run.runs_whole:
        echo(
            f"written to {out}, but its network runs whole, so that no budget can be kept. {run.runs_whole}. "
            "Then run this command again: it keeps the training and counts the costs anew"
        )
    else:
        budget = f"{run.cost.share_to_try(0.5):.0%}"
        echo(f"written to {out}; next: exeunt calibrate {quote(str(out))} --budget {budget}")


def _train_tfidf(context: typer.Context, network: Network, parts: Parts, seed: int) -> None:
    """Train tf-idf. Raises InputError that names the options that it does not take."""
    from exeunt.making.tfidf_run import train_tfidf

    values, all_options = context.params, context.command.params
    others = [one for one in all_options if one.name in values and one.name not in _OF_TFIDF]
    refused = [one.opts[0] for one in others if values[str(one.name)] != one.get_default(context, call=True)]
    if refused:
        raise InputError(
            f"--model tfidf takes no {', '.join(refused)}: it is no network, has one exit, and chooses its "
            "regularisation itself"
        )
    out = network.out
    run = train_tfidf(
        network.data, out, label=parts.label_column, text=column_names(parts.text_column), seen=bool(network.seen),
        seed=seed, **_sizes(parts), command=this_command(),
        config=as_config(context, without=("out", *(str(one.name) for one in others))), say=echo,
    )  # fmt: skip
    echo(
        f"error rate on the test part: {run.trace('test').risk[0]:.3f}; "
        f"an answer costs {run.cost.show(run.cost.full)}\n"
        f"written to {out}; next: exeunt cascade {quote(str(out))} RUN --out CASCADE, with a larger network of the "
        "same data"
    )


def _sizes(parts: Parts) -> dict[str, float | None]:
    return {part: count_or_share(getattr(parts, part), part) for part in ("fit", "calibrate", "test")}


def _kept(run: Path) -> str:
    """Return what an interrupted training has left in its folder, and how to resume it."""
    from exeunt.run.file_digests import CONFIG
    from exeunt.run.run_path import how_to_resume

    if not os.path.isfile(run / CONFIG):  # noqa: PTH113 - without an error where access is denied
        return "the training had not begun, and nothing was written"
    return f"{run} keeps what was finished: go on with {how_to_resume(run, [CONFIG])}"


def _places(text: str) -> int | str | tuple[str, ...]:
    from exeunt.torch.exits.own import OWN

    if text == OWN:
        return text
    if text.isdecimal():
        if int(text) > _MOST_EXITS:
            raise InputError(f"exits must be at most {_MOST_EXITS:,}, got {text}")
        return int(text)
    return tuple(name.strip() for name in text.split(",") if name.strip())
