"""`exeunt predict` with policies for several budgets: the total lasts for all inputs and is used, whoever is killed."""

from __future__ import annotations

import pickle
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from cli.command import called
from exeunt.data import open_inputs
from exeunt.jobs import predict_inputs
from exeunt.jobs.blocks import blocks_of, done_blocks
from exeunt.jobs.parts import JOURNAL
from exeunt.jobs.predict import predict_job
from exeunt.jobs.predict_live import PacedJob
from exeunt.jobs.summary import Tally
from exeunt.live.live_run import live_cascade
from exeunt.live.models_file import read_models
from exeunt.runs.folder import RunFolder
from live.test_live_run import PRICES, made_models, record, shares, table

MODELS = "".join(
    f"{name}: {{function: 'live.test_live_run:{name}', classes: ['no', perhaps, 'yes'], price: {price}}}\n"
    for name, price in PRICES.items()
)
N = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with policies for several budgets, the file of its models, and new inputs."""
    path = tmp_path_factory.mktemp("paced")
    record(made_models(), table(path / "texts.parquet", 500, "text"), path / "run")
    run = RunFolder.open(path / "run")
    parts = run.recorded("fit"), run.recorded("calibrate")
    run.save_policy_set(ex.cascades(*parts, budgets="20%:100%:20%", policy="eero", answer="own"))
    (path / "models.yaml").write_text(MODELS)
    table(path / "new.parquet", N, "new")
    return path


def predict(folder, out, total, run="run"):
    return [
        "predict", str(folder / run), "--models", str(folder / "models.yaml"), "--data", str(folder / "new.parquet"),
        "--total", f"{total:.6f} usd", "--out", str(out),
    ]  # fmt: skip


def spent(said):
    return float(re.search(r"^([\d.]+) usd of .* are spent", said, re.M)[1])


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_total_lasts_and_is_used(folder, tmp_path, share):
    total = share * PRICES["large"] * N
    done = called(*predict(folder, tmp_path / "out.parquet", total))
    assert (done.status, done.err) == (0, "")
    assert f"paced, so that {total:.6f} usd last for all inputs" in done.out
    assert f"give {folder / 'run'}@100% as the run" in done.out
    assert "allowed" not in done.out  # the budget of a policy
    assert 0.95 * total < spent(done.out) <= total
    found = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert sum(cost or 0.0 for cost in found["cost"]) == pytest.approx(spent(done.out), rel=0.02)
    # The exit is that of the model, also where the policy of the largest budget does not ask it.
    run, known = RunFolder.open(folder / "run"), [label is not None for label in found["label"]]
    of = [[*PRICES].index(name) for name in found["asked"]]
    assert [exit_ for exit_ in found["exit"] if exit_ is not None] == [
        at for at, there in zip(of, known, strict=True) if there
    ]
    assert {found["asked"][i] for i in range(N)} - set(run.policy.models)
    assert not any(found["degraded"])  # money was short for nobody


def test_inputs_are_asked_about_in_their_order_whatever_their_lengths(folder, tmp_path, monkeypatch):
    asked, ask = [], ex.LiveCascade.ask
    monkeypatch.setattr(
        ex.LiveCascade, "ask", lambda self, inputs, **how: asked.extend(inputs) or ask(self, inputs, **how)
    )
    texts = [f"new {i}" + " more" * (i % 3) for i in range(30)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "new.parquet")
    options = predict(folder, tmp_path / "out.parquet", 1.0)
    done = called(*(tmp_path / "new.parquet" if one.endswith("new.parquet") else one for one in options))
    assert (done.status, done.err, asked) == (0, "", texts)


def test_a_run_with_its_budget_named_keeps_to_that_policy(folder, tmp_path):
    done = called(*predict(folder, tmp_path / "out.parquet", 4.0, run="run@40%"))
    assert (done.status, done.err) == (0, "")
    assert "paced" not in done.out
    policy = RunFolder.open(folder / "run@40%").policy
    assert set(pq.read_table(tmp_path / "out.parquet")["asked"].to_pylist()) == set(policy.models)


def test_a_killed_job_goes_on_within_the_total_and_uses_it(folder, tmp_path):
    total, out = 0.4 * PRICES["large"] * N, tmp_path / "out.parquet"
    script = KILLED.format(
        tests=str(Path(__file__).parents[1]), command=predict(folder, out, total), after=350
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    journals = [*(tmp_path / ".out.parquet.parts").glob(JOURNAL.format("*"))]
    kept = sum(file.read_text().count("\n") - 1 for file in journals)
    assert 0 < kept < N
    done = called(*predict(folder, out, total))
    assert (done.status, done.err) == (0, "")
    assert 0.93 * total < spent(done.out) <= total  # what was under way counts at its maximum
    assert not any(pq.read_table(out)["degraded"].to_pylist())


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from cli.command import called
from live import test_live_run as t

usual, calls = t.Asked.__call__, []
def counted(self, text):
    calls.append(text)
    if len(calls) == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(self, text)
t.Asked.__call__ = counted
called(*{command!r})
"""


def made_job(folder, tmp_path, total, **options):
    """A job that has begun, its inputs and their blocks; each worker opens the ledger anew."""
    run, inputs = RunFolder.open(folder / "run"), open_inputs(folder / "new.parquet")
    money = partial(ex.Ledger, total=f"{total:.6f} usd", inputs=N, file=tmp_path / "money.db")
    given = {
        "live": live_cascade(run, read_models(folder / "models.yaml")), "money": money,
        "models": folder / "models.yaml", "policies": run.policy_set, **options,
    }  # fmt: skip
    job, blocks = predict_job(run, make=partial(PacedJob, **given)), blocks_of(N, 50)
    (tmp_path / "out").mkdir(exist_ok=True)
    return job.begin(inputs, blocks, folder=tmp_path / "out", digest="job"), inputs, blocks, money()


@pytest.mark.parametrize("spare", [0, 100])
def test_workers_that_share_a_ledger_pace_as_one(folder, tmp_path, spare):
    """Two take turns, and each looks at the ledger before its block. Money for the spare is not spent."""
    total = 0.4 * PRICES["large"] * N
    job, inputs, blocks, ledger = made_job(folder, tmp_path, total, spare=spare)
    workers, paid, tally = [pickle.loads(pickle.dumps(job)) for _ in range(2)], [], Tally()
    for k, block in enumerate(blocks):
        before = ledger.spent
        for done in done_blocks(workers[k % 2], inputs, [block], print):
            tally += done.tally
        paid.append(ledger.spent - before)
    left_for_the_spare = spare * PRICES["small"]
    assert 0.93 * total < ledger.spent + left_for_the_spare <= total
    assert 0.35 * ledger.spent < sum(paid[:4]) < 0.65 * ledger.spent
    assert tally.n_unpaid == 0


def test_where_lost_answers_leave_too_little_the_cheapest_are_given(folder, tmp_path):
    """Of attempts that a worker made before it died nothing comes back; the job goes on with what is left."""
    first, lost = PRICES["small"], 150
    job, inputs, blocks, ledger = made_job(folder, tmp_path, 1.2 * first * N)
    died = ex.Ledger(name=ledger.name, file=tmp_path / "money.db", lease_s=1.0)
    for _ in range(lost):
        assert died.reserve(first, model="small", promised=True).dispatch()
    time.sleep(1.1)
    sent = pickle.loads(pickle.dumps(job))
    tally = sum((done.tally for done in done_blocks(sent, inputs, blocks, print)), Tally())
    assert ledger.spent <= 1.2 * first * N
    silent = sum(shares("small", f"new {i}") is None for i in range(N))
    assert tally.n_answered >= int(1.2 * N) - lost - silent


def test_a_job_whose_answers_are_all_there_needs_no_money(folder, tmp_path):
    total = 0.4 * PRICES["large"] * N
    out, money = tmp_path / "out.parquet", tmp_path / "money.db"
    run = RunFolder.open(folder / "run")

    class Ended(BaseException):
        pass

    class Ends(PacedJob):
        def _cost_apart(self, arrays):
            raise Ended

    def answered(make, total, n):
        live = live_cascade(run, made_models())
        money_ = partial(ex.Ledger, total=f"{total:.6f} usd", inputs=n, file=money)
        made = partial(make, live=live, money=money_, policies=run.policy_set)
        data = open_inputs(table(tmp_path / "few.parquet", n, "few"))
        predict_inputs(run, data, out, make=made, say=lambda _: None)
        return live

    silent = {i for i in range(60) if all(shares(name, f"few {i}") is None for name in PRICES)}
    assert not silent
    with pytest.raises(Ended):
        answered(Ends, total, 60)
    used = ex.Ledger(file=money, total=f"{total:.6f} usd").spent
    live = answered(PacedJob, used + 1e-6, 60)
    assert not any(model.counts for model in live.models.values())
    assert pq.read_table(out).num_rows == 60


def test_without_a_ledger_there_is_nothing_to_pace(folder, tmp_path):
    run = RunFolder.open(folder / "run")
    make = partial(PacedJob, live=live_cascade(run, made_models()), policies=run.policy_set)
    with pytest.raises(ex.InputError, match="a pace spends what a ledger holds"):
        predict_inputs(run, open_inputs(folder / "new.parquet"), tmp_path / "out.parquet", make=make)


def test_policies_that_were_calibrated_anew_are_another_job(folder, tmp_path):
    run, inputs = RunFolder.open(folder / "run"), open_inputs(folder / "new.parquet")
    live, few = live_cascade(run, made_models()), ex.PolicySet(run.policies[1:])
    described = [
        predict_job(run, make=partial(PacedJob, live=live, policies=policies)).describe(
            inputs, by_content=True
        )
        for policies in (run.policy_set, few)
    ]
    assert described[0]["policy"] != described[1]["policy"]
    assert described[0]["models"].keys() == PRICES.keys()
