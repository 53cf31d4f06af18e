"""A recording of live models is a run: calibrated, evaluated, and answered with by asking, within a total."""

import pickle
import re
import shutil
import signal
import sqlite3
from contextlib import closing
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from cli.command import called
from exeunt.data import open_inputs
from exeunt.jobs.blocks import Block, blocks_of, done_blocks
from exeunt.jobs.predict import predict_folder, predict_inputs, predict_job
from exeunt.jobs.predict_live import LiveJob
from exeunt.jobs.summary import PredictionSummary, Tally
from exeunt.live.live_run import live_cascade
from exeunt.live.models_file import read_models
from exeunt.live.recording import record_models
from exeunt.runs.folder import RunFolder
from exeunt.runs.verification import verify
from exeunt.score.confidence import NO_ANSWER
from live import made_models as made_module
from live.made_models import (
    CLASSES,
    MODELS,
    PRICES,
    Ended,
    answered,
    asked,
    ending,
    ends,
    killed,
    made_models,
    record,
    shares,
    table,
)

N = 600


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return table(tmp_path_factory.mktemp("texts") / "texts.parquet", N, "text")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return table(tmp_path_factory.mktemp("few") / "texts.parquet", 60, "text")


def recorded_run(texts, folder, **options):
    models = made_models(**options)
    assert record(models, texts, folder).no_run == ""
    run = RunFolder.open(folder)
    run.save_policy(ex.cascade(run.recorded("fit"), run.recorded("calibrate"), budget="60%", policy="eero"))
    return run, models


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    """A recording of probabilities with a policy, and its models."""
    return recorded_run(texts, tmp_path_factory.mktemp("probabilities") / "run")


@pytest.fixture(scope="module")
def confident(texts, tmp_path_factory):
    """One of confidences alone."""
    return recorded_run(texts, tmp_path_factory.mktemp("confidences") / "run", only=True)


@pytest.fixture
def first(made):
    """The model that is asked first."""
    policy = made[0].policy
    return policy.models[int(np.argmax(policy.needs))]


BOTH = pytest.mark.parametrize("kind", ["made", "confident"])


def silent_at(first, found):
    """Return how many have no answer, of whom the first model said nothing."""
    silent = [text for text, label in zip(found["name"], found["label"], strict=True) if label is None]
    assert all(shares(first, f"new {name.rpartition('#')[2]}") is None for name in silent)
    return len(silent)


@BOTH
def test_the_traces_are_what_the_models_said(request, kind, texts):
    run, models = request.getfixturevalue(kind)
    trace = run.recorded("fit")["small"]
    said = [shares("small", text) for text in pq.read_table(texts)["text"].to_pylist()]
    keys = dict(zip(open_inputs(texts).content_keys().tolist(), said, strict=True))
    scores = trace.scores["max_probability"][:, 0]
    for key, prediction, score in zip(trace.id.tolist(), trace.prediction[:, 0], scores, strict=True):
        if keys[key] is None:
            assert (prediction, score) == (NO_ANSWER, -np.inf)
        else:
            assert prediction == keys[key].argmax()
            assert score == pytest.approx(keys[key].max(), abs=1e-9)
    assert [run.recorded(part).n for part in ("fit", "calibrate", "test")] == [0.3 * N, 0.4 * N, 0.3 * N]
    assert [entry.name for entry in run.cascade] == [*models]
    assert {part.state for part in verify(run.path)} == {"ok"}


@BOTH
def test_answers_are_those_of_replay_at_what_was_paid(request, kind, texts, tmp_path):
    run, models = request.getfixturevalue(kind)
    found = answered(run, models, texts, tmp_path / "out.parquet")
    place = {key: i for i, key in enumerate(open_inputs(texts).content_keys().tolist())}
    policy = live_cascade(run, models).policy
    prices = [PRICES[name] * need for name, need in zip(policy.models, run.policy.needs, strict=True)]
    for part in ("fit", "calibrate", "test"):
        trace = run.recorded(part)
        expected, exits = policy.answers(trace), policy.route(trace)
        for key, code, exit_ in zip(trace.id.tolist(), expected.tolist(), exits.tolist(), strict=True):
            row = place[key]
            assert found["label"][row] == (None if code == NO_ANSWER else code)
            assert found["cost"][row] == pytest.approx(np.cumsum(prices)[exit_])
            if code != NO_ANSWER:
                assert found["class_name"][row] == CLASSES[code]
                assert 1 / 3 < found["confidence"][row] <= 1


def test_a_total_is_never_exceeded_and_every_input_has_an_answer(made, first, tmp_path):
    n, price = 300, PRICES[first]
    total = n * price * 1.3
    ledger, data = ex.Ledger(total=f"{total} usd", inputs=n), table(tmp_path / "new.parquet", n, "new")
    found = answered(*made, data, tmp_path / "out.parquet", ledger=ledger)
    assert total * 0.9 < ledger.spent <= total
    assert ledger.spent - 20 * price <= sum(cost or 0.0 for cost in found["cost"]) <= ledger.spent + 1e-9
    silent = silent_at(first, found)  # and too little was left for the others
    assert 0 < silent < 20
    why = [error for error in found["error"] if error]
    assert len(why) == silent
    assert all("not asked" in one or "gave no answer" in one for one in why)


def test_an_answer_is_degraded_where_a_further_model_was_too_dear(made, tmp_path):
    n, data = 200, table(tmp_path / "new.parquet", 200, "new")
    whole = answered(*made, data, tmp_path / "whole.parquet")
    ledger = ex.Ledger(total=f"{0.6 * sum(whole['cost'])} usd", inputs=n)
    short = answered(*made, data, tmp_path / "short.parquet", ledger=ledger)
    assert not any(whole["degraded"])
    assert 20 < sum(short["degraded"]) < n - 20
    assert short["degraded"] == [
        one != other for one, other in zip(short["asked"], whole["asked"], strict=True)
    ]


def test_answers_of_live_models_are_watched(made, tmp_path, monkeypatch):
    run, models = made
    usual, watched = made_module.shares, []

    def less_sure(name, text):
        said = usual(name, text)
        return said if said is None else said**0.3 / (said**0.3).sum()

    for word, say in (("new", usual), ("other", less_sure)):
        monkeypatch.setattr(made_module, "shares", say)
        data, out = (
            open_inputs(table(tmp_path / f"{word}.parquet", 300, word)),
            tmp_path / f"{word}-out.parquet",
        )
        job = partial(LiveJob, live=live_cascade(run, models))
        done = made_module.predict_inputs(run, data, out, make=job, say=lambda _: None)
        watched += [done.watched, called("watch", run.path, out).out]
    assert watched[0].startswith("no drift: 300 inputs look like those of calibration")
    assert watched[1].startswith("300 inputs watched\nno drift")
    assert watched[2].startswith("DRIFT: these inputs are not like those of calibration.")
    assert "are not like those of calibration." in watched[3]


def test_without_labels_agreement_with_the_dearest_is_measured(few, tmp_path):
    bare = tmp_path / "bare.parquet"
    pq.write_table(pq.read_table(few).drop_columns(["label"]), bare)
    assert record(made_models(), bare, tmp_path / "out").no_run == ""
    assert RunFolder.open(tmp_path / "out").recorded("calibrate").reference == "large"


TEXTS_AS_ANSWERS = ex.FunctionModel(lambda text: (text, 0.5), price=1)


@pytest.mark.parametrize(
    ("models", "why"),
    [
        ({**made_models(), "large": TEXTS_AS_ANSWERS}, "choose among the same classes"),
        ({"large": made_models()["large"]}, "two or more models"),
        (
            {**made_models(), "large": ex.FunctionModel(lambda _: ("yes", 3.0), price=1, classes=CLASSES)},
            "confidences of classes are probabilities, from 0 to 1, got 3",
        ),
    ],
    ids=["texts", "alone", "confidence"],
)
def test_what_can_be_no_run_is_a_table_and_says_why(models, why, few, tmp_path):
    done = record(models, few, tmp_path / "out")
    assert why in done.no_run
    assert "holds a table and is no run" in str(done)
    assert "next: exeunt compare" in str(done)
    assert not RunFolder.exists(tmp_path / "out")


def test_pairs_make_a_run_once_their_columns_are_named(few, tmp_path):
    """Without their names it could not find them in a table to answer."""
    texts, names = pq.read_table(few)["text"], ["premise", "hypothesis"]
    pq.write_table(pa.table([texts, texts], names), tmp_path / "pairs.parquet")
    models = {name: ex.FunctionModel(lambda pair: ("yes", 0.9), price=1, classes=CLASSES) for name in PRICES}
    data, out = open_inputs(tmp_path / "pairs.parquet", text=names), tmp_path / "out"
    assert "a run of pairs of texts knows their columns" in record_models(models, data, out).no_run
    ledger = ex.Ledger(total="1 usd")  # the answers are known: they cost nothing
    done = record_models(models, data, out, name="pairs.parquet", text=names, ledger=ledger)
    assert (done.no_run, done.spent, RunFolder.open(out).manifest["data"]["text"]) == ("", 0.0, names)


def test_a_recording_that_goes_on_loses_the_policy_of_the_old_traces(few, tmp_path):
    record(made_models(), few, tmp_path / "out")
    run = RunFolder.open(tmp_path / "out")
    run.save_policy(ex.cascade(run.recorded("fit"), run.recorded("calibrate"), budget="60%", delta=None))
    assert run.has_policy
    record(made_models(), table(tmp_path / "more.parquet", 100, "text"), tmp_path / "out")
    again = RunFolder.open(tmp_path / "out")
    assert (again.recorded("calibrate").n, again.has_policy) == (40, False)


def test_costs_that_differ_are_certified_as_such(tmp_path):
    models = made_models()
    models["large"] = ex.FunctionModel(asked("large"), price=lambda text: 0.001 * len(text), classes=CLASSES)
    small = ex.FunctionModel(
        asked("small"), price=lambda text: 1e-4 * len(text), classes=CLASSES, retries=2
    )  # each attempt may cost as much
    models["small"] = small
    record(models, table(tmp_path / "texts.parquet", 300, "text"), tmp_path / "out")
    run = RunFolder.open(tmp_path / "out")
    fit, calibrate = run.recorded("fit"), run.recorded("calibrate")
    cost = calibrate["large"].cost
    assert (cost.varies, cost.highest) == (True, pytest.approx(0.001 * len("text 299")))
    assert calibrate["small"].cost.highest == pytest.approx(3 * 1e-4 * len("text 299"))
    policy = ex.cascade(fit, calibrate, budget="70%", delta=0.1, policy="eero")
    run.save_policy(policy)
    test = run.recorded("test").along(policy.cascade)
    paid = test.cost.per_input[np.arange(test.n), policy.route(test)]
    assert ex.evaluate(policy, run.replayed(policy, "test")).cost == pytest.approx(paid.mean())
    assert RunFolder.open(run.path).policy.budget == policy.budget


class Unchecked(LiveJob):
    """A job of other models than those that were recorded."""

    def begin(self, *_, **options):
        return self


ANSWERS = [("made", "own"), ("made", "best"), ("made", "ensemble"), ("confident", "ensemble")]


@pytest.mark.parametrize(("kind", "answer"), ANSWERS)
def test_where_no_model_says_anything_there_is_no_answer(request, kind, answer, tmp_path):
    run = RunFolder.open(shutil.copytree(request.getfixturevalue(kind)[0].path, tmp_path / "run"))
    parts = run.recorded("fit"), run.recorded("calibrate")
    policy = ex.cascade(*parts, budget="90%", policy="eero", answer=answer)
    assert policy.answer.name == answer
    dead = {name: ex.FunctionModel(lambda _: None, price=PRICES[name], classes=CLASSES) for name in PRICES}
    assert [one.answer for one in ex.LiveCascade(dead, policy).ask_sync(["a", "b"])] == [None, None]
    run.save_policy(policy)
    data, out = open_inputs(table(tmp_path / "few.parquet", 3, "few")), tmp_path / "out.parquet"
    live = ex.LiveCascade(dead, policy, classes=CLASSES)
    made_module.predict_inputs(run, data, out, say=lambda _: None, make=partial(Unchecked, live=live))
    found = pq.read_table(out).to_pydict()
    assert found["label"] == [None] * 3
    assert all("gave no answer" in why for why in found["error"])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"function": len}, "the model 'large' is not the one that"),
        ({"classes": ("no", "yes", "perhaps")}, "is not the one that"),
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


def test_probabilities_that_models_do_not_give_are_refused_before_anything_is_paid(made, few, tmp_path):
    ledger = ex.Ledger(total="1 usd")
    job = partial(LiveJob, live=live_cascade(*made, ledger=ledger))
    with pytest.raises(ex.InputError, match="no probabilities of all classes: leave out --top and --prob"):
        predict_inputs(made[0], open_inputs(few), tmp_path / "out.parquet", make=job, top=1)
    assert ledger.spent == 0


def test_dearer_inputs_than_those_recorded_are_refused(made, tmp_path):
    run, models = made
    dearer = {**models, "large": ex.FunctionModel(models["large"].function, price=0.02, classes=CLASSES)}
    data, out = table(tmp_path / "few.parquet", 3, "few"), tmp_path / "out.parquet"
    why = r"may cost 0\.02 usd at 'large', and at most 0\.01 usd was recorded"
    with pytest.raises(ex.InputError, match=why):
        answered(run, dearer, data, out)


def test_a_text_that_is_empty_has_a_row_of_its_own(made, tmp_path):
    data, ledger = tmp_path / "few.parquet", ex.Ledger(total="1 usd", inputs=3)
    pq.write_table(pa.table({"text": ["new 1", None, "new 2"]}), data)
    found = answered(*made, data, tmp_path / "out.parquet", ledger=ledger)
    assert (len(found["error"]), found["label"][1]) == (3, None)
    assert found["error"][1]


def test_a_run_does_not_outlive_a_recording_that_is_none(few, tmp_path):
    record(made_models(), few, tmp_path / "out")
    models = {**made_models(), "large": TEXTS_AS_ANSWERS}
    with pytest.raises(ex.InputError, match="holds answers of another model 'large'"):
        record(models, few, tmp_path / "out")
    assert record(models, few, tmp_path / "out", force=True).no_run
    assert not RunFolder.exists(tmp_path / "out")


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_job_that_ends_early_goes_on_within_its_total(made, first, tmp_path, monkeypatch, how):
    run, models = made
    n, after = 400, 300
    money, out, data = (
        tmp_path / "money.db",
        tmp_path / "out.parquet",
        table(tmp_path / "new.parquet", n, "new"),
    )
    total = n * PRICES[first] * 6
    ledger = partial(ex.Ledger, inputs=n, file=money)
    if how == "SIGKILL":
        killed(
            after,
            f"""
from pathlib import Path
from exeunt.runs.folder import RunFolder
ledger = ex.Ledger(total="{total} usd", inputs={n}, file={str(money)!r})
run, data, out = RunFolder.open({str(run.path)!r}), Path({str(data)!r}), Path({str(out)!r})
made.answered(run, made.made_models(), data, out, ledger=ledger)
""",
        )
    else:
        counted, calls = ending(after, signal.SIGINT)
        monkeypatch.setattr(made_module, "shares", counted)
        usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
        try:
            with pytest.raises(KeyboardInterrupt):
                answered(run, models, data, out, ledger=ledger(total=f"{total} usd"))
        finally:
            signal.signal(signal.SIGINT, usual)
        assert len(calls) < after + 2 * 64  # what was under way
    left = ledger(total=f"{total} usd")
    assert 0 < left.spent < total
    journals = [*(tmp_path / ".out.parquet.parts").glob("_answers-*.jsonl")]
    kept = sum(file.read_text().count("\n") - 1 for file in journals)
    assert kept >= (after - 3 * 64) // 3  # at most 3 calls for each answer, and 64 inputs under way
    models = made_models()
    found = answered(run, models, data, out, force=False, ledger=left)
    counts = models[first].function.count
    assert (len(counts) <= n - kept, max(counts.values())) == (True, 1)
    assert left.spent <= total
    silent_at(first, found)
    small = ledger(total=f"{left.spent} usd")
    with pytest.raises(ex.OverBudget, match=f"an answer for each of {n} inputs to come"):
        answered(run, models, data, tmp_path / "again.parquet", ledger=small)


@pytest.mark.parametrize(
    ("labels", "classes", "why"),
    [
        (
            ["no", "maybe"],
            CLASSES,
            "few.parquet#1 has the label 'maybe', which is no class of the models (no",
        ),
        (["no", None], CLASSES, "few.parquet#1 has no label"),
        (["no", "yes"], ("yes", "no", "perhaps"), "the same classes in another order"),
    ],
)
def test_labels_and_classes_are_checked_before_anything_is_paid(tmp_path, labels, classes, why):
    models = made_models()
    models["large"] = ex.FunctionModel(models["large"].function, price=1, classes=classes)
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
    models["large"] = ex.FunctionModel(asked("large"), price=0.01, classes=CLASSES)
    assert record(models, few, tmp_path / "out", force=True).no_run == ""


def test_what_another_command_has_paid_for_is_not_thrown_away(made, tmp_path):
    run, block, n = made[0], 256, 270
    data, out = table(tmp_path / "new.parquet", n, "new"), tmp_path / "out.parquet"
    with pytest.raises(Ended):
        answered(*made, data, out, make=ends(), force=False)
    with pytest.raises(ex.InputError, match="holds answers that were paid for by another command"):
        answered(*made, data, out, force=False, keep=["id"])
    models = made_models()
    found = answered(run, models, data, out, force=False)
    silent = sum(shares(name, f"new {i}") is None for name in models for i in range(block))
    texts = [text for model in models.values() for text in model.function.count]
    assert sum(int(text.split()[1]) < block for text in texts) <= 3 * silent
    assert found["asked"][0] in models
    assert found["degraded"] == [False] * n


def test_answers_that_are_not_whole_are_asked_for_again(made, first, tmp_path):
    """Those that failed, and those for which a further model could not be paid."""
    n, said, degraded = 150, {}, set()
    data, out = table(tmp_path / "new.parquet", n, "new"), tmp_path / "out.parquet"

    def see(job, arrays):
        said.update(job._journal(Block(0, n)).found)
        degraded.update(np.flatnonzero(arrays["label"] < 0).tolist())

    ledger = ex.Ledger(total=f"{n * PRICES[first] * 1.5} usd", inputs=n)
    with pytest.raises(Ended):
        answered(*made, data, out, make=ends(see=see), ledger=ledger)
    assert 0 < len(said) < n
    assert not said.keys() & degraded
    assert not any("not asked" in str(one["failed"]) for one in said.values())


def file_of_models(folder):
    file = folder / "models.yaml"
    file.write_text(MODELS)
    return file


@pytest.mark.parametrize("spare", [0, 40])
def test_what_was_under_way_at_a_dead_worker_is_asked_for_again_while_there_is_money(
    made, first, tmp_path, spare
):
    """Its attempts count as spent. The spare pays for as many; else some inputs stay without an answer."""
    run, n, lost, models = made[0], 260, 40, file_of_models(tmp_path)
    inputs = open_inputs(table(tmp_path / "new.parquet", n, "new"))
    (tmp_path / "out").mkdir()
    total = (n + lost) * PRICES[first] * 1.05
    money = partial(ex.Ledger, total=f"{total:.6f} usd", inputs=n, file=tmp_path / "money.db")
    given = {"live": live_cascade(run, read_models(models)), "money": money, "spare": spare, "models": models}
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
    inputs = open_inputs(table(tmp_path / "new.parquet", 3, "new"))
    money = partial(ex.Ledger, total="1 usd", inputs=3, file=tmp_path / "money.db")
    given = {"live": live_cascade(*made), "money": money, "models": file_of_models(tmp_path)}
    sent = pickle.dumps(predict_job(made[0], make=partial(LiveJob, **given)).begin(inputs, blocks_of(3, 3)))
    assert pickle.loads(sent).open().ledger.left == 1
    with closing(sqlite3.connect(tmp_path / "money.db")) as connection, connection:
        connection.execute("DELETE FROM account")
    with pytest.raises(ex.InputError, match="there is no ledger"):
        pickle.loads(sent).open()


def test_a_job_that_workers_cannot_open_is_told_before_it_is_sent(made, tmp_path):
    live = live_cascade(*made, ledger=ex.Ledger(total="1 usd"))
    for options in ({}, {"models": tmp_path / "models.yaml"}):
        job = predict_job(made[0], make=partial(LiveJob, live=live, **options))
        with pytest.raises(ex.InputError, match="workers open the models and the ledger themselves"):
            pickle.dumps(job)


def test_paid_answers_are_not_kept_in_an_object_store(made, tmp_path):
    inputs = open_inputs(table(tmp_path / "new.parquet", 3, "new"))
    make, store = partial(LiveJob, live=live_cascade(*made)), f"memory://{tmp_path}"
    with pytest.raises(ex.InputError, match=r"kept line by line, which memory://.* cannot do"):
        predict_folder(made[0], inputs, store, make=make, say=print)
