"""The stream in a file: added by threads, read by other processes, of any version, removed without a trace."""

import json
import os
import sqlite3
import subprocess
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damaged_files import damage, within
from exeunt._support.sqlite import DatabaseKind
from exeunt.errors import ArtefactError, ExeuntError, FileError, InputError
from exeunt.stream import records as module
from exeunt.stream.drawing import Period
from exeunt.stream.records import COMPARED, RECORDS, Record, Records, Said, one_each
from exeunt.stream.units import Unit

SMALL, LARGE = Said(1e-5, 0.75, 0.5), Said(2e-4, failed="timeout")
FULL = Record(
    number=7, time=1.5, client="shop", request="0a" * 16, said={"small": SMALL, "large": LARGE}, setting=3, unit=5,
    row=2, is_open=True, retry=True, guessed=True, transcript=b"\0\xff" * 8, policy="p1", answered="small",
    asked=("small", "large"), decided="score", cost=2.5e-4, input_cost=1e-6, refused=("tiny", ""), compared=COMPARED,
    features=(0.25, -1.5), text='{"a": "é"}', answer=b"\1" * 16, feedback=0.25,
)  # fmt: skip
BARE = Record(8, 2.0, "shop", "0b", {})
UNIT = Unit(5, "shop", 1.0, 1.5, 3, 9.0, b"\0u", 4, 0.25, drawn=True, held_out=True, setting=3)


@pytest.fixture
def records(tmp_path):
    one = Records(tmp_path)
    yield one
    one.close()


def everything(folder):
    """Return all bytes of the file and its log."""
    return b"".join(file.read_bytes() for file in sorted(folder.glob(f"{RECORDS}*")))


# -- as it was added ----------------------------------------------------------------------------------------------


def test_every_field_is_read_as_it_was_added(tmp_path, records):
    changed = [one.name for one in fields(Record) if getattr(FULL, one.name) == getattr(BARE, one.name)]
    assert changed == ["client"]  # every other field is tried
    records.add(BARE)
    records.add(FULL)
    assert records.read() == [FULL, BARE]  # in order of arrival
    assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.glob(f"{RECORDS}*")} == {"0o600"}
    records.close()
    with closing(Records(tmp_path)) as again:
        assert (again.read(), again.count(), again.count("retry")) == ([FULL, BARE], 2, 1)
        assert (again.read("number > ?", (7,)), again.clients()) == ([BARE], {"shop"})
        assert again.latest_number() == 8


def test_an_answer_is_graded_once_and_the_latest_of_its_name(tmp_path, records):
    one, other = b"1" * 16, b"2" * 16
    for number, (answer, answered) in enumerate(
        [(one, "large"), (one, "small"), (other, "small"), (b"", "x")], 1
    ):
        records.add(replace(BARE, number=number, time=float(number), answer=answer, answered=answered))
    assert records.feedback() == {}
    assert records.give_feedback(one, 0.25) is True
    assert records.give_feedback(one, 0.5) is False
    assert records.give_feedback(b"3" * 16, 0.5) is records.give_feedback(b"", 0.5) is None
    assert [record.feedback for record in records.read()] == [None, 0.25, None, None]
    assert records.give_feedback(other, 0) is True  # which is a grade, too
    assert records.feedback() == {"small": (2, 0.125)}
    assert records.expire(3.0) == 2
    assert records.feedback() == {"small": (1, 0.0)}
    assert records.give_feedback(one, 0.5) is None
    records.forget("shop")
    assert records.feedback() == {}
    assert records.give_feedback(other, 0.5) is None
    assert other not in everything(tmp_path)


def test_a_file_of_the_second_version_is_brought_to_this_one(tmp_path):
    known = [name for name in module._NAMES if name not in ("answer", "feedback")]
    schema = module._SCHEMA.replace(module._INDICES, "")
    schema = schema.replace(module._columns(module._NAMES), module._columns(known))
    assert "feedback" not in schema
    replace(module.KIND, version=2, schema=schema).make(tmp_path / RECORDS)
    values = [value for name, value in zip(module._NAMES, module._stored(FULL), strict=True) if name in known]
    with closing(sqlite3.connect(tmp_path / RECORDS)) as connection, connection:
        module._put(connection, "request", known, values)
    for _ in range(2):
        with closing(Records(tmp_path)) as records:
            assert records.read() == [replace(FULL, answer=b"", feedback=None)]
            assert records.give_feedback(FULL.answer, 1.0) is None
    with closing(Records(tmp_path)) as records:
        records.add(replace(FULL, number=8, feedback=None))
        assert records.give_feedback(FULL.answer, 1.0) is True
        assert records.feedback() == {"small": (1, 1.0)}
        queries = (
            "SELECT number FROM request WHERE answer = ? AND answer != x''",
            "SELECT answered, COUNT(*), AVG(feedback) FROM request WHERE feedback IS NOT NULL GROUP BY answered",
        )
        with records.reading() as connection:  # an index is used, whatever there is
            plans = [
                str(connection.execute(f"EXPLAIN QUERY PLAN {query}", (b"",) * query.count("?")).fetchall())
                for query in queries
            ]
        assert ["request_answer" in plans[0], "request_feedback" in plans[1]] == [True, True]


def test_units_and_periods_are_read_as_they_were_added(records):
    young = Unit(9, "shop", 2.0, 2.0)
    first, second = Period(4, 0.25, 10, 3, 1), Period(5, 0.5)
    records.add(FULL, [UNIT, young], [first, second], bill=[{"a": 1}], other=None)
    assert records.units() == [UNIT, young]
    flags = [(unit.drawn, unit.held_out, unit.refused) for unit in records.units()]
    flags += [(one.is_open, one.retry, one.guessed) for one in records.read()]
    assert {type(flag) for three in flags for flag in three} == {bool}
    assert (records.units("closed IS NULL"), records.periods()) == ([young], [first, second])
    assert records.kept("bill") == [{"a": 1}]
    assert records.kept("other") is records.kept("nothing") is None
    young.rows, young.closed, second.units = 1, 3.0, 1
    records.update([young], [second])
    assert (records.units(), records.periods()) == ([UNIT, young], [first, second])
    records.settle([first], 77.0)
    records.update([], [first])  # which does not know that it has settled
    assert records.periods("settled IS NOT NULL") == [replace(first, settled=77.0)]
    records.update([], bill=[2])
    assert records.kept("bill") == [2]
    records.keep("bill", 3)
    assert records.kept("bill") == 3


def test_later_requests_of_a_unit_are_counted_and_whoever_writes_the_unit_does_not_know_of_them(records):
    records.add(replace(FULL, number=6, unit=5, is_open=True), [UNIT])
    for number in (7, 8):
        records.add(replace(FULL, number=number, unit=5, is_open=False, cost=0.25), [replace(UNIT, rows=4)])
    records.add(replace(FULL, number=9, unit=0, is_open=False))
    records.update([UNIT])
    assert records.units() == [replace(UNIT, later=2, later_cost=0.5)]


def test_units_for_which_money_was_missing_come_where_they_are_asked_for(records):
    refused = replace(UNIT, number=6, drawn=False, refused=True)
    records.add(FULL, [UNIT, refused, replace(UNIT, number=7, drawn=False)])
    assert records.units("refused") == [refused]
    assert [unit.number for unit, _ in records.of_units()] == [5]
    assert records.of_units(refused=True) == [(UNIT, [FULL]), (refused, [])]
    records.expire(1.2)
    assert records.of_units(refused=True) == []


def test_periods_of_another_length_are_others(records):
    day, hour = Period(3, 0.5, 9, 4, 1), Period(3, 0.25, 2, 1, length=3600.0)
    records.update([], [day, hour])
    records.settle([hour], 5.0)
    assert (records.periods("settled IS NULL"), records.latest_periods(5)) == ([day], [day])
    assert records.latest_periods(5, 3600.0) == [replace(hour, settled=5.0)]
    assert records.latest_periods(5, 60.0) == []
    records.update([], [Period(number, 0.1) for number in (6, 4, 5)])
    assert [period.number for period in records.latest_periods(2)] == [5, 6]
    assert [period.number for period in records.latest_periods(9)] == [3, 4, 5, 6]


def test_a_unit_of_a_client_that_was_forgotten_is_not_written_again(records):
    """As by a gateway that runs while the command forgets the client."""
    users = replace(UNIT, refused=True)
    records.add(FULL, [users])
    records.forget("shop")
    records.update([replace(users, rows=9)])
    assert records.units() == [replace(users, client="", user=b"", drawn=False, refused=False, rows=9)]


def test_an_empty_file(records):
    assert records.read() == records.units() == records.periods() == records.of_units() == []
    assert records.latest_number() == records.count() == records.count_units("1") == 0
    assert records.settings() == {}
    assert records.transcripts(5) == records.unit_clients() == []
    assert records.clients() == set()
    assert records.forget("nobody") == records.expire(1e18) == 0


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    with closing(Records(tmp_path_factory.mktemp("kept"))) as one:
        yield one


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCORES, GRADES = st.none() | st.floats(-9, 9), st.none() | st.floats(0, 1)
ANSWERS = st.builds(Said, st.floats(0, 1e6), SCORES, GRADES, st.text(max_size=9))


@given(
    said=st.dictionaries(st.text(max_size=5), ANSWERS, max_size=3),
    text=st.none() | TEXTS,
    names=st.lists(TEXTS, max_size=3),
    features=st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=4),
    number=st.integers(1, 2**62),
    transcript=st.binary(max_size=20),
)
def test_whatever_is_added_is_read_again(kept, said, text, names, features, number, transcript):
    one = replace(
        FULL, number=number, said=said, text=text, asked=tuple(names), refused=tuple(names), transcript=transcript,
        features=None if features is None else tuple(features),
    )  # fmt: skip
    kept.add(one)
    assert kept.read("number = ?", (number,)) == [one]


def test_of_units_only_drawn_ones_come_each_with_its_compared_requests(records):
    units = [replace(UNIT, number=number, drawn=number != 3, period=number % 2) for number in (1, 2, 3, 4)]
    for number in range(10, 30):
        compared = ("", COMPARED, "no money")[number % 3]
        records.add(replace(FULL, number=number, unit=number % 5, row=number // 5, compared=compared))
    records.update(units)
    found = records.of_units()
    assert [unit.number for unit, _ in found] == [1, 2, 4]
    for unit, inside in found:
        expected = [number for number in range(10, 30) if number % 5 == unit.number and number % 3]
        assert [record.number for record in inside] == expected
    assert [unit.number for unit, _ in records.of_units("period = ? AND number > ?", (0, 2))] == [4]
    assert records.count_units("period = ?", (1,)) == 1
    assert records.unit_clients("period = ?", (0,)) == ["shop", "shop"]


def test_of_a_request_and_its_retries_the_first_that_was_compared_counts():
    late = replace(FULL, row=1, number=3)
    first, second, third = (replace(FULL, row=0, number=k, compared=why) for k, why in enumerate(
        ("no answer", COMPARED, COMPARED)
    ))  # fmt: skip
    assert one_each([first, second, third, late]) == {0: second, 1: late}
    assert one_each([second, first]) == {0: second}
    assert (one_each([first, replace(first, number=9)]), one_each([])) == ({0: first}, {})


def test_settings_have_a_number_each_time_that_they_change(records):
    first = records.setting({"b": 1, "a": [2]}, 5.0)
    assert records.setting({"a": [2], "b": 1}, 6.0) == first
    second = records.setting({"a": []}, 7.0)
    assert second != first
    third = records.setting({"b": 1, "a": [2]}, 8.0)  # as it was before, after something else
    assert len({first, second, third}) == 3
    assert records.settings() == {
        first: (5.0, {"a": [2], "b": 1}), second: (7.0, {"a": []}), third: (8.0, {"a": [2], "b": 1}),
    }  # fmt: skip


def test_the_latest_transcripts_come_the_oldest_first(records):
    for number, said in enumerate((b"\1", b"\2", b"\3", b"", b"\5"), start=1):
        records.add(replace(FULL, number=number, unit=number * 10, transcript=said))
    assert records.transcripts(3) == [(20, b"\2"), (30, b"\3"), (50, b"\5")]


def test_a_failure_adds_nothing_of_what_belongs_together(records):
    with pytest.raises(TypeError):
        records.add(FULL, [UNIT], bill={1, 2})  # no JSON
    with pytest.raises(ArtefactError, match="not supported"):
        records.add(FULL, [UNIT, replace(UNIT, client=[])])
    assert records.read() == records.units() == []
    assert records.kept("bill") is None
    records.add(FULL, [UNIT])  # and the file can be used
    assert records.count() == 1


# -- threads and processes ----------------------------------------------------------------------------------------


def test_threads_add_while_another_process_reads(tmp_path, records):
    reads = (
        "import sys, time; from pathlib import Path; from exeunt.stream.records import Records\n"
        "records = Records(Path(sys.argv[1]))\n"
        "deadline, wrong = time.monotonic() + 30, 0\n"
        "while len(found := records.of_units()) < 100 and time.monotonic() < deadline:\n"
        "    wrong += any(len(inside) != 1 for _, inside in found); time.sleep(0.02)\n"
        "print(len(found), records.count(), wrong)"
    )
    other = subprocess.Popen([sys.executable, "-c", reads, tmp_path], stdout=subprocess.PIPE, text=True)
    with ThreadPoolExecutor(8) as pool:
        for number in range(1, 101):
            added = replace(FULL, number=number, unit=number), [replace(UNIT, number=number)]
            pool.submit(records.add, *added)
    assert other.communicate()[0].split() == ["100", "100", "0"]  # never a unit without its record


def test_bad_input(tmp_path, records):
    records.close()
    records.close()
    with pytest.raises(InputError, match="is closed"):
        records.add(FULL)
    os.truncate(tmp_path / RECORDS, 0)
    with pytest.raises(ArtefactError, match="is empty, so it is no file of a gateway's records"):
        Records(tmp_path)


# -- removing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def careless(monkeypatch):
    """Let SQLite leave what is removed in the file unless it is asked not to, as it does by default in most builds."""
    connect = sqlite3.connect

    def without_care(*given, **fields):
        connection = connect(*given, **fields)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", without_care)


def filled(records, n=300, seed=0):
    """Add requests of units that grow, of three clients."""
    rng, units = np.random.default_rng(seed), []
    for number in range(1, n + 1):
        if units and rng.random() < 0.5:
            unit = units[int(rng.integers(max(0, len(units) - 30), len(units)))]
        else:
            client = ("shop", "leaving", "other")[int(rng.integers(3))]
            unit = Unit(number, client, float(number), float(number), drawn=True)
            unit.user = b"secret-user-%d" % number if client == "leaving" else b"user"
            units.append(unit)
        unit.rows, unit.latest = unit.rows + 1, float(number)
        unit.closed = float(number) if rng.random() < 0.2 else None
        words = "secret-" if unit.client == "leaving" else "public-"
        made = replace(
            FULL, number=number, time=float(number), client=unit.client, unit=unit.number,
            request=words + f"{number:x}", transcript=words.encode() + rng.bytes(4),
            text=words + "4111 " * int(rng.integers(0, 600)),
        )  # fmt: skip
        records.add(made, [unit])
    return units


@pytest.mark.usefixtures("careless")
def test_of_a_client_that_is_forgotten_no_byte_is_left(tmp_path):
    records = Records(tmp_path)
    units = filled(records)
    n = records.count("client = 'leaving'")
    kept = records.read("client != 'leaving'")
    for gone in (b"leaving", b"secret-", b"secret-user-"):
        assert gone in everything(tmp_path)
    assert records.forget("leaving") == n > 50
    for gone in (b"leaving", b"secret-"):
        assert gone not in everything(tmp_path)
    assert (records.read(), records.forget("leaving")) == (kept, 0)
    found = {unit.number: unit for unit in records.units()}
    assert found.keys() == {unit.number for unit in units}  # their numbers stay
    for unit in units:
        if unit.client == "leaving":
            unit = replace(unit, client="", user=b"", drawn=False)
        assert found[unit.number] == unit
    records.close()


@pytest.mark.usefixtures("careless")
def test_of_what_has_expired_no_byte_is_left(tmp_path):
    records = Records(tmp_path)
    for number in range(1, 101):
        old = number <= 50
        client = "long-gone" if old else "shop"
        now, text = float(number), "4111 " * 100 * old
        made = replace(FULL, number=number, unit=number, time=now, client=client, text=text)
        records.add(made, [Unit(number, client, now, now, closed=now)])
    assert records.expire(50.5) == 50
    for kept in (records.read(), records.units()):
        assert [one.number for one in kept] == list(range(51, 101))
    for gone in (b"4111", b"long-gone"):
        assert gone not in everything(tmp_path)
    records.close()


def test_units_that_began_before_what_is_kept_are_not_used(records):
    """Else each of their requests, of which nothing is known any more, would count as lost."""
    whole = replace(UNIT, number=1, opened=10.0, latest=20.0, closed=30.0, user=b"")
    half = replace(whole, number=2, opened=5.0)
    gone = replace(whole, number=3, opened=1.0, latest=2.0, closed=8.0)
    still = replace(half, number=4, closed=None)
    users = replace(gone, number=5, user=b"u")
    for number, unit in enumerate((whole, half, gone, still, users), 1):
        records.add(replace(FULL, number=number, unit=number, time=unit.opened), [unit])
    assert (records.expire(7.0), [unit.number for unit in records.units()]) == (4, [1, 2, 4, 5])
    assert [unit.number for unit, _ in records.of_units()] == [1]
    assert records.count_units("closed IS NOT NULL") == 1
    # Who had a unit never gets another.
    assert records.units("user = ?", (b"u",)) == [replace(users, drawn=False)]


def test_numbers_are_never_used_again(records):
    """A question counts from one on: units with lower numbers would not test it."""
    for number in (1, 2, 3):
        unit = replace(UNIT, number=number, user=b"", closed=1.0)
        records.add(replace(FULL, number=number, unit=number), [unit])
    for _ in range(2):
        records.expire(1e9)
        assert records.read() == records.units() == []
        assert records.latest_number() == 3
    records.add(replace(BARE, number=9, client="leaving"))
    records.forget("leaving")
    assert records.latest_number() == 9


def test_removing_says_so_if_a_reader_keeps_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr("exeunt._support.sqlite.WAIT_S", 0.01)
    records = Records(tmp_path)
    records.add(FULL)
    reader = sqlite3.connect(tmp_path / RECORDS, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM request").fetchone()
    with pytest.raises(FileError, match=r"1 records were removed, but .*-wal may still hold"):
        records.forget("shop")
    reader.close()
    assert records.forget("shop") == 0
    assert b"shop" not in everything(tmp_path)
    records.close()


# -- the first version --------------------------------------------------------------------------------------------

FIRST = (
    "time", "kind", "client", "request", "conversation", "user", "said", "features", "policy", "answered", "text",
    "cost", "escalated", "identity", "grader",
)  # fmt: skip
FIRST_SCHEMA = f"""
CREATE TABLE record ({", ".join(f'"{name}"' for name in FIRST)});
CREATE INDEX record_time ON record (time);
CREATE INDEX record_client ON record (client);
CREATE INDEX record_kind ON record (kind);
"""
SAID = {
    "small": {"cost": 1e-5, "score": 0.75, "grade": 0.5, "failed": ""},
    "large": {"cost": 2e-4, "score": None, "grade": 1.0, "failed": ""},
}


def first_version(folder, rows):
    """Write a file as the first version did."""
    kind = DatabaseKind("file of a gateway's records", 0x45584757, 1, FIRST_SCHEMA)
    kind.make(folder / RECORDS)
    usual = {
        "time": 1.0, "kind": "shadow", "client": "shop", "request": "0a", "conversation": "c", "user": "", "said": SAID,
        "features": array("f", [0.25, -1.5]).tobytes(), "policy": "", "answered": "large", "text": None, "cost": 2e-4,
        "escalated": "", "identity": {"small": "v1"}, "grader": "match",
    }  # fmt: skip
    with closing(kind.connect(folder / RECORDS)) as connection:
        for row in rows:
            told = {**usual, **row}
            told |= {name: json.dumps(told[name]) for name in ("said", "identity")}
            places = ", ".join("?" * len(FIRST))
            connection.execute(f"INSERT INTO record VALUES ({places})", [told[name] for name in FIRST])


def test_a_file_of_the_first_version_fits_policies_and_tests_none(tmp_path):
    live = {"small": {"cost": 1e-5, "score": 0.75, "grade": None, "failed": ""}}
    rows = [
        {"time": 3.0, "conversation": "a", "request": "r3"},
        {"time": 1.0, "conversation": "a", "request": "r1", "text": "{}"},
        {"time": 2.0, "conversation": "b", "user": "u", "request": "r2"},
        {"time": 4.0, "conversation": "c", "user": "u", "kind": "audit", "policy": "p1", "answered": "small",
         "escalated": "score", "identity": {"small": "v2"}, "request": "r4"},
        {"time": 5.0, "conversation": "a", "kind": "live", "said": live, "policy": "p1", "features": None,
         "request": "r5"},
        {"time": 6.0, "conversation": "a", "client": "other", "request": "r6"},
        {"time": 7.0, "conversation": "d", "request": "r7"},
    ]  # fmt: skip
    first_version(tmp_path, rows)
    records = Records(tmp_path)
    found = records.read()
    expected = [(k, f"r{k}", float(k)) for k in range(1, 8)]
    assert [(one.number, one.request, one.time) for one in found] == expected
    assert [(one.unit, one.row, one.compared) for one in found] == [
        (1, 0, COMPARED), (2, 0, COMPARED), (1, 1, COMPARED), (2, 1, COMPARED), (0, 0, ""), (6, 0, COMPARED),
        (7, 0, COMPARED),
    ]  # fmt: skip
    assert found[0] == Record(
        1, 1.0, "shop", "r1", {name: Said(**said) for name, said in SAID.items()}, setting=1, unit=1, is_open=True,
        answered="large", cost=2e-4, compared=COMPARED, features=(0.25, -1.5), text="{}",
    )  # fmt: skip
    one = found[3]
    assert (one.policy, one.decided, one.answered, one.setting) == ("p1", "score", "small", 2)
    assert (found[4].said, found[4].features) == ({"small": Said(1e-5, 0.75)}, None)
    units = [unit for unit, _ in records.of_units()]
    drawn = [(unit.number, unit.client, unit.rows, unit.latest) for unit in units]
    assert drawn == [(1, "shop", 2, 3.0), (2, "shop", 2, 4.0), (6, "other", 1, 6.0), (7, "shop", 1, 7.0)]
    assert [unit.closed for unit in units] == [unit.latest for unit in units]
    assert [unit.setting for unit in units] == [1, 1, 1, 1]  # that of its first request
    assert all(len(inside) == unit.rows for unit, inside in records.of_units())  # nothing counts as missing
    assert records.count_units("NOT held_out AND probability = 1") == 4
    assert records.settings() == {
        1: (1.0, {"identity": {"small": "v1"}, "grader": "match"}),
        2: (4.0, {"identity": {"small": "v2"}, "grader": "match"}),
    }
    assert (records.periods(), records.latest_number()) == ([], 7)
    records.add(replace(FULL, number=8))
    records.close()
    with closing(Records(tmp_path)) as again:
        assert again.read()[:-1] == found


def test_a_file_that_another_process_converts_meanwhile_is_converted_once(tmp_path, monkeypatch):
    first_version(tmp_path, [{"request": f"r{k}"} for k in range(20)])
    looks, is_first = [], module._is_first_version

    def while_another_is_faster(connection):
        found = is_first(connection)
        looks.append(found)
        if len(looks) == 1:  # it has been looked at, and is not locked yet
            Records(tmp_path).close()
        return found

    monkeypatch.setattr(module, "_is_first_version", while_another_is_faster)
    with closing(Records(tmp_path)) as records:
        assert records.count() == 20
        records.add(FULL)


@pytest.mark.usefixtures("careless")
def test_of_a_client_of_the_first_version_that_is_forgotten_no_byte_is_left(tmp_path):
    clients, text = ["shop", "leaving"], "4111 " * 200
    rows = [{"client": clients[k % 2], "conversation": f"c{k}", "text": text} for k in range(100)]
    first_version(tmp_path, rows)
    records = Records(tmp_path)
    for client, gone in (("leaving", b"leaving"), ("shop", b"4111")):
        assert records.forget(client) == 50
        assert gone not in everything(tmp_path)
    records.close()


def test_a_damaged_file_of_the_first_version_stays_as_it_is(tmp_path):
    first_version(tmp_path, [{"request": "r1"}, {"said": [1]}])
    before = (tmp_path / RECORDS).read_bytes()
    told = r"records.db is damaged .*: restore it, or choose another file"
    for _ in range(2):
        with pytest.raises(ArtefactError, match=told):
            Records(tmp_path)
    assert (tmp_path / RECORDS).read_bytes() == before


def test_a_file_of_a_newer_version(tmp_path):
    replace(module.KIND, version=module.KIND.version + 1).make(tmp_path / RECORDS)
    with pytest.raises(ArtefactError, match="was written by a newer version of Exeunt"):
        Records(tmp_path)


# -- damage -------------------------------------------------------------------------------------------------------


def read_all(folder):
    """Read everything there is in a file."""
    with closing(Records(folder)) as records:
        records.read()
        records.of_units()
        records.periods()
        records.latest_periods(5)
        records.settings()
        records.kept("bill")
        records.transcripts(10)
        records.clients()
        records.latest_number()
        records.add(replace(FULL, number=10**6))
        records.forget("shop")


@pytest.mark.parametrize("harm", ["truncate", "link", "deep", "remove"])
def test_a_file_that_was_damaged_is_refused(tmp_path, harm):
    with closing(Records(tmp_path)) as records:
        filled(records, 50)
    damage(tmp_path / RECORDS, harm)
    with within(20):
        if harm == "remove":
            read_all(tmp_path)  # a gateway that begins
            return
        with pytest.raises((ArtefactError, FileError), match=RECORDS):
            read_all(tmp_path)
    assert not (tmp_path / "nowhere").exists()  # nothing is made where the link points


def flipped(folder, file, places):
    """Yield what becomes of the file with a byte changed at each of these places."""
    content = file.read_bytes()
    for place in places:
        target = folder / RECORDS
        for log in folder.glob(f"{RECORDS}-*"):
            log.unlink()
        target.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            read_all(folder)
        except ExeuntError as error:
            yield error
        else:
            yield None


@pytest.mark.parametrize("n", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_whatever_byte_is_changed_the_file_is_read_or_refused(tmp_path, n):
    (tmp_path / "made").mkdir()
    (tmp_path / "changed").mkdir()
    with closing(Records(tmp_path / "made")) as records:
        filled(records, 60)
        records.setting({"a": 1}, 0.0)
        records.keep("bill", [{"a": 1.5}])
        records.update([], [Period(1, 0.2)])
    file = tmp_path / "made" / RECORDS
    rng = np.random.default_rng(n)
    content = np.frombuffer(file.read_bytes(), np.uint8)
    used = np.flatnonzero(content)
    places = [*range(24), *rng.choice(used, n - 24).tolist()]
    found = list(flipped(tmp_path / "changed", file, places))
    refused = [error for error in found if error is not None]
    assert len(refused) > n / 20
    assert all(isinstance(error, ArtefactError | FileError) for error in refused)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("request", "said", "{"), ("request", "said", "[1]"), ("request", "said", '{"small": {"prize": 1}}'),
        ("request", "asked", "("), ("request", "features", b"abc"), ("request", "said", None),
        ("kept", "body", "{"), ("setting", "body", "'"), ("request", "refused", "3"),
    ],
)  # fmt: skip
def test_what_cannot_have_been_written_is_damage_and_locks_nothing(
    tmp_path, monkeypatch, table, column, value
):
    monkeypatch.setattr("exeunt._support.sqlite.WAIT_S", 0.01)
    records = Records(tmp_path)
    for number in (1, 2):
        records.add(replace(FULL, number=number), bill=1)
    records.setting({}, 0.0)
    with records.writing() as connection:
        where = "name = 'bill'" if table == "kept" else "number = 1"
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (value,))
    read = {"request": records.read, "setting": records.settings, "kept": lambda: records.kept("bill")}[table]
    told = r"is damaged \(.*\): restore it, or choose another file"
    with pytest.raises(ArtefactError, match=told) as error:
        read()
    assert records.forget("shop") == 2  # while somebody holds the error and where it came from
    assert error.value.__traceback__ is not None
    records.close()


# -- how quickly --------------------------------------------------------------------------------------------------


def test_nothing_that_is_asked_often_reads_all_requests(records, monkeypatch):
    asked, connect = [], DatabaseKind.connect

    def listening(self, file):
        connection = connect(self, file)
        connection.set_trace_callback(asked.append)
        return connection

    monkeypatch.setattr(DatabaseKind, "connect", listening)
    records.of_units("held_out AND period = ? AND number >= ? AND setting IN (?)", (5, 1, 1))
    records.of_units("NOT held_out AND closed IS NOT NULL AND number >= ?", (1,))
    records.count_units("NOT held_out AND closed IS NOT NULL AND number >= ?", (1,))
    records.read("unit = ? AND compared != ''", (5,))
    records.units("closed IS NULL")
    records.latest_periods(3)
    records.latest_number()
    records.kept("bill")
    asked.append("SELECT MAX(closed) FROM unit WHERE period = 5")
    asked = [query for query in asked if query.startswith("SELECT")]
    assert len(asked) == 13
    with records.reading() as connection:
        for query in asked:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
            assert not any(step in ("SCAN request", "SCAN unit") for step in plan), query
