"""The options of `exeunt train`, in the groups of its help: each group is short enough for a screen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

_BY_NETWORK = "Default: by what the network is made of; printed when it begins."

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


@dataclass(frozen=True)
class Network:
    """What is trained, on what."""

    model: Annotated[
        str,
        _network(
            help="Network: torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER, or package.module:factory; keyword "
            "arguments follow: 'timm:vit_tiny_patch16_224?img_size=64'. Or tfidf: character n-grams and a logistic "
            "regression, for texts."
        ),
    ]
    data: Annotated[
        str,
        _network(
            help="Data: a folder with train.parquet and test.parquet, an image folder train/CLASS/*, hf:NAME, "
            "sklearn:digits, or a table of texts."
        ),
    ]
    out: Annotated[Path, _network(help="Run folder to make.")]
    weights: Annotated[
        str | None,
        _network(
            help="Trained weights: a safetensors or state-dict file, or 'pretrained' for those of the library. "
            "Default: none, except for hf: models that bring theirs."
        ),
    ] = None
    seen: Annotated[
        bool | None,
        _network(
            "--seen/--unseen",
            help="Whether the weights have seen all training data. If so, the inputs to fit and calibrate policies "
            "on come from the test data. Default: seen if weights are given or come with the model.",
        ),
    ] = None
    exits: Annotated[
        str,
        _exits(
            help="Number of auxiliary exits, spread evenly over the network's cost (at most one at each place that "
            "it offers), names of modules separated by commas, or own: the network returns the logits of its own "
            "exits."
        ),
    ] = "7"


@dataclass(frozen=True)
class Heads:
    """The heads of the exits, as `exeunt.torch.attach` takes them."""

    head: Annotated[
        str | None,
        _exits(
            help="Kind of head: grid (averages and maxima), paper or global (an average); on tokens token (the "
            "first), mean, both, or statistics (mean and deviation). Default: grid, or statistics."
        ),
    ] = None
    grid: Annotated[
        int | None,
        _exits(
            help="Largest side of the grid that a grid head pools to, in cells. Default: 4.", min=1, max=1000
        ),
    ] = None
    hidden: Annotated[
        int | None,
        _exits(
            help="Units of a head's hidden layer; 0 for none. Default: 128; on tokens 256.",
            min=0,
            max=100_000,
        ),
    ] = None
    bottleneck: Annotated[
        int | None,
        _exits(
            help="Channels of a 3x3 convolution before a grid head pools; 0 for none. Default: 0.",
            min=0,
            max=100_000,
        ),
    ] = None
    norm: Annotated[
        str | None,
        _exits(help="Normalisation of a head's hidden layer: batch, layer or none. Default: batch."),
    ] = None
    input_norm: Annotated[
        str | None,
        _exits(help="Normalisation of what a head pools from tokens: layer or none. Default: layer."),
    ] = None
    dropout: Annotated[
        float | None, _exits(help="Dropout before a head's last layer, 0 to 1. Default: 0.")
    ] = None
    stacked: Annotated[bool, _exits("--stacked", help="Let each head read the output of the one before.")] = (
        False
    )


@dataclass(frozen=True)
class Training:
    """How exits learn, as `exeunt.torch.training.recipe.Recipe` takes it, and how batches are made."""

    mode: Annotated[
        str,
        _training(
            help="What is trained: frozen (heads only), joint (everything), or distill (everything, and exits also "
            "learn from a teacher)."
        ),
    ] = "frozen"
    heads_first: Annotated[
        int | None,
        _training(
            help="Epochs in which the heads are trained alone before a joint or distill training. Default: 10 if the "
            "network comes with weights, else 0. Heads that are solved (lbfgs) need no epochs.",
            min=0,
            max=1_000_000,
        ),
    ] = None
    epochs: Annotated[
        int | None, _training(help=f"Passes over the training inputs. {_BY_NETWORK}", min=1, max=1_000_000)
    ] = None
    batch_size: Annotated[
        int | None, _training(help=f"Inputs per batch. {_BY_NETWORK}", min=1, max=1_000_000)
    ] = None
    optimiser: Annotated[
        str | None,
        _optimiser(
            help=f"sgd, adamw, or lbfgs, which solves linear heads on a frozen network. {_BY_NETWORK}"
        ),
    ] = None
    learning_rate: Annotated[float | None, _optimiser(help=f"Peak learning rate. {_BY_NETWORK}")] = None
    schedule: Annotated[
        str | None,
        _optimiser(help="Learning rate over time: one_cycle, cosine or constant. Default: one_cycle."),
    ] = None
    warm_up: Annotated[
        float | None, _optimiser(help=f"Share of a one-cycle run in which the rate rises. {_BY_NETWORK}")
    ] = None
    weight_decay: Annotated[
        float | None, _optimiser(help=f"Weight decay of weight matrices. {_BY_NETWORK}", min=0)
    ] = None
    momentum: Annotated[float | None, _optimiser(help="Nesterov momentum of sgd, 0 to 1. Default: 0.9.")] = (
        None
    )
    exit_weights: Annotated[
        str | None,
        _loss(
            help="Weight of each exit's loss: uniform, linear (later exits count more), last, or one number per "
            "exit such as 1,1,2. Default: uniform."
        ),
    ] = None
    distill_weight: Annotated[
        float | None, _loss(help="With distill: weight of the teacher, 0 to 1. Default: 0.5.")
    ] = None
    temperature: Annotated[
        float | None, _loss(help="With distill: temperature of the softmax, above 0. Default: 2.")
    ] = None
    teacher: Annotated[
        str | None,
        _loss(
            help="With distill: self (the last exit as it learns), original (the network as given), or the folder of "
            "another run: a larger network. Default: original if the network comes with weights, else self."
        ),
    ] = None
    smoothing: Annotated[float | None, _loss(help="Label smoothing, 0 to 1. Default: 0.")] = None
    backbone_rate: Annotated[
        float | None,
        _optimiser(help=f"Learning rate of the backbone as a share of the heads'. {_BY_NETWORK}"),
    ] = None
    gradient_balancing: Annotated[
        bool,
        _loss(
            "--gradient-balancing",
            help="Keep the gradient in the backbone from growing with the number of exits above it.",
        ),
    ] = False
    precision: Annotated[str | None, _training(help=f"Arithmetic: fp32, or bf16 (mixed). {_BY_NETWORK}")] = (
        None
    )


@dataclass(frozen=True)
class Images:
    """How images are read and changed."""

    augment: Annotated[
        str | None,
        _images(
            help="Random changes of images: none, crop-flip or resized-crop. Default: none for frozen, whose "
            "features are then computed once; else crop-flip."
        ),
    ] = None
    workers: Annotated[
        int, _images(help="Processes that decode images; 0 decodes in the main process.", min=0, max=1000)
    ] = 0
    skip_unreadable: Annotated[
        bool,
        _images(
            "--skip-unreadable",
            help="Name images that cannot be read and leave them out; else the first is an error. Reads all once "
            "more.",
        ),
    ] = False
    size: Annotated[
        int | None,
        _images(help="Side of the images in pixels. Default: that of the first image, or the library's."),
    ] = None
    mean: Annotated[
        str | None,
        _images(
            help="Mean of each channel, such as 0.49,0.48,0.45. Default: measured on training images, or the "
            "library's."
        ),
    ] = None
    std: Annotated[
        str | None, _images(help="Standard deviation of each channel. Default: as for --mean.")
    ] = None


@dataclass(frozen=True)
class Parts:
    """The columns of the data, and how many inputs each part has."""

    text_column: Annotated[
        str | None,
        _parts(
            help="Column of the texts, or two for pairs of texts: premise,hypothesis. Default: text or sentence."
        ),
    ] = None
    label_column: Annotated[
        str | None, _parts(help="Column of the classes. Default: label, fine_label or labels.")
    ] = None
    fit: Annotated[
        str | None,
        _parts(
            help="Inputs to fit policies on: a count or a share (5%). Default: 4% of the training data, but at least "
            "500 or 15%, whichever is less; 30% of the test data if the weights have seen the training data."
        ),
    ] = None
    calibrate: Annotated[
        str | None,
        _parts(
            help="Inputs to calibrate on: a count or a share. Default: 2%, or 20%, with the same least. See --fit."
        ),
    ] = None
    test: Annotated[
        str | None,
        _parts(
            help="Inputs to test on: a count or a share, only for data without a test part. Default: 20%."
        ),
    ] = None
