"""The comparison measures what a loop by hand measures, whatever the number of processes, and resumes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from exeunt.evaluation import processes
from exeunt.evaluation.cache import SplitCache
from exeunt.evaluation.results import usual_splits
from exeunt.evaluation.statistics import guarantees
from exeunt.rules import baselines
from exeunt.rules.catalogue import PRESETS
from exeunt.trace.grades import Grades

POLICIES = ["eero", "msdnet", "learned_correctness"]
OPTIONS = {"budgets": "40%,60%,80%", "policies": POLICIES, "splits": 3, "seed": 7}
ARRAYS = ("accuracy", "mean_cost", "rates", "oracle", "exits", "mixture_accuracy", "mixture_cost", "parts")


def same(a: ex.Comparison, b: ex.Comparison) -> bool:
    """Whether all but the times agree to the last bit."""
    return a.policies == b.policies and all(
        np.array_equal(getattr(x, name), getattr(y, name), equal_nan=True)
        for x, y in zip(a.traces, b.traces, strict=True)
        for name in ARRAYS
    )


@pytest.fixture(scope="module")
def trace(make_trace):
    return make_trace(500)


@pytest.fixture(scope="module")
def here(trace):
    return ex.compare(trace, **OPTIONS, workers=0)


def test_every_cell_is_one_fit_and_one_replay(trace, here):
    result = here.traces[0]
    for s in range(3):
        fit, calibrate, test = trace.split(seed=7 + s)
        for q, budget in enumerate(["40%", "60%", "80%"]):
            for p, preset in enumerate([ex.eero, baselines.msdnet, ex.learned_correctness]):
                found = ex.evaluate(preset(fit, calibrate, budget=budget, seed=7), test)
                assert result.accuracy[p, q, s] == found.accuracy
                assert result.mean_cost[p, q, s] == found.cost
            assert result.oracle[q, s] == ex.oracle(test, budget).accuracy
        np.testing.assert_array_equal(result.exits[:, s], test.correct.mean(axis=0))
    assert result.parts.tolist() == [150, 100, 250]
    np.testing.assert_allclose(result.rates.sum(axis=-1), 1)
    assert (result.seconds > 0).all()
    assert (result.seconds[:, 0] <= result.seconds[:, 1]).all()


def test_processes_change_nothing_and_progress_is_reported(trace, here, tmp_path, monkeypatch):
    reported, started = [], recorded_starts(monkeypatch)
    other = ex.compare(
        trace, **OPTIONS, workers=1, cache=tmp_path, progress=lambda *done: reported.append(done)
    )
    assert same(other, here)
    assert reported == [(0, 3), (1, 3), (2, 3), (3, 3)]
    (process,) = started
    assert process.returncode is not None


def test_splits_are_shared_out_among_processes(trace, here, tmp_path, monkeypatch):
    """As if each process had measured its splits at once."""
    given = []

    def start(jobs, answers):
        given.append([split for _, split in jobs])
        for cache, split in jobs:
            cache.measure(split)
            answers.write("null\n")
        return SimpleNamespace(poll=lambda: None, terminate=lambda: None, wait=lambda: None)

    monkeypatch.setattr(processes, "_start", start)
    assert same(ex.compare(trace, **OPTIONS, workers=2, cache=tmp_path), here)
    assert given == [[0, 2], [1]]


def recorded_starts(monkeypatch):
    """Return the list of the processes that are started from now on."""
    start, started = processes._start, []
    monkeypatch.setattr(processes, "_start", lambda *given: started.append(start(*given)) or started[-1])
    return started


def test_an_interrupted_run_resumes(trace, here, tmp_path, monkeypatch):
    whole = ex.compare(trace, **OPTIONS, workers=0, cache=tmp_path)
    files = sorted(tmp_path.glob("comparison/*/split-*.json"))
    assert len(files) == 3
    files[1].unlink()
    files[2].write_text(files[2].read_text()[:200])  # as no kill leaves it, but a full disk may
    measured = []
    original = SplitCache.measure

    def measure(cache, split):
        measured.append(split)
        original(cache, split)

    monkeypatch.setattr(SplitCache, "measure", measure)
    again = ex.compare(trace, **OPTIONS, workers=0, cache=tmp_path)
    assert measured == [1, 2]
    assert again.to_dict() == whole.to_dict()  # the times too: those of split 0 were kept
    assert same(again, here)
    more = ex.compare(trace, **{**OPTIONS, "splits": 4}, workers=0, cache=tmp_path)
    assert measured == [1, 2, 3]
    np.testing.assert_array_equal(more.traces[0].accuracy[..., :3], whole.traces[0].accuracy)


def test_whatever_changes_results_is_measured_anew(trace, make_trace, tmp_path):
    few = {"budgets": "50%", "policies": ["msdnet"], "splits": 1, "workers": 0, "cache": tmp_path}
    changes = {"budgets": "60%", "policies": ["eero"], "seed": 1, "test": 0.4, "fit": 0.2, "delta": 0.2}
    for name, value in changes.items():
        ex.compare(trace, **{**few, name: value})
    others = (trace, make_trace(500, seed=1), trace.with_cost(ex.CostModel([1, 2, 3, 4])))
    for other in others:
        ex.compare(other, **few)
    assert len(list(tmp_path.glob("comparison/*"))) == len(changes) + len(others)


SCRIPT = """
import sys
import exeunt as ex
trace = ex.ExitTrace.load(sys.argv[1])
ex.compare(trace, budgets="20%:95%:5%", policies=["optimised"], splits=40, workers=1, cache=sys.argv[2],
           progress=lambda done, of: print(done, flush=True))
"""  # no guard for the main module: processes of the comparison need none


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files_and_no_process(trace, tmp_path):
    trace.save(tmp_path / "trace.parquet")
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path / "trace.parquet", tmp_path / "cache"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(3):
        run.stdout.readline()
    workers = _children(run.pid)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert len(workers) == 1
    for _ in range(600):
        if not _runs(workers[0]):
            break
        time.sleep(0.1)
    assert not _runs(workers[0])
    files = list((tmp_path / "cache").glob("comparison/*/split-*.json"))
    assert 2 <= len(files) < 40
    assert all("record" in json.loads(file.read_text()) for file in files)


@pytest.mark.parametrize("event", ["processes are killed", pytest.param("Ctrl-C", marks=pytest.mark.slow)])
def test_no_process_outlives_a_comparison_that_fails(trace, monkeypatch, event):
    started, n = recorded_starts(monkeypatch), 2 if event == "Ctrl-C" else 1

    def progress(done, _):
        if done == 2 and event == "Ctrl-C":
            raise KeyboardInterrupt
        if done == 2:
            started[0].kill()

    with pytest.raises((RuntimeError, KeyboardInterrupt), match=r"process that measured splits|^$"):
        ex.compare(trace, policies=["optimised"], budgets="50%", splits=200, workers=n, progress=progress)
    assert len(started) == n
    assert all(process.returncode is not None for process in started)
    assert all(process.stdin.closed for process in started)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task")
    if not listed.is_dir():
        pytest.skip("needs /proc")
    return [int(child) for task in listed.iterdir() for child in (task / "children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


# -- what comes in ------------------------------------------------------------------------------------------


def test_several_traces_by_name_and_by_path(trace, make_trace, tmp_path):
    other = make_trace(300, m=2, seed=3)
    trace.save(tmp_path / "first.parquet")
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((90, 2, 3)), rng.integers(0, 3, 90)
    np.savez(tmp_path / "third.npz", logits=logits, labels=labels, macs=np.array([1.0, 2.0]))
    few = {"budgets": ["70%"], "policies": ["eero", "msdnet"], "splits": 2, "workers": 0}
    found = ex.compare({"first": trace, "second": other}, **few)
    assert [result.name for result in found.traces] == ["first", "second"]
    assert found.summary()[1].startswith("On second, at 70% of the cost, ")
    by_path = ex.compare([tmp_path / "first.parquet", str(tmp_path / "third.npz")], **few)
    assert [result.name for result in by_path.traces] == ["first", "third"]
    np.testing.assert_array_equal(by_path.traces[0].accuracy, found.traces[0].accuracy)
    assert by_path.traces[1].cost.unit == "MACs"


def test_budgets_below_the_first_exit_are_left_out_and_named(trace):
    found = ex.compare(trace, budgets="1%,5%,60%", policies=["eero"], splits=1, workers=0)
    assert found.traces[0].shares.tolist() == pytest.approx([0.6])
    assert found.traces[0].left_out == 2
    assert any("2 budgets below the cheapest exit" in sentence for sentence in found.summary())
    assert found.to_dict()["traces"][0]["policies"][0]["points"][0]["accuracy_low"] is None  # a single split
    with pytest.raises(ex.InfeasibleBudget, match="cheapest exit costs"):
        ex.compare(trace, budgets="1%,5%", splits=1)


def test_certified_policies_that_cannot_meet_a_budget_are_empty(trace):
    found = ex.compare(trace, budgets="17%,70%", policies=["eero", "msdnet"], splits=2, delta=1e-6, workers=0)
    assert np.isnan(found.traces[0].accuracy[:, 0]).all()
    assert not np.isnan(found.traces[0].accuracy[:, 1]).any()
    said = " ".join(found.summary())
    assert "`eero` cannot meet 17% of the cost" in said
    assert f"The reason: {found.traces[0].refusals[0]}. " in said
    reason = r"\d+ calibration inputs cannot certify a budget of .* at delta=1e-06"
    assert re.match(reason, found.traces[0].refusals[0])
    assert "no guarantee is seen to be broken" in said
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "policies",
    [["eero", "msdnet", "patience"], pytest.param(sorted(PRESETS), marks=pytest.mark.slow)],
    ids=["three", "all"],
)
def test_every_policy_keeps_its_guarantee_over_the_splits(make_trace, policies):
    """Counted against the distribution of the mean cost of their policies, and not kept by spending next to nothing."""
    options = {"policies": policies, "splits": 6, "delta": 0.2, "workers": 0}
    comparison = ex.compare(make_trace(900), budgets="50%,75%", **options)
    found = guarantees(comparison.traces, 0.2)
    assert {(one.policy, one.of) for one in found} == {(name, 6) for name in policies}
    assert found[0].p_value > 0.01
    result = comparison.traces[0]
    assert (result.mean_cost.mean(axis=-1) > 0.8 * result.amounts).all()
    assert "no guarantee is seen to be broken" in " ".join(comparison.summary())
    # The same counts would not pass for a guarantee of one in a thousand.
    strict = replace(result, chance=np.full_like(result.chance, 0.0014))
    assert guarantees((strict,), 0.001)[0].p_value < 0.01


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"splits": 0}, "at least 1 split"),
        ({"workers": -1}, "0 workers"),
        ({"policies": []}, "got none"),
        ({"policies": ["eero", "eero"]}, "named once"),
        ({"policies": ["best"]}, "no policy 'best'; choose one of eero"),
        ({"delta": 0}, "delta is the probability that the guarantee fails, .*, got 0"),
        ({"budgets": []}, "no budget of none"),
        ({"budgets": "0.1,0.5"}, "no budget of 0.1, 0.5 can be met .* with %, such as 10%"),
        ({"budgets": "0.5%"}, r"cheapest exit costs 1 MMACs, so ask for at least \d+\.\d% of the full cost$"),
        ({"budgets": "5000:7000:1000"}, "every budget of 5000, 6000, 7000 is more than the full cost of"),
        ({"budgets": "half"}, "is no budget"),
        ({"fit": 0.9}, "more than 1"),
        ({"test": 1e-9}, "'test' is empty"),
    ],
)
def test_refusals(trace, options, shown):
    with pytest.raises(ex.InputError, match=shown):
        ex.compare(trace, **options)


def test_many_inputs_get_fewer_splits_by_default_and_the_report_says_so(make_trace):
    assert [usual_splits(n) for n in (0, 3000, 6000, 9000, 10**6)] == [50, 50, 25, 16, 10]
    options = {"budgets": "50%", "policies": ["msdnet"], "workers": 0}
    found = ex.compare(make_trace(12_000), **options)
    assert found.splits == 12
    assert "12 splits are the default for 12,000 inputs: large parts vary little" in found.summary()[-1]
    assert "the default" not in ex.compare(make_trace(300), splits=2, **options).summary()[-1]


def test_the_budget_that_a_refusal_names_is_met(trace):
    with pytest.raises(ex.InfeasibleBudget) as refused:
        ex.compare(trace, budgets="0.5%")
    named = re.search(r"at least (\S+%)", str(refused.value))[1]
    comparison = ex.compare(trace, budgets=named, policies=["msdnet"], splits=1, workers=0)
    assert comparison.traces[0].amounts == pytest.approx([trace.cost.first], rel=0.01)


def test_without_labels_policies_are_compared_by_their_agreement_with_the_last_exit(make_trace):
    trace = make_trace(200, labelled=False)
    options = {"budgets": ["60%"], "policies": ["eero", "optimised"], "splits": 2, "workers": 0}
    found, said = (ex.compare(one, **options).traces[0] for one in (trace, trace.with_reference()))
    assert np.array_equal(found.accuracy, said.accuracy)
    assert (found.exits[-1] == 1.0).all()
    labelled = make_trace(200)
    found, said = (
        ex.compare(one, **options, agreement=asked).traces[0]
        for one, asked in ((labelled, True), (labelled.with_reference(), False))
    )
    assert found.measure == "agreement"
    assert np.array_equal(found.accuracy, said.accuracy)


def test_traces_that_cannot_be_compared_are_refused(trace, tmp_path):
    trace.save(tmp_path / "a.parquet")
    (tmp_path / "file").write_text("")
    for traces, options, shown in (
        ([], {}, "no trace"),
        ([trace, trace], {}, "a name each"),
        (tmp_path / "absent.parquet", {}, "there is no trace file"),
        ([tmp_path / "a.parquet"] * 2, {}, "two traces are named 'a'"),
        (trace, {"splits": 1, "cache": tmp_path / "file"}, "not a folder"),
    ):
        with pytest.raises(ex.InputError, match=shown):
            ex.compare(traces, **options)


@pytest.mark.slow
def test_what_a_policy_refuses_in_a_process_comes_back_as_itself(make_trace):
    found = make_trace(60)
    two = replace(found, scores={"one": found.scores["score"], "other": found.scores["score"]})
    with pytest.raises(ex.InputError, match="several scores and none is 'margin'"):
        ex.compare(two, budgets="60%", policies=["auto"], splits=1, workers=1)


def test_graded_answers_are_compared_by_their_measure(trace, tmp_path):
    """Sentences, files and the report call it by its name; losses of 0 and 1 give the numbers of the labels."""
    graded = replace(trace, label=None, grades=Grades(1.0 - trace.correct, "IoU"))
    options = {"budgets": "50%,80%", "splits": 2, "policies": ["eero", "stopping"], "workers": 0}
    found, usual = (ex.compare({"a": one}, cache=tmp_path / "cache", **options) for one in (graded, trace))
    for name in ("accuracy", "mean_cost", "oracle", "exits", "mixture_accuracy"):
        np.testing.assert_array_equal(getattr(found.traces[0], name), getattr(usual.traces[0], name))
    text = " ".join(found.summary())
    assert re.search(r"`\w+` has IoU \d", text)
    assert re.search(r"an oracle that knows how good each answer is would have IoU \d", text)
    assert "points of IoU, mean over budgets" in str(found)
    assert " right" not in text
    found.save(tmp_path / "found.json")
    assert ex.Comparison.load(tmp_path / "found.json").traces[0].measure == "IoU"
    found.report(tmp_path / "found.html")
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert "<h1>IoU within a budget</h1>" in page
    shown = ex.frontier({"eero": ex.eero}, graded, ["50%"], splits=1)
    assert shown.measure == "IoU"
