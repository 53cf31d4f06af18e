"""The file of a chain, `chain.json`: its members, each a run folder of its own, in order."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from exeunt._sealed import read_sealed, write_sealed
from exeunt.errors import ArtefactError, InputError
from exeunt.trace.links import Link

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["ChainEntry", "read_chain", "write_chain"]

_FORMAT, _VERSION = "exeunt-chain", 1


@dataclass(frozen=True)
class ChainEntry:
    """A member: its name, its number of exits, and its run.

    `run`: the path of its folder from that of the chain. `digest`: of its manifest.
    """

    name: str
    n_exits: int
    run: str
    digest: str

    @property
    def link(self) -> Link:
        """The member with all its exits."""
        return Link(self.name, self.n_exits)

    def folder(self, chain: Path) -> Path:
        """Return where the member's run is. Raises InputError if it is not there."""
        found = (chain / self.run).resolve()
        if not os.path.lexists(found):
            raise InputError(
                f"the member {self.name!r} of {chain} should be at {found}, where nothing is: put it back, or make the "
                "chain anew with `exeunt chain`"
            )
        return found


def write_chain(file: Path, members: Sequence[ChainEntry]) -> None:
    """Write the file."""
    write_sealed(file, "members", [asdict(member) for member in members], format_=_FORMAT, version=_VERSION)


def read_chain(file: Path) -> tuple[ChainEntry, ...]:
    """Read the file. Raises ArtefactError if it is damaged, edited, of another kind or newer."""

    def build(body: Sequence[Mapping[str, Any]]) -> tuple[ChainEntry, ...]:
        return tuple(ChainEntry(**member) for member in body)

    members = read_sealed(
        file, "members", build, kind="chain", format_=_FORMAT, version=_VERSION, remedy="make the chain anew"
    )
    if not members:
        raise ArtefactError(f"{file} names no members: make the chain anew with `exeunt chain`")
    return members
