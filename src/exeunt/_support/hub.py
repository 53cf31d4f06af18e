"""Downloads of models and data: a server that does not answer within seconds is not asked again."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from exeunt.errors import ExeuntError, InputError, one_line, require

_WAIT_S = 2.0
_MEND = "connect it, or name a local folder or file"


def is_reachable(url: str) -> bool:
    """Return whether a server answers within two seconds, even with an error. Proxies come from the environment."""
    answered = threading.Event()

    def ask() -> None:
        try:
            with suppress(HTTPError):  # an answer, too
                urlopen(Request(url, method="HEAD"), timeout=_WAIT_S).close()  # noqa: S310 - a library's own
        except Exception:
            return
        answered.set()

    # In a thread, because looking up the server's name can take longer than the timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_WAIT_S)
    return answered.is_set()


@contextmanager
def hub_access(name: str, failure: str, *, model: bool = False) -> Iterator[None]:
    """Let libraries of Hugging Face open `name`, a name on the hub or a folder, inside the block.

    If the hub does not answer, they use their local copies at once; on their own they would retry for half a minute.
    Turns whatever they raise into an InputError: `failure` and the reason, or that the hub cannot be reached. For a
    `model` of which there is no copy that is said at once: importing the libraries takes seconds.
    """
    is_local = Path(name).exists() or name.startswith((".", "/", "~"))
    offline = "" if is_local else _why_offline()
    if offline and model and not _is_kept(name):
        raise InputError(_no_copy(offline, repr(name)))
    with _kept_only() if offline else nullcontext():
        try:
            yield
        except ExeuntError:
            raise
        except Exception as error:  # the libraries and their network stack raise many kinds
            if offline and isinstance(error, OSError):
                raise InputError(_no_copy(offline, repr(name))) from error
            raise InputError(f"{failure}: {one_line(error)}") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Let the library show errors and downloads only: callers report what the weights lack."""
    logging: Any = require("transformers", extra="hf").logging
    hub = importlib.import_module("huggingface_hub.utils")
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    downloads = not hub.are_progress_bars_disabled()

    def show(verbosity: int, bars: bool) -> None:
        logging.set_verbosity(verbosity)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the hub warns that a user's HF_HUB_DISABLE_PROGRESS_BARS wins
            (logging.enable_progress_bar if bars else logging.disable_progress_bar)()  # and the hub's as well
            (hub.enable_progress_bars if downloads else hub.disable_progress_bars)()

    show(logging.ERROR, bars=False)
    try:
        yield
    finally:
        show(*before)


def check_download(url: str, copy: Path, name: str) -> None:
    """Raise InputError if the file `copy` is missing and its server does not answer. `name`: for messages."""
    if not copy.is_file() and not is_reachable(url):
        raise InputError(_no_copy(f"{urlsplit(url).hostname} does not answer", name))


def _no_copy(why: str, name: str) -> str:
    return f"{why}, and this machine keeps no copy of {name}: {_MEND}"


def _why_offline() -> str:
    """Return why the hub cannot be used, or "" if it can."""
    constants: Any = require("huggingface_hub.constants", extra="hf")
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if is_reachable(constants.ENDPOINT):
        return ""
    return f"{urlsplit(constants.ENDPOINT).hostname} does not answer"


def _is_kept(name: str) -> bool:
    """Return whether there may be a copy of a model of the hub."""
    constants: Any = require("huggingface_hub.constants", extra="hf")
    folders = [constants.HF_HUB_CACHE, os.environ.get("TRANSFORMERS_CACHE")]
    return any((Path(folder) / f"models--{name.replace('/', '--')}").exists() for folder in folders if folder)


@contextmanager
def _kept_only() -> Iterator[None]:
    """Restrict the libraries of Hugging Face to their local copies inside the block."""
    names = ("huggingface_hub.constants", "datasets.config")  # datasets has its own copy of the setting
    modules: list[Any] = [sys.modules[name] for name in names if name in sys.modules]
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, setting in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = setting
