"""`exeunt record --model`: services and functions from a YAML file, as a table that `exeunt compare` takes."""

from __future__ import annotations

import sqlite3

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
FUNCTIONS = """
import hashlib

calls = []

def answer(text, skill):
    calls.append(text)
    luck = hashlib.sha256(f"{skill}{text}".encode()).digest()[0] / 256
    right = luck < skill
    truth = int(text.split()[1]) % 3 == 0
    return ("yes" if truth == right else "no"), 0.5 + abs(luck - skill) / 2

def small(text):
    return answer(text, 0.75)

def large(text):
    return answer(text, 0.95)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "answering.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "answering", raising=False)
    names = [f"text {i}" for i in range(150)]
    label = np.where(np.arange(150) % 3 == 0, "yes", "no")
    pq.write_table(pa.table({"text": names, "label": label}), tmp_path / "texts.parquet")
    return tmp_path


def record(folder, spend, *more, **options):
    command = [
        "record",
        "--model",
        "models.yaml",
        "--data",
        "texts.parquet",
        "--out",
        "out",
        "--max-spend",
        spend,
    ]
    return exeunt(*command, *more, cwd=folder, **options)


def test_from_texts_to_a_comparison(folder):
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
    command = done.splitlines()[-2].removeprefix("next: exeunt ").split()
    few = ["--budgets", "50%", "--splits", "2", "--policies", "eero", "--workers", "0"]
    assert "150 inputs; small at 0.0002 usd is right on" in exeunt(*command, *few, cwd=folder).stdout
    spent = (
        sqlite3.connect(folder / "out" / "money.db").execute("select count(*) from sqlite_master").fetchone()
    )
    assert spent[0] > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"function: answering:small": "function: answering:none"},
            "model 'small' of models.yaml cannot be made",
        ),
        ({"price: 0.0002": "price: 0.0002\n  prices: 3"}, "unexpected keyword argument 'prices'"),
        ({"function: answering:small": "name: small"}, "needs one of model, url, function"),
        ({"price: 0.0002": "price: -1"}, "model 'small' of models.yaml: a price is a number"),
        ({"small:": "small: ["}, "models.yaml is no YAML"),
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
    command = ["record", "--model", "models.yaml", "--data", "texts.parquet", "--out", "out"]
    done = exeunt(*command, cwd=folder, ok=False)
    assert "--max-spend '3 usd'" in done.stderr
    assert not (folder / "out").exists()


def test_where_nobody_answers_the_command_says_why(folder):
    (folder / "answering.py").write_text("def small(text):\n    raise OSError('away')\n\nlarge = small\n")
    done = record(folder, "3 usd", ok=False)
    assert "exeunt: no model gave an answer: OSError: away" in done.stderr
