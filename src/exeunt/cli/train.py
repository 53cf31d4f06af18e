"""`exeunt train --model ... --data ... --out RUN`: attach exits to a network and train them."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple, cast

import typer

from exeunt._support.text import echo
from exeunt.cli.config_file import as_config, option_names, read_config
from exeunt.cli.options import (
    column_names,
    count_or_share,
    given,
    interruptible,
    numbers,
    option,
    seed_option,
    this_command,
    with_groups,
)
from exeunt.cli.training_options import Heads, Images, Language, Masks, Network, Parts, Training
from exeunt.errors import InputError, require

_MOST_EXITS = 1000
_BATCHES = "exit-batch must be whole numbers of at least 1, such as 1,64"
_COLOURS = "must be three numbers such as 0.49,0.48,0.45, or one for all channels"
_OF_TFIDF = {
    "model",
    "data",
    "out",
    "task",
    "seen",
    "text_column",
    "label_column",
    "calibration_data",
    "fit",
    "calibrate",
    "test",
    "seed",
    "config",
}
_OF_GENERATION = _OF_TFIDF - {"label_column"} | {
    "exits",
    "hidden",
    "mode",
    "epochs",
    "batch_size",
    "optimiser",
    "learning_rate",
    "schedule",
    "warm_up",
    "weight_decay",
    "momentum",
    "most_tokens",
    "chat",
}


def _take_defaults_from(context: typer.Context, file: Path | None) -> Path | None:
    """Take the values of options that are not given from a file."""
    if file is not None:
        context.default_map = read_config(file, option_names(context))
    return file


@dataclass(frozen=True, kw_only=True)
class _Job:
    seed: int = seed_option()
    config: Path | None = option(
        "YAML file with options, such as 'epochs: 30' a line. Options given here as well win.",
        "--config",
        is_eager=True,  # before the options that take their values from it
        callback=_take_defaults_from,
        metavar="FILE",
    )


class _Asked(NamedTuple):
    """What `train` is called with."""

    context: typer.Context
    network: Network
    heads: Heads
    training: Training
    images: Images
    parts: Parts
    masks: Masks
    language: Language
    job: _Job


@with_groups
def train(
    context: typer.Context,
    network: Network,
    heads: Heads,
    training: Training,
    images: Images,
    parts: Parts,
    masks: Masks,
    language: Language,
    job: _Job,
) -> None:
    """Attach exits to a network, train them, and record the outputs of every exit.

    If killed at any moment, the same command resumes. The run keeps the options in RUN/config.yaml.
    """
    if network.task not in _TASKS:
        raise InputError(f"there is no task {network.task!r}: choose one of {', '.join(_TASKS)}")
    _TASKS[network.task](_Asked(context, network, heads, training, images, parts, masks, language, job))


def _train_classifier(command: _Asked) -> None:
    context, network, _, _, _, parts, masks, language, job = command
    if network.model == "tfidf":  # it needs no PyTorch
        _train_tfidf(context, network, parts, job.seed)
        return
    for task, group in (("generate", language), ("segment", masks)):
        takes = {option.name for option in context.command.params} - {field.name for field in fields(group)}
        _refuse_others(context, takes, "--task classify", f"only --task {task} does")
    _train_network(command)


def _train_segmenter(command: _Asked) -> None:
    of_others = {field.name for field in fields(command.language)} | {"text_column"}
    takes = {option.name for option in command.context.command.params} - of_others
    _refuse_others(command.context, takes, "--task segment", "masks are of images")
    _train_network(
        command, masks=True, ignored=command.masks.ignore_class, balanced=bool(command.masks.balance_classes)
    )


def _train_network(asked: _Asked, **of_masks: Any) -> None:
    context, network, heads, training, images, parts, _, _, job = asked
    out, sizes = network.out, cast("Any", _sizes(parts))
    require("torch", extra="torch")
    from exeunt.data.decode_all import default_cache
    from exeunt.torch.training.job import TrainingJob
    from exeunt.torch.training.run import run_training
    from exeunt.trace.derived import quality_of_each_exit

    recipe = given(training, without=("heads_first", "batch_size"))
    # A frozen network sees images unchanged, so that its features are computed once.
    augment = "none" if training.mode == "frozen" else "crop-flip"
    task = TrainingJob(
        model=network.model,
        data=network.data,
        weights=network.weights,
        pretrained=network.seen,
        label=parts.label_column,
        text=column_names(parts.text_column),
        exits=_places(network.exits),
        exit_batch=numbers(network.exit_batch, _BATCHES, kind=int, least=1),
        gate=network.gate,
        gate_features=network.gate_features,
        head=given(heads),
        recipe=recipe,
        heads_first=training.heads_first,
        batch_size=training.batch_size,
        augment=augment if images.augment is None else images.augment,
        workers=images.workers,
        size=images.size,
        mean=numbers(images.mean, f"mean {_COLOURS}", count=3),
        std=numbers(images.std, f"std {_COLOURS}", count=3),
        skip_unreadable=images.skip_unreadable,
        seed=job.seed,
        calibration_data=parts.calibration_data,
        **sizes,
        **of_masks,
    )
    command, options = this_command(), as_config(context, without=("out",))
    with interruptible(lambda: _kept(out)):
        run = run_training(task, out, command=command, config=options, say=echo, cache=default_cache())
    if run is None:
        return  # one of several processes: the first one reports
    echo(quality_of_each_exit(run.trace("test"), "test"))
    if warning := run.worse_last_exit("test"):
        echo(f"WARNING: {warning}")
    if run.runs_whole:
        echo(
            f"written to {out}, but its network runs whole, so that no budget can be kept. {run.runs_whole}. "
            "Then run this command again: it keeps the training and counts the costs anew"
        )
    else:
        budget = f"{run.cost.share_to_try(0.5):.0%}"
        echo(f"written to {out}; next: exeunt calibrate {quote(str(out))} --budget {budget}")


def _train_generator(command: _Asked) -> None:
    context, network, heads, training, _, parts, _, language, job = command
    why = "exits learn the decoder's own answers, and the decoder stays as it is"
    others = _refuse_others(context, _OF_GENERATION, "--task generate", why)
    out = network.out
    if network.exits == "auto":
        raise InputError(
            "--task generate places no exits by time: give --exits a number, or names of modules"
        )
    require("torch", extra="torch")
    from exeunt.torch.language.calibration import agreement_to_try
    from exeunt.torch.language.training import LanguageJob, train_language_model

    sizes: dict[str, Any] = _sizes(parts)
    task = LanguageJob(
        model=network.model,
        data=network.data,
        pretrained=network.seen,
        text=column_names(parts.text_column),
        exits=_places(network.exits),
        head=given(heads),
        batch_size=training.batch_size,
        recipe=given(training, without=("heads_first", "batch_size")),
        calibration_data=parts.calibration_data,
        seed=job.seed,
        **given(language),
        **sizes,
    )
    config = as_config(context, without=("out", *others))
    with interruptible(lambda: _kept(out)):
        run = train_language_model(task, out, command=this_command(), config=config, say=echo)
    trace = run.trace("test")
    agree = ", ".join(f"{1 - risk:.1%}" for risk in trace.risk)
    echo(f"agreement of each exit with {trace.reference} after the same tokens, on the test part: {agree}")
    prompts = run.trace("calibrate").groups
    to_try = agreement_to_try(0 if prompts is None else prompts.n)
    echo(f"written to {out}; next: exeunt calibrate {quote(str(out))} --agree {to_try:.0%}")


_TASKS = {"classify": _train_classifier, "segment": _train_segmenter, "generate": _train_generator}
"""The function that trains for each value of `--task`; it takes what `train` was asked for."""


def _train_tfidf(context: typer.Context, network: Network, parts: Parts, seed: int) -> None:
    """Train tf-idf. Raises InputError that names the options that it does not take."""
    from exeunt.jobs.estimator_run import train_tfidf

    why = "it is no network, has one exit, and chooses its regularisation itself"
    others = _refuse_others(context, _OF_TFIDF, "--model tfidf", why)
    out = network.out
    run = train_tfidf(
        network.data,
        out,
        label=parts.label_column,
        text=column_names(parts.text_column),
        seen=bool(network.seen),
        calibration_data=parts.calibration_data,
        seed=seed,
        **_sizes(parts),
        command=this_command(),
        config=as_config(context, without=("out", *others)),
        say=echo,
    )
    echo(
        f"error rate on the test part: {run.trace('test').risk[0]:.3f}; "
        f"an answer costs {run.cost.show(run.cost.full)}\n"
        f"written to {out}; next: exeunt cascade {quote(str(out))} RUN --out CASCADE, with a larger network of the "
        "same data"
    )


def _refuse_others(context: typer.Context, takes: Collection[str], task: str, why: str) -> list[str]:
    """Return the names of the options that a task does not take. Raises InputError if one is given."""
    values = context.params
    others = [
        option for option in context.command.params if option.name in values and option.name not in takes
    ]
    refused = [
        option.opts[0]
        for option in others
        if values[str(option.name)] != option.get_default(context, call=True)
    ]
    if refused:
        raise InputError(f"{task} takes no {', '.join(refused)}: {why}")
    return [str(option.name) for option in others]


def _sizes(parts: Parts) -> dict[str, float | None]:
    return {part: count_or_share(getattr(parts, part), part) for part in ("fit", "calibrate", "test")}


def _kept(run: Path) -> str:
    """Return what an interrupted training has left in its folder, and how to resume it."""
    from exeunt.runs.file_digests import CONFIG
    from exeunt.runs.run_path import how_to_resume

    if not os.path.isfile(run / CONFIG):  # noqa: PTH113 - without an error where access is denied
        return "the training had not begun, and nothing was written"
    return f"{run} keeps what was finished: go on with {how_to_resume(run, [CONFIG])}"


def _places(text: str) -> int | str | tuple[str, ...]:
    from exeunt.torch.exits.own import OWN
    from exeunt.torch.timed_exits import AUTO

    if text in (OWN, AUTO):
        return text
    if text.isdecimal():
        if int(text) > _MOST_EXITS:
            raise InputError(f"exits must be at most {_MOST_EXITS:,}, got {text}")
        return int(text)
    return tuple(name.strip() for name in text.split(",") if name.strip())
