"""`exeunt train --model ... --data ... --out RUN`: attach exits to a network and train them."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import Any

import typer

from exeunt.cli import training_options as option
from exeunt.cli.arguments import Seed, column_names, count_or_share, this_command, three_numbers
from exeunt.cli.config_file import ConfigFile, as_config
from exeunt.cli.failures import interruptible
from exeunt.cli.train_tfidf import train_tfidf
from exeunt.errors import InputError, require

_MOST_EXITS = 1000


def train(
    context: typer.Context,
    model: option.Model,
    data: option.Data,
    out: option.Out,
    weights: option.Weights = None,
    seen: option.Seen = None,
    exits: option.Exits = "7",
    head: option.Head = None,
    grid: option.Grid = None,
    hidden: option.Hidden = None,
    bottleneck: option.Bottleneck = None,
    norm: option.Norm = None,
    input_norm: option.InputNorm = None,
    dropout: option.Dropout = None,
    stacked: option.Stacked = False,
    mode: option.Mode = "frozen",
    heads_first: option.HeadsFirst = None,
    epochs: option.Epochs = None,
    batch_size: option.BatchSize = None,
    optimiser: option.Optimiser = None,
    learning_rate: option.LearningRate = None,
    schedule: option.Schedule = None,
    warm_up: option.WarmUp = None,
    weight_decay: option.WeightDecay = None,
    momentum: option.Momentum = None,
    exit_weights: option.ExitWeights = None,
    distill_weight: option.DistillWeight = None,
    temperature: option.Temperature = None,
    teacher: option.Teacher = None,
    smoothing: option.Smoothing = None,
    backbone_rate: option.BackboneRate = None,
    gradient_balancing: option.GradientBalancing = False,
    precision: option.Precision = None,
    augment: option.Augment = None,
    workers: option.Workers = 0,
    skip_unreadable: option.SkipUnreadable = False,
    size: option.Size = None,
    mean: option.Mean = None,
    std: option.Std = None,
    text_column: option.TextColumn = None,
    label_column: option.LabelColumn = None,
    fit: option.Fit = None,
    calibrate: option.Calibrate = None,
    test: option.Test = None,
    seed: Seed = 0,
    config: ConfigFile = None,  # noqa: ARG001 - it has given the others their values
) -> None:
    """Attach exits to a network, train them, and record the outputs of every exit.

    If killed at any moment, the same command resumes. The run keeps the options in RUN/config.yaml.
    """
    if model == "tfidf":  # it needs no PyTorch
        train_tfidf(context)
        return
    require("torch", extra="torch")
    from exeunt.data import default_cache
    from exeunt.torch.training.job import TrainingJob
    from exeunt.torch.training.run import run_training

    job = TrainingJob(
        model=model, data=data, weights=weights, pretrained=seen, label=label_column,
        text=column_names(text_column), exits=_places(exits),
        head=_given(
            head=head, grid=grid, hidden=hidden, bottleneck=bottleneck, norm=norm, dropout=dropout,
            input_norm=input_norm, stacked=stacked,
        ),
        recipe=_given(
            mode=mode, epochs=epochs, optimiser=optimiser, learning_rate=learning_rate, schedule=schedule,
            warm_up=warm_up, weight_decay=weight_decay, momentum=momentum, exit_weights=_exit_weights(exit_weights),
            distill_weight=distill_weight, temperature=temperature, teacher=teacher, smoothing=smoothing,
            backbone_rate=backbone_rate, gradient_balancing=gradient_balancing, precision=precision,
        ),
        heads_first=heads_first, batch_size=batch_size, workers=workers,
        # A frozen network sees images unchanged, so that its features are computed once.
        augment=("none" if mode == "frozen" else "crop-flip") if augment is None else augment,
        size=size, mean=three_numbers(mean, "mean"), std=three_numbers(std, "std"),
        fit=count_or_share(fit, "fit"), calibrate=count_or_share(calibrate, "calibrate"),
        test=count_or_share(test, "test"), skip_unreadable=skip_unreadable, seed=seed,
    )  # fmt: skip
    command, options = this_command(), as_config(context, without=("out",))
    with interruptible(lambda: _kept(out)):
        run = run_training(job, out, command=command, config=options, say=typer.echo, cache=default_cache())
    if run is None:
        return  # one of several processes: the first one reports
    risks = ", ".join(f"{risk:.3f}" for risk in run.trace("test").risk)
    typer.echo(f"error rate of each exit on the test part: {risks}")
    if run.runs_whole:
        typer.echo(
            f"written to {out}, but its network runs whole, so that no budget can be kept. {run.runs_whole}. "
            "Then run this command again: it keeps the training and counts the costs anew"
        )
    else:
        budget = f"{run.cost.share_to_try(0.5):.0%}"
        typer.echo(f"written to {out}; next: exeunt calibrate {quote(str(out))} --budget {budget}")


def _kept(run: Path) -> str:
    """Return what an interrupted training has left in its folder, and how to resume it."""
    from exeunt.run.file_digests import CONFIG
    from exeunt.run.run_path import how_to_resume

    if not os.path.isfile(run / CONFIG):  # noqa: PTH113 - without an error where access is denied
        return "the training had not begun, and nothing was written"
    return f"{run} keeps what was finished: go on with {how_to_resume(run, [CONFIG])}"


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given; the library has the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def _places(text: str) -> int | str | tuple[str, ...]:
    from exeunt.torch.exits.own import OWN

    if text == OWN:
        return text
    if text.isdecimal():
        if int(text) > _MOST_EXITS:
            raise InputError(f"exits must be at most {_MOST_EXITS:,}, got {text}")
        return int(text)
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _exit_weights(text: str | None) -> str | tuple[float, ...] | None:
    """Read "1,1,2" as numbers; a name stays a name."""
    if text is None or not any(character.isdigit() for character in text):
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"exit-weights must be uniform, linear, last, or numbers such as 1,1,2, got {text!r}"
        ) from None
