"""`exeunt predict --ledger --engine ray`: workers ask paid models and share a ledger, whoever dies."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray_processes import below

import exeunt as ex
from cli.command import called
from postgresql_server import server

PRICES = {"small": 0.001, "large": 0.01}
MODELS = "".join(
    f"{name}: {{function: 'paid_models:{name}', classes: ['no', 'yes'], price: {price}, concurrency: 8}}\n"
    for name, price in PRICES.items()
)
FUNCTIONS = """
import hashlib, os, time
from pathlib import Path

CALLS, PAUSE = Path(__file__).with_name("calls"), Path(__file__).with_name("pause")

def answer(name, text, skill):
    with open(CALLS, "a") as file:  # what the provider knows, whoever dies then
        file.write(f"{name}\\t{text}\\n")
    if PAUSE.exists():
        time.sleep(float(PAUSE.read_text()))
    luck = hashlib.sha256(f"{name}{text}".encode()).digest()[0] / 256
    truth = int(text.split()[1]) % 3 == 0
    return ("yes" if truth == (luck < skill) else "no"), 0.5 + abs(luck - skill) / 2

def small(text):
    return answer("small", text, 0.75)

def large(text):
    return answer("large", text, 0.95)
"""
N = 120


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with models, a run of them with a policy, and new inputs."""
    folder = tmp_path_factory.mktemp("paid")
    (folder / "models.yaml").write_text(MODELS)
    (folder / "paid_models.py").write_text(FUNCTIONS)
    for file, word, n in (("texts", "text", 150), ("new", "new", N)):
        texts = [f"{word} {i}" for i in range(n)]
        label = np.where(np.arange(n) % 3 == 0, "yes", "no")
        pq.write_table(pa.table({"text": texts, "label": label}), folder / f"{file}.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        record = "record --models models.yaml --data texts.parquet --out run --max-spend 3usd"
        for command in (record, "calibrate run --budget 50%"):
            done = called(*command.split())
            assert done.status == 0, done.err
        yield folder


def predict(out, total, *more, data="new.parquet", run="run"):
    return [
        "predict", run, "--models", "models.yaml", "--data", data, "--total", total, "--out", str(out), *more,
    ]  # fmt: skip


def rows(out):
    return pq.read_table(out).to_pydict()


def calls(folder):
    return Counter(line.split("\t")[0] for line in (folder / "calls").read_text().splitlines())


def bill(folder):
    return sum(PRICES[name] * n for name, n in calls(folder).items())


def spent(done):
    return float(re.search(r"^([\d.]+) usd of .* are spent", done, re.M)[1])


@pytest.mark.slow
def test_a_cluster_answers_as_one_process_does_and_pays_the_same(cluster, recorded, tmp_path):
    secret = "s3cr3t-w0rd"
    address = server().new_database().replace("@/", f":{secret}@/")
    (recorded / "calls").write_text("")
    alone = called(*predict(tmp_path / "alone.parquet", "5 usd"))
    assert (alone.status, alone.err) == (0, "")
    paid = bill(recorded)
    options = ["--ledger", address, "--engine", "ray", "--block-size", "50"]
    done = called(*predict(tmp_path / "out", "5 usd", *options))
    assert (done.status, done.err) == (0, "")
    assert f"{N} of {N} inputs answered" in done.out
    assert spent(done.out) == spent(alone.out) == pytest.approx(paid)
    assert bill(recorded) == pytest.approx(2 * paid)
    assert rows(tmp_path / "out") == rows(tmp_path / "alone.parquet")
    assert {file.name.partition(".")[2] for file in (tmp_path / "out").iterdir()} == {"parquet", "json"}
    again = called(*predict(tmp_path / "out", "5 usd", *options))
    assert (again.status, spent(again.out)) == (0, spent(done.out))
    assert bill(recorded) == pytest.approx(2 * paid)  # nobody was asked again
    for file in (*tmp_path.rglob("*"), *recorded.rglob("*")):
        assert not file.is_file() or secret.encode() not in file.read_bytes()
    assert secret not in done.out + again.out


@pytest.mark.slow
def test_workers_of_a_cluster_pace_a_total(cluster, recorded, tmp_path):
    """Each looks at the ledger that they share, before its block."""
    shutil.copytree(recorded / "run", recorded / "several")
    done = called("calibrate", "several", "--budgets", "20%:80%:20%", "--policy", "eero")
    assert done.status == 0, done.err
    (recorded / "calls").write_text("")
    address, total = server().new_database(), 0.5 * PRICES["large"] * N
    options = ["--ledger", address, "--engine", "ray", "--workers", "2", "--block-size", "20"]
    done = called(*predict(tmp_path / "out", f"{total} usd", *options, run="several"))
    assert (done.status, done.err) == (0, "")
    assert "paced, so that" in done.out
    assert f"{N} of {N} inputs answered" in done.out
    assert spent(done.out) == pytest.approx(bill(recorded))
    assert 0.6 * total < spent(done.out) <= total
    assert set(rows(tmp_path / "out")["asked"]) == {"small", "large"}


JOB = """
import sys
sys.path[:0] = {tests!r}
import ray
from exeunt.jobs.cluster.jobs import ray_module
from cli.command import called
ray_module()
ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="error")
done = called(*{command!r})
print(done.out, flush=True)
print(done.err, file=sys.stderr, flush=True)
sys.exit(done.status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spare", [True, False])
def test_eight_workers_some_killed_stay_within_the_total_while_the_database_restarts(
    recorded, tmp_path, spare
):
    """A total that is used up. With some to spare all inputs have an answer; else the job says how many have none."""
    n, rng = 2400, random.Random(0)
    texts = [f"new {i}" for i in range(n)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "many.parquet")
    (recorded / "calls").write_text("")
    (recorded / "pause").write_text("0.1")
    total = PRICES["small"] * n * (1.5 if spare else 1)
    address = server().new_database()
    command = predict(
        tmp_path / "out", f"{total:.6f} usd", "--ledger", address, "--engine", "ray", "--workers", "8",
        "--block-size", "64", data=str(tmp_path / "many.parquet"),
    )  # fmt: skip
    tests = str(Path(__file__).parents[1])
    job = JOB.format(tests=[tests], command=command)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", job], cwd=recorded, **pipes)
    killed, restarted, end = [], 0, time.monotonic() + 500
    try:
        while process.poll() is None and time.monotonic() < end:
            time.sleep(rng.uniform(0.5, 1.5))
            at_work = sum(calls(recorded).values())
            if at_work > 100 and len(killed) < 3:
                workers = below(process.pid, named="ray::Worker")
                if workers:
                    killed.append(rng.choice(workers))
                    os.kill(killed[-1], signal.SIGKILL)
            if at_work > 300 and restarted < 2:
                server().restart()
                restarted += 1
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        (recorded / "pause").unlink()
    assert process.returncode == 0, err
    assert (len(killed), restarted) == (3, 2)
    name = server().sql("SELECT name FROM exeunt_account", address)[0][0]
    ledger = ex.Ledger(file=address, name=name)
    assert bill(recorded) <= ledger.spent + 1e-9 <= total + 2e-9  # never over, and nothing is forgotten
    assert ledger.reserved == 0
    ledger.close()
    found = rows(tmp_path / "out")
    assert found["name"] == [f"many.parquet#{i}" for i in range(n)]
    silent = [why for label, why in zip(found["label"], found["error"], strict=True) if label is None]
    assert len(silent) <= (0 if spare else 3 * 64)
    assert all("not asked" in why for why in silent)
    if silent:
        assert f"{len(silent)} inputs have no answer because the money was used up" in out
    assert "of which nothing came back" in out
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["tally"]["n_unpaid"] == len(silent)
