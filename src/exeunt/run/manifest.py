"""The manifest of a run folder: what a network was made from and how, with the digests of its files."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import Any

from exeunt._sealed import DIGEST, check_digest, content_digest, read_document
from exeunt.errors import ArtefactError

_FORMAT, _VERSION = "exeunt-bundle", 1
_OLD_CASCADE = "chain"  # what the manifest of a cascade names as its model where its models are in chain.json
_SHAPE: dict[str, type] = {
    "model": dict,
    "model.spec": str,
    "model.n_classes": int,
    "network": dict,
    "network.exits": list,
    "inputs": dict,
    "inputs.kind": str,
    "class_names": list,
    "data": dict,
    "data.name": str,
    "split": dict,
    "training": dict,
    "provenance": dict,
    "files": dict,
}


REMEDY = (
    "restore it from a copy of the run, or remove it and repeat what made the run, such as `exeunt train`"
)


def sealed_manifest(about: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Return a manifest as it is read back from JSON: format, version, digest, `files` (name: digest) and `about`."""
    body = {"format": _FORMAT, "version": _VERSION, "files": files, **about}
    plain = json.loads(json.dumps(body))
    return {**plain, DIGEST: content_digest(plain)}


def read_manifest(path: Path, *, files: Iterable[str], one_of: Sequence[str]) -> dict[str, Any]:
    """Read a manifest that names at least `files`, and `one_of` others.

    Raises ArtefactError if it is of another kind, newer, edited, lacks an entry, or is that of an old cascade.
    """
    manifest = read_document(path, kind="manifest", format_=_FORMAT, version=_VERSION, remedy=REMEDY)
    body = {name: value for name, value in manifest.items() if name != DIGEST}
    check_digest(path, manifest, body, remedy=REMEDY)
    _check_shape(path, manifest)
    if manifest["model"]["spec"] == _OLD_CASCADE:
        again = f"exeunt cascade RUN RUN --out {quote(str(path.parent))}"
        raise ArtefactError(
            f"{path.parent} is a cascade of {', '.join(manifest['training'])} in a format that is no longer read: make "
            f"the cascade anew with `{again}`"
        )
    known = set(manifest["files"])
    missing = sorted({*files, *(() if known & {*one_of} else one_of[:1])} - known)
    if missing:
        raise ArtefactError(f"{path} does not name the files {', '.join(missing)}: it is damaged; {REMEDY}")
    return manifest


def _check_shape(path: Path, manifest: Mapping[str, Any]) -> None:
    for name, kind in _SHAPE.items():
        value: Any = manifest
        for key in name.split("."):
            value = value.get(key)
        if not isinstance(value, kind):
            found = "nothing" if value is None else type(value).__name__
            raise ArtefactError(
                f"{path} is damaged: {name!r} should be a {kind.__name__}, found {found}; {REMEDY}"
            )
    lists = {"class_names": manifest["class_names"], "network.exits": manifest["network"]["exits"]}
    for name, values in {**lists, "files": manifest["files"].values()}.items():
        if not all(isinstance(value, str) for value in values):
            raise ArtefactError(f"{path} is damaged: {name!r} should hold nothing but texts; {REMEDY}")


def provenance(packages: Iterable[str], *, command: str, seed: int) -> dict[str, Any]:
    """Return what made a run folder: command, seed, versions of Python and these packages."""
    return {
        "command": command,
        "seed": seed,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "packages": package_versions(packages),
    }


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    return {name: found for name in packages if (found := _version(name)) is not None}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
