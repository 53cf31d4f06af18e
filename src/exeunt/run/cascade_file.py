"""The file of a cascade, `cascade.json`: its models, each a run folder of its own, in order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exeunt._sealed import read_sealed, write_sealed
from exeunt.errors import ArtefactError, InputError
from exeunt.trace.cascade_step import CascadeStep

_FORMAT, _VERSION = "exeunt-cascade", 1


@dataclass(frozen=True)
class CascadeEntry:
    """A model: its name, its number of exits, and its run.

    `run`: the path of its folder from that of the cascade. `digest`: of its manifest.
    """

    name: str
    n_exits: int
    run: str
    digest: str

    @property
    def step(self) -> CascadeStep:
        """The model with all its exits."""
        return CascadeStep(self.name, self.n_exits)

    def folder(self, cascade: Path) -> Path:
        """Return where the model's run is. Raises InputError if it is not there."""
        found = (cascade / self.run).resolve()
        if not os.path.lexists(found):
            raise InputError(
                f"the model {self.name!r} of {cascade} should be at {found}, where nothing is: put it back, or make the "
                "cascade anew with `exeunt cascade`"
            )
        return found


def write_cascade(file: Path, models: Sequence[CascadeEntry]) -> None:
    """Write the file."""
    write_sealed(file, "models", [asdict(model) for model in models], format_=_FORMAT, version=_VERSION)


def read_cascade(file: Path) -> tuple[CascadeEntry, ...]:
    """Read the file. Raises ArtefactError if it is damaged, edited, of another kind or newer."""

    def build(body: Sequence[Mapping[str, Any]]) -> tuple[CascadeEntry, ...]:
        return tuple(CascadeEntry(**model) for model in body)

    models = read_sealed(
        file,
        "models",
        build,
        kind="cascade",
        format_=_FORMAT,
        version=_VERSION,
        remedy="make the cascade anew",
    )
    if not models:
        raise ArtefactError(f"{file} names no models: make the cascade anew with `exeunt cascade`")
    return models
