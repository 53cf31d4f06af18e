"""A recording of live models is a run: calibrated, evaluated, and answered with by asking, within a total."""

from __future__ import annotations

import hashlib
import pickle
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt.data import open_inputs
from exeunt.jobs import predict_inputs
from exeunt.jobs.blocks import Block, blocks_of, done_blocks
from exeunt.jobs.predict import predict_folder, predict_job
from exeunt.jobs.predict_live import LiveJob
from exeunt.jobs.summary import PredictionSummary, Tally
from exeunt.live.live_run import live_cascade
from exeunt.live.models_file import read_models
from exeunt.live.recording import record_models
from exeunt.runs.folder import RunFolder
from exeunt.runs.verification import verify
from exeunt.score.confidence import NO_ANSWER

CLASSES = ("no", "perhaps", "yes")
PRICES = {"small": 0.001, "medium": 0.003, "large": 0.01}
SKILLS = {"small": 1.0, "medium": 2.0, "large": 3.0}


def truth(text):
    return hashlib.sha256(text.encode()).digest()[0] % 3


def shares(name, text):
    """What a model says: probabilities, the same whenever it is asked; None for one text in twenty."""
    rng = np.random.default_rng(list(hashlib.sha256(f"{name}: {text}".encode()).digest()))
    if rng.random() < 0.05:
        return None
    votes = rng.normal(size=3)
    votes[truth(text)] += SKILLS[name]
    return np.exp(votes) / np.exp(votes).sum()


class Asked:
    """`only`: returns the class and its confidence alone."""

    def __init__(self, name, *, only=False):
        self.name, self.only, self.count = name, only, Counter()

    def __call__(self, text):
        self.count[text] += 1
        said = shares(self.name, text)
        return (CLASSES[said.argmax()], said.max()) if self.only and said is not None else said


def made_models(**options):
    return {
        name: ex.FunctionModel(Asked(name, **options), price=price, classes=CLASSES)
        for name, price in PRICES.items()
    }


def table(path, n, word, **columns):
    texts = [f"{word} {i}" for i in range(n)]
    labels = {"label": [CLASSES[truth(text)] for text in texts]}
    pq.write_table(pa.table({"id": texts, "text": texts, **labels, **columns}), path)
    return path


def record(models, texts, out, **options):
    return record_models(models, open_inputs(texts), out, say=lambda _: None, **options)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return table(tmp_path_factory.mktemp("texts") / "texts.parquet", 600, "text")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return table(tmp_path_factory.mktemp("few") / "texts.parquet", 60, "text")


@pytest.fixture(scope="module", params=[False, True], ids=["probabilities", "confidences"])
def made(request, texts, tmp_path_factory):
    """A recording with a policy, and its models."""
    models = made_models(only=request.param)
    folder = tmp_path_factory.mktemp("recorded") / "run"
    assert record(models, texts, folder).no_run == ""
    run = RunFolder.open(folder)
    run.save_policy(ex.cascade(run.recorded("fit"), run.recorded("calibrate"), budget="60%", policy="eero"))
    return run, models


def answered(run, models, data, out, **options):
    live = live_cascade(run, models, **options)
    predict_inputs(
        run, open_inputs(data), out, make=partial(LiveJob, live=live), say=lambda _: None, force=True
    )
    return pq.read_table(out).to_pydict()


def test_the_traces_are_what_the_models_said(made, texts):
    run, models = made
    whole = run.recorded("fit")
    said = {text: shares("small", text) for text in pq.read_table(texts)["text"].to_pylist()}
    keys = dict(zip(open_inputs(texts).content_keys().tolist(), said.values(), strict=True))
    trace = whole["small"]
    for key, prediction, score in zip(
        trace.id.tolist(), trace.prediction[:, 0], trace.scores["max_probability"][:, 0], strict=True
    ):
        expected = keys[key]
        if expected is None:
            assert (prediction, score) == (NO_ANSWER, -np.inf)
        else:
            assert prediction == expected.argmax()
            assert score == pytest.approx(expected.max(), abs=1e-9)
    assert {part: run.recorded(part).n for part in ("fit", "calibrate", "test")} == {
        "fit": 180, "calibrate": 240, "test": 180,
    }  # fmt: skip
    assert [entry.name for entry in run.cascade] == [*models]
    assert {part.state for part in verify(run.path)} == {"ok"}


def test_answers_are_those_of_replay_at_what_was_paid(made, texts, tmp_path):
    run, models = made
    found = answered(run, models, texts, tmp_path / "out.parquet")
    place = {key: i for i, key in enumerate(open_inputs(texts).content_keys().tolist())}
    live = live_cascade(run, models)
    for part in ("fit", "calibrate", "test"):
        trace = run.recorded(part)
        expected, exits = live.policy.answers(trace), live.policy.route(trace)
        paid = np.cumsum(
            [PRICES[name] * need for name, need in zip(live.policy.models, run.policy.needs, strict=True)]
        )
        for key, code, exit_ in zip(trace.id.tolist(), expected.tolist(), exits.tolist(), strict=True):
            row = place[key]
            assert found["label"][row] == (None if code == NO_ANSWER else code)
            assert found["cost"][row] == pytest.approx(paid[exit_])
            if code != NO_ANSWER:
                assert found["class_name"][row] == CLASSES[code]
                assert 1 / 3 < found["confidence"][row] <= 1


def test_a_total_is_never_exceeded_and_every_input_has_an_answer(made, tmp_path):
    run, models = made
    data = table(tmp_path / "new.parquet", 300, "new")
    first = run.policy.models[int(np.argmax(run.policy.needs))]
    total = 300 * PRICES[first] * 1.3
    ledger = ex.Ledger(total=f"{total} usd", inputs=300)
    found = answered(run, models, data, tmp_path / "out.parquet", ledger=ledger)
    assert total * 0.9 < ledger.spent <= total
    assert (
        ledger.spent - 20 * PRICES[first] <= sum(cost or 0.0 for cost in found["cost"]) <= ledger.spent + 1e-9
    )
    silent = [text for text, label in zip(found["name"], found["label"], strict=True) if label is None]
    for name in silent:  # the first model said nothing, and too little was left for the others
        assert shares(first, f"new {name.rpartition('#')[2]}") is None
    assert 0 < len(silent) < 20
    why = [error for error in found["error"] if error]
    assert len(why) == len(silent)
    assert all("not asked" in one or "gave no answer" in one for one in why)


def test_without_labels_agreement_with_the_dearest_is_measured(few, tmp_path):
    bare = tmp_path / "bare.parquet"
    pq.write_table(pq.read_table(few).drop_columns(["label"]), bare)
    assert record(made_models(), bare, tmp_path / "out").no_run == ""
    run = RunFolder.open(tmp_path / "out")
    assert run.recorded("calibrate").reference == "large"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("text", "choose among the same classes"),
        ("alone", "two or more models"),
        ("confidence", "confidences of classes are probabilities, from 0 to 1, got 3"),
    ],
)
def test_what_can_be_no_run_is_a_table_and_says_why(change, why, few, tmp_path):
    models = made_models()
    if change == "text":
        models["large"] = ex.FunctionModel(lambda text: (text, 0.5), price=1)
    elif change == "alone":
        models = {"large": models["large"]}
    elif change == "confidence":
        models["large"] = ex.FunctionModel(lambda _: ("yes", 3.0), price=1, classes=CLASSES)
    done = record(models, few, tmp_path / "out")
    assert why in done.no_run
    assert "holds a table and is no run" in str(done)
    assert "next: exeunt compare" in str(done)
    assert not RunFolder.exists(tmp_path / "out")


def test_pairs_make_a_run_once_their_columns_are_named(few, tmp_path):
    """Without their names it could not find them in a table to answer."""
    pairs = pa.table({"premise": pq.read_table(few)["text"], "hypothesis": pq.read_table(few)["text"]})
    pq.write_table(pairs, tmp_path / "pairs.parquet")
    models = {name: ex.FunctionModel(lambda pair: ("yes", 0.9), price=1, classes=CLASSES) for name in PRICES}
    names = ["premise", "hypothesis"]
    data, out = open_inputs(tmp_path / "pairs.parquet", text=names), tmp_path / "out"
    assert "a run of pairs of texts knows their columns" in record_models(models, data, out).no_run
    ledger = ex.Ledger(total="1 usd")  # the answers are known: they cost nothing
    done = record_models(models, data, out, name="pairs.parquet", text=names, ledger=ledger)
    assert (done.no_run, done.spent) == ("", 0.0)
    assert RunFolder.open(out).manifest["data"]["text"] == names


def test_a_recording_that_goes_on_loses_the_policy_of_the_old_traces(texts, tmp_path):
    few = table(tmp_path / "few.parquet", 200, "text")
    record(made_models(), few, tmp_path / "out")
    run = RunFolder.open(tmp_path / "out")
    run.save_policy(ex.cascade(run.recorded("fit"), run.recorded("calibrate"), budget="60%"))
    record(made_models(), texts, tmp_path / "out")
    again = RunFolder.open(tmp_path / "out")
    assert again.recorded("calibrate").n == 240
    assert not again.has_policy


def test_costs_that_differ_are_certified_as_such(texts, tmp_path):
    models = made_models()
    models["large"] = ex.FunctionModel(Asked("large"), price=lambda text: 0.001 * len(text), classes=CLASSES)
    record(models, texts, tmp_path / "out")
    run = RunFolder.open(tmp_path / "out")
    cost = run.recorded("calibrate")["large"].cost
    assert cost.varies
    assert cost.highest == pytest.approx(0.001 * len("text 599"))
    policy = ex.cascade(
        run.recorded("fit"), run.recorded("calibrate"), budget="70%", delta=0.1, policy="eero"
    )
    run.save_policy(policy)
    test = run.recorded("test").along(policy.cascade)
    paid = test.cost.per_input[np.arange(test.n), policy.route(test)]
    assert ex.evaluate(policy, run.replayed(policy, "test")).cost == pytest.approx(paid.mean())
    assert RunFolder.open(run.path).policy.budget == policy.budget


@pytest.mark.parametrize("answer", ["own", "best", "ensemble"])
def test_where_no_model_says_anything_there_is_no_answer(made, answer, tmp_path):
    run, _ = made
    policy = ex.cascade(
        run.recorded("fit"), run.recorded("calibrate"), budget="90%", policy="eero", answer=answer
    )
    assert policy.answer.name == answer
    dead = {name: ex.FunctionModel(lambda _: None, price=PRICES[name], classes=CLASSES) for name in PRICES}
    said = ex.LiveCascade(dead, policy).ask_sync(["a", "b"])
    assert [one.answer for one in said] == [None, None]
    trace = run.recorded("test")
    silent = {
        name: ex.ExitTrace(
            prediction=np.full((trace.n, 1), NO_ANSWER),
            scores={score: np.full((trace.n, 1), -np.inf) for score in trace[name].scores},
            log_probability=trace[name].log_probability,
            cost=trace[name].cost,
            label=trace.label,
            id=trace.id,
        )
        for name in trace.names
    }
    assert set(policy.answers(ex.CascadeTrace(silent)).tolist()) == {NO_ANSWER}
    run.save_policy(policy)
    live = ex.LiveCascade(dead, policy, classes=CLASSES)
    data = table(tmp_path / "few.parquet", 3, "few")
    predict_inputs(
        run, open_inputs(data), tmp_path / "out.parquet", say=lambda _: None,
        make=partial(Unchecked, live=live),
    )  # fmt: skip
    found = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["label"] == [None] * 3
    assert all("gave no answer" in why for why in found["error"])


class Unchecked(LiveJob):
    """A job of other models than those that were recorded."""

    def begin(self, *_, **options):
        return self


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"function": len}, "the model 'large' is not the one that"),
        ({"classes": ("no", "yes", "perhaps")}, "is not the one that"),
        ({"classes": None}, "is not the one that"),
        (None, "was recorded of 'large', and there are small, medium"),
    ],
)
def test_other_models_than_those_recorded_are_refused_before_anything_is_paid(made, change, why):
    run, models = made
    given = dict(models)
    if change is None:
        del given["large"]
    else:
        options = {"function": models["large"].function, "classes": CLASSES, **change}
        given["large"] = ex.FunctionModel(options.pop("function"), price=PRICES["large"], **options)
    with pytest.raises(ex.InputError, match=why):
        live_cascade(run, given)


def test_dearer_inputs_than_those_recorded_are_refused(made, tmp_path):
    run, models = made
    dearer = {**models, "large": ex.FunctionModel(models["large"].function, price=0.02, classes=CLASSES)}
    with pytest.raises(
        ex.InputError, match=r"may cost 0\.02 usd at 'large', and at most 0\.01 usd was recorded"
    ):
        answered(run, dearer, table(tmp_path / "few.parquet", 3, "few"), tmp_path / "out.parquet")


def test_a_text_that_is_empty_has_a_row_of_its_own(made, tmp_path):
    run, models = made
    pq.write_table(pa.table({"text": ["new 1", None, "new 2"]}), tmp_path / "few.parquet")
    found = answered(
        run,
        models,
        tmp_path / "few.parquet",
        tmp_path / "out.parquet",
        ledger=ex.Ledger(total="1 usd", inputs=3),
    )
    assert len(found["error"]) == 3
    assert found["label"][1] is None
    assert found["error"][1]


def test_a_run_does_not_outlive_a_recording_that_is_none(few, tmp_path):
    record(made_models(), few, tmp_path / "out")
    models = {**made_models(), "large": ex.FunctionModel(lambda text: (text, 0.5), price=1)}
    with pytest.raises(ex.InputError, match="holds answers of another model 'large'"):
        record(models, few, tmp_path / "out")
    assert record(models, few, tmp_path / "out", force=True).no_run
    assert not RunFolder.exists(tmp_path / "out")


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from functools import partial
from pathlib import Path
import exeunt as ex
from exeunt.data import open_inputs
from exeunt.live.live_run import live_cascade
from exeunt.jobs import predict_inputs
from exeunt.jobs.predict_live import LiveJob
from exeunt.runs.folder import RunFolder
from live import test_live_run as t

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
run, models = RunFolder.open({run!r}), t.made_models(only={only})
calls = []
for model in models.values():
    ask = model.function
    usual = type(ask).__call__
def counted(self, text):
    calls.append(text)
    if len(calls) == {after}:
        os.kill(os.getpid(), signal.{how})
    return usual(self, text)
t.Asked.__call__ = counted
ledger = ex.Ledger(total={total!r}, inputs={n}, file={money!r})
live = live_cascade(run, models, ledger=ledger)
try:
    job = dict(make=partial(LiveJob, live=live), say=lambda _: None)
    predict_inputs(run, open_inputs({data!r}), Path({out!r}), **job)
finally:
    print(len(calls))
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_job_that_ends_early_goes_on_within_its_total(made, tmp_path, how):
    run, models = made
    if models["small"].function.only == (how == "SIGINT"):
        pytest.skip("one kind of models is enough for each")
    data, n = table(tmp_path / "new.parquet", 600, "new"), 600
    first = run.policy.models[int(np.argmax(run.policy.needs))]
    money, out = tmp_path / "money.db", tmp_path / "out.parquet"
    total = n * PRICES[first] * 6
    script = KILLED.format(
        tests=str(Path(__file__).parents[1]), run=str(run.path), only=models["small"].function.only, after=450,
        how=how, total=f"{total} usd", n=n, money=str(money), data=str(data), out=str(out),
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0, done.stderr
    if how == "SIGINT":
        assert int(done.stdout) < 450 + 2 * 64  # what was under way
    ledger = ex.Ledger(total=f"{total} usd", inputs=n, file=money)
    paid = ledger.spent
    assert 0 < paid < total
    for model in models.values():
        model.function.count.clear()
    journals = [*(tmp_path / ".out.parquet.parts").glob("_answers-*.jsonl")]
    kept = sum(file.read_text().count("\n") - 1 for file in journals)
    live = live_cascade(run, models, ledger=ledger)
    predict_inputs(run, open_inputs(data), out, make=partial(LiveJob, live=live), say=lambda _: None)
    found = pq.read_table(out).to_pydict()
    assert kept >= (450 - 3 * 64) // 3  # at most 3 calls for each answer, and 64 inputs under way
    asked = models[first].function.count
    assert len(asked) <= 600 - kept
    assert max(asked.values()) == 1
    assert ledger.spent <= total
    silent = [name for name, label in zip(found["name"], found["label"], strict=True) if label is None]
    for name in silent:
        assert shares(first, f"new {name.rpartition('#')[2]}") is None
    small = ex.Ledger(total=f"{ledger.spent} usd", inputs=n, file=money)
    with pytest.raises(ex.OverBudget, match="an answer for each of 600 inputs to come"):
        answered(run, models, data, tmp_path / "again.parquet", ledger=small)


@pytest.mark.parametrize(
    ("labels", "change", "why"),
    [
        (
            ["no", "maybe"],
            {},
            "few.parquet#1 has the label 'maybe', which is no class of the models (no, perhaps",
        ),
        (["no", None], {}, "few.parquet#1 has no label"),
        (["no", "yes"], {"classes": ("yes", "no", "perhaps")}, "the same classes in another order"),
    ],
)
def test_labels_and_classes_are_checked_before_anything_is_paid(tmp_path, labels, change, why):
    models = made_models()
    if change:
        models["large"] = ex.FunctionModel(models["large"].function, price=1, **change)
    pq.write_table(pa.table({"text": ["a", "b"], "label": labels}), tmp_path / "few.parquet")
    with pytest.raises(ex.InputError, match=re.escape(why)):
        record(models, tmp_path / "few.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not models["small"].function.count


def test_a_model_that_always_fails_is_asked_no_more(few, tmp_path):
    def broken(text):
        raise OSError(f"no connection for {text}")

    models = {**made_models(), "large": ex.FunctionModel(broken, price=0.01, classes=CLASSES)}
    done = record(models, few, tmp_path / "out", concurrency=4)
    assert 20 <= models["large"].counts["failed"] < 30
    assert done.stopped.startswith("large failed 20 times in a row: OSError: no connection for text ")
    assert "no connection" not in (tmp_path / "out" / "answers.jsonl").read_text()
    models["large"] = ex.FunctionModel(Asked("large"), price=0.01, classes=CLASSES)
    assert record(models, few, tmp_path / "out", force=True).no_run == ""


def test_what_another_command_has_paid_for_is_not_thrown_away(made, tmp_path):
    run, models = made
    data, out = table(tmp_path / "new.parquet", 300, "new"), tmp_path / "out.parquet"

    class Ended(BaseException):
        pass

    class Ends(LiveJob):
        def _cost_apart(self, arrays):
            raise Ended  # once the first block is answered

    live = live_cascade(run, models)
    with pytest.raises(Ended):
        predict_inputs(run, open_inputs(data), out, make=partial(Ends, live=live), say=lambda _: None)
    job = {"make": partial(LiveJob, live=live), "say": lambda _: None}
    with pytest.raises(ex.InputError, match="holds answers that were paid for by another command"):
        predict_inputs(run, open_inputs(data, keep=["id"]), out, **job)
    for model in models.values():
        model.function.count.clear()
    predict_inputs(run, open_inputs(data), out, **job)
    silent = sum(shares(name, f"new {i}") is None for name in models for i in range(256))
    asked = [int(text.split()[1]) for model in models.values() for text in model.function.count]
    assert sum(i < 256 for i in asked) <= 3 * silent
    found = pq.read_table(out).to_pydict()
    assert len(found["label"]) == 300
    assert found["asked"][0] in models
    assert found["degraded"] == [False] * 300


def test_answers_that_are_not_whole_are_asked_for_again(made, tmp_path):
    """Those that failed, and those for which a further model could not be paid."""
    run, models = made
    first = run.policy.models[int(np.argmax(run.policy.needs))]
    data, out = table(tmp_path / "new.parquet", 200, "new"), tmp_path / "out.parquet"

    class Ended(BaseException):
        pass

    class Ends(LiveJob):
        def _cost_apart(self, arrays):
            journal = self._journal(Block(0, 200))
            said.update(journal.found)
            degraded.update(np.flatnonzero(arrays["label"] < 0).tolist())
            raise Ended

    said, degraded = {}, set()
    live = live_cascade(run, models, ledger=ex.Ledger(total=f"{200 * PRICES[first] * 1.5} usd", inputs=200))
    with pytest.raises(Ended):
        predict_inputs(run, open_inputs(data), out, make=partial(Ends, live=live), say=lambda _: None)
    assert 0 < len(said) < 200
    assert not said.keys() & degraded
    assert not any("not asked" in str(one["failed"]) for one in said.values())


MODELS = "".join(
    f"{name}: {{function: 'live.test_live_run:{name}', classes: ['no', perhaps, 'yes'], price: {price}}}\n"
    for name, price in PRICES.items()
)
small, medium, large = (Asked(name) for name in PRICES)


@pytest.mark.parametrize("spare", [0, 40])
def test_what_was_under_way_at_a_worker_that_died_is_asked_for_again_while_there_is_money(
    made, tmp_path, spare
):
    """Its attempts count as spent. The spare pays for as many; else some inputs stay without an answer."""
    run, models = made
    if models["small"].function.only:
        pytest.skip("one kind of models is enough")
    n, lost = 300, 40
    first = run.policy.models[int(np.argmax(run.policy.needs))]
    inputs = open_inputs(table(tmp_path / "new.parquet", n, "new"))
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "out").mkdir()
    total = (n + lost) * PRICES[first] * 1.05
    money = partial(ex.Ledger, total=f"{total:.6f} usd", inputs=n, file=tmp_path / "money.db")
    live = live_cascade(run, read_models(tmp_path / "models.yaml"))
    given = {"live": live, "money": money, "spare": spare, "models": tmp_path / "models.yaml"}
    job = predict_job(run, make=partial(LiveJob, **given))
    blocks = blocks_of(n, job.block_size)
    job = job.begin(inputs, blocks, folder=tmp_path / "out", digest="job")
    died = money(lease_s=0.2)  # of a worker; those at work have more time
    for _ in range(lost):
        assert died.reserve(PRICES[first], model=first, promised=True).dispatch()
    sent = pickle.loads(pickle.dumps(job))
    assert "live" not in vars(sent)
    tally = sum((done.tally for done in done_blocks(sent, inputs, blocks, print)), Tally())
    failed = sum(shares(first, f"new {i}") is None for i in range(n))  # the next model is too dear for these
    assert tally.n_unanswered <= failed + (0 if spare else lost)
    assert (tally.n_unpaid > failed) == (spare == 0)
    assert died.spent <= total
    said = str(PredictionSummary.of_job(tally, run.policy, None))
    assert f"{tally.n_unpaid} inputs have no answer because the money was used up" in said


def test_a_worker_does_not_begin_a_lost_ledger_anew(made, tmp_path):
    run, models = made
    (tmp_path / "models.yaml").write_text(MODELS)
    inputs = open_inputs(table(tmp_path / "new.parquet", 3, "new"))
    money = partial(ex.Ledger, total="1 usd", inputs=3, file=tmp_path / "money.db")
    given = {"live": live_cascade(run, models), "money": money, "models": tmp_path / "models.yaml"}
    job = predict_job(run, make=partial(LiveJob, **given)).begin(inputs, blocks_of(3, 3))
    sent = pickle.dumps(job)
    assert pickle.loads(sent).open().ledger.left == 1
    with closing(sqlite3.connect(tmp_path / "money.db")) as connection, connection:
        connection.execute("DELETE FROM account")
    with pytest.raises(ex.InputError, match="there is no ledger"):
        pickle.loads(sent).open()


def test_a_job_that_workers_cannot_open_is_told_before_it_is_sent(made, tmp_path):
    run, models = made
    for options in ({}, {"models": tmp_path / "models.yaml"}):
        live = live_cascade(run, models, ledger=ex.Ledger(total="1 usd"))
        with pytest.raises(ex.InputError, match="workers open the models and the ledger themselves"):
            pickle.dumps(predict_job(run, make=partial(LiveJob, live=live, **options)))


def test_paid_answers_are_not_kept_in_an_object_store(made, tmp_path):
    run, models = made
    inputs = open_inputs(table(tmp_path / "new.parquet", 3, "new"))
    with pytest.raises(ex.InputError, match=r"kept line by line, which memory://.* cannot do"):
        predict_folder(
            run,
            inputs,
            f"memory://{tmp_path}",
            make=partial(LiveJob, live=live_cascade(run, models)),
            say=print,
        )
