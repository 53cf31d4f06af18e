"""How raw inputs become a network's: a Preprocess for images, a tokeniser of Hugging Face for texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from exeunt._files import is_inside
from exeunt._hub import hub_access
from exeunt.data.preprocess import Preprocess
from exeunt.data.raw_inputs import RawImages, RawTexts
from exeunt.errors import ArtefactError, InputError, require

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["load_tokenizer", "restore_preparation"]

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")


def restore_preparation(entry: Mapping[str, Any], folder: Path) -> Any:
    """Return the Preprocess or tokeniser of a manifest's entry, from the run folder `folder` alone.

    For a chain, which takes raw inputs, RawImages or RawTexts.

    Raises ArtefactError if the tokeniser is outside it.
    """
    if entry.get("raw"):
        return RawImages() if entry["kind"] == "image" else RawTexts()
    if entry["kind"] == "image":
        return Preprocess.from_manifest(entry)
    name = entry.get("folder")
    if not isinstance(name, str) or not is_inside(folder / name, folder) or not (folder / name).is_dir():
        raise ArtefactError(f"the tokeniser must be in a folder of {folder}, but its manifest names {name!r}")
    return load_tokenizer(str(folder / name))


def load_tokenizer(name: str) -> Any:
    """Return the tokeniser of this name or folder; code that comes with it is not run, and PyTorch is not needed.

    Raises InputError where there is none.
    """
    auto = require("transformers", extra="hf").AutoTokenizer
    folder = Path(name)
    # Without these files the library silently makes a tokeniser that knows no word.
    if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise InputError(
            f"there is no tokeniser in {name}: put it there with tokenizer.save_pretrained({name!r})"
        )
    with hub_access(name, f"there is no tokeniser {name!r} here"):
        return auto.from_pretrained(name, trust_remote_code=False)
