"""Runs that are made from runs, on the command line: at another precision, and cascades."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from cut_once import cut_once
from exeunt.cli.bench import _alone
from exeunt.jobs.timed_run import TimedNetwork
from exeunt.runs.file_digests import TRACED
from exeunt.runs.folder import RunFolder
from exeunt.trace.cascade_step import CascadeStep

from .command import exeunt, refusal

pytest.importorskip("onnxscript")

TRAIN = (
    "train --model exeunt.zoo:digits --data sklearn:digits --exits 2 --mode joint --epochs 2 --augment none --fit 150 "
    "--calibrate 150"
)
pytestmark = pytest.mark.usefixtures("not_drawn")
TIMED = "--repeats 2 --max-seconds 0.2"


@pytest.fixture(autouse=True, scope="module")
def _cut_once():
    with cut_once(lambda run: run.weights.read_bytes()):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("work")
    exeunt(f"{TRAIN} --out run", cwd=made)
    said = exeunt("export run --precision int8", cwd=made).stdout
    for words in (
        "3 stages written to run/onnx",
        "quantising 3 stages to int8",
        "on 500 test inputs, before ",
        "points lost (95% interval",
        "exeunt calibrate run@int8",
    ):
        assert words in said
    exeunt("cascade small=run@int8 run --out both", cwd=made)
    return made


@pytest.fixture
def said(folder):
    """Return a function from a command to what it prints."""
    return lambda *arguments: exeunt(*arguments, cwd=folder).stdout


@pytest.fixture
def refused(folder):
    """Return a function from a command that fails to what it complains of."""
    return lambda *arguments: refusal(*arguments, cwd=folder)


def test_every_command_takes_a_run_at_another_precision(folder, said, refused):
    said("calibrate run@int8 --budget 70% --policy eero")
    assert "the full network is" in said("evaluate run@int8 --no-figures")
    assert "precision       int8" in said("show run@int8")
    assert "8 of 8 parts" in said("verify run@int8")
    assert "500 of 500" in said("predict run@int8 --data sklearn:digits --out int8.csv")
    assert "network: precision" in said("diff run run@int8")
    timed = said(f"bench run@int8 --batch-size 8 {TIMED}")
    assert "MACs left" in timed
    right = [1 - RunFolder.open(folder / run).trace("test").risk[-1] for run in ("run/int8", "run")]
    for name, one in zip(("original model", "original model at fp32"), right, strict=True):
        assert re.search(rf"^{name} +{one:.2%} ", timed, re.M)
    assert (folder / "run" / "int8" / "figures" / "accuracy_against_time-onnx.png").is_file()
    made_from = "run/int8 is a run at int8 already: export the run that it was made from"
    assert made_from in refused("export run@int8")


def test_a_cascade_is_a_run(folder, said, refused):
    shown = said("show both")
    for exit_ in ("small: last exit", "run: blocks.1", "run: last exit"):
        assert exit_ in shown
    assert "written to both" in said("calibrate both --budget 90% --policy eero")
    evaluated = said("evaluate both --splits 1")
    assert " alone is" in evaluated
    assert "both/figures/accuracy_against_budget.png" in evaluated
    assert "500 of 500" in said("predict both --data sklearn:digits --out both.csv")
    assert "FAILED" not in said("verify both")
    run = RunFolder.open(folder / "both")
    for guarantee in ("--budgets 60%,90%", "--max-loss 20%"):
        said(f"calibrate both {guarantee} --policy eero --answer own")
        assert {policy.answer.name for policy in run.policies} == {"own"}
    agreed = said("calibrate both --agree 80% --reference small --policy eero")
    assert "at most 20% of the answers differ from those of small" in agreed
    evaluated = said("evaluate both --no-figures")
    assert "of the answers of small" in evaluated
    assert "small alone is" in evaluated
    huge = refused("calibrate both --agree 80% --reference huge")
    assert "there is no model 'huge': choose one of small, run" in huge
    pickled = refused("cascade small.pkl run --out third")
    assert "small.pkl is taken for a pickled model, which is not opened" in pickled


@pytest.mark.filterwarnings("ignore:a budget of:exeunt.errors.ExeuntWarning")
@pytest.mark.parametrize("run", ["run", "both"])
def test_budgets_of_time(folder, said, refused, run, tmp_path):
    """How long a machine takes is its own: a budget for everything, and one for nothing."""
    timed = f"calibrate {run} --of time --batch-size 32 --policy eero"
    done = exeunt(f"{timed} --budget 1000000% --delta none", cwd=folder)
    assert "exits that pay for their time" in done.stderr
    assert "ms" in done.stdout
    policy = RunFolder.open(folder / run).policy
    assert policy.cost.unit == "ms"
    assert policy.cascade
    said(f"evaluate {run} --no-figures")
    assert "500 of 500" in said(f"predict {run} --data sklearn:digits --out", tmp_path / "out.csv")
    assert "ask for" in refused(f"{timed} --budget 0.0000001ms")


def test_bench_times_a_policy_that_switches_exits_off(folder, said):
    """As one does that was made for a budget of time. Its exits have numbers of their own."""
    run, steps = RunFolder.open(folder / "run"), (CascadeStep("", (0, 2)),)
    parts = (run.recorded(part).along(steps) for part in ("fit", "calibrate"))
    run.save_policy(replace(ex.eero(*parts, budget="75%"), cascade=steps))
    assert "time was not measured: `exeunt bench run` measures it" in said("evaluate run --no-figures")
    timed = said(f"bench run --batch-size 64,8 {TIMED} --profile")
    rows = [re.split(r" {2,}", line) for line in timed.splitlines() if "%  " in line]
    assert [row[0] for row in rows].count("budget 60%, by the plan") == 2  # at either batch size
    assert rows[-1][0] == "the run's policy"  # it runs exits of its own, without the plan
    found = ex.evaluate(run.policy, run.recorded("test"))
    assert rows[-1][1] == f"{found.accuracy:.2%}"
    spent = found.cost / run.manifest["model"]["macs"]
    assert float(rows[-1][2].rstrip("%")) / 100 == pytest.approx(spent, rel=0.05)
    told = re.search(
        r"^time on this machine: (\d.*) in batches of 8, (\d.*) in batches of 64, of that of the original model",
        said("evaluate run --no-figures"),
        re.M,
    )
    assert told
    own = [row[-2] for row in rows if row[0] == "the run's policy"]
    assert [*told.groups()] == own


def test_bench_opens_models_as_those_whose_code_is_trusted(folder, monkeypatch):
    given = []

    def open_executor(run, name, *, segments, **options):
        given.append(options)
        return SimpleNamespace(n_exits=run.cost.n_exits)

    monkeypatch.setattr("exeunt.jobs.timed_run.open_executor", open_executor)
    list(_alone(TimedNetwork.of(RunFolder.open(folder / "both"), None, "mine:network"), [1], 1.0))
    assert given == [{"trusted": "mine:network"}] * 2


def test_models_alone_are_right_on_the_inputs_of_the_cascade(folder):
    """Where the models' parts differ, a cascade tests on others than they do."""
    exeunt(f"{TRAIN} --seed 1 --out other", cwd=folder)
    exeunt("cascade run other --out divided", cwd=folder)
    run = RunFolder.open(folder / "divided")
    assert run.trace("test").n < RunFolder.open(folder / "other").trace("test").n
    found = {way.name: way.accuracy for way in _alone(TimedNetwork.of(run, None, None), [1], 1.0)}
    test = run.trace("test")
    answers, label = test.prediction, test.label
    expected = {"run alone": (answers[:, 2] == label).mean(), "other alone": (answers[:, 5] == label).mean()}
    int8 = [RunFolder.open(folder / "run" / "int8").trace(part) for part in TRACED]
    right = {
        key: is_right for trace in int8 for key, is_right in zip(trace.id, trace.correct[:, -1], strict=True)
    }
    expected["run alone at int8"] = np.mean([right[key] for key in test.id])
    assert found == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:a budget of:exeunt.errors.ExeuntWarning")
def test_a_loss_of_a_timed_cascade_is_told_of_the_model_that_it_is_tested_against(said):
    told = said(
        "calibrate both --max-loss 30% --budget 1000000% --of time --batch-size 32 --policy eero --answer own"
    )
    assert "the long-run accuracy per input is at most 30 points below that of run" in told


@pytest.fixture
def budgets_timed(monkeypatch):
    """The budgets for which exits were to be timed, which are then too small."""
    given = []

    def choose(run, rule, budgets, *_, **__):
        given.append(list(budgets))
        raise ex.InfeasibleBudget("it is below the cheapest exit", smallest_budget=2.0)

    monkeypatch.setattr("exeunt.jobs.timed_run.choose_by_time", choose)
    return given


def test_a_budget_that_was_not_asked_for_is_told_of(refused, budgets_timed):
    """A loss alone is calibrated on exits for a typical budget, which small networks may not keep."""
    for asked, budget in (("", "70%"), ("--budget 60%", "60%")):
        told = refused(f"calibrate run --max-loss 30% --of time {asked}")
        assert f"at batch 64, exits for a budget of {budget}:\nexeunt: it is below the cheapest exit" in told


def test_exits_are_timed_for_all_budgets(refused, budgets_timed):
    refused("calibrate run --budgets 20%,90%,60% --of time")
    assert budgets_timed == [["20%", "90%", "60%"]]


def test_mistakes(folder, refused):
    for arguments, says in (
        ("cascade run --out one", "at least two models, got run"),
        ("cascade run run --out one", "two models are named 'run'"),
        ("cascade run both --out one", "a model of a cascade must be one network"),
        ("cascade run nothing --out one", "nothing does not exist"),
        ("cascade run =run@int8 --out one", "a model of a cascade needs a name, such as small=RUN"),
        ("export run --precision int3", "precision must be one of int8, bf16, fp16, got 'int3'"),
        ("export run --data elsewhere", "--data goes with --precision"),
        ("export run --precision int8 --one-file", "--one-file and --web go without --precision"),
        ("export run --precision int8 --data elsewhere", "elsewhere"),
        ("calibrate run --budget 50% --of money", "--of must be macs or time"),
        ("calibrate run --budget 30kMACs --of time", "shares such as 60% or times such as 4ms, got 30kMACs"),
        ("calibrate run --budgets 30%,4ms", "30%, 4ms may mean either: add --of time"),
        ("show run@int3", "choose a precision, int8, bf16, fp16"),
        (
            "predict run --data sklearn:digits --most-tokens 3",
            "--most-tokens: such options are of language models",
        ),
    ):
        told = refused(arguments)
        assert says in told
        assert "timing" not in told  # which takes long, before what is wrong is said
    exeunt("cascade . ../run@int8 --out ../from-inside", cwd=folder / "run")
    assert [entry.name for entry in RunFolder.open(folder / "from-inside").cascade] == ["run", "run@int8"]
    shutil.copytree(folder / "run", folder / "lr=0.1")
    exeunt("cascade lr=0.1@int8 all=lr=0.1 --out named", cwd=folder)
    assert [entry.name for entry in RunFolder.open(folder / "named").cascade] == ["lr=0.1@int8", "all"]
    lost = shutil.copytree(folder / "both", folder / "lost")
    (lost / "cascade.json").unlink()
    assert "cascade.json" in refused("calibrate lost --budget 90%")


def test_a_cascade_is_timed_against_its_models(folder, refused, monkeypatch):
    monkeypatch.setattr("exeunt.timing.timing_tools.other_work", lambda: "other work takes the cores")
    exeunt("calibrate both --budget 90% --policy eero", cwd=folder)
    bench = f"bench both --batch-size 8 {TIMED}"
    done = exeunt(bench, cwd=folder)
    assert done.stderr.startswith("warning: other work takes the cores\n")
    for way in ("small alone", "run alone", "budget 60%", "the run's policy"):
        assert way in done.stdout
    assert (folder / "both" / "figures" / "accuracy_against_time-cascade.png").is_file()
    assert "profile the models of a cascade" in refused(f"{bench} --profile")
    assert "export its models" in refused("export both")


def test_what_a_page_lacks_is_said_before_the_stages_are_exported(folder, refused):
    bare = shutil.copytree(folder / "run", folder / "bare", ignore=shutil.ignore_patterns("onnx", "int8"))
    exeunt("calibrate bare --budget 80% --policy eero", cwd=folder)
    assert "npm install onnxruntime-web" in refused("export bare --web")
    assert not (bare / "onnx").exists()
