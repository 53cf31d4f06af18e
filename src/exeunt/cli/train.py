"""`exeunt train --model ... --data ... --out RUN`: attach exits to a network and train them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from exeunt.cli.arguments import Seed, count_or_share
from exeunt.errors import InputError, require

DATA_HELP = (
    "A folder with train.parquet and test.parquet, an image folder train/CLASS/*, hf:NAME, sklearn:digits, or "
    "a table of texts."
)
MODEL_HELP = "torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER, or package.module:factory."


def train(
    model: Annotated[str, typer.Option(help=MODEL_HELP, show_default=False)],
    data: Annotated[str, typer.Option(help=DATA_HELP, show_default=False)],
    out: Annotated[Path, typer.Option(help="The run folder to make.", show_default=False)],
    weights: Annotated[
        str | None, typer.Option(help="Trained weights: a safetensors or state-dict file, or 'pretrained'.")
    ] = None,
    seen: Annotated[
        bool | None,
        typer.Option(
            "--seen/--unseen",
            help="Whether the weights have seen all training data, so that fitting and calibration inputs "
            "come from the test data. Default: seen whenever weights are given or come with the model.",
        ),
    ] = None,
    exits: Annotated[
        str, typer.Option(help="How many auxiliary exits, or names of modules separated by commas.")
    ] = "7",
    head: Annotated[str, typer.Option(help="grid, paper, global; token or mean for transformers.")] = "grid",
    grid: Annotated[
        int, typer.Option(help="Side of the grid that a grid head pools to, at most.", min=1)
    ] = 4,
    hidden: Annotated[
        int, typer.Option(help="Width of a grid head's hidden layer; 0 for none.", min=0)
    ] = 128,
    bottleneck: Annotated[
        int, typer.Option(help="Channels of a small convolution before pooling; 0 for none.", min=0)
    ] = 0,
    norm: Annotated[
        str | None, typer.Option(help="Of a head's hidden layer: batch, layer or none. Default batch.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Before a head's last layer. Default 0.")] = None,
    cascade: Annotated[bool, typer.Option(help="Let each head read the output of the one before.")] = False,
    mode: Annotated[
        str,
        typer.Option(help="frozen (heads only), joint, or distill (joint, and exits learn from the last)."),
    ] = "frozen",
    heads_first: Annotated[
        int | None,
        typer.Option(
            help="joint, distill: epochs in which the heads learn alone before. Default 10 with weights, else 0.",
            min=0,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    optimiser: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate. Default 0.1 sgd, 0.002 adamw.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="one_cycle, cosine or constant.")] = "one_cycle",
    weight_decay: Annotated[float, typer.Option(min=0)] = 5e-4,
    momentum: Annotated[float | None, typer.Option(help="Of sgd. Default 0.9.")] = None,
    exit_weights: Annotated[
        str | None,
        typer.Option(help="uniform, linear, last, or a number per exit such as 1,1,2. Default uniform."),
    ] = None,
    distill_weight: Annotated[
        float | None, typer.Option(help="Weight of the teacher in the mode distill, 0 to 1. Default 0.5.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Softness of the teacher. Default 2.")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="self (the last exit as it learns) or original (the network as given). Default original where "
            "a trained network is trained on, else self."
        ),
    ] = None,
    smoothing: Annotated[float | None, typer.Option(help="Of labels, 0 to 1. Default 0.")] = None,
    backbone_rate: Annotated[
        float | None,
        typer.Option(
            help="The backbone's learning rate as a share of the heads'. Default 0.05 where a trained network "
            "is trained on, else 1."
        ),
    ] = None,
    gradient_balancing: Annotated[
        bool, typer.Option(help="Balance the exits' gradients in the backbone.")
    ] = False,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    augment: Annotated[
        str | None,
        typer.Option(
            help="none, crop-flip, resized-crop. Default: crop-flip unless frozen; a frozen network then runs "
            "in every epoch, since its features change."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that decode images, in training and recording.", min=0)
    ] = 0,
    size: Annotated[int | None, typer.Option(help="Side in pixels that images are brought to.")] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Channel means, as 0.49,0.48,0.45. Default: measured, or the library's own."),
    ] = None,
    std: Annotated[str | None, typer.Option(help="Channel deviations. Default: measured.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the classes, where there are several.")] = None,
    fit: Annotated[str | None, typer.Option(help="Inputs to fit policies on: a count or a share.")] = None,
    calibrate: Annotated[str | None, typer.Option(help="Inputs to calibrate on: a count or a share.")] = None,
    test: Annotated[str | None, typer.Option(help="Inputs to test on, if the data has no test part.")] = None,
    seed: Seed = 0,
) -> None:
    """Attach exits to a network, train them, and record what every exit says.

    Killed at any moment and started again with the same command, it resumes where it was.
    """
    require("torch", extra="torch")
    from exeunt.data import default_cache
    from exeunt.torch.training.job import TrainingJob
    from exeunt.torch.training.run import run_training

    job = TrainingJob(
        model=model, data=data, weights=weights, pretrained=seen, label=label, exits=_exits(exits),
        head=_given(
            head=head, grid=grid, hidden=hidden, bottleneck=bottleneck, norm=norm, dropout=dropout,
            cascade=cascade,
        ),
        recipe=_given(
            mode=mode, epochs=epochs, optimiser=optimiser, learning_rate=learning_rate, schedule=schedule,
            weight_decay=weight_decay, momentum=momentum, exit_weights=_exit_weights(exit_weights),
            distill_weight=distill_weight, temperature=temperature, teacher=teacher, smoothing=smoothing,
            backbone_rate=backbone_rate, gradient_balancing=gradient_balancing, precision=precision,
        ),
        heads_first=heads_first, batch_size=batch_size, augment=_augment(augment, mode), workers=workers,
        size=size, mean=_three(mean, "mean"), std=_three(std, "std"),
        fit=count_or_share(fit, "fit"), calibrate=count_or_share(calibrate, "calibrate"),
        test=count_or_share(test, "test"), seed=seed,
    )  # fmt: skip
    command = shlex.join(["exeunt", *sys.argv[1:]])
    run = run_training(job, out, command=command, say=typer.echo, cache=default_cache())
    if run is None:
        return  # one of several processes: the first one tells
    risks = ", ".join(f"{risk:.3f}" for risk in run.trace("test").risk)
    typer.echo(f"error rate of each exit on the test part: {risks}")
    typer.echo(f"written to {out}; next: exeunt calibrate {out} --budget 50%")


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given: what is None has a default of its own."""
    return {name: value for name, value in options.items() if value is not None}


def _exits(text: str) -> int | tuple[str, ...]:
    if text.isdigit():
        return int(text)
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _exit_weights(text: str | None) -> str | tuple[float, ...] | None:
    """Read "1,1,2" as numbers; a name stays one."""
    if text is None or not any(character.isdigit() for character in text):
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"exit-weights must be uniform, linear, last, or numbers such as 1,1,2, got {text!r}"
        ) from None


def _augment(given: str | None, mode: str) -> str:
    """Return how images change: a frozen network sees them as they are, so that its features can be kept."""
    if given is None:
        return "none" if mode == "frozen" else "crop-flip"
    return given


def _three(text: str | None, name: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{name} must be three numbers such as 0.49,0.48,0.45, got {text!r}") from None
    return red, green, blue
