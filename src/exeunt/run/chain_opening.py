"""Opening a chain: the executors of its members, one after the other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from exeunt.engine.chain_executor import ChainExecutor, ChainMember
from exeunt.errors import ArtefactError, InputError
from exeunt.run.executors import default_executor, open_executor
from exeunt.run.folder import RunFolder
from exeunt.run.preparation import InputPreparation

if TYPE_CHECKING:
    from exeunt.engine.executor import Segments
    from exeunt.run.chain_file import ChainEntry

__all__ = ["check_chain", "open_chain", "open_member", "refuse_other_members"]


def open_chain(
    run: RunFolder,
    *,
    threads: int | None = None,
    trusted: str | None = None,
    segments: Segments | None = None,
) -> ChainExecutor:
    """Open the members of a chain that `run.links` names, by default all with all their exits.

    Each is run as `exeunt.run.load` runs it alone. Raises what opening a member raises, InputError for segments that go
    from one member into the next.
    """
    entries = {entry.name: entry for entry in run.chain}
    members, first = [], 0
    for link in run.links or tuple(entry.link for entry in run.chain):
        member = replace(open_member(run, entries[link.member]), links=(link,))
        executor = open_executor(
            member,
            default_executor(member),
            threads=threads,
            trusted=trusted,
            segments=_own(segments, first, link.n_exits),
        )
        members.append(ChainMember(executor, InputPreparation(member)))
        first += link.n_exits
    return ChainExecutor(members)


def open_member(run: RunFolder, entry: ChainEntry) -> RunFolder:
    """Open the run of a member. Raises ArtefactError if it is another one than when the chain was made."""
    member = replace(RunFolder.open(entry.folder(run.path)), objects=run.objects)
    if member.digest != entry.digest:
        raise ArtefactError(
            f"{member.path}, the member {entry.name!r} of {run.path}, was made anew since the chain was: make the "
            "chain anew with `exeunt chain`"
        )
    return member


def refuse_other_members(run: RunFolder) -> None:
    """Raise ArtefactError if a member of a chain is another one than when the chain was made; it may be elsewhere."""
    for entry in run.chain:
        with suppress(InputError):
            open_member(run, entry)


def check_chain(run: RunFolder) -> str:
    """Check that every member is there and as it was; returns their names."""
    return ", ".join(f"{entry.name} ({open_member(run, entry).path})" for entry in run.chain)


def _own(segments: Segments | None, first: int, n_exits: int) -> Segments | None:
    """Return those of the segments that are a member's, in its own exits that are run."""
    if segments is None:
        return None
    last = first + n_exits - 1
    own = tuple((a - first, b - first) for a, b in segments if b >= first and a <= last)
    if not own or (own[0][0], own[-1][1]) != (0, n_exits - 1):
        raise InputError(f"a segment of {segments} goes from one member of the chain into the next")
    return own
