"""`verify` finds whatever in a run is not as it was written, names it, and says how to mend it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

import exeunt as ex
from damaged_files import damage, within
from exeunt._support.files import file_digest
from exeunt.engine.plan import Plan
from exeunt.onnx.manifest import OnnxManifest, OnnxStage, OnnxTensor
from exeunt.runs.folder import RunFolder
from exeunt.runs.verification import verify
from exeunt.timing.timing_tools import describe_machine
from made_runs import made_run
from mutated_json import resealed

SEGMENTS = ((0, 1), (2, 2))
PLAN = Plan("onnx", SEGMENTS, (7, 9), (1, 4), ((0, 0), (1, 2)))


def export(run: RunFolder, n_exits: int = 3) -> None:
    """Files as `exeunt export` makes them, in form."""
    folder = run.path / "onnx"
    folder.mkdir()
    stages = []
    for i in range(n_exits):
        file = folder / f"stage-{i:02d}.onnx"
        file.write_bytes(b"stage %d" % i)
        stages.append(OnnxStage(file.name, file_digest(file), ("x",), (f"logits{i}",), f"logits{i}", 0.0))
    tensors = {name: OnnxTensor("float32", (None, 3), 0) for name in ("x", *(one.logits for one in stages))}
    OnnxManifest(("x",), tensors, tuple(stages), run.manifest["files"]["weights.safetensors"]).save(folder)


def policy_of(run: RunFolder, budget: str = "60%") -> ex.Policy:
    return ex.eero(run.trace("fit"), run.trace("calibrate"), budget=budget)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunFolder:
    """A run with everything that a command writes."""
    run = made_run(tmp_path_factory.mktemp("runs") / "run")
    run.save_policy(policy_of(run))
    run.save_plan(PLAN)
    export(run)
    return run


@pytest.fixture
def run(whole, tmp_path) -> RunFolder:
    return RunFolder.open(shutil.copytree(whole.path, tmp_path / "run"))


PART_OF = {
    "bundle.json": "manifest",
    "weights.safetensors": "network",
    "costs.json": "costs",
    "traces/fit.parquet": "fit trace",
    "traces/calibrate.parquet": "calibrate trace",
    "traces/test.parquet": "test trace",
    "model/config.json": "model",
    "tokenizer/nested/words.json": "tokenizer",
    "policy.json": "policy",
    "onnx/manifest.json": "onnx",
    "onnx/stage-01.onnx": "onnx",
    "plan-onnx.json": "plan onnx",
}


def failed(run: RunFolder) -> dict[str, str]:
    return {part.part: part.text for part in verify(run.path) if part.state == "FAILED"}


def texts_of(run: RunFolder) -> dict[str, str]:
    return {part.part: part.text for part in verify(run.path)}


def test_a_whole_run_passes_with_a_line_for_each_part(run):
    assert {part.part: part.state for part in verify(run.path)} == dict.fromkeys(PART_OF.values(), "ok")
    texts = texts_of(run)
    assert texts["policy"] == "eero, of this run, replayed on the calibration inputs"
    assert texts["costs"] == "1 MACs to 3.5 MACs"
    assert texts["onnx"] == "3 stages"


def test_every_file_of_the_run_belongs_to_a_part(run):
    files = {file.relative_to(run.path).as_posix() for file in run.path.rglob("*") if file.is_file()}
    assert files == {*PART_OF, "onnx/stage-00.onnx", "onnx/stage-02.onnx"}


HARMS = ("flip", "truncate", "empty", "folder", "link", "remove", "pipe", "deep")
ALIKE = {"traces/fit.parquet", "traces/calibrate.parquet", "model/config.json", "onnx/stage-01.onnx"}
"""Files that are read as others are, so that a few harms show that they are read."""


@pytest.mark.parametrize(
    ("name", "harm"), [(name, harm) for name in PART_OF for harm in (HARMS[::3] if name in ALIKE else HARMS)]
)
def test_damage_is_found_named_and_its_remedy_told(run, name, harm):
    file = run.path / name
    damage(file, harm)
    if name == "bundle.json" and harm in ("folder", "link", "remove", "pipe"):
        with pytest.raises(ex.InputError, match=r"bundle\.json.*exeunt train"):
            verify(run.path)
        return
    with within(20):
        found = failed(run)
    if harm == "remove" and name in ("policy.json", "plan-onnx.json"):
        assert not found  # these need not be there
        return
    part = PART_OF[name]
    assert name.rpartition("/")[2] in found[part]
    assert any(word in found[part] for word in ("again", "restore", "repeat", "move it away"))
    assert set(found) == {part}  # whatever is damaged, the other parts are checked


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "folder", "link"])
def test_damaged_policies_for_several_budgets_are_found(run, harm):
    run.save_policy_set(ex.PolicySet((policy_of(run), policy_of(run, "80%"))))
    (part,) = (part for part in verify(run.path) if part.part in ("policy", "policies"))
    assert part.text == "eero, of this run, replayed on the calibration inputs"
    damage(run.path / "policies.json", harm)
    (found,) = failed(run).items()
    assert found[0] == "policies"
    assert "policies.json" in found[1]


def test_unreadable_files_are_told_from_damaged_ones(run, monkeypatch):
    def refuse(file, *_, **__):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("exeunt._support.files.file_digest", refuse)
    monkeypatch.setattr("exeunt._support.files.open_regular", refuse)
    with pytest.raises(ex.errors.FileError, match=r"cannot read \S+bundle\.json: permission denied"):
        verify(run.path)
    monkeypatch.undo()
    monkeypatch.setattr("exeunt._support.files.file_digest", refuse)
    found = failed(run)
    assert "cannot read" in found["network"]
    assert "permission denied, change its permissions" in found["network"]
    assert "cannot read" in found["onnx"]


def reseal(run: RunFolder, name: str, content: bytes) -> None:
    """Replace a file, and make its digest in the manifest fit: no digest tells."""
    (run.path / name).write_bytes(content)
    files = run.manifest["files"] | {name: file_digest(run.path / name)}
    (run.path / "bundle.json").write_text(json.dumps(resealed({**run.manifest, "files": files})))


def test_parts_that_do_not_belong_together_are_found(run, tmp_path):
    other = made_run(tmp_path / "other", 1)
    other.save_policy(policy_of(other))
    shutil.copy(other.path / "policy.json", run.path)
    assert "another network" in failed(run).pop("policy")
    run.save_plan(replace(PLAN, segments=((0, 0), (1, 1))))
    assert "for 2 exits, the network has 3" in failed(run)["plan onnx"]
    shutil.rmtree(run.path / "onnx")
    export(other, 2)
    shutil.copytree(other.path / "onnx", run.path / "onnx")
    assert "another network" in failed(run)["onnx"]
    reseal(run, "costs.json", json.dumps(ex.CostModel([1.0, 2.0, 4.0]).to_dict()).encode())
    found = failed(run)
    assert {"fit trace", "calibrate trace", "test trace"} <= set(found)
    assert "test.parquet has other costs than costs.json" in found["test trace"]


def test_a_policy_bound_to_the_run_but_not_made_from_it_is_found_by_replay(run):
    policy = policy_of(run)
    counts = policy.counts.copy()
    counts[0], counts[-1] = counts[0] - 1, counts[-1] + 1
    run.save_policy(replace(policy, counts=counts))
    assert "policy.json answers other calibration inputs than it counted" in failed(run)["policy"]


def test_plans_of_every_device_are_checked(run):
    """Also of a device that is not here, whose plan is not used."""
    there = describe_machine("cuda (Made Up 1)")
    run.save_plan(replace(PLAN, machine=there))
    texts = texts_of(run)
    assert not failed(run)
    assert "not used" in texts["plan onnx cuda"]
    file = run.path / "plan-onnx-cuda.json"
    file.write_text(file.read_text().replace("7", "8", 1))
    assert "digest" in failed(run)["plan onnx cuda"]


def test_plans_of_another_machine_and_policies_of_half_the_inputs_pass_with_a_remark(run):
    run.save_plan(replace(PLAN, machine=describe_machine() | {"processor": "another"}))
    half = ex.cheapest(run.trace("fit"), run.trace("calibrate"), max_loss=0.9, budget="100%", policy="eero")
    run.save_policy(half)
    texts = texts_of(run)
    assert not failed(run)
    assert "another kind of machine or device" in texts["plan onnx"]
    assert "a part of the calibration inputs" in texts["policy"]


def test_nothing_to_verify_is_an_error(tmp_path):
    with pytest.raises(ex.InputError, match="does not exist"):
        verify(tmp_path / "nowhere")
