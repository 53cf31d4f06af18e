"""Keys of a gateway: any number of processes add, remove and look them up, and each sees at once what others did."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cli.command import printed

from damaged_files import damage
from exeunt.cli.app import run as exeunt
from exeunt.errors import ArtefactError, ExeuntError, InputError
from exeunt.gateway.key_store import Client, Keys, KeysLocked, _put, write_keys

from .running_gateway import error_of, eventually, running, written

ADD = """
import sys
from pathlib import Path
from exeunt.gateway.key_store import Keys
print(Keys(Path(sys.argv[1])).add("bob"))
"""


def client(name: str, **options: Any) -> Client:
    """Return a client whose key is its name."""
    return Client(name, hashlib.sha256(name.encode()).hexdigest(), **options)


def write_former(folder: Path, *clients: Client) -> Path:
    """Write keys as earlier versions did."""
    file = folder / "keys.json"
    file.write_text(json.dumps([asdict(one) for one in clients], indent=1))
    return file


def test_nobody_starts_it_without_keys(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    with pytest.raises(InputError, match="--add NAME"):
        keys.check()
    key = keys.add("alice")
    with pytest.raises(InputError, match="--add-admin"):
        keys.check()
    keys.add("root", admin=True)
    keys.check()
    with pytest.raises(InputError, match="key of the other kind"):
        keys.add("alice", admin=True)
    assert Keys(tmp_path).of(key.encode()) == keys.named("alice")
    (file,) = tmp_path.iterdir()
    assert key.encode() not in file.read_bytes()
    assert file.stat().st_mode & 0o77 == 0


def test_no_client_is_allowed_nothing_and_the_last_key_does_not_go_unnoticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(written(tmp_path))
    with pytest.raises(InputError, match="spend must be above 0"):
        exeunt(["gateway", "keys", file, "--add", "bob", "--spend", "0 usd/day"])
    for option, name in (("--add", "alice"), ("--add-admin", "root"), ("--add-admin", "second")):
        exeunt(["gateway", "keys", file, option, name])
    with pytest.raises(InputError, match="neither a key nor a record of 'bob'"):
        exeunt(["gateway", "forget", file, "bob"])
    capsys.readouterr()
    exeunt(["gateway", "keys", file])
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:] if line.strip("- ─━")]
    assert rows == [["alice", "asks"], ["root", "administers"], ["second", "administers"]]
    exeunt(["gateway", "forget", file, "root"])
    assert capsys.readouterr().out == "root: the key and 0 records removed\n"
    exeunt(["gateway", "forget", file, "second"])
    told = "does not start like this: who administers the gateway has no key yet: make one with `exeunt"
    assert told in capsys.readouterr().out


def test_a_further_key_of_a_client_keeps_what_its_first_one_had(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    first = keys.add("clinic", shadow=False, spend="1 usd")
    second = keys.add("clinic")
    known = keys.named("clinic")
    assert known is not None
    assert keys.of(first.encode()) is None
    assert keys.of(second.encode()) == replace(known, shadow=False, spend="1 usd")
    keys.add("clinic", shadow=True, spend="2 usd")
    assert keys.clients == (replace(known, digest=keys.clients[0].digest, shadow=True, spend="2 usd"),)


def test_a_gateway_that_runs_sees_at_once_what_another_process_and_the_command_do(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        file = str(tmp_path / "gateway.yaml")
        other = [sys.executable, "-c", ADD, str(run.gateway.folder)]
        run.client = subprocess.run(other, capture_output=True, text=True, check=True).stdout.strip()
        assert run.ask("easy 1").status_code == 200
        exeunt(["gateway", "forget", file, "bob"])
        assert run.ask("easy 2").status_code == 401
        run.client = printed("gateway", "keys", file, "--add", "bob", "--spend", "3 usd").split()[0]
        assert run.ask("easy 3").status_code == 200


def test_a_file_that_is_restored_or_removed_counts_from_then_on(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    folder.mkdir()
    keys = Keys(folder)
    first = keys.add("alice").encode()
    shutil.copy2(folder / "keys.db", tmp_path / "copy.db")
    second = keys.add("bob").encode()
    (tmp_path / "copy.db").replace(folder / "keys.db")
    assert [keys.of(key) is not None for key in (first, second)] == [True, False]
    (folder / "keys.db").unlink()
    assert keys.clients == ()
    assert keys.of(keys.add("alice").encode()) is not None


# -- while another process writes -------------------------------------------------------------------------------


@contextmanager
def writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """Lock the keys as another process does that writes; what it did counts at the end."""
    with closing(sqlite3.connect(folder / "keys.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield other
        other.execute("COMMIT")


@contextmanager
def at_once() -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 5  # seconds: SQLite waits for 30


def has_gone(keys: Keys, key: bytes) -> bool:
    """Whether a key is nobody's, or nothing is said of it while another process writes."""
    try:
        return keys.of(key) is None
    except KeysLocked:
        return True


def test_while_another_process_writes_what_was_last_read_counts(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    old, kept = keys.add("old").encode(), keys.add("kept").encode()
    assert keys.of(old) is not None
    with writing(tmp_path) as other:
        other.execute("DELETE FROM client WHERE name = 'old'")
        _put(other, [client("new")])
        with at_once():
            assert all(keys.of(old) and keys.of(kept) for _ in range(100))
            assert [one.name for one in keys.clients] == ["kept", "old"]
            for ask in (lambda: keys.of(b"new"), lambda: keys.named("old", wait_s=0)):
                with pytest.raises(KeysLocked, match="another process writes the keys"):
                    ask()
    assert [keys.of(key) is not None for key in (old, kept, b"new")] == [False, True, True]


def test_keys_of_a_file_that_was_replaced_are_not_those_last_read(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    key = keys.add("alice").encode()
    assert keys.of(key) is not None
    (tmp_path / "keys.db").unlink()
    write_keys(tmp_path, [client("bob")])
    with writing(tmp_path), at_once():
        for ask in (lambda: keys.of(key), lambda: keys.clients):
            with pytest.raises(KeysLocked):
                ask()
    assert keys.of(key) is None
    assert keys.of(b"bob") is not None


def test_what_was_added_and_removed_here_counts_also_while_another_process_writes(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    old, former = keys.add("old").encode(), keys.add("clinic").encode()
    assert None not in (keys.of(old), keys.of(former))
    keys.remove("old")
    new = keys.add("clinic").encode()
    with writing(tmp_path), at_once():
        assert has_gone(keys, old)
        assert has_gone(keys, former)
        assert keys.of(new) is not None
    assert [keys.of(key) is not None for key in (old, former, new)] == [False, False, True]


def test_what_is_written_soon_is_waited_for_and_by_who_can_wait_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(tmp_path)
    old = keys.add("old").encode()
    assert keys.of(old) is not None
    with ThreadPoolExecutor(3) as threads:
        with writing(tmp_path) as other:
            other.execute("DELETE FROM client")
            _put(other, [client("alice")])
            opened, named = threads.submit(Keys, tmp_path), threads.submit(keys.named, "alice")
            monkeypatch.setattr("exeunt.gateway.key_store._SHORT_S", 20.0)
            found = threads.submit(keys.of, old)
            time.sleep(0.1)
        assert found.result() is None
        assert [one.name for one in opened.result().clients] == ["alice"]
        assert named.result() == client("alice")


def test_nobody_waits_for_a_thread_that_writes(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    key = keys.add("alice").encode()
    assert keys.of(key) is not None
    with ThreadPoolExecutor(1) as threads:
        with writing(tmp_path):
            removed = threads.submit(keys.remove, "alice")
            time.sleep(0.1)
            with at_once():
                assert keys.of(key) is not None
            assert not removed.done()
        assert removed.result()
    assert keys.of(key) is None


def test_a_gateway_answers_while_another_process_writes_the_keys_and_records_wait(tmp_path: Path) -> None:
    with running(tmp_path, shadow="") as run:
        assert run.gateway.keys.of(run.client.encode()) is not None
        with writing(run.gateway.folder), at_once():
            assert run.ask("easy 1").status_code == 200
        eventually(lambda: run.gateway.records.count() == 1)
        with writing(run.gateway.folder) as other, at_once():
            other.execute("DELETE FROM client WHERE name = 'alice'")
            assert [httpx.get(f"{run.url}{path}").status_code for path in ("/health", "/")] == [200, 200]
            assert run.ask("easy 2").status_code == 200
        assert run.ask("easy 3").status_code == 401
    assert run.gateway.records.count() == 1  # alice was forgotten before the second one was kept


# -- the file of earlier versions -------------------------------------------------------------------------------


def test_keys_of_earlier_versions_are_taken_over_once(tmp_path: Path) -> None:
    before = (client("alice", shadow=False, spend="2 usd/day"), client("bob"), client("root", admin=True))
    former = write_former(tmp_path, *before)
    text = former.read_text()
    keys = Keys(tmp_path)
    assert keys.clients == before
    assert keys.of(b"alice") == before[0]
    assert not former.exists()
    keys.remove("alice")
    former.write_text(text)  # as if the process had been killed before it removed it
    assert Keys(tmp_path).named("alice") is None
    assert not former.exists()
    write_former(tmp_path, *before[:1])
    with pytest.raises(InputError, match=r"keys\.json was written after its keys were read into keys\.db"):
        Keys(tmp_path)
    assert former.exists()
    former.unlink()
    assert Keys(tmp_path).clients == before[1:]


def test_whoever_takes_keys_over_at_the_same_time_brings_no_removed_key_back(tmp_path: Path) -> None:
    names = [f"client-{i}" for i in range(8)]
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        write_former(folder, *map(client, names), client("root", admin=True))
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(lambda name, at=folder: Keys(at).remove(name), names[:4]))
        assert [one.name for one in Keys(folder).clients] == [*names[4:], "root"]
        assert [file.name for file in folder.iterdir()] == ["keys.db"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{}]", "missing 2 required"),
        ("[1]", "mapping"),
        ('[{"name": "a", "digest": "b", "more": 1}]', "unexpected keyword argument 'more'"),
        ("[{", "is not complete JSON"),
        ({"spend": "much"}, "spend: "),
        ({"admin": 1}, "admin must be true or false, got 1"),
        ({"digest": ["b"]}, "digest must be a text, got "),
        ({"digest": "b"}, "the digest of 'a' has not 64 hexadecimal digits"),
    ],
)
def test_a_file_that_holds_no_keys_is_named(tmp_path: Path, text: str | dict[str, Any], message: str) -> None:
    """Nor does one whose client has a field that none can have."""
    (tmp_path / "keys.json").write_text(text) if isinstance(text, str) else write_former(
        tmp_path, replace(client("a"), **text)
    )
    with pytest.raises(ArtefactError, match=r"keys\.json .*remove it and make all keys anew") as error:
        Keys(tmp_path)
    assert message in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["keys.json"]


# -- damage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["empty", "truncate", "folder", "link", "pipe", "pages", "other database"])
def test_a_damaged_file_is_one_line(tmp_path: Path, harm: str) -> None:
    file = tmp_path / "keys.db"
    write_keys(tmp_path, (client(f"client-{i}") for i in range(100)))
    if harm == "pages":
        file.write_bytes(file.read_bytes()[:4096] + bytes(20_000))
    elif harm == "other database":
        file.unlink()
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE client (name)")
    else:
        damage(file, harm)
    with pytest.raises(ExeuntError, match=r"keys\.db") as error:
        Keys(tmp_path)
    assert "\n" not in str(error.value)


def test_keys_that_cannot_be_read_are_one_line_in_the_log_until_they_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(key: str) -> list[dict[str, Any]]:
        caplog.clear()
        run.client = key
        answers = [run.ask("easy 1") for _ in range(3)]
        assert [one.status_code for one in answers] == [503] * 3
        assert "keys cannot be looked up now: try again soon" in error_of(answers[0])
        assert httpx.get(f"{run.url}/health").status_code == 200
        assert not any(one.exc_info for one in caplog.records)
        return [one.fields for one in caplog.records if one.levelno >= logging.WARNING]

    with caplog.at_level(logging.INFO), running(tmp_path, shadow="") as run:
        file, key = run.gateway.folder / "keys.db", run.client
        with writing(file.parent):
            (line,) = refused("of nobody yet")
        assert "another process writes the keys" in line["why"]
        whole = file.read_bytes()
        file.unlink()
        file.write_bytes(b"x" * 5000)
        (line,) = refused(key)
        assert "keys.db is no file of a gateway's keys, or is damaged" in line["why"]
        file.unlink()
        file.write_bytes(whole)
        former = write_former(file.parent, client("mallory"))
        (line,) = refused(key)
        assert "keys.json was written after its keys were read" in line["why"]
        former.unlink()
        assert run.ask("easy 1").status_code == 200
