"""`exeunt watch` says whether predictions in files are still like those of calibration."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt.cli.compare import _watches
from exeunt.jobs.prediction_files import WATCHED
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace.derived import score_matrix

from .command import called


@pytest.fixture
def calibrated(run):
    run.save_policy(ex.eero(run.trace("fit"), run.trace("calibrate"), budget="60%", delta=0.1))
    return run


def predictions(run, rows=slice(None)):
    """What `exeunt predict` writes of test inputs."""
    policy, trace = run.policy, run.trace("test").take(rows)
    exits = policy.route(trace)
    scores = score_matrix(policy.score, trace)
    ties = tie_breaks(trace.keys(policy.ties), policy.seed)
    return {
        "exit": exits, "score": scores[np.arange(trace.n), exits], "first_score": scores[:, 0], "tie": ties,
        "error": np.full(trace.n, None),
    }  # fmt: skip


def hardest(run, n, start=1300):
    """Predictions of 600 test inputs, then of those that the second exit is least sure of."""
    order = np.argsort(run.trace("test").scores["margin"][:, 1])
    return predictions(run, np.concatenate([np.arange(start, start + 600), order[:n]]))


def written(cells, path):
    table = pa.table({name: pa.array(column) for name, column in cells.items()})
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        pq.write_table(table, path)
    return path


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_a_file_of_like_inputs_and_one_of_harder_inputs(calibrated, tmp_path, ending):
    same = called("watch", calibrated.path, written(predictions(calibrated), tmp_path / f"same.{ending}"))
    assert same.status == 0, same.err
    none = r"2,000 inputs watched\nno drift \(evidence at most [\d,]+, an alarm at 100,000\)\n"
    assert re.fullmatch(none, same.out)
    harder = called("watch", calibrated.path, written(hardest(calibrated, 300), tmp_path / f"hard.{ending}"))
    found = re.search(r"Drift: since about input (\d+) \(between \d+ and \d+; noticed at (\d+)\)", harder.out)
    assert 580 < int(found[1]) < 620 < int(found[2]) < 700
    assert "The guarantee of the cost no longer describes them." in harder.out


def test_the_report_of_a_comparison_draws_the_watch_of_a_run_with_a_policy(
    calibrated, tmp_path, monkeypatch, capsys
):
    page, options = tmp_path / "page.html", "--splits 1 --workers 0 --budgets 60% --policies eero"
    done = called(f"compare {options} --cache {tmp_path / 'kept'} --out", page, calibrated.path)
    assert done.status == 0
    about = f"<figcaption><b>{calibrated.path.name}</b>: 2,000 inputs watched: no drift (evidence"
    assert about in page.read_text()
    assert "data:image/svg+xml;base64," in page.read_text()
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    assert _watches({"run": calibrated.path, "trace": calibrated.trace("test")}, 0) == {}
    missing = r"the report does not draw the watches of runs: .*exeunt\[plots\]"
    assert re.search(missing, capsys.readouterr().out)


def test_a_figure_is_drawn_if_it_is_asked_for(calibrated, tmp_path, not_drawn):
    file = written(predictions(calibrated), tmp_path / "same.parquet")
    done = called("watch", calibrated.path, file, "--figure", tmp_path / "watch")
    assert f"written to {tmp_path / 'watch.svg'}" in done.out
    assert (tmp_path / "watch.png").is_file()


def test_the_watch_goes_on_in_a_state_file_and_is_restarted(calibrated, tmp_path):
    first = written(predictions(calibrated, slice(0, 700)), tmp_path / "1.parquet")
    second = written(predictions(calibrated, slice(700, 1400)), tmp_path / "2.parquet")
    later = written(hardest(calibrated, 200, start=1400), tmp_path / "3.parquet")
    watch = f"watch {calibrated.path} --state {tmp_path / 'watch.json'} --run-length 50000"
    assert called(watch, first).out.startswith("700 inputs watched\nno drift")
    assert "an alarm at 50,000" in called(watch, second).out
    assert called(watch, later).out.startswith("2,200 inputs watched\nDrift: since about input 2,001 (")
    assert called(watch, first, "--restart").out.startswith("2,900 inputs watched\nno drift")


def test_inputs_without_an_answer_are_left_out_and_a_folder_of_parts_is_read_in_order(calibrated, tmp_path):
    cells = predictions(calibrated)
    cells["error"][:7] = "cannot be read"
    cells["exit"] = np.where(np.arange(2000) < 5, None, cells["exit"])
    cells["degraded"] = np.arange(2000) == 10
    (tmp_path / "parts").mkdir()
    for start in (0, 1000):
        part = {name: column[start : start + 1000] for name, column in cells.items()}
        written(part, tmp_path / "parts" / f"{start:012d}.parquet")
    told = called("watch", calibrated.path, tmp_path / "parts").out
    assert told.startswith("1,992 inputs watched, 8 left out\n")


def test_without_scores_exits_alone_are_watched(calibrated, tmp_path):
    cells = predictions(calibrated) | {name: np.full(2000, None) for name in WATCHED}
    cells |= {name: pa.array(cells[name], "double") for name in WATCHED}
    file = written(cells, tmp_path / "exits.parquet")
    assert "no drift" in called("watch", calibrated.path, file).out


ANSWER = {"exit": [0], "score": [0.5], "first_score": [0.5], "tie": [0.5]}
NAMED = "name another with --group-column, or write it with `exeunt predict --group-column 'user id'`"


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ({"exit": [0]}, (), "has no column 'score': give predictions of this version"),
        ({"exit": [0], "score": [0.5]}, (), "has no column 'first_score': give predictions of this version"),
        ({**ANSWER, "exit": [7]}, (), "has an answer at exit 7, where the policy of"),
        (ANSWER, ("--group-column", "user id"), NAMED),
        ({**ANSWER, "users": [["a", "b"]]}, ("--group-column", "users"), "the column 'users' holds list<"),
    ],
)
def test_files_that_cannot_be_watched_are_refused(calibrated, tmp_path, cells, options, message):
    done = called("watch", calibrated.path, written(cells, tmp_path / "x.parquet"), *options)
    assert done.status == 2
    assert message in done.err


def test_files_that_are_missing_or_no_predictions_are_named(calibrated, tmp_path):
    (tmp_path / "text.parquet").write_text("text")
    (tmp_path / "parts").mkdir()
    for name, told in (
        ("none.parquet", "there are no predictions at"),
        ("text.parquet", "as predictions"),
        ("parts", "holds no parts of predictions"),
    ):
        done = called("watch", calibrated.path, tmp_path / name)
        assert done.status == 2
        assert told in done.err


def test_options_of_the_state_are_refused_where_they_would_do_nothing(calibrated, tmp_path):
    file = written(predictions(calibrated, slice(100)), tmp_path / "some.parquet")
    watch, state = f"watch {calibrated.path} {file}", f"--state {tmp_path / 'state'}"
    for options, told in (
        ("--restart", "--restart takes back an alarm"),
        (f"--state {tmp_path / 'none' / 'state'}", "does not exist, create it first"),
        (f"{state} --run-length 500", ""),
        (f"{state} --run-length 1000", "has a run length of 500: leave out --run-length"),
        (f"{state} --run-length 500", ""),
    ):
        done = called(f"{watch} {options}")
        assert done.status == (2 if told else 0)
        assert told in done.err
        assert not (told and done.out)


def test_inputs_need_the_column_of_their_groups_where_calibration_inputs_came_in_groups(calibrated, tmp_path):
    calibrated.save_policy(replace(calibrated.policy, n_groups=50))
    cells = predictions(calibrated, slice(0, 100)) | {"user": np.arange(100) // 2}
    watch = ("watch", calibrated.path, written(cells, tmp_path / "x.parquet"))
    told = "came in groups, and these name none: name the column of their groups with --group-column"
    assert told in called(*watch).err
    done = called(*watch, "--group-column", "user")
    assert done.out.startswith("50 groups watched\n"), done.err


def test_conversations_are_drift_unless_each_counts_once(calibrated, tmp_path):
    """40 conversations of 50 turns that are alike, though all of them together are as in calibration."""
    rng, score = np.random.default_rng(0), calibrated.trace("test").scores["margin"][:, 0]
    alike = rng.permuted(np.argsort(score).reshape(40, 50), axis=1)[rng.permutation(40)]
    cells = predictions(calibrated, alike.ravel()) | {"talk": [f"talk {k}" for k in np.repeat(range(40), 50)]}
    file = written(cells, tmp_path / "talks.parquet")
    assert called("watch", calibrated.path, file).out.startswith("2,000 inputs watched\nDrift: since")
    done = called("watch", calibrated.path, file, "--group-column", "talk")
    assert done.out.startswith("40 groups watched\nno drift (evidence"), done.err


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_groups_are_told_apart_by_their_names_as_written_across_parts_and_runs(calibrated, tmp_path, ending):
    names = ["007", "7", "ü", "NA", "7", "007", "a b", "ü", "null", "nan"]
    cells = predictions(calibrated, slice(0, 10)) | {"user": names}
    watch = ("watch --group-column user", calibrated.path, written(cells, tmp_path / f"x.{ending}"))
    state = ("--state", tmp_path / "watch.json")
    for options in ((), state, state):
        assert called(*watch, *options).out.startswith("7 groups watched\n")


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("empty", [None, "", "  "])
def test_a_row_that_names_no_group_is_named_unless_it_is_left_out(calibrated, tmp_path, ending, empty):
    cells = predictions(calibrated, slice(0, 10)) | {"user": [*"abcdef", empty, *"hij"]}
    watch, file = f"watch --group-column user {calibrated.path}", tmp_path / f"x.{ending}"
    if ending != "csv":  # CSV cannot tell an error that is empty from none
        cells["error"] = [*[None] * 6, "cannot be read", *[None] * 3]
        done = called(watch, written(cells, file))
        assert done.out.startswith("9 groups watched, 1 input left out\n"), done.err
    cells["error"] = [None] * 10
    done = called(watch, written(cells, file))
    told = (
        "row 6 of the predictions (rows count from 0) names no group: its cell in the column 'user' is empty"
    )
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"exeunt: {told}")


def test_rows_of_parts_are_counted_together(calibrated, tmp_path):
    (tmp_path / "parts").mkdir()
    for start, last in ((0, 3), (5, None)):
        cells = predictions(calibrated, slice(start, start + 5)) | {"user": pa.array([1, 1, 2, 2, last])}
        written(cells, tmp_path / "parts" / f"{start:012d}.parquet")
    done = called("watch", calibrated.path, tmp_path / "parts", "--group-column", "user")
    assert "row 9 of the predictions (rows count from 0) names no group" in done.err
