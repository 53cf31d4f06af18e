"""A sequence classifier from a folder in the Hugging Face form, on a table of texts, end to end."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from cut_once import cut_once
from exeunt.data import SplitPlan
from exeunt.runs.folder import RunFolder

from .command import exeunt, refusal

transformers = pytest.importorskip("transformers")

from .damaged_runs import WORDS, tokenizer_and_config  # noqa: E402 - after the skip

COLUMNS = "--text-column body --label-column topic"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("texts")
    _, config = tokenizer_and_config(made / "model")
    transformers.set_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(made / "model")
    rng = np.random.default_rng(0)
    for part, n in (("train", 400), ("test", 120)):
        rows = ["body,topic"]
        for label in rng.integers(2, size=n):
            words = rng.choice(WORDS[6:], rng.integers(2, 9)).tolist()
            words.insert(rng.integers(len(words)), rng.choice(WORDS[3:6] if label else WORDS[:3]))
            rows.append(f"{' '.join(words)},{label}")
        (made / f"{part}.csv").write_text("\n".join(rows))
    return made


def texts_of(file):
    return [row["body"] for row in csv.DictReader(file.read_text().splitlines())]


@pytest.fixture(autouse=True, scope="module")
def _cut_once():
    with cut_once(lambda run: run.path.resolve()):
        yield


@pytest.fixture(scope="module")
def run(folder):
    exeunt(
        f"train --model hf:model --data . {COLUMNS} --exits 2 --head mean --mode joint --epochs 2 "
        "--optimiser adamw --batch-size 32 --unseen --out run",
        cwd=folder,
    )
    exeunt("calibrate run --budget 60% --delta none --policy eero", cwd=folder)
    return folder / "run"


@pytest.fixture(scope="module")
def answers(folder, run):
    """What the run answers to test.csv."""
    exeunt("predict run --data test.csv --out answers.parquet", cwd=folder)
    return pq.read_table(folder / "answers.parquet")


def test_texts_end_to_end(folder, run, answers):
    assert "accuracy" in exeunt("evaluate run --no-figures", cwd=folder).stdout
    opened = RunFolder.open(run)
    test, exits = opened.trace("test"), opened.policy.route(opened.trace("test"))
    # Padding to another length moves scores a little, so a few inputs beside a threshold may differ.
    assert np.mean(answers["exit"].to_numpy() == exits) > 0.97
    assert len(answers) == test.n


def test_lines_of_text_without_labels_end_to_end(folder):
    lines = texts_of(folder / "train.csv")
    (folder / "log.txt").write_text("\n".join(lines))
    train = "train --model hf:model --data log.txt --exits 2 --epochs 1 --unlabelled --out unlabelled"
    done = exeunt(train, cwd=folder)
    assert "the network is taken not to have learned from log.txt" in done.stdout
    assert "agreement of each exit with the full network on the test part" in done.stdout
    exeunt("calibrate unlabelled --budget 80% --delta none --policy eero", cwd=folder)
    assert "agreement" in exeunt("evaluate unlabelled --no-figures", cwd=folder).stdout
    answers = exeunt("predict unlabelled --data log.txt", cwd=folder).stdout.splitlines()
    assert len(answers) == len(lines) + 1
    manifest = RunFolder.open(folder / "unlabelled").manifest
    assert manifest["class_names"] == ["LABEL_0", "LABEL_1"]
    assert manifest["split"]["parts"]["fit"]["file"] == "train"


@pytest.mark.slow
def test_a_decoder_end_to_end(folder, tmp_path):
    """Its tokeniser pads on the left, as for generation, and has no token for that."""
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("onnxscript")
    words = {word: i for i, word in enumerate(["[END]", "[UNK]", *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", eos_token="[END]", padding_side="left"
    ).save_pretrained(tmp_path / "decoder")
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=6, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "decoder")
    for part in ("train.csv", "test.csv"):
        shutil.copy(folder / part, tmp_path)
    train = f"train --model hf:decoder --data . {COLUMNS} --task classify --exits 2 --epochs 10 --out run"
    said = exeunt(train, cwd=tmp_path).stdout
    assert "texts of more than 6 are cut" in said
    assert "texts were longer than the network takes and cut" in said
    exeunt("export run --precision int8", cwd=tmp_path)
    answers = {}
    for name, executor in (("run", "eager"), ("run", "onnx"), ("run@int8", "onnx")):
        exeunt(f"calibrate {name} --budget 70% --delta none", cwd=tmp_path)
        exeunt(f"predict {name} --data test.csv --executor {executor} --out answers.parquet", cwd=tmp_path)
        answers[name, executor] = pq.read_table(tmp_path / "answers.parquet").to_pydict()
    for found in answers.values():
        assert np.mean(np.equal(found["label"], answers["run", "eager"]["label"])) > 0.95
        assert sum(found["truncated"]) == sum(answers["run", "eager"]["truncated"]) > 0


DATA = f"--data . {COLUMNS}"
PAIRS = "trained on single texts (body), these inputs are pairs of texts: give a table"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (f"{DATA} --augment crop-flip", "leave out what is for images (augment)"),
        (f"{DATA} --size 32 --mean 0,0,0 --std 1,1,1", "leave out what is for images (size, mean, std)"),
        (f"{DATA} --skip-unreadable", "leave out what is for images (skip_unreadable)"),
        ("--data . --label-column class", "its columns are body, topic (name another with --label-column)"),
        ("--data . --text-column text", "its columns are body, topic (name another with --text-column)"),
        (f"--data train.csv {COLUMNS}", "has not seen these data (--unseen)"),
        ("--data sklearn:digits --mode joint", "hf:model takes texts, and sklearn:digits holds images"),
    ],
)
def test_what_texts_have_no_use_for_is_refused_before_a_run_is_begun(folder, tmp_path, options, said):
    train = f"train --model hf:model --exits 1 {options} --out"
    assert said in refusal(train, tmp_path / "no", cwd=folder)
    assert not (tmp_path / "no").exists()


def test_costs_are_those_of_the_mean_length_of_the_data_that_calibration_draws_from(folder, run):
    manifest = json.loads((run / "bundle.json").read_text())
    assert manifest["training"]["augment"] == "none"
    length = manifest["inputs"]["length"]
    assert SplitPlan.from_dict(manifest["split"]).parts["calibrate"].dataset == "train"
    tokens = [len(text.split()) + 2 for text in texts_of(folder / "train.csv")]  # with [CLS] and [SEP]
    assert length == round(np.mean(tokens))
    assert f"texts of {length} tokens" in RunFolder.open(run).cost.source
    shown = exeunt("show run", cwd=folder).stdout
    assert f"costs are those of texts of {length} tokens; texts of more than 32 tokens are cut" in shown


@pytest.mark.parametrize(
    "executors", [["eager"], pytest.param(["eager", "onnx"], marks=pytest.mark.slow)], ids=["eager", "both"]
)
def test_an_encoder_without_a_classifier_gets_one(folder, tmp_path, executors):
    shutil.copytree(folder / "model", tmp_path / "encoder")
    transformers.BertModel.from_pretrained(folder / "model").save_pretrained(tmp_path / "encoder")
    for part in ("train.csv", "test.csv"):
        shutil.copy(folder / part, tmp_path)
    options = "--exits 2 --learning-rate 0.02 --batch-size 128 --epochs 8 --out run"
    done = exeunt(f"train --model hf:encoder {DATA} {options}", cwd=tmp_path)
    assert "the classifier (classifier) is new: it learns as the heads do" in done.stdout
    assert "(new classifier: classifier)" in exeunt("show run", cwd=tmp_path).stdout
    test = RunFolder.open(tmp_path / "run").trace("test")
    assert test.risk.max() < 0.35  # two classes; the word that decides is in the embeddings
    exeunt("calibrate run --budget 60% --delta none --policy eero", cwd=tmp_path)
    if "onnx" in executors:
        exeunt("export run", cwd=tmp_path)
    found = []
    for executor in executors:
        predict = f"predict run --data test.csv --out {executor}.parquet --executor {executor}"
        exeunt(predict, cwd=tmp_path)
        found.append(pq.read_table(tmp_path / f"{executor}.parquet").to_pydict())
    for other in found[1:]:
        assert np.mean(np.array(found[0]["label"]) == np.array(other["label"])) > 0.97
    assert len(set(found[0]["exit"])) > 1


LINES = ["good film", "good " * 60, None, 7, "", "bad plot and plot was poor"]


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    copy = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(run, copy)
    exeunt("export run", cwd=copy.parent)
    return copy.parent


@pytest.mark.parametrize("executor", ["eager", pytest.param("onnx", marks=pytest.mark.slow)])
def test_texts_of_any_kind_are_answered_or_told_row_by_row(executor, folder, run, request):
    where = folder if executor == "eager" else request.getfixturevalue("exported")
    lines = [json.dumps({"body": text, "topic": None}) for text in LINES]
    (where / "new.jsonl").write_text("\n".join([*lines, "{broken"]))
    predict = f"predict run --data new.jsonl --out {executor}.parquet --executor {executor} --batch-size 2"
    done = exeunt(predict, cwd=where)
    found = pq.read_table(where / f"{executor}.parquet").to_pydict()
    assert found["name"] == [f"new.jsonl#{i}" for i in range(7)]
    answered = [0, 1, 4, 5]
    assert [i for i, label in enumerate(found["label"]) if label is not None] == answered
    assert [found["truncated"][i] for i in answered] == [False, True, False, False]
    assert "1 text was longer than the network takes and cut" in done.stdout
    assert "cannot read the text new.jsonl#3: it is no text but int" in done.stdout
    assert found["error"][6] == "cannot read the text new.jsonl#6: its line is not JSON"
    assert "new.jsonl#" in refusal(f"{predict} --strict", cwd=where)


def test_pairs_of_texts_need_a_network_for_pairs(folder, run):
    (folder / "pairs.csv").write_text("a,b\ngood,bad\n")
    predict = "predict run --data pairs.csv --out p.parquet --text-column"
    assert PAIRS in refusal(f"{predict} a,b", cwd=folder)
    exeunt(f"{predict} b", cwd=folder)
    assert len(pq.read_table(folder / "p.parquet")) == 1


def test_columns_of_the_training_are_not_asked_of_a_file_of_lines(folder, run):
    """A run whose columns were named answers a `.txt` as others do; a column that is named for it is refused."""
    (folder / "lines.txt").write_text("the film was good\nthe plot was bad\n")
    lines = "predict run --force --data lines.txt --out p.parquet"
    exeunt(lines, cwd=folder)
    assert len(pq.read_table(folder / "p.parquet")) == 2
    assert "is no table and has no column 'body'" in refusal(f"{lines} --text-column body", cwd=folder)


def test_texts_come_from_standard_input_a_line_each(monkeypatch, folder, run):
    """A line that is no text is an error of its row."""
    content = b"good film\nthe plot was awful and the film\ncaf\xe9\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    done = exeunt("predict run --data -", cwd=folder)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["name"] for row in rows] == ["line#0", "line#1", "line#2", "line#3"]
    assert [row["error"] for row in rows] == ["", "", "cannot read the text line#2: it is not UTF-8", ""]
    assert [bool(row["class_name"]) for row in rows] == [True, True, False, True]


@pytest.mark.slow
def test_a_text_network_is_timed(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    done = exeunt("calibrate run --budget '1000 ms' --of time --delta none --batch-size 4", cwd=tmp_path)
    assert "ms" in done.stdout
    assert "at batch 4, texts of " in done.stderr
    assert " tokens" in done.stderr
    assert ex.Policy.load(tmp_path / "run" / "policy.json").cost.unit == "ms"


def test_a_run_needs_neither_the_folder_of_its_model_nor_the_hub(folder, run, answers, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(folder / "test.csv", tmp_path)
    exeunt("predict run --data test.csv --out answers.parquet", cwd=tmp_path)
    assert pq.read_table(tmp_path / "answers.parquet")["label"].equals(answers["label"])


def test_a_tokeniser_that_was_changed_answers_nothing(folder, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    file.write_text(json.dumps(content))
    shutil.copy(folder / "test.csv", tmp_path)
    told = refusal("predict run --data test.csv --out answers.parquet", cwd=tmp_path)
    assert str(file.relative_to(tmp_path)) in told
    assert not (tmp_path / "answers.parquet").exists()
    done = exeunt("verify run", cwd=tmp_path, ok=False)
    assert done.returncode == 1
    assert f"tokenizer        FAILED   {file.relative_to(tmp_path)}" in done.stdout


def test_a_model_without_tokeniser_is_refused(folder, tmp_path):
    shutil.copy(folder / "model" / "config.json", tmp_path)
    assert "no tokeniser" in refusal(f"train --model hf:{tmp_path} {DATA} --out none", cwd=folder)


def test_texts_of_any_length_are_served(run):
    """Tokenisers are not made for threads: the server's share one."""
    pytest.importorskip("fastapi")
    from exeunt.runs.runner import load
    from exeunt.serve.loaded_run import load_run
    from exeunt.serve.settings import Settings

    opened, runner = load_run(Settings(run=run)), load(run)
    texts = [[" ".join(WORDS[i % 6 :][: 1 + (i + j) % 9]) for j in range(8)] for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(opened.reader.texts, [[*some, 7] for some in texts]))
    tickets = [opened.engine.submit(rows.inputs, id=rows.keys) for rows in read]
    while opened.engine.rows:
        opened.engine.step(force=True)
    for some, rows, ticket in zip(texts, read, tickets, strict=True):
        assert [error is None for error in rows.errors] == [True] * 8 + [False]
        wanted, found = runner(runner.prepare(some), id=rows.keys), ticket.answers
        sure = ~(wanted.borderline | found.borderline)
        np.testing.assert_array_equal(found.label[sure], wanted.label[sure])
        np.testing.assert_array_equal(found.exit[sure], wanted.exit[sure])
