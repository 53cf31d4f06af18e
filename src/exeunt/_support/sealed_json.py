"""JSON files with format, version and digest, so that a truncated, edited, foreign or newer file is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from exeunt._support.files import read_json, write_json
from exeunt.errors import ArtefactError, InputError

T = TypeVar("T")

DIGEST = "sha256"


def content_digest(body: Any) -> str:
    """Return the digest of JSON-able content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def flattened(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with names like "recipe.mode"."""
    flat: dict[str, Any] = {}
    for name, entry in document.items():
        flat |= flattened(entry, f"{prefix}{name}.") if isinstance(entry, dict) else {prefix + name: entry}
    return flat


def read_document(
    path: str | Path, *, kind: str, format_: str, version: int, remedy: str, oldest: int = 1
) -> dict[str, Any]:
    """Read JSON of this format, from version `oldest` to `version`, or raise ArtefactError.

    `kind` is its plain name, `remedy` what to do about a file that is damaged, older, or of another kind.
    """
    document = read_json(path, remedy=remedy)
    if not isinstance(document, dict) or document.get("format") != format_:
        raise ArtefactError(f"{path} is not a {kind} of exeunt: its 'format' is not {format_!r}; {remedy}")
    file_version = document.get("version")
    if not isinstance(file_version, int) or file_version > version:
        raise ArtefactError(
            f"{path} has {kind} format {file_version!r}, this version reads {version}: upgrade exeunt"
        )
    if file_version < oldest:
        raise ArtefactError(
            f"{path} is a {kind} of the old format {file_version}, not of {version}: {remedy}"
        )
    return document


def check_digest(path: str | Path, document: dict[str, Any], body: Any, *, remedy: str) -> None:
    """Raise ArtefactError unless the document's digest is that of `body`."""
    with suppress(RecursionError):  # it is nested too deeply to be written
        if document.get(DIGEST) == content_digest(body):
            return
    raise ArtefactError(f"{path} was edited or damaged: its digest does not match; {remedy}")


def write_sealed(path: str | Path, key: str, body: Any, *, format_: str, version: int) -> None:
    """Write `body` under `key`, with format, version and digest, atomically."""
    head = {"format": format_, "version": version, DIGEST: content_digest(body)}
    write_json(path, {**head, key: body})


def read_sealed(
    path: str | Path,
    key: str,
    build: Callable[[Any], T],
    *,
    kind: str,
    format_: str,
    version: int,
    remedy: str,
    oldest: int = 1,
) -> T:
    """Return `build(body)` for the body that `write_sealed` wrote under `key`. Raises ArtefactError."""
    document = read_document(path, kind=kind, format_=format_, version=version, remedy=remedy, oldest=oldest)
    body = document.get(key)
    check_digest(path, document, body, remedy=remedy)
    return built(path, body, build, kind=kind, remedy=remedy)


def read_built(path: str | Path, build: Callable[[Any], T], *, kind: str, remedy: str) -> T:
    """Return `build(body)` for the body of a JSON file. Raises as `read_json` and `built` do."""
    return built(path, read_json(path, remedy=remedy), build, kind=kind, remedy=remedy)


def built(path: str | Path, body: Any, build: Callable[[Any], T], *, kind: str, remedy: str) -> T:
    """Return `build(body)` for the body of the file at `path`. Raises ArtefactError for what that cannot be made of."""
    try:
        return build(body)
    except InputError as error:
        raise ArtefactError(f"{path} cannot be read as a {kind}: {error}; {remedy}") from error
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise ArtefactError(f"{path} cannot be read as a {kind} ({error!r}); {remedy}") from error
