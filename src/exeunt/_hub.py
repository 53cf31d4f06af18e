"""Asking the network for models and data: it answers within seconds, or is not asked again."""

from __future__ import annotations

import importlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from exeunt.errors import ExeuntError, InputError, one_line

__all__ = ["check_download", "check_server", "hub_access", "is_reachable"]

_WAIT_S = 2.0
_TORCHVISION = "https://download.pytorch.org"
_MEND = "connect it, or name a local folder or file"


def is_reachable(url: str) -> bool:
    """Return whether a server answers within two seconds, whatever it says. Proxies are those of the environment."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=_WAIT_S).close()  # noqa: S310 - of a library's own
        except HTTPError:  # an answer, too
            pass
        except Exception:
            return
        answered.set()

    # In a thread, because looking up the server's name can take longer than the time that is allowed.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_WAIT_S)
    return answered.is_set()


@contextmanager
def hub_access(name: str, failure: str) -> Iterator[None]:
    """Let libraries of Hugging Face open `name` inside the block, a name on the hub or a folder.

    If the hub does not answer they use what they have kept of it at once: on their own they try for half a minute.
    Raises InputError for whatever they raise: `failure` and the reason, or that the hub is out of reach.
    """
    offline = "" if _is_local(name) else _why_offline()
    with _kept_only() if offline else nullcontext():
        try:
            yield
        except ExeuntError:
            raise
        except Exception as error:  # the libraries and their network stack raise many kinds
            if offline and isinstance(error, OSError):
                raise InputError(_no_copy(offline, repr(name))) from error
            raise InputError(f"{failure}: {one_line(error)}") from error


def check_download(url: str, kept: Path, what: str) -> None:
    """Raise InputError if a file is not `kept` and its server does not answer. `what`: what it holds."""
    if not kept.is_file() and not is_reachable(url):
        raise InputError(_no_copy(f"{urlsplit(url).hostname} does not answer", what))


def check_server(name: str, *, pretrained: bool = False) -> None:
    """Raise InputError if a model or data set must be downloaded, as far as is known, and its server does not answer.

    `name`: as on the command line; what is no name of a hub passes. `pretrained`: a library's weights are wanted as
    well. This takes no longer than the server may, while the libraries that open such names take seconds to import.
    """
    kind, _, rest = name.partition(":")
    bare = rest.partition(":")[0].partition("?")[0]
    if (kind != "hf" or not bare or _is_local(bare)) and not (pretrained and kind in ("timm", "torchvision")):
        return
    try:
        constants: Any = importlib.import_module("huggingface_hub.constants")
    except ImportError:
        return  # whoever opens the name says which package is missing
    # Which file a library keeps its weights in is known to the library alone: any file may be the one.
    if _is_kept(bare.rpartition("/")[2] if kind == "hf" else "", constants):
        return
    if kind == "torchvision":
        check_download(_TORCHVISION, Path(), f"the weights of {bare!r}")
    elif offline := _why_offline():
        raise InputError(_no_copy(offline, repr(bare)))


def _is_kept(name: str, constants: Any) -> bool:
    """Whether a file or folder in the libraries' caches may be a copy: the name's letters and digits are in its own."""
    cache = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    folders = [
        constants.HF_HUB_CACHE,
        os.environ.get("TRANSFORMERS_CACHE", constants.HF_HUB_CACHE),
        os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME, "datasets")),
        Path(os.environ.get("TORCH_HOME", Path(cache, "torch")), "hub", "checkpoints"),
    ]
    files = [file.name for folder in map(Path, folders) if folder.is_dir() for file in folder.iterdir()]
    return any(_squeezed(name) in _squeezed(file) for file in files if not file.startswith("."))


def _squeezed(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _no_copy(why: str, what: str) -> str:
    return f"{why}, and this machine keeps no copy of {what}: {_MEND}"


def _is_local(name: str) -> bool:
    return Path(name).exists() or name.startswith((".", "/", "~"))


def _why_offline() -> str:
    """Return why the hub cannot be asked, "" if it can."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if is_reachable(constants.ENDPOINT):
        return ""
    return f"{urlsplit(constants.ENDPOINT).hostname} does not answer"


@contextmanager
def _kept_only() -> Iterator[None]:
    """Let the libraries of Hugging Face use only what they have kept, inside the block."""
    names = ("huggingface_hub.constants", "datasets.config")  # datasets has a copy of its own
    modules: list[Any] = [sys.modules[name] for name in names if name in sys.modules]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
