"""Opening a chain: the executors of its members, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exeunt.engine.chain_executor import ChainExecutor, ChainMember
from exeunt.errors import ArtefactError, InputError
from exeunt.run.executors import default_executor, open_executor
from exeunt.run.folder import RunFolder
from exeunt.run.preparation import InputPreparation

if TYPE_CHECKING:
    from exeunt.engine.executor import Segments
    from exeunt.run.chain_file import ChainEntry
    from exeunt.trace.links import Link

__all__ = ["check_chain", "open_chain", "open_member"]


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
    links = run.links or tuple(entry.link for entry in run.chain)
    members, first = [], 0
    for link in links:
        member = open_member(run, entries[link.member])
        executor = open_executor(
            member,
            default_executor(member),
            threads=threads,
            trusted=trusted,
            segments=_own(segments, first, link, entries[link.member].n_exits),
        )
        members.append(ChainMember(executor, InputPreparation(member), link.n_exits))
        first += link.n_exits
    return ChainExecutor(members)


def open_member(run: RunFolder, entry: ChainEntry) -> RunFolder:
    """Open the run of a member. Raises ArtefactError if it is another one than when the chain was made."""
    member = RunFolder.open(entry.folder(run.path))
    if member.digest != entry.digest:
        raise ArtefactError(
            f"{member.path}, the member {entry.name!r} of {run.path}, was made anew since the chain was: make the "
            "chain anew with `exeunt chain`"
        )
    return member


def check_chain(run: RunFolder) -> str:
    """Check that every member is there and as it was; returns their names."""
    return ", ".join(f"{entry.name} ({open_member(run, entry).path})" for entry in run.chain)


def _own(segments: Segments | None, first: int, link: Link, n_exits: int) -> Segments | None:
    """Return the segments of a member, in its own exits; the exits that are not run are a segment more."""
    rest = ((link.n_exits, n_exits - 1),) if link.n_exits < n_exits else ()
    if segments is None:
        return None if not rest else (*((i, i) for i in range(link.n_exits)), *rest)
    last = first + link.n_exits - 1
    own = [one for one in segments if one[0] <= last and one[1] >= first]
    if own[0][0] != first or own[-1][1] != last:
        raise InputError(f"a segment of {segments} goes from one member of the chain into the next")
    return (*((a - first, b - first) for a, b in own), *rest)
