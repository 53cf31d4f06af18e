"""`exeunt train --model ... --data ... --out RUN`: attach exits to a network and train them."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from exeunt.cli.arguments import Seed, column_names, count_or_share, three_numbers
from exeunt.cli.config_file import ConfigFile, as_config
from exeunt.cli.failures import interruptible
from exeunt.errors import InputError, require

_DATA_HELP = (
    "Data: a folder with train.parquet and test.parquet, an image folder train/CLASS/*, hf:NAME, sklearn:digits, or a "
    "table of texts."
)
_MODEL_HELP = (
    "Network: torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER, or package.module:factory; keyword arguments follow: "
    "'timm:vit_tiny_patch16_224?img_size=64'."
)

_BY_NETWORK = "Default: by what the network is made of; printed when it begins."
_MOST_EXITS = 1000

# An option of each group of `--help`. A group is short enough for a screen.
_network, _exits, _training, _optimiser, _loss, _images, _parts = (
    partial(typer.Option, rich_help_panel=title)
    for title in (
        "Network and data",
        "Exits",
        "Training",
        "Optimiser",
        "Losses",
        "Images",
        "Parts of the data",
    )
)


def train(
    context: typer.Context,
    model: Annotated[str, _network(help=_MODEL_HELP, show_default=False)],
    data: Annotated[str, _network(help=_DATA_HELP, show_default=False)],
    out: Annotated[Path, _network(help="Run folder to make.", show_default=False)],
    weights: Annotated[
        str | None,
        _network(
            help="Trained weights: a safetensors or state-dict file, or 'pretrained' for those of the library. "
            "Default: none, except for hf: models that bring theirs.",
            show_default=False,
        ),
    ] = None,
    seen: Annotated[
        bool | None,
        _network(
            "--seen/--unseen",
            help="Whether the weights have seen all training data. If so, the inputs to fit and calibrate policies on "
            "come from the test data. Default: seen if weights are given or come with the model.",
        ),
    ] = None,
    exits: Annotated[
        str,
        _exits(
            help="Number of auxiliary exits, spread evenly over the network's cost (at most one at each place that it "
            "offers), or names of modules separated by commas."
        ),
    ] = "7",
    head: Annotated[
        str | None,
        _exits(
            help="Kind of head: grid (average and maximum over a grid), paper or global (global average); for tokens "
            "token (the first), mean, or both. Default: grid, or mean on tokens.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        int | None,
        _exits(
            help="Largest side of the grid that a grid head pools to, in cells. Default: 4.", min=1, max=1000
        ),
    ] = None,
    hidden: Annotated[
        int | None,
        _exits(
            help="Units of a head's hidden layer; 0 for none. Default: 128; on tokens 256, or 0 to fine-tune texts.",
            min=0,
            max=100_000,
        ),
    ] = None,
    bottleneck: Annotated[
        int | None,
        _exits(
            help="Channels of a 3x3 convolution before a grid head pools; 0 for none. Default: 0.",
            min=0,
            max=100_000,
        ),
    ] = None,
    norm: Annotated[
        str | None,
        _exits(help="Normalisation of a head's hidden layer: batch, layer or none. Default: batch."),
    ] = None,
    input_norm: Annotated[
        str | None,
        _exits(help="Normalisation of what a head pools from tokens: layer or none. Default: layer."),
    ] = None,
    dropout: Annotated[
        float | None, _exits(help="Dropout before a head's last layer, 0 to 1. Default: 0.")
    ] = None,
    cascade: Annotated[
        bool, _exits("--cascade", help="Let each head read the output of the one before.")
    ] = False,
    mode: Annotated[
        str,
        _training(
            help="What is trained: frozen (heads only), joint (everything), or distill (everything, and exits also "
            "learn from a teacher)."
        ),
    ] = "frozen",
    heads_first: Annotated[
        int | None,
        _training(
            help="Epochs in which the heads are trained alone before a joint or distill training. Default: 10 if the "
            "network comes with weights, else 0. Heads that are solved (lbfgs) need no epochs.",
            min=0,
            max=1_000_000,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        _training(
            help=f"Passes over the training inputs. {_BY_NETWORK}", min=1, max=1_000_000, show_default=False
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        _training(help=f"Inputs per batch. {_BY_NETWORK}", min=1, max=1_000_000, show_default=False),
    ] = None,
    optimiser: Annotated[
        str | None,
        _optimiser(
            help=f"sgd, adamw, or lbfgs, which solves linear heads on a frozen network. {_BY_NETWORK}",
            show_default=False,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, _optimiser(help=f"Peak learning rate. {_BY_NETWORK}", show_default=False)
    ] = None,
    schedule: Annotated[
        str | None,
        _optimiser(help="Learning rate over time: one_cycle, cosine or constant. Default: one_cycle."),
    ] = None,
    warm_up: Annotated[
        float | None,
        _optimiser(
            help=f"Share of a one-cycle run in which the rate rises. {_BY_NETWORK}", show_default=False
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        _optimiser(help=f"Weight decay of weight matrices. {_BY_NETWORK}", min=0, show_default=False),
    ] = None,
    momentum: Annotated[
        float | None, _optimiser(help="Nesterov momentum of sgd, 0 to 1. Default: 0.9.")
    ] = None,
    exit_weights: Annotated[
        str | None,
        _loss(
            help="Weight of each exit's loss: uniform, linear (later exits count more), last, or one number per exit "
            "such as 1,1,2. Default: uniform."
        ),
    ] = None,
    distill_weight: Annotated[
        float | None, _loss(help="With distill: weight of the teacher, 0 to 1. Default: 0.5.")
    ] = None,
    temperature: Annotated[
        float | None, _loss(help="With distill: temperature of the softmax, above 0. Default: 2.")
    ] = None,
    teacher: Annotated[
        str | None,
        _loss(
            help="With distill: self (the last exit as it learns) or original (the network as given). Default: "
            "original if the network comes with weights, else self."
        ),
    ] = None,
    smoothing: Annotated[float | None, _loss(help="Label smoothing, 0 to 1. Default: 0.")] = None,
    backbone_rate: Annotated[
        float | None,
        _optimiser(
            help=f"Learning rate of the backbone as a share of the heads'. {_BY_NETWORK}",
        ),
    ] = None,
    gradient_balancing: Annotated[
        bool,
        _loss(
            "--gradient-balancing",
            help="Keep the gradient in the backbone from growing with the number of exits above it.",
        ),
    ] = False,
    precision: Annotated[
        str | None,
        _training(help=f"Arithmetic: fp32, or bf16 (mixed). {_BY_NETWORK}", show_default=False),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        _training(help="Folder for loss and accuracy of every exit and epoch, as scalars of TensorBoard."),
    ] = None,
    augment: Annotated[
        str | None,
        _images(
            help="Random changes of images: none, crop-flip or resized-crop. Default: none for frozen, whose features "
            "are then computed once; else crop-flip."
        ),
    ] = None,
    workers: Annotated[
        int, _images(help="Processes that decode images; 0 decodes in the main process.", min=0, max=1000)
    ] = 0,
    skip_unreadable: Annotated[
        bool,
        _images(
            "--skip-unreadable",
            help="Name images that cannot be read and leave them out; else the first is an error. Reads all once more.",
        ),
    ] = False,
    size: Annotated[
        int | None,
        _images(help="Side of the images in pixels. Default: that of the first image, or the library's."),
    ] = None,
    mean: Annotated[
        str | None,
        _images(
            help="Mean of each channel, such as 0.49,0.48,0.45. Default: measured on training images, or "
            "the library's."
        ),
    ] = None,
    std: Annotated[
        str | None, _images(help="Standard deviation of each channel. Default: as for --mean.")
    ] = None,
    text_column: Annotated[
        str | None,
        _parts(
            help="Column of the texts, or two for pairs of texts: premise,hypothesis. Default: text or sentence."
        ),
    ] = None,
    label_column: Annotated[
        str | None, _parts(help="Column of the classes. Default: label, fine_label or labels.")
    ] = None,
    fit: Annotated[
        str | None,
        _parts(
            help="Inputs to fit policies on: a count or a share (5%). Default: 4% of the training data, but at "
            "least 500 or 15%, whichever is less; 30% of the test data if the weights have seen the training data."
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        _parts(
            help="Inputs to calibrate on: a count or a share. Default: 2%, or 20%, with the same least. See --fit."
        ),
    ] = None,
    test: Annotated[
        str | None,
        _parts(
            help="Inputs to test on: a count or a share, only for data without a test part. Default: 20%."
        ),
    ] = None,
    seed: Seed = 0,
    config: ConfigFile = None,  # noqa: ARG001 - it has given the others their values
) -> None:
    """Attach exits to a network, train them, and record the outputs of every exit.

    If killed at any moment, the same command resumes. The run keeps the options in RUN/config.yaml.
    """
    require("torch", extra="torch")
    from exeunt.data import default_cache
    from exeunt.run.not_a_run import kept_of_training
    from exeunt.torch.training.job import TrainingJob
    from exeunt.torch.training.run import run_training

    job = TrainingJob(
        model=model, data=data, weights=weights, pretrained=seen, label=label_column,
        text=column_names(text_column), exits=_places(exits),
        head=_given(
            head=head, grid=grid, hidden=hidden, bottleneck=bottleneck, norm=norm, dropout=dropout,
            input_norm=input_norm, cascade=cascade,
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
    command, options = shlex.join(["exeunt", *sys.argv[1:]]), as_config(context, without="out")
    with interruptible(lambda: kept_of_training(out)):
        run = run_training(
            job, out, command=command, config=options, say=typer.echo, cache=default_cache(),
            tensorboard=tensorboard,
        )  # fmt: skip
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
        typer.echo(f"written to {out}; next: exeunt calibrate {out} --budget 50%")


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given; the library has the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def _places(text: str) -> int | tuple[str, ...]:
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
