"""`exeunt record --models`: services and functions from a YAML file, as a run that all commands take."""

from __future__ import annotations

import re
import sqlite3
import sys
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exeunt.runs.folder import RunFolder
from postgresql_server import server

from .command import exeunt

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


@pytest.fixture
def folder(tmp_path):
    with made(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run that nothing is asked with."""
    path = tmp_path_factory.mktemp("calibrated")
    with made(path):
        record(path, "3 usd")
        exeunt("calibrate", "out", "--budget", "50%", cwd=path)
        yield path


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


def record(folder, spend, *more, **options):
    command = [
        "record",
        "--models",
        "models.yaml",
        "--data",
        "texts.parquet",
        "--out",
        "out",
        "--max-spend",
        spend,
    ]
    return exeunt(*command, *more, cwd=folder, **options)


def test_from_texts_to_a_run(folder):
    first = record(folder, "0.1 usd").stdout
    assert "answers are missing (not asked: " in first
    done = record(folder, "3 usd").stdout
    import answering

    assert len(answering.calls) == 300
    assert (
        "small: 150 answers, 0 failures\nlarge: 150 answers, 0 failures\n150 inputs recorded for 0.48 usd\n"
        in done
    )
    assert done.endswith("\n0.48 usd of 3 usd are spent\n")
    assert done.splitlines()[-2] == "next: exeunt calibrate out --budget 50%"
    few = ["--budgets", "50%", "--splits", "2", "--policies", "eero", "--workers", "0"]
    assert "1 policy on 1 trace, 2 splits" in exeunt("compare", "out", *few, cwd=folder).stdout
    spent = (
        sqlite3.connect(folder / "out" / "money.db").execute("select count(*) from sqlite_master").fetchone()
    )
    assert spent[0] > 0


def test_from_a_run_to_answers_within_a_total(folder):
    record(folder, "3 usd")
    import answering

    exeunt("calibrate", "out", "--budget", "50%", cwd=folder)
    assert "large alone is" in exeunt("evaluate", "out", "--no-figures", cwd=folder).stdout
    shown = exeunt("show", "out", cwd=folder).stdout
    assert "FunctionModel" in shown
    assert re.findall(r"^\d +(.*\S) +\S+ +\S+% +\S+$", shown, re.M) == ["small", "large"]
    assert "7 of 7 parts are as they were written" in exeunt("verify", "out", cwd=folder).stdout
    command = ["predict", "out", "--models", "models.yaml", "--data", "texts.parquet", "--out", "answers.csv"]
    answering.calls.clear()
    done = exeunt(*command, "--total", "0.1 usd", cwd=folder).stdout
    assert "150 of 150 inputs answered" in done
    spent = float(done.splitlines()[-1].partition(" usd of 0.1 usd are spent")[0])
    assert 0.03 <= spent <= 0.1
    assert len(answering.calls) >= 150
    answering.calls.clear()
    again = exeunt(*command, "--total", "0.1 usd", cwd=folder, ok=False)
    assert "answers.csv holds answers that were paid for" in again.stderr
    short = exeunt(*command, "--total", "0.1 usd", "--force", cwd=folder, ok=False)  # of the same money
    assert "an answer for each of 150 inputs to come may cost 0.03 usd" in short.stderr
    assert not answering.calls
    rest = exeunt(*command, "--total", "0.2 usd", "--force", cwd=folder).stdout
    assert spent + 0.03 <= float(rest.splitlines()[-1].partition(" usd of 0.2 usd are spent")[0]) <= 0.2


@pytest.mark.parametrize("kind", ["file", "postgresql"])
def test_several_jobs_count_what_they_spend_in_one_ledger(calibrated, tmp_path, kind):
    """Each has money of its own. Passwords stay out of what is written and said."""
    if kind == "postgresql":
        secret = "s3cr3t-w0rd"
        place = server().new_database().replace("@/", f":{secret}@/")
    else:
        secret, place = "no secret", str(tmp_path / "money.db")
    spent = []
    for out in ("one.csv", "other.csv"):
        done = exeunt(
            "predict", "out", "--models", "models.yaml", "--data", "texts.parquet", "--total", "0.1 usd",
            "--ledger", place, "--out", tmp_path / out, cwd=calibrated,
        )  # fmt: skip
        assert "150 of 150 inputs answered" in done.stdout
        spent.append(float(done.stdout.splitlines()[-1].partition(" usd of 0.1 usd are spent")[0]))
        assert secret not in done.stdout + done.stderr
    assert spent[0] == spent[1] > 0
    assert not [*tmp_path.glob("*.csv.money.db*")]
    written = [file for folder in (tmp_path, calibrated) for file in folder.rglob("*") if file.is_file()]
    assert not any(secret.encode() in file.read_bytes() for file in written)


@pytest.mark.parametrize("columns", [["review"], ["premise", "hypothesis"]])
def test_answers_are_to_the_columns_that_were_recorded(folder, columns):
    table = pq.read_table(folder / "texts.parquet")
    named = {name: pa.array([f"{name} {i}" for i in range(150)]) for name in columns}
    pq.write_table(pa.table({**named, "label": table["label"]}), folder / "texts.parquet")
    record(folder, "3 usd", "--text-column", ",".join(columns))
    run = RunFolder.open(folder / "out")
    assert (run.manifest["data"]["name"], run.manifest["data"]["text"]) == ("texts.parquet", columns)
    exeunt("calibrate", "out", "--budget", "50%", cwd=folder)
    command = ["predict", "out", "--models", "models.yaml", "--total", "1 usd", "--data"]
    assert (
        "150 of 150 inputs answered" in exeunt(*command, "texts.parquet", "--out", "a.csv", cwd=folder).stdout
    )
    pq.write_table(table, folder / "other.parquet")
    other = exeunt(*command, "other.parquet", "--out", "b.csv", cwd=folder, ok=False)
    assert f"other.parquet has no column '{columns[0]}'" in other.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name their file with --models models.yaml"),
        (["--models", "models.yaml"], "--total '5 usd'"),
        (
            ["--models", "models.yaml", "--total", "0.001 usd"],
            "an answer for each of 150 inputs to come may cost 0.03 usd",
        ),
        (
            ["--models", "models.yaml", "--total", "1 eur"],
            "prices of live models are in usd, and the ledger is in eur",
        ),
        (
            ["--models", "models.yaml", "--total", "1 usd", "--engine", "ray", "--out", "new"],
            "the workers of a cluster share a ledger: name one with --ledger postgresql://",
        ),
        (["--models", "models.yaml", "--total", "1 usd", "--ledger", "money.db"], "name one with --out"),
        (
            ["--models", "models.yaml", "--total", "1 usd", "--ledger", "mysql://h/d", "--out", "new.csv"],
            "or at an address postgresql://user@host/database, got 'mysql'://",
        ),
        (["--models", "none.yaml", "--total", "1 usd"], "there is no file none.yaml"),
    ],
)
def test_what_predict_needs_to_ask(calibrated, options, message):
    done = exeunt("predict", "out", "--data", "texts.parquet", *options, cwd=calibrated, ok=False)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"function: answering:small": "function: answering:none"},
            "model 'small' of models.yaml: the module answering, ",
        ),
        ({"price: 0.0002": "price: 0.0002\n  prices: 3"}, "unexpected keyword argument 'prices'"),
        ({"function: answering:small": "name: small"}, "needs one of model, url, function"),
        ({"price: 0.0002": "price: -1"}, "model 'small' of models.yaml: a price is a number"),
        ({"small:": "small: ["}, "models.yaml is not YAML"),
    ],
)
def test_files_of_models_that_are_wrong(folder, changed, message):
    text = MODELS
    for old, new in changed.items():
        text = text.replace(old, new, 1)
    (folder / "models.yaml").write_text(text)
    done = record(folder, "1 usd", ok=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_without_a_limit_nothing_is_asked(folder):
    command = ["record", "--models", "models.yaml", "--data", "texts.parquet", "--out", "out"]
    done = exeunt(*command, cwd=folder, ok=False)
    assert "--max-spend '3 usd'" in done.stderr
    assert not (folder / "out").exists()


def test_where_nobody_answers_the_command_says_why(folder):
    (folder / "answering.py").write_text("def small(text):\n    raise OSError('away')\n\nlarge = small\n")
    done = record(folder, "3 usd", ok=False)
    assert "failed 20 times in a row: OSError: away" in done.stderr
