"""How raw inputs become a network's tensors: by a Preprocess for images, a tokeniser for texts; how runs store it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from exeunt._support.limits import check_memory
from exeunt.data import Dataset, Images, Preprocess
from exeunt.data.tokens import load_tokenizer, token_counts
from exeunt.errors import InputError, UnreadableImage
from exeunt.torch.calls import Inputs
from exeunt.torch.models.hugging_face import check_takes_texts, longest_text, save_tokenizer

_NO_LIMIT = 10**12  # tokenisers without a limit say 10^30


def image_preparation(
    train: Dataset,
    *,
    size: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    library: Preprocess | None = None,
) -> Preprocess:
    """Return how images are prepared: resized as `image_resizing` says, then normalised.

    `mean` and `std` are by default those of `library`; without a library they are measured on the training images.
    """
    resizing = image_resizing(train, size=size, library=library)
    if mean is not None and std is not None:
        return replace(resizing, mean=mean, std=std)
    if mean is not None or std is not None or not isinstance(train, Images):
        raise InputError("give both mean and std, or neither")
    return resizing.measured_on(train) if library is None else resizing


def image_resizing(
    train: Dataset, *, size: int | None = None, library: Preprocess | None = None
) -> Preprocess:
    """Return how images are resized: to `size` pixels square, by default to the size of the first readable image.

    `library`: how images were prepared to test the pretrained weights; this is then the default for all but `size`.
    """
    if size is not None:
        return replace(library or Preprocess(), size=(size, size))
    if library is not None:
        return library
    if isinstance(train, Images):
        for i in range(len(train)):
            with suppress(UnreadableImage):
                height, width = train.content(i).shape[:2]
                return Preprocess(size=(height, width))
    raise InputError("there are no training images to take the size from: give a size")


def summarise_inputs(prepare: Any, example: Inputs) -> str:
    """Return a line that says what the network takes."""
    if not isinstance(prepare, Preprocess):
        longest_tokens = _longest(prepare)
        longest = "" if longest_tokens is None else f"; texts of more than {longest_tokens} are cut"
        return f"texts: costs are those of {dict(example)['input_ids'].shape[1]} tokens, the mean length{longest}"
    mean, std = (", ".join(f"{number:.4g}" for number in three) for three in (prepare.mean, prepare.std))
    return f"images: {prepare.geometry}, mean {mean}, std {std}"


def _longest(tokenizer: Any) -> int | None:
    """Return the length in tokens to which a tokeniser cuts longer texts, None where it has no limit."""
    limit: int = tokenizer.model_max_length
    return limit if limit < _NO_LIMIT else None


def to_channels_last(model: nn.Module, prepare: Any) -> nn.Module:
    """Lay out the weights of a model of images channels last, the fastest for convolutions; returns the model."""
    if isinstance(prepare, Preprocess):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def text_preparation(spec: str) -> Any:
    """Return the tokeniser of a Hugging Face model of texts, `hf:NAME_OR_FOLDER`, as `padding_tokenizer` does."""
    if not spec.startswith("hf:"):
        raise InputError(f"texts need a Hugging Face model (hf:NAME_OR_FOLDER), got {spec!r}")
    name = spec.removeprefix("hf:")
    check_takes_texts(name)
    return padding_tokenizer(name)


def padding_tokenizer(name: str) -> Any:
    """Return the tokeniser of this name or folder.

    It pads on the right, where a decoder's tokens do not see the padding and positions count from the first word. A
    tokeniser without a padding token, as decoders may have it, pads with its end of text.
    """
    tokenizer = load_tokenizer(name)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise InputError(
            f"the tokeniser of {name} has no token to pad with: give it one (tokenizer.pad_token = ...)"
        )
    return tokenizer


def fit_tokenizer(prepare: Any, model: Any) -> None:
    """Let a tokeniser cut texts that are too long for a model; preparation of images stays as it is.

    A model that finds the last token by its padding is told what the tokeniser pads with.
    Raises InputError if the tokeniser knows more tokens than the model.
    """
    if isinstance(prepare, Preprocess):
        return
    if (longest := longest_text(model)) is not None:
        prepare.model_max_length = min(prepare.model_max_length, longest)
    config = model.config.get_text_config()
    known = getattr(config, "vocab_size", None)
    # Added tokens that texts do not bring in may lie beyond the vocabulary, such as those for images.
    needed = 1 + max(prepare.vocab_size - 1, prepare.pad_token_id, *prepare("")["input_ids"])
    if known is not None and needed > known:
        raise InputError(
            f"the tokeniser numbers {needed:,} tokens, and the model knows {known:,}: give the model its own tokeniser"
        )
    if config.pad_token_id is None:
        config.pad_token_id = prepare.pad_token_id


def save_preparation(prepare: Any, folder: Path, example: Inputs) -> dict[str, Any]:
    """Return the manifest's entry for a Preprocess or a tokeniser; a tokeniser's files are written to `folder`.

    `example`: the inputs that the network's costs were counted on. Of texts the entry keeps their `length` in tokens,
    and `longest`, the length to which longer texts are cut.
    """
    if isinstance(prepare, Preprocess):
        return {"kind": "image", **prepare.to_dict()}
    save_tokenizer(prepare, folder / "tokenizer")
    return {
        "kind": "text",
        "folder": "tokenizer",
        "length": dict(example)["input_ids"].shape[1],
        "longest": _longest(prepare),
    }


def synthetic_inputs(prepare: Any, n: int, *, length: int | None = None) -> Inputs:
    """Return n inputs of the right shape without meaning, to build or time a network on.

    `length`: of texts, in tokens. Raises InputError for texts without a length and images without a size.
    """
    if isinstance(prepare, Preprocess):
        if prepare.size is None:
            raise InputError("these images have no common size to time the network at: train with a size")
        # No two rows are alike: rows that depend on each other would not be noticed among equal ones.
        return torch.randn(n, 3, *prepare.size, generator=torch.Generator().manual_seed(0))
    if length is None:
        raise InputError("texts need a length, in tokens: what they cost depends on it")
    filler = " ".join(["a"] * length)  # at least `length` tokens, special ones included
    tokens = prepare(
        [filler] * n, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    return dict(tokens)


def check_batch_memory(prepare: Preprocess, batch_size: int) -> None:
    """Raise InputError if the inputs of a batch alone take more memory than there is."""
    if prepare.size is not None:
        n_bytes = 4 * batch_size * 3 * prepare.size[0] * prepare.size[1]
        batch = f"a batch of {batch_size} images of {prepare.size[0]}x{prepare.size[1]} pixels"
        check_memory(n_bytes, batch, "choose a smaller size or batch size")


def example_inputs(data: Dataset, prepare: Any) -> Inputs:
    """Return two inputs of the form of a data set's: noise, or texts of the mean length of up to 4,096 of its texts."""
    if len(data) == 0:
        raise InputError("there are no inputs to take an example from")
    if isinstance(prepare, Preprocess):
        return synthetic_inputs(prepare, 2)
    chosen = np.unique(np.linspace(0, len(data) - 1, num=4096).astype(np.int64))
    counts = token_counts(prepare, [data.content(int(i)) for i in chosen])  # type: ignore[misc]
    if not counts.any():
        raise InputError(
            "the tokeniser finds no tokens in these texts: they are empty, or it is not the tokeniser of this model"
        )
    return synthetic_inputs(prepare, 2, length=max(1, round(float(counts.mean()))))
