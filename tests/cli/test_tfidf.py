"""Tf-idf on a table of texts: a run without PyTorch, and a model of cascades."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

import exeunt as ex
from exeunt.jobs import estimator_run
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import part_data
from exeunt.runs.runner import load

from .command import exeunt, refusal
from .conftest import TFIDF, written

pytest.importorskip("sklearn")
pytest.importorskip("skops")


@pytest.fixture(scope="module")
def folder(tfidf, tmp_path_factory):
    made, said = tfidf
    assert "by the inverse strength of regularisation: 3: " in said
    assert "next: exeunt cascade run RUN" in said
    return shutil.copytree(made, tmp_path_factory.mktemp("tfidf"), dirs_exist_ok=True)


def test_it_is_a_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = RunFolder.open("run")
    assert run.cost.n_exits == 1
    assert 4 * 20 < run.cost.full < 4 * 200  # classes times n-grams of 2 to 4 characters
    assert run.trace("test").risk[0] < 0.2
    train = part_data(run, "train")
    texts = [train.content(i) for i in range(len(train))]
    from sklearn.feature_extraction.text import TfidfVectorizer

    counted = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(texts)
    assert run.cost.full == pytest.approx(4 * counted.nnz / len(texts))
    assert {"fit", "calibrate", "test"} < {*run.manifest["split"]["parts"]}
    assert "within the budget" in exeunt("evaluate run --no-figures", cwd=folder).stdout
    said = exeunt("predict run --data data --out answers.csv", cwd=folder).stdout
    assert "300 of 300" in said
    assert f"accuracy {1 - run.trace('test').risk[0]:.2%}" in said
    assert "tfidf" in exeunt("show", "run", cwd=folder).stdout
    assert "FAILED" not in exeunt("verify", "run", cwd=folder).stdout
    assert "finished already" in exeunt(f"{TFIDF} --out run", cwd=folder).stdout
    exeunt("train --config run/config.yaml --out again", cwd=folder)
    again = RunFolder.open("again").trace("test")
    np.testing.assert_array_equal(again.prediction, run.trace("test").prediction)


def test_policies_are_made_on_other_data_that_are_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "log").mkdir(exist_ok=True)
    written(folder / "log", "calls", 200, 2)
    train = f"{TFIDF} --calibration-data log/calls.csv --out log/run"
    said = exeunt(train, cwd=folder).stdout
    assert "fit              120  validation (200)" in said
    assert "calibrate         80  validation (200)" in said
    run = RunFolder.open("log/run")
    assert run.manifest["data"]["calibration_data"] == "log/calls.csv"
    texts = (folder / "log" / "calls.csv").read_text().splitlines()[1:]
    for part in ("fit", "calibrate"):
        data = part_data(run, part)
        rows = [f"{data.content(i)},{data.class_names[data.labels[i]]}" for i in range(len(data))]
        assert {*rows} <= {*texts}
        assert run.trace(part).n == len(data)
    assert len(part_data(run, "train")) == 700
    assert "finished already" in exeunt(train, cwd=folder).stdout


def test_what_another_process_wrote_meanwhile_is_not_replaced(folder, monkeypatch):
    fitted, out = estimator_run._fitted, folder / "taken"

    def meanwhile(*given):
        out.mkdir()
        (out / "of another").touch()
        return fitted(*given)

    monkeypatch.setattr(estimator_run, "_fitted", meanwhile)
    with pytest.raises(ex.InputError, match="taken holds something else: choose another --out"):
        estimator_run.train_tfidf(str(folder / "data"), out, say=lambda _: None)
    assert [file.name for file in out.iterdir()] == ["of another"]


def test_it_imports_no_torch(folder):
    code = (
        "import sys, exeunt.runs; r = exeunt.load('run', policy=None); "
        "print(r(r.prepare(['where is my card'])).label, 'torch' in sys.modules)"
    )
    done = subprocess.check_output([sys.executable, "-c", code], cwd=folder, text=True)
    assert done.split() == ["[1]", "False"]


def test_cascades(folder, monkeypatch):
    """With a run that learned from more, and with an estimator, which is stored."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import ComplementNB
    from sklearn.pipeline import make_pipeline

    from exeunt.jobs.cascade_run import make_cascade

    monkeypatch.chdir(folder)
    exeunt(f"{TFIDF} --seen --out seen", cwd=folder)
    said = exeunt("cascade run seen --out both", cwd=folder).stdout
    assert "divided anew" in said
    assert "90 to fit, 60 to calibrate, 150 to test" in said
    exeunt("calibrate both --budget 100% --delta none --policy eero", cwd=folder)
    assert "300 of 300" in exeunt("predict both --data data --out both.csv", cwd=folder).stdout

    run = RunFolder.open("run")
    train = part_data(run, "train")
    mine = make_pipeline(CountVectorizer(), ComplementNB())
    texts = [train.content(i) for i in range(len(train))]
    mine.fit(texts, np.array(train.class_names)[train.labels])
    models, price = {"words": mine, "run": run}, {"words": 30}
    cascade = make_cascade(folder / "mine", models, price=price, say=lambda _: None)
    part = part_data(run, "test")
    said = mine.predict([part.content(i) for i in range(len(part))])
    own = cascade.recorded("test")["words"]
    np.testing.assert_array_equal(np.array(train.class_names)[own.prediction[:, 0]], said)
    cascade.path.rename(folder / "elsewhere")  # what it holds goes with it
    cascade = RunFolder.open("elsewhere")
    policy = ex.cascade(*(cascade.recorded(one) for one in ("fit", "calibrate")), budget="30 MACs")
    assert policy.models == ("words",)
    runner = load(cascade, policy=policy)
    answers = runner(runner.prepare(["where is my card", "refund please"]))
    assert [train.class_names[k] for k in answers.label] == ["card", "refund"]


def test_mistakes(folder):
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("")
    (folder / "pairs.csv").write_text("a,b,label\nx,y,1\nz,w,0\n" * 20)
    alike = "\n".join(f"number {i},good" for i in range(100))
    (folder / "alike.csv").write_text(f"text,label\n{alike}\n")
    for arguments, says in (
        (f"{TFIDF} --exits 3 --mode joint --out new", "takes no --exits, --mode:"),
        (f"{TFIDF} --seed 1 --out run", "run holds something else"),
        (f"{TFIDF} --out full", "full holds something else"),
        ("train --model tfidf --data sklearn:digits --out new", "single texts, and sklearn:digits"),
        ("train --model tfidf --data pairs.csv --text-column a,b --out new", "holds pairs of texts"),
        (f"{TFIDF} --fit 0 --out new", "no inputs for fit"),
        ("train --model tfidf --data alike.csv --out new", "and one class teaches nothing"),
        ("export run", "holds the estimator of scikit-learn, and this takes a run that holds the weights"),
        ("bench run", "has one exit"),
        ("calibrate run --budget 100% --of time", "has one exit"),
        ("calibrate run --budget 50%", "below the cheapest exit"),
    ):
        assert says in refusal(arguments, cwd=folder)
    assert not (folder / "new").exists()
