"""Removing what a gateway keeps of a client."""

from __future__ import annotations

from typing import NamedTuple

from exeunt.errors import InputError
from exeunt.gateway.certifier import FORGOTTEN, forget_proposals
from exeunt.gateway.key_store import Keys
from exeunt.gateway.saved_policies import forget_policies
from exeunt.stream.records import Records


class Forgotten(NamedTuple):
    """What was removed of a client: whether its key, how many records, and the names of the policies."""

    key: bool
    records: int
    policies: list[str]


def forget_client(name: str, keys: Keys, records: Records) -> Forgotten:
    """Remove the key and the records of a client, and the policies that hold features of its requests.

    Proposals that come later are tested on units that come later. Raises InputError if there was nothing of it.
    """
    folder = records.file.parent
    forget_proposals(folder, name)
    forgotten = Forgotten(keys.remove(name), records.forget(name), forget_policies(folder, name))
    if not any(forgotten):
        raise InputError(f"there is neither a key nor a record of {name!r:.80}")
    if forgotten.records:
        records.keep(FORGOTTEN, records.latest_number())
    return forgotten
