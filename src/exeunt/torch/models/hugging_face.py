"""Opening classifiers, encoders and decoders of Hugging Face, from a name or a folder.

Code that comes with them is not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import nn

from exeunt._support.files import atomic_folder, system_error
from exeunt._support.hub import hub_access, quiet_loading
from exeunt.errors import ArtefactError, InputError, require
from exeunt.torch.models.weights import EVERY_PART, BuiltModel

_WEIGHTS = "*.safetensors"
_PICKLED = "*.bin"


def brings_weights(name: str) -> bool:
    """Return whether a model comes with trained weights: a folder that holds some, or any model of the hub."""
    return not Path(name).is_dir() or any(Path(name).glob(_WEIGHTS))


def build(name: str, n_classes: int | None, pretrained: bool) -> BuiltModel:
    """Build the classifier of this name or folder, with its trained weights if it has some.

    If the weights hold no trained classifier for `n_classes`, a network of images gets a new one. Of a network of texts
    the encoder or decoder alone is returned: the library's classifier would read the first or last token, and heads on
    all tokens are better.
    Raises InputError if there is no such model, if its weights are in a form that could run code, if it has none and
    `pretrained` is set, or if it is an encoder-decoder without a trained classifier.
    """
    config = read_config(name)
    if n_classes is not None and n_classes != config.num_labels:
        config.num_labels = n_classes
    if not brings_weights(name):
        if any(Path(name).glob(_PICKLED)):
            raise InputError(
                f"the weights in {name} are pickled, and reading those could run code: save the model again "
                "with save_pretrained, which writes safetensors"
            )
        if pretrained:
            raise InputError(f"there are no weights in {name}: leave weights out, or give a file")
        return BuiltModel(_from_config(config), EVERY_PART)
    with hub_access(name, f"the weights of {name!r} cannot be read as safetensors"), quiet_loading():
        model, info = _auto_class(config).from_pretrained(
            name,
            config=config,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    # Mismatched weights are listed as (name, shape in the file, shape in the model).
    random = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    bare = _auto_class(config) is _transformers().AutoModel
    behind = [] if bare else [name for name in random if not name.startswith(f"{model.base_model_prefix}.")]
    pooler = f"{model.base_model_prefix}.pooler."
    if behind and all(name in behind or name.startswith(pooler) for name in random):
        if _is_of_texts(config):
            if config.is_encoder_decoder:
                raise InputError(
                    f"{name} is an encoder-decoder ({config.model_type}) without a trained classifier: give an "
                    "encoder, a decoder, or a trained classifier"
                )
            return BuiltModel(_encoder(model.base_model.float()))
        if new := _common_module(random):
            return BuiltModel(model.float(), new_classifier=new)
    return BuiltModel(model.float(), f"a part ({', '.join(random[:3])})" if random else "")


def build_decoder(name: str) -> Any:
    """Build the causal language model of this name or folder, with its trained weights.

    Raises InputError if there is none.
    """
    config = read_config(name)
    with hub_access(name, f"the weights of {name!r} cannot be read as safetensors"), quiet_loading():
        try:
            model = _transformers().AutoModelForCausalLM.from_pretrained(
                name, config=config, trust_remote_code=False, use_safetensors=True
            )
        except ValueError as error:  # of a kind that has no causal language model
            raise InputError(
                f"{config.model_type!r} is no decoder: give a causal language model, such as Llama"
            ) from error
    return model.float()


def rebuild_decoder(folder: Path) -> Any:
    """Build the causal language model whose configuration `save_config` wrote to `folder`, with random weights."""
    config = read_config(str(folder))
    return _transformers().AutoModelForCausalLM.from_config(config, trust_remote_code=False).float()


def rebuild(folder: Path, *, new_classifier: bool = False) -> nn.Module:
    """Build the classifier whose configuration `save_config` wrote to `folder`, with random weights.

    `new_classifier`: of a network of texts, return the encoder alone, as `build` did.
    """
    if not (folder / "config.json").is_file():
        raise ArtefactError(f"{folder / 'config.json'} is missing: the run folder is damaged, train it again")
    config = read_config(str(folder))
    if new_classifier and _is_of_texts(config):
        return _encoder(_transformers().AutoModel.from_config(config, trust_remote_code=False).float())
    return _from_config(config)


def save_config(model: Any, folder: Path) -> None:
    """Write what `rebuild` needs."""
    with atomic_folder(folder) as temporary:
        model.config.save_pretrained(temporary)


def longest_text(model: nn.Module) -> int | None:
    """Return how many tokens a model takes, special ones included; None where its configuration sets no limit."""
    longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if longest is None:
        return None
    # RoBERTa and similar models number positions from the padding's number on and never use the rows before it.
    unused = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return int(longest) - max(unused, default=0)


def check_takes_texts(name: str) -> None:
    """Raise InputError if the model of this name or folder takes images."""
    config = read_config(name)
    if not _is_of_texts(config):
        raise InputError(
            f"{name} takes images ({config.model_type}), and the data hold texts: give a network of texts"
        )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write what `load_tokenizer` reads."""
    with atomic_folder(folder) as temporary:
        try:
            tokenizer.save_pretrained(temporary)
        except Exception as error:  # a bare Exception, of a library in Rust
            raise system_error(error) or OSError(str(error)) from error


def read_config(name: str) -> Any:
    """Return the configuration of a model. Raises InputError if there is no model of this name or folder."""
    auto = _transformers().AutoConfig
    with hub_access(name, f"there is no Hugging Face model {name!r} here"):
        return auto.from_pretrained(name, trust_remote_code=False)


def _transformers() -> Any:
    return require("transformers", extra="hf")


def _from_config(config: Any) -> nn.Module:
    return _auto_class(config).from_config(config, trust_remote_code=False).float()  # type: ignore[no-any-return]


def _encoder(model: nn.Module) -> nn.Module:
    """Return an encoder without its pooler, which reads the first token for a classifier."""
    if getattr(model, "pooler", None) is not None:
        model.register_module("pooler", None)
    return model


def _is_of_texts(config: Any) -> bool:
    return _auto_class(config) is not _transformers().AutoModelForImageClassification


def _common_module(names: Sequence[str]) -> str:
    """Return the innermost module that holds all parameters of these names, "" for none."""
    paths = [name.split(".")[:-1] for name in names]
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in same)


def _auto_class(config: Any) -> Any:
    """Return the library's class for a configuration: an image classifier if there is one, else a text classifier.

    Some decoders have no classifier in the library: for these, AutoModel.
    """
    library = _transformers()
    for auto in (library.AutoModelForImageClassification, library.AutoModelForSequenceClassification):
        if type(config) in auto._model_mapping:  # the only list of what a class supports
            return auto
    if type(config) in library.AutoModelForCausalLM._model_mapping and not config.is_encoder_decoder:
        return library.AutoModel
    raise InputError(
        f"{config.model_type!r} models classify neither images nor texts in transformers, and are no decoders: give a "
        "classifier, an encoder of texts, or a decoder"
    )
