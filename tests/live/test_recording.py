"""`exeunt record --models`: a recording that goes on where it stopped, asks nothing twice, and keeps to its money."""

import asyncio
import json
import os
import shutil
import signal
import stat
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt.data import open_inputs
from exeunt.live.recording import KEY, record_models

from .made_models import killed, made_models
from .service import MemoryLedger

CLASSES = ["no", "yes"]


@pytest.fixture
def texts(tmp_path):
    """60 rows, 50 different texts."""
    rng = np.random.default_rng(0)
    names = [f"text {i % 50}" for i in range(60)]
    label = rng.integers(0, 2, 50)[np.arange(60) % 50]
    table = {"text": names, "label": np.array(CLASSES)[label], "number": np.arange(60)}
    pq.write_table(pa.table(table), tmp_path / "texts.parquet")
    return tmp_path / "texts.parquet"


class Counted:
    """A function that counts what it was asked. `fails`: texts that it fails on, the first time."""

    def __init__(self, skill=3, fails=()):
        self.asked, self.skill, self.fails = Counter(), skill, fails

    def __call__(self, text):
        self.asked[text] += 1
        if text in self.fails and self.asked[text] == 1:
            raise TimeoutError
        number = int(text.split()[1])
        return CLASSES[number % self.skill == 0], 0.5 + number / 100

    def model(self, price=0.01):
        return ex.FunctionModel(self, price=price, classes=CLASSES)


def record(models, texts, out, **options):
    inputs = open_inputs(texts, keep=("number",))
    return record_models(models, inputs, out, say=lambda _: None, **options)


def test_each_text_is_asked_once_and_the_table_is_one_of_models(texts, tmp_path):
    one, two = Counted(), Counted(skill=2)
    done = record({"one": one.model(), "two": two.model(0.05)}, texts, tmp_path / "out")
    assert set(one.asked.values()) == set(two.asked.values()) == {1}
    assert (len(one.asked), done.rows, done.cost) == (50, 60, pytest.approx(50 * 0.06))
    assert done.prices == {"one": "0.01", "two": "0.05"}
    table = pq.read_table(tmp_path / "out" / "recording.parquet")
    assert "text" not in table.column_names
    assert len(set(table["id"].to_pylist())) == 50
    models = ex.CascadeTrace.from_table(
        table, label="label", prediction="prediction_{}", confidence="confidence_{}", id="id",
        price={"one": 0.01, "two": "cost_two"}, highest={"two": 0.05},
    )  # fmt: skip
    assert models["two"].prediction[:, 0].tolist() == [int(i % 50 % 2 == 0) for i in range(60)]
    assert models.n == 60


def test_the_same_command_asks_nothing_again_and_a_new_model_alone(texts, tmp_path):
    one, two = Counted(), Counted(skill=2)
    record({"one": one.model()}, texts, tmp_path / "out")
    before = pq.read_table(tmp_path / "out" / "recording.parquet")
    done = record({"one": one.model(), "two": two.model()}, texts, tmp_path / "out")
    assert (max(one.asked.values()), len(two.asked)) == (1, 50)
    after = pq.read_table(tmp_path / "out" / "recording.parquet")
    assert after.select(before.column_names).equals(before)
    assert done.cost == pytest.approx(1.0)


def test_copies_are_asked_with_repeat(texts, tmp_path):
    one = Counted()
    done = record({"one": one.model()}, texts, tmp_path / "out", repeat=True)
    record({"one": one.model()}, texts, tmp_path / "out", repeat=True)
    assert (sum(one.asked.values()), done.cost) == (60, pytest.approx(0.6))


def test_failures_are_empty_cells_that_the_next_run_asks_again(texts, tmp_path):
    one = Counted(fails={"text 3", "text 4"})
    done = record({"one": one.model()}, texts, tmp_path / "out")
    assert "one: 56 answers, 4 failures (TimeoutError: no message)" in str(done)  # each text is there twice
    cells = pq.read_table(tmp_path / "out" / "recording.parquet")["prediction_one"].to_pylist()
    assert [i for i, cell in enumerate(cells) if cell is None] == [3, 4, 53, 54]
    done = record({"one": one.model()}, texts, tmp_path / "out")
    assert (done.rows, one.asked["text 3"], one.asked["text 5"]) == (60, 2, 1)
    table = pq.read_table(tmp_path / "out" / "recording.parquet")
    assert table["prediction_one"].null_count == 0
    assert table["cost_one"].to_pylist()[3] == pytest.approx(0.02)  # both calls were paid


def test_never_more_than_the_ledger_has_and_nothing_less(texts, tmp_path):
    one, two = Counted(), Counted(skill=2)
    ledger = MemoryLedger(0.5)
    models = {"one": one.model(), "two": two.model(0.03)}
    done = record(models, texts, tmp_path / "out", ledger=ledger)
    assert 0.5 - 0.03 < ledger.spent <= 0.5 + 1e-9
    assert done.cost == pytest.approx(ledger.spent)
    assert "usd asked for, less is left" in str(done)
    assert 0 < done.rows < 60
    done = record(models, texts, tmp_path / "out", ledger=MemoryLedger(9.0))
    assert (done.rows, done.missing) == (60, 0)
    assert max(one.asked.values()) == max(two.asked.values()) == 1


def test_files_are_private_and_hold_texts_only_if_asked_for(texts, tmp_path):
    out = tmp_path / "out"
    record({"one": Counted().model()}, texts, out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    for file in out.iterdir():
        if file.name == "models.json":  # names and digests
            continue
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert b"text 4" not in file.read_bytes()
    record({"one": Counted().model()}, texts, out, keep_texts=True, id_column="number")
    table = pq.read_table(out / "recording.parquet")
    assert table["text"].to_pylist()[:2] == ["text 0", "text 1"]
    assert table["id"].to_pylist() == list(range(60))
    assert stat.S_IMODE((out / "recording.parquet").stat().st_mode) == 0o600


def test_nobody_can_tell_a_text_by_its_id_without_the_secret_of_the_folder(texts, tmp_path):
    def ids(folder):
        record({"one": Counted().model()}, texts, tmp_path / folder)
        return set(pq.read_table(tmp_path / folder / "recording.parquet")["id"].to_pylist())

    (tmp_path / "third").mkdir(mode=0o700)
    first, second = ids("first"), ids("second")
    assert len(first) == len(second) == 50
    assert not first & second
    shutil.copy(tmp_path / "first" / KEY, tmp_path / "third" / KEY)
    assert ids("third") == first


def test_other_folders_are_refused(texts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(ex.InputError, match="holds something else"):
        record({"one": Counted().model()}, texts, tmp_path / "out")


def test_a_half_written_line_is_asked_again(texts, tmp_path):
    one = Counted()
    record({"one": one.model()}, texts, tmp_path / "out")
    file = tmp_path / "out" / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    done = record({"one": one.model()}, texts, tmp_path / "out")
    assert (sum(one.asked.values()), done.rows) == (51, 60)
    assert len([json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]) == 50


def test_a_killed_recording_goes_on(texts, tmp_path):
    """By a process that is killed while it asks for the thirtieth time."""
    killed(
        30,
        f"""
import time
exact = made.shares
def late(*given):
    time.sleep(0.01)  # until the answers before it are written
    return exact(*given)
made.shares = late
made.record({{"one": made.made_models()["small"]}}, {str(texts)!r}, {str(tmp_path / "out")!r}, concurrency=1)
""",
    )
    one = made_models()["small"]
    assert record({"one": one}, texts, tmp_path / "out").rows == 60
    assert sum(one.function.count.values()) == 50 - 29


def test_an_interrupted_recording_awaits_what_was_sent_and_asks_nothing_twice(texts, tmp_path):
    asked = []

    async def answer(text):
        asked.append(text)
        if len(asked) == 20:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)  # until the main thread has heard of it
        await asyncio.sleep(0.05)
        return "no", 0.5

    models = {"one": ex.FunctionModel(answer, price=0.01, classes=CLASSES)}
    ledger = ex.Ledger(total="5 usd")
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            record(models, texts, tmp_path / "out", ledger=ledger, concurrency=16)
    finally:
        signal.signal(signal.SIGINT, usual)
    first = len(asked)
    assert 20 <= first <= 32
    assert ledger.spent == pytest.approx(0.01 * first)
    record(models, texts, tmp_path / "out", ledger=ledger)
    assert (len(asked), len(set(asked)), ledger.spent) == (50, 50, pytest.approx(0.5))
