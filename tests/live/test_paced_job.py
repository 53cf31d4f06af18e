"""`exeunt predict` with policies for several budgets: the total lasts for all inputs and is used, whoever is killed."""

import asyncio
import pickle
import re
import time
from functools import partial

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
from live.made_models import CLASSES, MODELS, PRICES, Ended, ends, killed, made_models, record, shares, table

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


@pytest.fixture
def run(folder):
    return RunFolder.open(folder / "run")


def command(folder, out, total, *, run="run", data="new.parquet"):
    given = {"models": folder / "models.yaml", "data": folder / data, "total": f"{total:.6f} usd", "out": out}
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    return ["predict", str(folder / run), *options]


def predicted(*given, **options):
    """Return what the command said, and the table of answers."""
    done = called(*command(*given, **options))
    assert (done.status, done.err) == (0, "")
    return done.out, pq.read_table(given[1]).to_pydict()


def spent(said):
    return float(re.search(r"^([\d.]+) usd of .* are spent", said, re.M)[1])


def test_the_total_lasts_and_is_used(folder, run, tmp_path):
    total = 0.25 * PRICES["large"] * N
    said, found = predicted(folder, tmp_path / "out.parquet", total)
    assert f"paced, so that {total:.6f} usd last for all inputs" in said
    assert f"give {folder / 'run'}@100% as the run" in said
    assert "allowed" not in said  # the budget of a policy
    assert 0.95 * total < spent(said) <= total
    assert sum(cost or 0.0 for cost in found["cost"]) == pytest.approx(spent(said), rel=0.02)
    # The exit is that of the model, also where the policy of the largest budget does not ask it.
    known = zip(found["asked"], found["label"], strict=True)
    assert found["exit"] == [None if label is None else [*PRICES].index(name) for name, label in known]
    assert {*found["asked"]} - set(run.policy.models)
    assert not any(found["degraded"])  # money was short for nobody


def test_inputs_are_asked_about_in_their_order_whatever_their_lengths(folder, tmp_path, monkeypatch):
    heard, ask = [], ex.LiveCascade.ask

    def hear(self, inputs, **how):
        heard.extend(inputs)
        return ask(self, inputs, **how)

    monkeypatch.setattr(ex.LiveCascade, "ask", hear)
    texts = [f"new {i}" + " more" * (i % 3) for i in range(30)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "new.parquet")
    predicted(folder, tmp_path / "out.parquet", 1.0, data=tmp_path / "new.parquet")
    assert heard == texts


def test_one_in_ten_of_the_inputs_to_come_is_under_way(run):
    under_way, most, said = 0, 0, made_models()["small"].function

    async def counted(text):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(5):
            await asyncio.sleep(0)
        under_way -= 1
        return await said(text)

    models = {name: ex.FunctionModel(counted, price=0.001, classes=CLASSES) for name in run.policy_set.models}
    cascade = ex.LiveCascade(models, run.policy, classes=CLASSES)
    pace = ex.Pace(run.policy_set, total=50.0, inputs=100)
    for options, expected in (({"pace": pace}, 10), ({"pace": pace}, 5), ({}, 50)):
        most = 0
        cascade.ask_sync([f"new {i}" for i in range(50)], **options)
        assert most == expected


def test_a_run_with_its_budget_named_keeps_to_that_policy(folder, tmp_path):
    few = table(tmp_path / "few.parquet", 100, "few")
    said, found = predicted(folder, tmp_path / "out.parquet", 1.0, run="run@40%", data=few)
    assert "paced" not in said
    assert set(found["asked"]) == set(RunFolder.open(folder / "run@40%").policy.models)


def test_a_killed_job_goes_on_within_the_total_and_uses_it(folder, tmp_path):
    total, out = 0.4 * PRICES["large"] * N, tmp_path / "out.parquet"
    killed(350, f"from cli.command import called\ncalled(*{command(folder, out, total)!r})")
    journals = [*(tmp_path / ".out.parquet.parts").glob(JOURNAL.format("*"))]
    kept = sum(file.read_text().count("\n") - 1 for file in journals)
    assert 0 < kept < N
    said, found = predicted(folder, out, total)
    assert 0.93 * total < spent(said) <= total  # what was under way counts at its maximum
    assert not any(found["degraded"])


def made_job(folder, tmp_path, total, **options):
    """A job that has begun, its inputs and their blocks; each worker opens the ledger anew."""
    run, models = RunFolder.open(folder / "run"), folder / "models.yaml"
    inputs, blocks = open_inputs(folder / "new.parquet"), blocks_of(N, 50)
    money = partial(ex.Ledger, total=f"{total:.6f} usd", inputs=N, file=tmp_path / "money.db")
    given = {"money": money, "models": models, "policies": run.policy_set, **options}
    job = predict_job(run, make=partial(PacedJob, live=live_cascade(run, read_models(models)), **given))
    (tmp_path / "out").mkdir(exist_ok=True)
    return job.begin(inputs, blocks, folder=tmp_path / "out", digest="job"), inputs, blocks, money()


def test_workers_that_share_a_ledger_pace_as_one(folder, tmp_path):
    """Two take turns, and each looks at the ledger before its block. Money for the spare is not spent."""
    total, spare = 0.4 * PRICES["large"] * N, 100
    job, inputs, blocks, ledger = made_job(folder, tmp_path, total, spare=spare)
    workers, paid, tally = [pickle.loads(pickle.dumps(job)) for _ in range(2)], [0.0], Tally()
    for k, block in enumerate(blocks):
        tally += sum((done.tally for done in done_blocks(workers[k % 2], inputs, [block], print)), Tally())
        paid.append(ledger.spent)
    assert 0.93 * total < ledger.spent + spare * PRICES["small"] <= total
    assert 0.35 * ledger.spent < paid[4] < 0.65 * ledger.spent
    assert tally.n_unpaid == 0


def test_where_lost_answers_leave_too_little_the_cheapest_are_given(folder, tmp_path):
    """Of attempts that a worker made before it died nothing comes back; the job goes on with what is left."""
    price, lost = PRICES["small"], 150
    total = round(1.2 * price * N, 6)
    job, inputs, blocks, ledger = made_job(folder, tmp_path, total)
    died = ex.Ledger(name=ledger.name, file=tmp_path / "money.db", lease_s=0.3)
    for _ in range(lost):
        assert died.reserve(price, model="small", promised=True).dispatch()
    time.sleep(0.3)
    sent = pickle.loads(pickle.dumps(job))
    tally = sum((done.tally for done in done_blocks(sent, inputs, blocks, print)), Tally())
    assert ledger.spent <= total
    silent = sum(shares("small", f"new {i}") is None for i in range(N))
    assert tally.n_answered >= int(1.2 * N) - lost - silent


def test_a_job_whose_answers_are_all_there_needs_no_money(run, tmp_path):
    n, total, out, money = 60, 0.4 * PRICES["large"] * N, tmp_path / "out.parquet", tmp_path / "money.db"
    data = open_inputs(table(tmp_path / "few.parquet", n, "few"))

    def answered(make, total):
        live = live_cascade(run, made_models())
        ledger = partial(ex.Ledger, total=f"{total:.6f} usd", inputs=n, file=money)
        made = partial(make, live=live, money=ledger, policies=run.policy_set)
        predict_inputs(run, data, out, make=made, say=lambda _: None)
        return live

    assert not any(all(shares(name, f"few {i}") is None for name in PRICES) for i in range(n))
    with pytest.raises(Ended):
        answered(ends(PacedJob), total)
    live = answered(PacedJob, ex.Ledger(file=money, total=f"{total:.6f} usd").spent + 1e-6)
    assert not any(model.counts for model in live.models.values())
    assert pq.read_table(out).num_rows == n


def test_without_a_ledger_there_is_nothing_to_pace(folder, run, tmp_path):
    make = partial(PacedJob, live=live_cascade(run, made_models()), policies=run.policy_set)
    with pytest.raises(ex.InputError, match="a pace spends what a ledger holds"):
        predict_inputs(run, open_inputs(folder / "new.parquet"), tmp_path / "out.parquet", make=make)


def test_policies_that_were_calibrated_anew_are_another_job(folder, run):
    inputs, live = open_inputs(folder / "new.parquet"), live_cascade(run, made_models())
    jobs = [
        predict_job(run, make=partial(PacedJob, live=live, policies=policies))
        for policies in (run.policy_set, ex.PolicySet(run.policies[1:]))
    ]
    one, other = (job.describe(inputs, by_content=True) for job in jobs)
    assert one["policy"] != other["policy"]
    assert one["models"].keys() == PRICES.keys()
