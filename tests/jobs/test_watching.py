"""What a job says of drift at its end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_inputs import FACTORY, cells, noise, quiet, write_pictures

import exeunt as ex
from cli.command import called
from exeunt.data import open_inputs
from exeunt.engine.engine import Engine
from exeunt.jobs import predict_inputs, watching
from exeunt.jobs.predict import predict_folder
from exeunt.jobs.watching import watched_job
from exeunt.runs.runner import open_shared
from exeunt.score.tie_breaking import scramble, tie_breaks
from exeunt.trace.derived import score_matrix


@pytest.fixture
def unlike(tmp_path):
    """Pictures that are no digits."""
    return open_inputs(write_pictures(tmp_path / "in", noise(300)))


OPTIONS = {"trusted": FACTORY, "say": quiet}


def without_watch(run):
    """Save the policy of a run without what it is watched by."""
    body = {name: value for name, value in run.policy.to_dict().items() if name != "watched"}
    run.save_policy(ex.Policy.from_dict(body))


def test_a_job_on_other_inputs_says_so_at_its_end_whatever_their_order(run, unlike, tmp_path):
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    alone = predict_inputs(run, unlike, tmp_path / "out.parquet", **OPTIONS)
    assert alone.watched.startswith("DRIFT: these inputs are not like those of calibration. ")
    assert alone.watched.endswith(" or the full network can answer.")  # what to do
    assert f"{alone.watched}\nwritten to" in str(alone)
    in_parts = predict_folder(run, unlike, str(tmp_path / "out"), block_size=100, **OPTIONS)
    assert in_parts.watched == alone.watched
    assert {file: file.read_bytes() for file in before} == before  # it tells, and changes nothing


def test_a_policy_that_keeps_nothing_to_watch_by_writes_no_scores(run, unlike, tmp_path):
    policy, out = run.policy, tmp_path / "out.parquet"
    without_watch(run)
    assert predict_inputs(run, unlike, out, **OPTIONS).watched == ""
    table = pq.read_table(out)
    assert table["score"].null_count == table["tie"].null_count == 300
    assert len(watching._counted(watching._seen(run, policy, [out], None), every=3)[0]) == 100
    # Predictions that another policy cannot have made are no reason to fail.
    assert watched_job(run, policy, [out], 300).startswith(("no drift", "DRIFT"))
    pq.write_table(table.set_column(table.column_names.index("exit"), "exit", [[5] * 300]), out)
    told = f"drift was not watched: {out} has an answer at exit 5"
    assert watched_job(run, policy, [out], 300).startswith(told)


@pytest.fixture
def log(tmp_path):
    """Twelve images of four talks, whose turns came among those of others; the last names its talk badly."""
    talks = ["a", "a", "b", "a", "c", "b", "c", "a", "b", "b", "d", "d"]
    columns = {"image": cells(noise(12)), "talk": talks, "badly": [*talks[:-1], None], "n": [*range(12)]}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


@pytest.mark.parametrize("in_calibration", [False, True])
def test_a_job_counts_each_group_once_or_says_that_nothing_was_watched(run, log, tmp_path, in_calibration):
    if in_calibration:
        run.save_policy(replace(run.policy, n_groups=50))
    command = ("predict", run.path, "--data", log, "--out", tmp_path / "out.parquet", "--model", FACTORY)
    done = called(*command, "--group-column", "talk", "--keep", "n")
    assert "no drift: 4 groups look like those of calibration (evidence at most" in done.out, done.err
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names[-2:] == ["n", "talk"]
    told = called("watch", run.path, tmp_path / "out.parquet", "--group-column", "talk").out
    assert told.startswith("4 groups watched\n")
    told = "no drift: 12 inputs look like those of calibration"
    if in_calibration:
        told = "drift was not watched: the calibration inputs came in groups, and these name none: name the"
    assert told in called(*command).out
    badly = called(*command, "--group-column", "badly")
    assert "drift was not watched: row 11 of the predictions (rows count from 0) names no group" in badly.out
    assert badly.status == 0


def test_columns_of_groups_that_there_are_not_are_named_before_any_work(run, log, unlike, tmp_path):
    out, lacks = tmp_path / "out.parquet", "has no column 'user'"
    for data, into, told in (
        (log, out, f"{lacks}; its columns are image, talk, badly, n (name another with --group-column)"),
        (log, "-", "drift is looked for in a file of predictions: name one with --out, or leave out --gr"),
        (tmp_path / "in", out, f"is no table and {lacks}: leave it out"),
        ("-", out, f"{lacks}: name a table with --data, or leave out --group-column"),
    ):
        asked = ("--data", data, "--group-column", "user", "--out", into)
        done = called("predict", run.path, "--model", FACTORY, *asked)
        assert told in done.err
        assert done.status == 2
        assert not out.exists()
    told = r"groups are a column that is kept: open_inputs\(..., keep=\['user'\]"
    with pytest.raises(ex.InputError, match=told):
        predict_inputs(run, unlike, out, group_column="user")


def test_a_policy_that_keeps_nothing_to_watch_by_says_so_where_groups_are_named(run, log, tmp_path):
    without_watch(run)
    inputs = open_inputs(log, keep=["talk"])
    done = predict_inputs(run, inputs, tmp_path / "out.parquet", group_column="talk", **OPTIONS)
    assert done.watched == "drift was not watched: this policy keeps nothing to watch by"


@pytest.mark.parametrize("every", [1, 3])
def test_the_first_decided_row_of_each_group_counts_also_across_parts(every):
    """Against a loop over the rows. Of more predictions than are watched, whole groups are left out."""
    rng = np.random.default_rng(every)
    sizes = [7, 0, 40, 53]
    names = rng.integers(0, 30, sum(sizes)).astype(np.uint64)
    exits, scores = rng.integers(0, 3, sum(sizes)), rng.random(sum(sizes))
    parts, start = [], 0
    for size in sizes:
        rows = slice(start, start + size)
        parts.append(watching._Seen(exits[rows], (scores[rows], scores[rows], None), names[rows], 0))
        start += size
    found = watching._counted(parts, every=every)
    first = dict(zip(names[::-1].tolist(), range(len(names) - 1, -1, -1), strict=True))
    kept = {name for name in first if int(scramble(np.array([name], np.uint64))[0]) % every == 0}
    expected = sorted(first[name] for name in kept)
    assert 3 < len(expected) < 20 if every > 1 else len(expected) == len(first)
    assert found[0].tolist() == exits[expected].tolist()
    assert found[1].tolist() == found[2].tolist() == scores[expected].tolist()
    assert found[3] is None


@pytest.mark.parametrize("calibration", ["sequential", "marginal"])
def test_the_engine_tells_the_scores_and_ties_that_replay_finds(run, calibration):
    parts = run.trace("fit"), run.trace("calibrate")
    options = {"budget": "100%", "calibration": calibration}
    policy = ex.compose("thirds", lambda _: np.array([0.4, 0.3, 0.3]), *parts, **options)
    run.save_policy(policy)
    rng = np.random.default_rng(0)
    inputs = (rng.random((40, 1, 8, 8)).repeat(3, axis=1) < rng.random((40, 1, 1, 1))).astype(np.float32)
    executor = open_shared(run, {"": policy}, trusted=FACTORY).executor
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
