"""Asking the network for models and data: it answers within seconds, or is not asked again."""

from __future__ import annotations

import importlib
import threading
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_download", "hub_access", "is_reachable"]

_WAIT_S = 2.0
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
def hub_access(name: str) -> Iterator[None]:
    """Let libraries of Hugging Face open `name` inside the block, a name on the hub or a folder.

    If the hub does not answer they use what they have kept of it at once: on their own they try for half a minute.
    Raises InputError, with the reason, if that does not suffice.
    """
    if Path(name).exists() or name.startswith((".", "/", "~")) or find_spec("huggingface_hub") is None:
        yield
        return
    constants: Any = importlib.import_module("huggingface_hub.constants")
    host, forbidden = urlsplit(constants.ENDPOINT).hostname, bool(constants.HF_HUB_OFFLINE)
    offline = forbidden or not is_reachable(constants.ENDPOINT)
    with ExitStack() as stack:
        if offline:
            stack.enter_context(_offline(constants))
            if find_spec("datasets") is not None:  # it has a copy of its own
                stack.enter_context(_offline(importlib.import_module("datasets.config")))
        try:
            yield
        except OSError as error:
            if not offline:
                raise
            why = "HF_HUB_OFFLINE is set" if forbidden else f"{host} does not answer"
            raise InputError(f"{why}, and this machine keeps no copy of {name!r}: {_MEND}") from error


def check_download(url: str, kept: Path, what: str) -> None:
    """Raise InputError if a file is not `kept` and its server does not answer. `what`: what it holds."""
    if not kept.is_file() and not is_reachable(url):
        raise InputError(
            f"{urlsplit(url).hostname} does not answer, and this machine keeps no copy of {what}: {_MEND}"
        )


@contextmanager
def _offline(settings: Any) -> Iterator[None]:
    before = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = before
