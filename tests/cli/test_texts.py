"""A sequence classifier from a folder in the Hugging Face form, on a table of texts, end to end."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import exeunt as ex

from .command import environment, exeunt

transformers = pytest.importorskip("transformers")

WORDS = ["good", "fine", "great", "bad", "poor", "awful", "the", "film", "was", "and", "plot"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("texts")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (made / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizerFast(str(made / "vocab.txt")).save_pretrained(made / "model")
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, num_labels=2,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(made / "model")
    rng = np.random.default_rng(0)
    for part, n in (("train", 400), ("test", 120)):
        with (made / f"{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            for _ in range(n):
                label = int(rng.integers(2))
                words = rng.choice(WORDS[6:], rng.integers(2, 9)).tolist()
                words.insert(
                    int(rng.integers(len(words))), str(rng.choice(WORDS[3:6] if label else WORDS[:3]))
                )
                table.writerow([" ".join(words), label])
    return made


@pytest.fixture(scope="module")
def run(folder):
    exeunt(
        "train", "--model", "hf:model", "--data", ".", "--exits", "2", "--head", "mean", "--mode", "joint",
        "--epochs", "3", "--optimiser", "adamw", "--batch-size", "32", "--unseen", "--out", "run", cwd=folder,
    )  # fmt: skip
    exeunt("calibrate", "run", "--budget", "60%", "--delta", "none", cwd=folder)
    return folder / "run"


def test_texts_end_to_end(folder, run):
    done = exeunt("evaluate", "run", "--splits", "1", cwd=folder)
    assert "accuracy" in done.stdout
    exeunt("predict", "run", "--data", "test.csv", "--out", "answers.parquet", cwd=folder)
    found = pq.read_table(folder / "answers.parquet").to_pydict()
    test = ex.ExitTrace.load(run / "traces" / "test.parquet")
    exits = ex.Policy.load(run / "policy.json").route(test)
    # Padding to another length moves scores a little, so a few inputs beside a threshold may differ.
    assert np.mean(np.array(found["exit"]) == exits) > 0.97
    assert len(found["label"]) == test.n


def test_costs_are_those_at_a_length_that_nine_in_ten_texts_do_not_exceed(folder, run):
    length = json.loads((run / "bundle.json").read_text())["inputs"]["length"]
    with (folder / "train.csv").open(newline="") as file:
        tokens = [len(row["text"].split()) + 2 for row in csv.DictReader(file)]  # with [CLS] and [SEP]
    assert np.mean([n <= length for n in tokens]) >= 0.9
    assert np.mean([n < length for n in tokens]) < 0.9


@pytest.mark.parametrize("words", [1, 29])
def test_texts_shorter_and_longer_than_those_of_training_are_answered(folder, run, words):
    with (folder / f"{words}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *[[" ".join(["good"] * words)]] * 3])
    exeunt("predict", "run", "--data", f"{words}.csv", "--out", f"{words}.parquet", cwd=folder)
    found = pq.read_table(folder / f"{words}.parquet").to_pydict()
    assert len(found["label"]) == 3
    assert None not in found["label"]


def test_texts_come_from_standard_input_a_line_each(folder, run):
    lines = ["good film", "the plot was awful and the film", ""]
    done = subprocess.run(
        [sys.executable, "-m", "exeunt", "predict", "run", "--data", "-"],
        cwd=folder, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True, env=environment(folder),
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["name"] for row in rows] == ["line#0", "line#1", "line#2"]
    assert all(row["class_name"] for row in rows)


def test_standard_input_that_is_no_text_is_refused(folder, run):
    done = subprocess.run(
        [sys.executable, "-m", "exeunt", "predict", "run", "--data", "-"],
        cwd=folder, input=b"\xff\n", capture_output=True, check=False, env=environment(folder),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"exeunt: standard input is not text in utf-8")


def test_a_text_network_is_timed(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    options = ("--budget", "70%", "--cost", "ms", "--delta", "none", "--batch-size", 4)
    done = exeunt("calibrate", "run", *options, cwd=tmp_path)
    assert "ms" in done.stdout
    assert ex.Policy.load(tmp_path / "run" / "policy.json").cost.unit == "ms"


def test_a_run_needs_neither_the_folder_of_its_model_nor_the_hub(folder, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(folder / "test.csv", tmp_path)
    exeunt("predict", "run", "--data", "test.csv", "--out", "answers.parquet", cwd=tmp_path)
    moved, before = (pq.read_table(f / "answers.parquet") for f in (tmp_path, folder))
    assert moved["label"].equals(before["label"])


@pytest.mark.parametrize("harm", ["swap two words", "add a token"])
def test_a_tokeniser_that_was_changed_answers_nothing(folder, run, tmp_path, harm):
    shutil.copytree(run, tmp_path / "run")
    tokenizer = tmp_path / "run" / "tokenizer"
    if harm == "add a token":
        file = tokenizer / "added_tokens.json"
        file.write_text('{"good": 8}')
    else:
        file = tokenizer / "tokenizer.json"
        content = json.loads(file.read_text())
        words = content["model"]["vocab"]
        words["good"], words["bad"] = words["bad"], words["good"]
        file.write_text(json.dumps(content))
    shutil.copy(folder / "test.csv", tmp_path)
    predict = ("predict", "run", "--data", "test.csv", "--out", "answers.parquet")
    done = exeunt(*predict, cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(file.relative_to(tmp_path)) in done.stderr
    assert not (tmp_path / "answers.parquet").exists()
    done = exeunt("verify", "run", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert f"tokenizer        FAILED   {file.relative_to(tmp_path)}" in done.stdout


def test_a_model_without_tokeniser_is_refused(folder, tmp_path):
    shutil.copy(folder / "model" / "config.json", tmp_path)
    done = exeunt("train", "--model", f"hf:{tmp_path}", "--data", ".", "--out", "none", cwd=folder, ok=False)
    assert done.returncode == 2
    assert "no tokeniser" in done.stderr
    assert "Traceback" not in done.stderr
