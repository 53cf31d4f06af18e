"""`exeunt.load` opens a run, a policy or a trace by what its path holds."""

import shutil

import pytest

import exeunt as ex
from exeunt.runs import Runner


def test_it_opens_what_there_is(exported, tmp_path):
    run = exported
    fit, calibrate = run.trace("fit"), run.trace("calibrate")
    policies = [ex.eero(fit, calibrate, budget=budget) for budget in ("60%", "80%")]
    policies[0].save(tmp_path / "policy.json")
    ex.PolicySet(tuple(policies)).save(tmp_path / "set.json")
    fit.save(tmp_path / "trace.parquet")
    (tmp_path / "recorded").mkdir()
    shutil.copy(tmp_path / "trace.parquet", tmp_path / "recorded" / "part-0.parquet")
    assert ex.load(tmp_path / "policy.json") == policies[0]
    assert ex.load(str(tmp_path / "set.json")).policies[1] == policies[1]
    assert ex.load(tmp_path / "trace.parquet").n == fit.n
    assert ex.load(tmp_path / "recorded").n == fit.n
    for path in (run.path, run):
        opened = ex.load(path, policy=policies[0], executor="onnx")
        assert isinstance(opened, Runner)
        assert opened.policy == policies[0]


def test_it_says_what_is_not_there(tmp_path):
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(ex.ArtefactError, match="not complete JSON"):
        ex.load(tmp_path / "damaged.json")
    with pytest.raises(ex.InputError, match="does not exist: give a run folder"):
        ex.load(tmp_path / "nothing")
    with pytest.raises(ex.InputError, match="there is no file"):
        ex.load(tmp_path / "nothing.json")
    with pytest.raises(ex.InputError, match="executor: such options are of a run"):
        ex.load(tmp_path / "damaged.json", executor="onnx")
