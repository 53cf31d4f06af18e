"""Files of a gateway's folder, mutated by the hundred: what reads them is right, or says in a line what is wrong."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from damaged_files import Hangs, within
from exeunt._support.files import secret_of, write_json
from exeunt.cli.app import run as exeunt
from exeunt.errors import ExeuntError
from exeunt.gateway.answering import Seen
from exeunt.gateway.config import GatewayConfig, read_config
from exeunt.gateway.folder import SECRET
from exeunt.gateway.gateway import Gateway
from exeunt.gateway.page_state import PageState
from exeunt.gateway.saved_policies import REFERENCE
from mutated_json import is_another_value, json_mutations

from .test_keys import client, write_former
from .world import World

FEW, MANY, SEED = 2, 40, 61
"""Mutations of each file by default and in a campaign, and their seed."""
LONGEST_S = 60
START, CERTIFY, ADD, FORGET = "start", "certify", "keys", "forget"
READ_BY = {
    "gateway.json": (CERTIFY, START),
    "alarms.json": (START,),
    "watch.json": (START,),
    "active.json": (START,),
    "keys.json": (START, ADD),
    "policies/p1.json": (START,),
    "policies/p1.clients": (START, FORGET),
    "proposals/1.clients": (START, FORGET),
    "proposals/1-0.json": (START,),
}
"""The JSON files of a folder, and what reads them. A gateway that starts forgets a client, too."""


class Folder:
    """A gateway's folder that holds every kind of JSON file, of which each `copy` is whole."""

    def __init__(self, folder: Path, filled: World) -> None:
        (folder / "whole").mkdir()
        world = filled.copy(folder / "whole")
        world.records.close()
        self._whole, self.root = folder / "whole", folder / "copy"
        secret_of(world.folder / SECRET)
        gateway = Gateway(world.config)
        gateway.live.activate("p1")
        for _ in range(5):
            gateway.live.watch.answered(Seen(0, 0.5, 0.5, 0.25))
            gateway.live.watch.audited(0.0)
        self.evidence = gateway.live.watch.evidence
        gateway.live._keep_alarm({"policy": "p1", "alarm": "comparisons are not graded"})
        asyncio.run(gateway.close())
        whole = world.folder
        write_json(whole / "policies" / "p1.clients", ["shop"])
        (whole / "keys.db").unlink()
        write_former(whole, client("shop", spend="5 usd/day"), client("root", admin=True))
        self.contents = {name: (whole / name).read_bytes() for name in READ_BY}

    def copied(self) -> GatewayConfig:
        """Copy the whole folder, and return the configuration of the copy's gateway."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self._whole, self.root)
        return read_config(self.root / "gateway.yaml")


@pytest.fixture(scope="module")
def folder(filled: World, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("mutated"), filled)


def started(config: GatewayConfig) -> Any:
    """Start a gateway, let it do what it does with what it has read, end it, and return whom it answers, and how."""
    gateway = Gateway(config)
    try:
        gateway.keys.check()
        active, clients = gateway.live.active, [asdict(one) for one in gateway.keys.clients]
        policy = None if active.policy is None else {**active.policy.to_dict(), "notes": None}
        found = [active.name, active.rows, active.max_loss, policy, gateway.policies.names, clients]
        gateway.find_status()
        for _ in range(2):
            gateway.live.watch.answered(Seen(0, 0.5, 0.5, 0.25))
            gateway.live.watch.audited(0.5)
        json.dumps(PageState(gateway).read(), allow_nan=False)
        assert gateway.live.active.name in (REFERENCE, *gateway.policies.names)
        if active.policy is not None:
            gateway.live.activate(REFERENCE)
            assert gateway.live.roll_back() == active.name
        gateway.live.within("100%", gateway.policies.names) if gateway.policies.names else None
        assert asyncio.run(gateway.forget("shop")) > 0
        return found
    finally:
        asyncio.run(gateway.close())


def outcome(config: GatewayConfig, call: str) -> Any:
    """Return what `started` does, or 0 or None for another call; as a text, why the folder is refused.

    Raises what is no error of Exeunt.
    """
    file = str(config.folder.parent / "gateway.yaml")
    calls: dict[str, Any] = {
        CERTIFY: lambda: exeunt(["gateway", CERTIFY, file]),
        ADD: lambda: exeunt(["gateway", ADD, file, "--add", "new"]),
        FORGET: lambda: exeunt(["gateway", FORGET, file, "shop"]),
        START: lambda: started(config),
    }
    try:
        with within(LONGEST_S):
            return calls[call]()
    except ExeuntError as error:
        return str(error)


def problems(folder: Folder, name: str, n: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Return how often what reads a mutated file was right or refused it, and what was neither.

    Only another value of a kind, and a list with more or less in it, may change whom a gateway answers, and how. The
    reference answers where a policy cannot be read.
    """
    rng, found = np.random.default_rng([seed, [*READ_BY].index(name)]), list[str]()
    counts, whole = Counter[tuple[str, str]](), started(folder.copied())
    for how, content in json_mutations(folder.contents[name], n, rng):
        for call in READ_BY[name]:
            config = folder.copied()
            (config.folder / name).write_bytes(content)
            try:
                said = outcome(config, call)
            except (Exception, Hangs) as error:
                said = f"{error!r:.300}\n"
            if isinstance(said, str):
                what = "refused"
                wrong = "\n" in said or not (
                    str(config.folder) in said or "`exeunt gateway keys FILE" in said
                )
            else:
                what = "as before" if call != START or said == whole else "otherwise"
                if what == "otherwise" and said[0] == REFERENCE:
                    what = "the reference answers"
                wrong = what == "otherwise" and not _may_change(folder.contents[name], content)
            counts[call, what] += 1
            if wrong:
                found.append(f"{call}, {name}, {how}: {said!r:.500}")
    return counts, found


def _may_change(before: bytes, after: bytes) -> bool:
    known, given = json.loads(before), json.loads(after)
    are_lists = isinstance(known, list) and isinstance(given, list)
    return (are_lists and len(known) != len(given)) or is_another_value(known, given)


def test_a_whole_folder_is_read(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    config = folder.copied()
    gateway = Gateway(config)
    assert gateway.live.watch.evidence == folder.evidence
    assert max(folder.evidence.values()) > 0
    asyncio.run(gateway.close())
    started(config)
    assert [one.name for one in Gateway(config).keys.clients] == ["root"]


@pytest.mark.parametrize("n", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READ_BY)
def test_mutated_files_are_refused_in_a_line_or_read_rightly(
    folder: Folder, name: str, n: int, capsys: pytest.CaptureFixture[str]
) -> None:
    counts, found = problems(folder, name, n, SEED)
    assert found == []
    assert sum(counts.values()) == n * len(READ_BY[name])
    with capsys.disabled() if n == MANY else nullcontext():
        print(f"\n{name}: {n} mutations, {dict(counts)}")
