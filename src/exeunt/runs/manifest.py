"""The manifest of a run folder: what made the network, with the digests of its files; and the models of a cascade."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypedDict

from exeunt._support.checked_types import check_kind, of_kinds
from exeunt._support.sealed_json import (
    DIGEST,
    built,
    check_digest,
    content_digest,
    read_built,
    read_document,
    read_sealed,
    write_sealed,
)
from exeunt.errors import ArtefactError, InputError
from exeunt.trace.cascade_step import CascadeStep

_FORMAT, _VERSION = "exeunt-bundle", 2
_CASCADE_FORMAT, _CASCADE_VERSION = "exeunt-cascade", 1
REMEDY = "restore it from a copy, or remove it and repeat what made the run, such as `exeunt train`"


class _Reference(TypedDict):
    exit: int
    name: str


class _Data(TypedDict):
    name: str


class _MoreOfData(_Data, total=False):
    fingerprint: str
    label: str | None
    text: list[str] | None
    calibration_data: str | None
    unlabelled: bool
    reference: _Reference
    masks: Mapping[str, Any] | None
    log: bool
    assumption: str
    worst_against: str | None


class _Inputs(TypedDict):
    kind: Literal["image", "text"]


class _MoreOfInputs(_Inputs, total=False):
    raw: bool
    length: int | None
    longest: int | None
    most_tokens: int
    chat: bool
    ends: list[int]


class _Model(TypedDict):
    spec: str
    n_classes: int
    macs: float


class _MoreOfModel(_Model, total=False):
    model: str
    precision: str
    runs_whole: str
    weights: str | None
    weights_digest: str


class _Network(TypedDict):
    exits: list[str]


class _Manifest(TypedDict):
    """The entries that a manifest has, and of what kind they are. There may be others."""

    files: Mapping[str, str]
    model: _MoreOfModel
    network: _Network
    inputs: _MoreOfInputs
    class_names: list[str]
    data: _MoreOfData
    split: Mapping[str, Any]
    training: Mapping[str, Any]
    provenance: Mapping[str, Any]


def sealed_manifest(about: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Return a manifest as it is read back from JSON: format, version, digest, `files` (name: digest) and `about`."""
    plain = json.loads(json.dumps({"format": _FORMAT, "version": _VERSION, "files": files, **about}))
    return {**plain, DIGEST: content_digest(plain)}


def read_manifest(path: Path, *, files: Iterable[str], one_of: Sequence[str]) -> dict[str, Any]:
    """Read a manifest that names at least `files`, and `one_of` others.

    Raises ArtefactError if it is of another kind, older, newer, edited, or lacks an entry.
    """
    manifest = read_document(
        path, kind="manifest", format_=_FORMAT, version=_VERSION, remedy=REMEDY, oldest=_VERSION
    )
    body = {name: entry for name, entry in manifest.items() if name != DIGEST}
    check_digest(path, manifest, body, remedy=REMEDY)
    built(path, manifest, check_entries, kind="manifest", remedy=REMEDY)
    known = set(manifest["files"])
    if missing := sorted({*files, *(() if known & {*one_of} else one_of[:1])} - known):
        raise ArtefactError(f"{path} does not name the files {', '.join(missing)}: it is damaged; {REMEDY}")
    return manifest


def check_entries(manifest: Mapping[str, Any]) -> None:
    """Raise InputError for entries that are missing or of other kinds, and for classes of which some have no name."""
    check_kind(manifest, _Manifest, "")
    names, n = manifest["class_names"], manifest["model"]["n_classes"]
    if names and len(names) != n:
        raise InputError(f"class_names are those of {len(names)} classes, and the network has {n}")


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
    return {name: version for name in packages if (version := _version(name)) is not None}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class CascadeEntry:
    """A model of a cascade: its name, its number of exits, and its run folder.

    `run`: the path from the cascade's folder to the model's. `digest`: of the model's manifest.
    Of a live model also `highest`, the most that an input can cost, None where it is not known, and `identity`, what
    tells it from others, "" for any model of this name.
    """

    name: str
    n_exits: int
    run: str
    digest: str
    highest: float | None = None
    identity: str = ""

    @property
    def step(self) -> CascadeStep:
        """The model with all its exits."""
        return CascadeStep(self.name, self.n_exits)

    def folder(self, cascade: Path) -> Path:
        """Return the folder of the model's run. Raises InputError if it is not there."""
        folder = (cascade / self.run).resolve()
        if not os.path.lexists(folder):
            raise InputError(
                f"the model {self.name!r} of {cascade} should be at {folder}, where nothing is: put it back, or make "
                "the cascade anew with `exeunt cascade`"
            )
        return folder


def write_cascade(file: Path, models: Sequence[CascadeEntry]) -> None:
    """Write the models of a cascade, in order."""
    body = [{name: field for name, field in asdict(model).items() if field} for model in models]
    write_sealed(file, "models", body, format_=_CASCADE_FORMAT, version=_CASCADE_VERSION)


def _entry(model: Mapping[str, Any]) -> CascadeEntry:
    entry = of_kinds(CascadeEntry(**model))
    if "\0" in entry.run:
        raise InputError(f"run must be a path, got {entry.run!r:.60}")
    return entry


class _LiveModel(TypedDict):
    highest: float | None
    identity: str


def read_live_models(file: Path, digest: str) -> tuple[CascadeEntry, ...]:
    """Read the live models of the run with this digest. Raises ArtefactError if the file is damaged."""

    def entries(body: Any) -> tuple[CascadeEntry, ...]:
        check_kind(body, Mapping[str, _LiveModel], "models")
        return tuple(CascadeEntry(name, 1, ".", digest, **model) for name, model in body.items())

    return read_built(file, entries, kind="list of live models", remedy=REMEDY)


def read_cascade(file: Path, _digest: str = "") -> tuple[CascadeEntry, ...]:
    """Read the models of a cascade. Raises ArtefactError if the file is damaged, edited, of another kind or newer."""
    return read_sealed(
        file,
        "models",
        lambda body: tuple(map(_entry, body)),
        kind="cascade",
        format_=_CASCADE_FORMAT,
        version=_CASCADE_VERSION,
        remedy="make the cascade anew",
    )
