"""What a job says of drift at its end."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import exeunt as ex
from exeunt.data import open_inputs
from exeunt.engine.engine import Engine
from exeunt.predicting import predict_inputs, watching
from exeunt.predicting.predict import predict_folder
from exeunt.predicting.watching import watched_job
from exeunt.run.runner import open_shared
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace.derived import score_matrix


@pytest.fixture
def noise(tmp_path):
    """Pictures that are no digits."""
    (tmp_path / "in").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (300, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i:03d}.bmp")
    return open_inputs(tmp_path / "in")


def test_a_job_on_other_inputs_says_so_at_its_end_whatever_their_order(run, noise, tmp_path):
    options = {"trusted": "exeunt.zoo:digits", "say": lambda _: None}
    alone = predict_inputs(run, noise, tmp_path / "out.parquet", **options)
    assert alone.watched.startswith("DRIFT: these inputs are not like those of calibration. ")
    assert alone.watched.endswith(" or the full network can answer.")  # what to do
    assert f"{alone.watched}\nwritten to" in str(alone)
    in_parts = predict_folder(run, noise, str(tmp_path / "out"), block_size=100, **options)
    assert in_parts.watched == alone.watched


def test_a_policy_that_keeps_nothing_to_watch_by_writes_no_scores(run, noise, tmp_path):
    policy = run.policy
    body = {name: value for name, value in policy.to_dict().items() if name != "watched"}
    run.save_policy(ex.Policy.from_dict(body))
    out = tmp_path / "out.parquet"
    done = predict_inputs(run, noise, out, trusted="exeunt.zoo:digits", say=lambda _: None)
    assert done.watched == ""
    table = pq.read_table(out)
    assert table["score"].null_count == table["tie"].null_count == 300
    assert len(watching._decided(watching._seen(run, policy, [out], None), every=3)[0]) == 100
    # Predictions that another policy cannot have made are no reason to fail.
    assert watched_job(run, policy, [out], 300).startswith(("no drift", "DRIFT"))
    pq.write_table(table.set_column(table.column_names.index("exit"), "exit", [[5] * 300]), out)
    assert watched_job(run, policy, [out], 300).startswith(
        f"drift was not watched: {out} has an answer at exit 5"
    )


@pytest.mark.parametrize("calibration", ["sequential", "marginal"])
def test_the_engine_tells_the_scores_and_ties_that_replay_finds(run, calibration):
    parts = run.trace("fit"), run.trace("calibrate")
    policy = ex.compose(
        "thirds", lambda _: np.array([0.4, 0.3, 0.3]), *parts, budget="100%", calibration=calibration
    )
    run.save_policy(policy)
    rng = np.random.default_rng(0)
    inputs = (rng.random((40, 1, 8, 8)).repeat(3, axis=1) < rng.random((40, 1, 1, 1))).astype(np.float32)
    executor = open_shared(run, {"": policy}, trusted="exeunt.zoo:digits").executor
    keys = np.arange(40)
    answers = Engine(executor, policy).answer(inputs, id=keys)
    assert len(set(answers.exit.tolist())) > 1
    np.testing.assert_array_equal(answers.tie, tie_breaks(keys.astype(np.uint64), policy.seed))
    logits, state = [], executor.start(inputs)[0]
    for segment, (first, last) in enumerate(executor.segments):
        found, state = executor.run(segment, state, range(first, last + 1))
        logits += found
    made = ex.ExitTrace.from_logits(np.stack(logits, axis=1), cost=run.cost, id=keys)
    expected = score_matrix(policy.score, made)
    np.testing.assert_allclose(answers.score, expected[np.arange(40), answers.exit], atol=1e-5)
    np.testing.assert_allclose(answers.first_score, expected[:, policy.watched.first], atol=1e-5)
