"""Live models in a YAML file: by name, the options of an `OpenAICompatible`, `HTTPModel` or `FunctionModel`.

"features" in place of "function" names one that returns features of an input, for a router, and "encoder" an encoder of
texts whose embeddings are features: a `FeatureModel` (`TextEncoder`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exeunt._support.yaml_text import read_yaml
from exeunt.errors import ExeuntError, InputError, one_line
from exeunt.live.function_model import FeatureModel, FunctionModel
from exeunt.live.http_model import HTTPModel
from exeunt.live.live_model import LiveModel
from exeunt.live.openai_compatible import OpenAICompatible
from exeunt.live.own_functions import Signature, find_beside, function_named
from exeunt.live.text_encoder import TextEncoder

_KINDS: dict[str, Any] = {
    "model": OpenAICompatible,
    "url": HTTPModel,
    "function": FunctionModel,
    "features": FeatureModel,
    "encoder": FeatureModel,
}


def read_models(path: str | Path) -> dict[str, LiveModel]:
    """Return the models of a file. A function is written "module:name", and its code runs.

    Modules beside the file are found, after those that are installed, unless others may write there. Raises InputError
    for a file that is missing or not YAML, for a model with other options than its class takes, and for a function that
    is not there or takes other arguments.
    """
    if not (file := Path(path)).is_file():
        raise InputError(f"there is no file {file}: --models names a YAML file of models, or RUN is missing")
    entries = read_yaml(file, extra="cli")
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InputError(f"{file} must hold models by name, each with its options")
    folder = file.resolve().parent
    return {
        str(name): _made(f"model {name!r} of {file}", dict(entry), folder) for name, entry in entries.items()
    }


def _made(model: str, entry: dict[str, Any], folder: Path) -> LiveModel:
    kind = next((make for word, make in _KINDS.items() if word in entry), None)
    if kind is None:
        raise InputError(f"{model} needs one of {', '.join(_KINDS)}, it has {', '.join(entry) or 'nothing'}")
    try:
        for word in entry.keys() & {"function", "features", "encoder"}:
            name = str(entry.pop(word))
            entry["function"] = (
                TextEncoder(name) if word == "encoder" else _function(name, kind.signature, folder)
            )
        model_made: LiveModel = kind(**entry)
    except ExeuntError as error:
        raise InputError(f"{model}: {error}") from None
    except Exception as error:  # of the user's module, or options that there are not
        options = str(error).partition("__init__() ")[2]
        raise InputError(f"{model} cannot be made: {options or one_line(error)}") from error
    return model_made


def _function(name: str, signature: Signature, folder: Path) -> Any:
    find_beside(name, folder)
    return function_named(name, signature)
