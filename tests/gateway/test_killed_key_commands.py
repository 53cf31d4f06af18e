"""Processes that add and remove keys and are killed in the middle: no key is lost, and no removed one comes back."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from exeunt.gateway.key_store import Keys

NAMES, STABLE = 30, 20
CHANGES = """
import os, random, sys, time
from pathlib import Path
from exeunt.gateway.key_store import Keys
folder, log, mine, n, seed = sys.argv[1:]
keys, rng = Keys(Path(folder)), random.Random(seed)
out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
say = lambda *what: os.write(out, (" ".join(what) + "\\n").encode())  # there as soon as it returns
say("opened", "-")
while True:
    time.sleep(rng.uniform(0, 0.01))  # else one holds the file nearly all the time
    name = f"{mine}-{rng.randrange(int(n)):03d}"
    if rng.random() < 0.6:
        say("adds", name)
        key = keys.add(name)
        say("added", name, key)
        assert keys.of(key.encode()).name == name
    else:
        say("removes", name)
        keys.remove(name)
        say("removed", name)
        assert keys.named(name) is None
"""


class Changing:
    """A process that changes the keys of its own clients until it is killed, and is started again."""

    def __init__(self, folder: Path, mine: str) -> None:
        self.folder, self.mine, self.starts = folder, mine, 0
        self.log = folder.parent / f"{mine}.log"
        self.start()

    def start(self) -> None:
        self.starts += 1
        given = (self.folder, self.log, self.mine, NAMES, f"{self.mine} {self.starts}")
        self.process = subprocess.Popen([sys.executable, "-c", CHANGES, *map(str, given)])

    def kill(self) -> None:
        end = time.monotonic() + 60
        while not self._has_changed_keys():
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        self.end()

    def _has_changed_keys(self) -> bool:
        """Return whether the process has made three changes since it was started, however slow the machine is."""
        starts = self.log.read_text().split("opened") if self.log.is_file() else []
        return len(starts) == self.starts + 1 and starts[-1].count("added") + starts[-1].count("removed") >= 3

    def end(self) -> None:
        assert self.process.poll() is None, "it failed"
        self.process.kill()
        self.process.wait()

    def check(self, keys: Keys) -> int:
        """Check that the keys are those that its log tells of; return how many changes it made."""
        latest: dict[str, str] = {}  # the key of a name, "" for none
        begun: dict[str, str] = {}  # what was under way for a name when the process was killed
        former: defaultdict[str, set[str]] = defaultdict(set)
        lines = [line.split() for line in self.log.read_text().splitlines()]
        for what, name, *key in lines:
            if what in ("adds", "removes"):
                begun[name] = what
            elif what in ("added", "removed"):
                former[name].add(latest.get(name, ""))
                begun[name], latest[name] = "", "".join(key)
        for name, key in latest.items():
            known, now = keys.named(name), keys.of(key.encode())
            if begun[name]:  # it came about or did not
                assert now == known or (now is None and begun[name] == "adds")
                assert not key or known is not None or begun[name] == "removes"
            else:
                assert now == known
                assert (known is not None) == bool(key)
            assert all(keys.of(old.encode()) is None for old in former[name] - {key})
        names = {one.name for one in keys.clients if one.name.startswith(f"{self.mine}-")}
        assert names <= begun.keys()
        return sum(what in ("added", "removed") for what, *_ in lines)


def campaign(tmp_path: Path, processes: int, kills: int, seed: int) -> int:
    folder, rng = tmp_path / "gateway", random.Random(seed)
    folder.mkdir()
    keys = Keys(folder)
    stable = {f"stable-{i}": keys.add(f"stable-{i}").encode() for i in range(STABLE)}
    changing = [Changing(folder, name) for name in "abcdefgh"[:processes]]
    try:
        for _ in range(kills):
            time.sleep(rng.uniform(0, 0.3))
            one = rng.choice(changing)
            one.kill()
            assert all(found is not None and found.name == name for name, found in seen(keys, stable))
            one.start()
    finally:
        for one in changing:
            one.kill()
    keys.add("last")  # what the last kill left beside the file goes with the next change
    changes = sum(one.check(keys) for one in changing)
    assert all(found is not None and found.name == name for name, found in seen(Keys(folder), stable))
    left, there = b"".join(file.read_bytes() for file in folder.iterdir()), {one.name for one in keys.clients}
    assert [file.name for file in folder.iterdir()] == ["keys.db"]
    gone = {f"{one.mine}-{i:03d}" for one in changing for i in range(NAMES)} - there
    assert gone
    assert not [name for name in gone if name.encode() in left]
    return changes


def seen(keys: Keys, stable: dict[str, bytes]):
    """Return each name of a key with whom it is of."""
    return [(name, keys.of(key)) for name, key in stable.items()]


def test_processes_that_are_killed_lose_no_key_and_bring_none_back(tmp_path: Path) -> None:
    assert campaign(tmp_path, processes=2, kills=2, seed=1) > 10


@pytest.mark.slow
def test_two_hundred_processes_are_killed(tmp_path: Path) -> None:
    changes = campaign(tmp_path, processes=4, kills=200, seed=2)
    print(changes)
    assert changes > 1_000
