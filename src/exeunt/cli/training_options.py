"""The options of `exeunt train`: those that most people set come first in its help, the others under one more title."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from exeunt.cli.options import option, options_under

_BY_NETWORK = "Default: by the network; printed when it begins."

_more = options_under("More options")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is trained, and on which data."""

    model: str = option(
        "Network: torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER, or package.module:factory; keyword arguments follow: "
        "'timm:resnet18?in_chans=1'. Or tfidf: character n-grams and a logistic regression, for texts.",
        default=MISSING,
    )
    data: str = option(
        "Data: a folder with train.parquet and test.parquet, an image folder train/CLASS/*, hf:NAME, sklearn:digits, "
        "or a table of texts.",
        default=MISSING,
    )
    out: Path = option("Run folder to make.", default=MISSING)
    task: str = option(
        "What the network does: classify inputs, segment images (a class for each pixel), or generate (a decoder "
        "answers prompts token by token).",
        default="classify",
    )
    weights: str | None = option(
        "Trained weights: a safetensors or state-dict file, or 'pretrained' for those of the library. Default: none, "
        "except for hf: models, which bring theirs."
    )
    seen: bool | None = _more(
        "Whether the weights have seen all training data. If so, the inputs to fit and calibrate policies on come from "
        "the test data. Default: seen if weights are given or come with the model.",
        "--seen/--unseen",
    )
    exits: str = option(
        "Number of auxiliary exits, spread evenly over the network's cost; auto: placed and sized by time on this "
        "machine; names of modules, separated by commas; or own: the network returns the logits of its own exits.",
        default="7",
    )
    exit_batch: str | None = _more("Inputs at a time for --exits auto, such as 1,64. Default: 64.")
    gate: str | None = _more(
        "Gate: a module before the first exit. A policy may choose an input's exit there, by features of the module's "
        "output (calibrate --policy one_look). Default: no gate."
    )
    gate_features: str | None = _more(
        "What the gate tells of each channel: mean (over positions or tokens), or spread (mean and deviation). "
        "Default: mean."
    )


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of the exits, as `exeunt.torch.attach` takes them."""

    head: str | None = _more(
        "Kind of head: grid (averages and maxima), paper or global (an average); on tokens token (the first), mean, "
        "both, or statistics (mean and deviation); for masks pixels. Default: grid, statistics or pixels."
    )
    grid: int | None = _more(
        "Largest side of the grid that a grid head pools to, in cells. Default: 4.", min=1, max=1000
    )
    hidden: int | None = _more(
        "Units of a head's hidden layer; 0 for none. Default: 128; on tokens 256.", min=0, max=100_000
    )
    norm: str | None = _more("Normalisation of a head's hidden layer: batch, layer or none. Default: batch.")
    input_norm: str | None = _more(
        "Normalisation of what a head pools from tokens: layer, batch or none. Default: layer."
    )
    dropout: float | None = _more("Dropout before a head's last layer, 0 to 1. Default: 0.")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How exits learn, as `exeunt.torch.training.recipe.Recipe` takes it, and how batches are made."""

    mode: str = option(
        "What is trained: frozen (heads only), joint (everything), or distill (everything, and exits also learn from a "
        "teacher).",
        default="frozen",
    )
    unlabelled: bool | None = option(
        "Some or all inputs have no label: from those, exits learn the trained network's own output, and agreement "
        "with it is measured. Data may then also be a folder of images, or a .txt file with a text per line.",
        "--unlabelled",
    )
    heads_first: int | None = _more(
        "Epochs in which the heads are trained alone before a joint or distill training. Default: 10 if the network "
        "comes with weights, else 0.",
        min=0,
        max=1_000_000,
    )
    epochs: int | None = option(f"Passes over the training inputs. {_BY_NETWORK}", min=1)
    batch_size: int | None = option(f"Inputs per batch. {_BY_NETWORK}", min=1)
    optimiser: str | None = _more(f"sgd or adamw. {_BY_NETWORK}")
    learning_rate: float | None = _more(f"Peak learning rate. {_BY_NETWORK}")
    schedule: str | None = _more(
        "Learning rate over time: one_cycle, cosine or constant. Default: one_cycle."
    )
    warm_up: float | None = _more(f"Share of a one-cycle run in which the rate rises. {_BY_NETWORK}")
    weight_decay: float | None = _more(f"Weight decay of weight matrices. {_BY_NETWORK}", min=0)
    momentum: float | None = _more("Nesterov momentum of sgd, 0 to 1. Default: 0.9.")
    distill_weight: float | None = _more("With distill: weight of the teacher, 0 to 1. Default: 0.5.")
    temperature: float | None = _more("With distill: temperature of the softmax, above 0. Default: 2.")
    teacher: str | None = _more(
        "With distill: self (the last exit as it learns), original (the network as given), or the folder of another "
        "run: a larger network. Default: original if the network comes with weights, else self."
    )
    smoothing: float | None = _more("Label smoothing, 0 to 1. Default: 0.")
    backbone_rate: float | None = _more(
        f"Learning rate of the backbone as a share of the heads'. {_BY_NETWORK}"
    )
    precision: str | None = _more(f"Arithmetic: fp32, or bf16 (mixed). {_BY_NETWORK}")


@dataclass(frozen=True, kw_only=True)
class Images:
    """How images are read and changed."""

    augment: str | None = _more(
        "Random changes of images: none, crop-flip or resized-crop. Default: none for frozen, so that features are "
        "computed once; else crop-flip."
    )
    workers: int = _more(
        "Processes that decode images; 0 decodes in the main process.", default=0, min=0, max=1000
    )
    skip_unreadable: bool = _more(
        "Name images that cannot be read and leave them out; else the first is an error. Reads all images once more.",
        default=False,
    )
    size: int | None = option(
        "Side of the images in pixels. Default: that of the first image, or the library's."
    )
    mean: str | None = _more(
        "Mean of each channel, such as 0.49,0.48,0.45, or one number for all. Default: measured on training images, or "
        "the library's."
    )
    std: str | None = _more("Standard deviation of each channel. Default: as for --mean.")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The columns of the data, and how many inputs each part has."""

    text_column: str | None = option(
        "Column of the texts, or two for pairs of texts: premise,hypothesis. Default: text or sentence."
    )
    label_column: str | None = option(
        "Column of the classes. With --unlabelled also none (no labels), or folder (images outside folders of classes "
        "have no label). Default: label, fine_label or labels."
    )
    calibration_data: str | None = option(
        "Other data, named as for --data, to fit and calibrate policies on: labelled inputs like those to come, which "
        "nothing was trained on. Default: a validation part beside the test part, if it is large enough."
    )
    fit: str | None = _more(
        "Inputs to fit policies on: a count or a share (5%). Default: 4% of the training data, but at least 500 or "
        "15%, whichever is less; 30% of the test data if the weights have seen the training data."
    )
    calibrate: str | None = _more(
        "Inputs to calibrate on: a count or a share. Default: 2%, or 20%, with the same least. See --fit."
    )
    test: str | None = _more(
        "Inputs to test on: a count or a share, only for data without a test part. Default: 20%."
    )


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What counts of masks, with `--task segment`."""

    ignore_class: str | None = _more(
        "Name or number of a class that does not count, beside the value 255: pixels that nobody labelled."
    )
    balance_classes: bool | None = _more(
        "Let the pixels of rare classes count more in training.", "--balance-classes"
    )


@dataclass(frozen=True, kw_only=True)
class Language:
    """How a decoder answers prompts, with `--task generate`."""

    most_tokens: int | None = _more("Most tokens of an answer. Default: 64.", min=1, max=1_000_000)
    chat: bool | None = _more(
        "Put prompts into the tokeniser's chat template, or not. Default: where it has one.",
        "--chat/--no-chat",
    )
