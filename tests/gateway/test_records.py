"""What a gateway keeps of requests: added by threads, read by other processes, removed without a trace."""

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from exeunt.errors import ArtefactError, FileError, InputError
from exeunt.gateway.records import Record, Records, Said

RECORD = Record(
    time=1.5, kind="shadow", client="shop", request="0a" * 16, conversation="0b" * 16, user="",
    said={"small": Said(1e-5, 0.75, 0.5), "large": Said(2e-4, failed="timeout")}, features=(0.25, -1.5),
)  # fmt: skip


def everything(folder):
    return b"".join(file.read_bytes() for file in folder.glob("records.db*"))


def test_a_record_is_read_as_it_was_added_and_only_its_owner_can_read_the_file(tmp_path):
    live = replace(
        RECORD, time=0.5, kind="live", policy="p1", answered="small", features=None, text='{"a": "é"}'
    )
    records = Records(tmp_path)
    records.add(RECORD)
    records.add(live)
    assert records.read() == [live, RECORD]
    assert records.read(kinds=("shadow", "audit")) == [RECORD]
    assert records.read(since=1.0) == [RECORD]
    assert records.counts() == {"shadow": 1, "live": 1, "audit": 0}
    assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.glob("records.db*")} == {"0o600"}
    records.close()
    again = Records(tmp_path)
    assert again.read() == [live, RECORD]
    again.close()


def test_features_are_kept_as_a_policy_sees_them(tmp_path):
    records = Records(tmp_path)
    records.add(replace(RECORD, features=(0.1, 1 / 3)))
    (found,) = records.read()
    assert np.array_equal(np.float32(found.features), np.float32([0.1, 1 / 3]))
    records.close()


def test_threads_add_while_another_process_reads(tmp_path):
    records = Records(tmp_path)
    reads = (
        "import sys, time; from pathlib import Path; from exeunt.gateway.records import Records\n"
        "records = Records(Path(sys.argv[1]))\n"
        "deadline = time.monotonic() + 30\n"
        "while len(found := records.read()) < 400 and time.monotonic() < deadline: time.sleep(0.02)\n"
        "print(len(found), len({one.request for one in found}))"
    )
    other = subprocess.Popen([sys.executable, "-c", reads, tmp_path], stdout=subprocess.PIPE, text=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: records.add(replace(RECORD, request=f"{i:x}")), range(400)))
    assert other.communicate()[0].split() == ["400", "400"]
    records.close()


@pytest.mark.parametrize("remove", [lambda one: one.forget("leaving"), lambda one: one.expire(1.0)])
def test_of_removed_records_nothing_is_left_in_the_file(tmp_path, remove):
    records = Records(tmp_path)
    for i in range(50):
        records.add(RECORD)
        records.add(
            replace(RECORD, client="leaving", time=0.5, request=f"secret-{i}", text="card 4111 " * 500)
        )
    assert b"4111" in everything(tmp_path)
    assert b"secret-49" in everything(tmp_path)
    assert remove(records) == 50
    for gone in (b"4111", b"secret-", b"leaving"):
        assert gone not in everything(tmp_path)
    assert records.read() == [RECORD] * 50
    assert remove(records) == 0
    records.close()


def test_forgetting_says_so_if_a_reader_keeps_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr("exeunt._sqlite._WAIT_S", 0.01)
    records = Records(tmp_path)
    records.add(RECORD)
    reader = sqlite3.connect(tmp_path / "records.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM record").fetchone()
    with pytest.raises(FileError, match=r"1 records were removed, but .*-wal may still hold"):
        records.forget("shop")
    reader.close()
    assert records.forget("shop") == 0
    assert b"shop" not in everything(tmp_path)
    records.close()


def test_bad_input(tmp_path):
    records = Records(tmp_path)
    with pytest.raises(InputError, match="of kind shadow, live, audit, got 'dark'"):
        records.add(replace(RECORD, kind="dark"))
    records.close()
    with pytest.raises(InputError, match="is closed"):
        records.add(RECORD)
    os.truncate(tmp_path / "records.db", 0)
    with pytest.raises(ArtefactError, match="is empty, so it is no file of a gateway's records"):
        Records(tmp_path)
