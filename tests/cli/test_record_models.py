"""`exeunt record --models`: services and functions from a YAML file, as a run that all commands take."""

from __future__ import annotations

import re
import shutil
import sqlite3
import sys
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exeunt.runs.folder import RunFolder
from postgresql_server import server

from .command import exeunt, refusal

MODELS = """
small:
  function: answering:small
  classes: ["no", "yes"]
  price: 0.0002
large:
  function: answering:large
  classes: ["no", "yes"]
  price: 0.003
"""
FUNCTIONS = r"""
import hashlib
import re

calls = []

def answer(text, skill):
    calls.append(text)
    luck = hashlib.sha256(f"{skill}{text}".encode()).digest()[0] / 256
    right = luck < skill
    truth = int(re.search(r"\d+", str(text))[0]) % 3 == 0
    return ("yes" if truth == right else "no"), 0.5 + abs(luck - skill) / 2

def small(text):
    return answer(text, 0.75)

def large(text):
    return answer(text, 0.95)
"""


RECORD = "record --models models.yaml --data texts.parquet --out out"
PREDICT = "predict out --models models.yaml --data texts.parquet"


@pytest.fixture
def folder(tmp_path):
    with made(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run that is calibrated, what was said when it was recorded, and how often its models were asked."""
    path = tmp_path_factory.mktemp("recorded")
    with made(path):
        said = [exeunt(f"{RECORD} --max-spend '{spend}'", cwd=path).stdout for spend in ("0.1 usd", "3 usd")]
        import answering

        n_calls = len(answering.calls)
        exeunt("calibrate out --budget 50%", cwd=path)
        yield path, said, n_calls


@pytest.fixture
def calibrated(recorded):
    """The folder of a run that nothing is asked with."""
    return recorded[0]


@contextmanager
def made(folder):
    """Models and texts in a folder."""
    (folder / "models.yaml").write_text(MODELS)
    (folder / "answering.py").write_text(FUNCTIONS)
    names = [f"text {i}" for i in range(150)]
    label = np.where(np.arange(150) % 3 == 0, "yes", "no")
    pq.write_table(pa.table({"text": names, "label": label}), folder / "texts.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "answering", raising=False)
        yield


def test_from_texts_to_a_run(recorded):
    folder, (first, done), n_calls = recorded
    assert "answers are missing (not asked: " in first
    assert n_calls == 300
    counts = (
        "small: 150 answers, 0 failures\nlarge: 150 answers, 0 failures\n150 inputs recorded for 0.48 usd\n"
    )
    assert counts in done
    assert done.endswith("\n0.48 usd of 3 usd are spent\n")
    assert done.splitlines()[-2] == "next: exeunt calibrate out --budget 50%"
    few = "--budgets 50% --splits 2 --policies eero --workers 0"
    assert "out: of 1 policy the best at each budget" in exeunt(f"compare out {few}", cwd=folder).stdout
    with sqlite3.connect(folder / "out" / "money.db") as ledger:
        assert ledger.execute("select count(*) from sqlite_master").fetchone()[0] > 0


def spent(done, total):
    """Return what a command says it has spent of a total (usd)."""
    return float(done.stdout.splitlines()[-1].partition(f" usd of {total} usd are spent")[0])


def test_from_a_run_to_answers_within_a_total(calibrated, tmp_path):
    folder = shutil.copytree(calibrated, tmp_path, dirs_exist_ok=True)
    import answering

    assert "large alone is" in exeunt("evaluate out --no-figures", cwd=folder).stdout
    shown = exeunt("show out", cwd=folder).stdout
    assert "FunctionModel" in shown
    assert re.findall(r"^\d +(.*\S) +\S+ +\S+% +\S+$", shown, re.M) == ["small", "large"]
    assert "7 of 7 parts are as they were written" in exeunt("verify out", cwd=folder).stdout
    command = f"{PREDICT} --out answers.csv"
    answering.calls.clear()
    done = exeunt(f"{command} --total '0.1 usd'", cwd=folder)
    assert "150 of 150 inputs answered" in done.stdout
    first = spent(done, 0.1)
    assert 0.03 <= first <= 0.1
    assert len(answering.calls) >= 150
    answering.calls.clear()
    assert "answers.csv holds answers that were paid for" in refusal(
        f"{command} --total '0.1 usd'", cwd=folder
    )
    assert "an answer for each of 150 inputs to come may cost 0.03 usd" in refusal(
        f"{command} --total '0.1 usd' --force", cwd=folder
    )  # of the same money
    assert not answering.calls
    rest = exeunt(f"{command} --total '0.2 usd' --force", cwd=folder)
    assert first + 0.03 <= spent(rest, 0.2) <= 0.2


@pytest.mark.parametrize("kind", ["file", "postgresql"])
def test_several_jobs_count_what_they_spend_in_one_ledger(calibrated, tmp_path, kind):
    """Each has money of its own. Passwords stay out of what is written and said."""
    if kind == "postgresql":
        secret = "s3cr3t-w0rd"
        place = server().new_database().replace("@/", f":{secret}@/")
    else:
        secret, place = "no secret", str(tmp_path / "money.db")
    sums = []
    for out in ("one.csv", "other.csv"):
        command = f"{PREDICT} --total '0.1 usd' --ledger {place} --out {tmp_path / out}"
        done = exeunt(command, cwd=calibrated)
        assert "150 of 150 inputs answered" in done.stdout
        sums.append(spent(done, 0.1))
        assert secret not in done.stdout + done.stderr
    assert sums[0] == sums[1] > 0
    assert not [*tmp_path.glob("*.csv.money.db*")]
    written = [file for folder in (tmp_path, calibrated) for file in folder.rglob("*") if file.is_file()]
    assert not any(secret.encode() in file.read_bytes() for file in written)


@pytest.mark.parametrize("columns", [["review"], ["premise", "hypothesis"]])
def test_answers_are_to_the_columns_that_were_recorded(folder, columns):
    table = pq.read_table(folder / "texts.parquet")
    named = {name: pa.array([f"{name} {i}" for i in range(150)]) for name in columns}
    pq.write_table(pa.table({**named, "label": table["label"]}), folder / "texts.parquet")
    exeunt(f"{RECORD} --max-spend '3 usd' --text-column {','.join(columns)}", cwd=folder)
    run = RunFolder.open(folder / "out")
    assert (run.manifest["data"]["name"], run.manifest["data"]["text"]) == ("texts.parquet", columns)
    exeunt("calibrate out --budget 50% --policy eero", cwd=folder)
    command = f"{PREDICT} --total '1 usd' --out"
    assert "150 of 150 inputs answered" in exeunt(f"{command} a.csv", cwd=folder).stdout
    pq.write_table(table, folder / "other.parquet")
    assert f"other.parquet has no column '{columns[0]}'" in refusal(
        f"{command} b.csv --data other.parquet", cwd=folder
    )


NO_PLACE = "or at an address postgresql://user@host/database, got 'mysql'://"
NO_WORKERS = "the workers of a cluster share a ledger: name one with --ledger postgresql://"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "name their file with --models models.yaml"),
        ("--models models.yaml", "--total '5 usd'"),
        ("--models models.yaml --total '0.001 usd'", "for each of 150 inputs to come may cost 0.03 usd"),
        ("--models models.yaml --total '1 eur'", "live models are in usd, and the ledger is in eur"),
        ("--models models.yaml --total '1 usd' --engine ray --out new", NO_WORKERS),
        ("--models models.yaml --total '1 usd' --ledger money.db", "name one with --out"),
        ("--models models.yaml --total '1 usd' --ledger mysql://h/d --out new.csv", NO_PLACE),
        ("--models none.yaml --total '1 usd'", "there is no file none.yaml"),
    ],
)
def test_what_predict_needs_to_ask(calibrated, options, message):
    assert message in refusal(f"predict out --data texts.parquet {options}", cwd=calibrated)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("function: answering:small", "function: answering:none", "of models.yaml: the module answering, "),
        ("price: 0.0002", "price: 0.0002\n  prices: 3", "unexpected keyword argument 'prices'"),
        ("function: answering:small", "name: small", "needs one of model, url, function"),
        ("price: 0.0002", "price: -1", "model 'small' of models.yaml: a price is a number"),
        ("small:", "small: [", "models.yaml is not YAML"),
    ],
)
def test_files_of_models_that_are_wrong(folder, old, new, message):
    (folder / "models.yaml").write_text(MODELS.replace(old, new, 1))
    assert message in refusal(f"{RECORD} --max-spend '1 usd'", cwd=folder)


def test_without_a_limit_nothing_is_asked(folder):
    assert "--max-spend '3 usd'" in refusal(RECORD, cwd=folder)
    assert not (folder / "out").exists()


def test_where_nobody_answers_the_command_says_why(folder):
    (folder / "answering.py").write_text("def small(text):\n    raise OSError('away')\n\nlarge = small\n")
    assert "failed 20 times in a row: OSError: away" in refusal(f"{RECORD} --max-spend '3 usd'", cwd=folder)
