"""The command line as a person uses it: every verb, in a folder of its own, on real images."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from cut_once import cut_once
from exeunt._support.sealed_json import content_digest
from exeunt.runs.file_digests import EVALUATED
from exeunt.runs.folder import RunFolder
from exeunt.trace.derived import score_matrix

from .command import environment, exeunt, refusal

pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

TRAIN = (
    "train --model exeunt.zoo:digits --data sklearn:digits --exits 3 --mode joint --epochs 2 --augment none"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a trained and calibrated run."""
    made = tmp_path_factory.mktemp("work")
    exeunt(f"{TRAIN} --out run", cwd=made)
    exeunt("calibrate run --budget 60% --delta 0.1", cwd=made)
    return made


@pytest.fixture(autouse=True, scope="module")
def _cut_once():
    with cut_once(lambda run: run.path.resolve()):
        yield


def test_evaluate_prints_and_draws(folder):
    done = exeunt("evaluate run --splits 1", cwd=folder)
    result, run = json.loads((folder / "run" / "evaluation.json").read_text()), RunFolder.open(folder / "run")
    expected = ex.evaluate(run.policy, run.trace("test"))
    assert result["accuracy"] == expected.accuracy
    assert result["cost"] == expected.cost
    assert f"{expected.accuracy:.2%}" in done.stdout
    figures = {path.stem for path in (folder / "run" / "figures").glob("*.png")}
    assert {"accuracy_against_budget", "cost_against_budget", "risk_per_exit", "rates_and_shares"} <= figures
    written = {f"figures/{path.name}" for path in (folder / "run" / "figures").iterdir()}
    assert written | {"evaluation.json"} == set(EVALUATED)  # which go when the policy is replaced


def test_predict_equals_replay_of_the_recorded_trace(folder):
    exeunt("predict run --data sklearn:digits --out digits.parquet --batch-size 70", cwd=folder)
    found, run = pq.read_table(folder / "digits.parquet").to_pydict(), RunFolder.open(folder / "run")
    test, policy = run.trace("test"), run.policy
    exits, said = policy.route(test), policy.answer.on(test)
    # Batch arithmetic moves scores by some 1e-6: an input that close to a threshold may go either way.
    limits = np.where(np.isinf(policy.thresholds), 99.0, policy.thresholds)
    scores = np.abs(score_matrix(policy.score, said) - limits)
    clear = scores.min(axis=1) > 1e-5
    assert clear.sum() > 0.98 * test.n
    np.testing.assert_array_equal(np.array(found["exit"])[clear], exits[clear])
    labels = said.prediction[np.arange(test.n), exits]
    np.testing.assert_array_equal(np.array(found["label"])[clear], labels[clear])
    np.testing.assert_allclose(found["cost"], policy.cost.cumulative[found["exit"]])


def test_show_tells_everything(folder):
    text = exeunt("show run", cwd=folder).stdout
    words = (
        "exeunt.zoo:digits",
        "blocks.1",
        "risk",
        "Guarantee: with probability",
        "fingerprint",
        "provenance",
    )
    for word in (*words, "torch"):
        assert word in text
    assert json.loads(exeunt("show run --json", cwd=folder).stdout)["format"] == "exeunt-bundle"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("calibrate nowhere --budget 50%", ["nowhere", "does not exist"]),
        ("calibrate run --budget 1%", ["below the cheapest exit", "add an earlier exit"]),
        ("calibrate run --budget 4J", ["'J'", "write MACs"]),
        ("predict run --data nothing-here --out x.parquet", ["nothing-here"]),
        (f"{TRAIN} --seed 1 --out run", ["seed was 0, now 1", "--out"]),
        ("train --model zoo --data sklearn:digits --out x", ["'zoo'", "torchvision:NAME"]),
        ("train --model torchvision:resnet81 --data sklearn:digits --out y", ["resnet81"]),
        (f"{TRAIN} --exits blocks.9 --out z", ["blocks.9", "blocks.1"]),
    ],
)
def test_wrong_input_is_one_line_that_helps(folder, arguments, said):
    told = refusal(arguments, cwd=folder)
    for word in said:
        assert word in told


def test_own_code_needs_trust(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    file = tmp_path / "run" / "bundle.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    manifest["model"]["spec"] = "antigravity:open"
    file.write_text(json.dumps(manifest | {"sha256": content_digest(manifest)}))
    exeunt("calibrate run --budget 60%", cwd=tmp_path)  # a policy is of one manifest alone
    assert "--model antigravity:open" in refusal(
        "predict run --data sklearn:digits --out p.parquet", cwd=tmp_path
    )


@pytest.mark.slow
def test_two_processes_train_the_same_run(folder, tmp_path):
    """Not to the last bit: two processes normalise batches in halves, so only sizes and rough accuracy agree."""
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "-m", "exeunt", *TRAIN.split(), "--out", "run",
        ],
        cwd=tmp_path, env=environment(tmp_path) | {"CUDA_VISIBLE_DEVICES": ""}, check=True, capture_output=True,
    )  # fmt: skip
    alone, together = (ex.ExitTrace.load(f / "run" / "traces" / "test.parquet") for f in (folder, tmp_path))
    np.testing.assert_array_equal(alone.id, together.id)
    assert np.abs(alone.risk - together.risk).max() < 0.2
