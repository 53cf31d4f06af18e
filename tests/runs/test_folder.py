"""The run folder: whole or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from damaged_files import damage
from exeunt.engine.plan import Plan
from exeunt.policy.calibration import NEVER
from exeunt.runs.executors import open_executor
from exeunt.runs.file_digests import TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import load
from exeunt.timing.timing_tools import describe_machine
from made_runs import ABOUT, made_run, made_trace
from mutated_json import resealed


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return made_run(tmp_path / "run")


def test_reads_back_what_was_written(run):
    again = RunFolder.open(run.path)
    assert again.manifest == run.manifest
    assert again.cost == made_trace().cost
    for part in TRACED:
        np.testing.assert_array_equal(again.trace(part).id, run.trace(part).id)
    assert again.manifest["provenance"]["seed"] == 3
    assert set(again.manifest["provenance"]["packages"]) == {"numpy"}


def test_policy_comes_and_is_replaced(run):
    assert not run.has_policy
    with pytest.raises(ex.InputError, match="exeunt calibrate"):
        _ = run.policy
    for budget in ("50%", "70%"):
        policy = ex.eero(run.trace("fit"), run.trace("calibrate"), budget=budget)
        run.save_policy(policy)
        assert RunFolder.open(run.path).policy == replace(policy, run=run.digest)


def test_what_is_about_a_policy_goes_with_it_and_with_its_run(run):
    policy = ex.eero(run.trace("fit"), run.trace("calibrate"), budget="50%")
    files = [run.path / name for name in ("evaluation.json", "one-file.onnx", "web/model.onnx")]
    (run.path / "web").mkdir()
    parts = {part: run.trace(part) for part in TRACED}

    def made_again():
        RunFolder.create(run.path, cost=run.cost, traces=parts, about=ABOUT)

    for renewed in (lambda: run.save_policy(policy), made_again):
        for file in files:
            file.write_bytes(b"of before")
        renewed()
        assert not any(file.exists() for file in files)


def test_an_executor_runs_on_at_least_one_thread(run):
    for threads in (0, -1):
        with pytest.raises(ex.InputError, match=f"threads must be at least 1, got {threads}"):
            open_executor(run, "eager", threads=threads)


def _touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


DATA = r"seems to hold data \({}\): make one with `exeunt train --data \S+ --out RUN`$"
HUB = r"Hugging Face model, not a run folder: make one with `exeunt train --model hf:\S+ --out RUN`$"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("training/checkpoint.pt", r"unfinished run.*the `exeunt train` command that began it"),
        ("weights.safetensors", r"lost its bundle\.json.*restore the file from a copy"),
        (".hidden", "it is empty: make one with `exeunt train"),
        ("train.parquet", DATA.format(r"train\.parquet")),
        ("train/cats/1.png", DATA.format("train")),
        ("cat.JPG", DATA.format(r"cat\.JPG")),
        ("gateway.json", r"the folder of a gateway, not a run folder: `exeunt gateway certify FILE`"),
        ("config.json", HUB),
        ("digits/bundle.json", "it holds some: give one of digits$"),
        ("bundle.json/nested", r"a bundle\.json that is not a file: move it away"),
        ("notes.txt", r"not a run folder \(it has no bundle\.json\): make one"),
        ("../elsewhere", r"x does not exist"),
    ],
)
def test_another_folder_is_told_for_what_it_is(tmp_path, file, said):
    _touch(tmp_path / file if file.startswith("..") else tmp_path / "x" / file)
    with pytest.raises(ex.InputError, match=said):
        RunFolder.open(tmp_path / "x")


def test_parts_of_a_run_and_folders_of_runs_say_what_to_give_instead(run, tmp_path):
    for name in ("a", "b", "c"):
        _touch(tmp_path / name / "bundle.json")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for path, said in (
        (run.path / "tokenizer" / "nested", rf"part of a run folder: give {run.path}$"),
        (run.path / "bundle.json", "not a run folder but a file, or a broken link: give the folder"),
        (tmp_path, r"it holds some: give one of a, b, c and 1 more$"),
        (tmp_path / "gone", "gone is not a run folder but a file"),
    ):
        with pytest.raises(ex.InputError, match=said):
            RunFolder.open(path)


READ = {
    "weights.safetensors": lambda run: run.weights,
    "costs.json": lambda run: run.cost,
    "traces/test.parquet": lambda run: run.trace("test"),
    "model/config.json": lambda run: run.files.check_folder("model"),
    "tokenizer/nested/words.json": lambda run: run.files.check_folder("tokenizer"),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_refuses_damage(run, name, harm):
    damage(run.path / name, harm)
    again = RunFolder.open(run.path)
    with pytest.raises(ex.ArtefactError, match=rf"{name} \(.+\) is .*restore it from a copy.*`exeunt train`"):
        READ[name](again)
    for other, read in READ.items():  # what nobody needs is not read
        if other != name:
            read(again)


def test_a_file_is_hashed_once(run, monkeypatch):
    hashed = []
    check = "exeunt.runs.file_digests.check_file"
    monkeypatch.setattr(check, lambda file, *_, **__: hashed.append(file.name))
    again = RunFolder.open(run.path)
    for _ in range(2):
        for read in READ.values():
            read(again)
    assert hashed == ["weights.safetensors", "costs.json", "test.parquet", "config.json", "words.json"]


def test_refuses_files_that_were_added_to_model_and_tokenizer(run):
    for name in ("model", "tokenizer"):
        (run.path / name / ".hidden").write_text("of an editor or a file system")
        RunFolder.open(run.path).files.check_folder(name)
        (run.path / name / "added_tokens.json").write_text("{}")
        with pytest.raises(ex.ArtefactError, match=rf"{name}/added_tokens\.json was added .* move it away"):
            RunFolder.open(run.path).files.check_folder(name)


def _rewrite(run, text):
    (run.path / "bundle.json").write_text(text)


def _edit_manifest(run, **changes):
    """Change the manifest and make its digest fit."""
    _rewrite(run, json.dumps(resealed({**run.manifest, **changes})))


def test_refuses_files_outside(run):
    outside = run.path.parent / "outside"
    outside.write_bytes(b"x")
    _edit_manifest(run, files=run.manifest["files"] | {"../outside": "0"})
    with pytest.raises(ex.ArtefactError, match="outside the run"):
        RunFolder.open(run.path).files.path("../outside")
    (run.path / "costs.json").unlink()
    (run.path / "costs.json").symlink_to(outside)
    with pytest.raises(ex.ArtefactError, match=r"costs\.json lies outside the run"):
        _ = RunFolder.open(run.path).cost


def test_no_run_folder_without_weights(run, tmp_path):
    with pytest.raises(ex.InputError, match="weights"):
        RunFolder.create(tmp_path, cost=run.cost, traces={}, about={})


def _without(entries, word):
    return {name: value for name, value in entries.items() if word not in name}


CLASSES = ABOUT["class_names"]
FILES = dict.fromkeys(
    ["weights.safetensors", "costs.json", *(f"traces/{part}.parquet" for part in TRACED)], "0"
)
EDITED = r"bundle\.json was edited"
NO_ENTRY = "cannot be read as a manifest: "


@pytest.mark.parametrize(
    ("changes", "is_sealed", "reason"),
    [
        ({"class_names": CLASSES[::-1]}, False, EDITED),
        ({"sha256": "0"}, False, EDITED),
        ({"sha256": None}, False, EDITED),
        ({"more": 1}, False, EDITED),
        ({"version": 1}, True, r"of the old format 1, not of 2: .* repeat what made the run"),
        ({"version": 99}, True, r"99.*upgrade"),
        *(
            ({"files": _without(FILES, file)}, True, rf"does not name the files {file}: it is damaged")
            for file in [*FILES][1:]
        ),
        ({"class_names": CLASSES[1:]}, True, f"{NO_ENTRY}class_names are those of"),
        ({"class_names": [*CLASSES[1:], 5]}, True, rf"{NO_ENTRY}class_names\[\d+\] must be a text, got 5"),
        ({"model": {**ABOUT["model"], "n_classes": "5"}}, True, rf"{NO_ENTRY}model\.n_classes must"),
        ({"inputs": {}}, True, rf"{NO_ENTRY}inputs\.kind is missing"),
    ],
)
def test_refuses_a_manifest_that_was_edited_whether_or_not_its_digest_fits(run, changes, is_sealed, reason):
    if is_sealed:
        _edit_manifest(run, **changes)
    else:
        _rewrite(run, json.dumps({**run.manifest, **changes}))
    with pytest.raises(ex.ArtefactError, match=reason):
        RunFolder.open(run.path)


def test_refuses_what_is_no_manifest(run):
    whole = json.dumps(run.manifest)
    for text, reason in (
        (whole[:-20], "is not complete JSON"),
        ('{"format": "something else"}', "not a manifest"),
        (json.dumps(_without(run.manifest, "sha256")), "digest does not match"),
    ):
        _rewrite(run, text)
        with pytest.raises(ex.ArtefactError, match=reason):
            RunFolder.open(run.path)


PLAN = Plan("onnx", ((0, 1), (2, 2)), (7, 9), (1, 4), ((0, 0), (1, 2)))


def test_a_plan_is_read_back(run):
    assert run.plan("onnx") is None
    run.save_plan(PLAN)
    assert run.plan("onnx") == PLAN
    assert run.plan("eager") is None
    (run.path / "plan-eager.json").write_bytes((run.path / "plan-onnx.json").read_bytes())
    with pytest.raises(ex.ArtefactError, match=r"plan-eager\.json is the plan for onnx: measure it again$"):
        run.plan("eager")


def test_a_plan_of_version_0_1_opens(run):
    """Format, name and digest of the file are part of the format: this digest was written by 0.1.0.dev0."""
    body = PLAN.to_dict()
    del body["min_batch"]
    digest = "512703731513676eac0cdd17d20a0dca8285d56dac85d68c2b1d134375ccbf5c"
    document = {"format": "exeunt-plan", "version": 1, "sha256": digest, "plan": body}
    (run.path / "plan-onnx.json").write_text(json.dumps(document))
    assert run.plan("onnx") == PLAN


def test_plan_of_another_machine_is_not_used(run):
    here = describe_machine()
    run.save_plan(replace(PLAN, machine=here | {"node": "a new container"}))
    assert run.plan("onnx").segments == PLAN.segments
    run.save_plan(replace(PLAN, machine=here | {"processor": "another"}))
    assert run.plan("onnx") is None


def test_plans_of_several_devices_lie_side_by_side(run):
    here, there = (describe_machine(device) for device in ("cpu", "cuda (Made Up 1)"))
    on_gpu = replace(PLAN, piece=(256, 256), machine=there)
    for plan in (on_gpu, replace(PLAN, machine=here)):
        run.save_plan(plan)
    assert run.plan("onnx").piece == PLAN.piece
    assert run.plan("onnx", "cuda (Made Up 1)").piece == (256, 256)
    assert run.plan("onnx", "cuda (Made Up 2)") is None
    assert run.plan("onnx", "mps") is None
    assert {file.name for file in run.path.glob("plan-*")} == {"plan-onnx.json", "plan-onnx-cuda.json"}


def test_the_plan_for_the_device_at_hand_is_loaded(run, monkeypatch):
    """An executor that `executors` says computes on an accelerator. Its segments are those of the plan."""
    opened = []

    def open_executor(run, name, *, segments, **options):
        opened.append(segments)
        segments = segments or ((0, 0), (1, 1), (2, 2))
        facts = {"restarts": (), "border": 1e-5, "mask_scale": 1}
        return SimpleNamespace(name=name, n_exits=3, segments=segments, **facts)

    monkeypatch.setattr("exeunt.runs.runner.open_executor", open_executor)
    policy = ex.eero(run.trace("fit"), run.trace("calibrate"), budget="60%")
    run.save_plan(replace(PLAN, machine=describe_machine("cuda (Made Up 1)")))
    # Without a plan, segments lie between the exits at which inputs may answer.
    for device, segments in (("cpu", ((0, 0), (1, 1), (2, 2))), ("cuda (Made Up 1)", PLAN.segments)):
        monkeypatch.setattr("exeunt.runs.runner.executor_device", lambda _, device=device: device)
        load(run, executor="onnx", policy=policy)
        assert opened.pop() == segments
    monkeypatch.setattr("exeunt.runs.runner.executor_device", lambda _: "cpu")
    skipping = replace(policy, limits=replace(policy.limits, tie=np.array([NEVER, 0.0, -NEVER])))
    load(run, executor="onnx", policy=skipping)
    assert opened.pop() == ((0, 1), (2, 2))


def test_a_damaged_plan_is_refused(run):
    run.save_plan(PLAN)
    file = run.path / "plan-onnx.json"
    sound = file.read_text()
    known = json.loads(sound)
    for text, says in (
        (sound.replace('"onnx"', '"other"'), "digest does not match; measure it again"),
        (sound.replace("exeunt-plan", "exeunt-other"), "is not a plan of exeunt"),
        (sound.replace('"version": 1', '"version": 2'), "upgrade exeunt"),
        (
            json.dumps(resealed({**known, "plan": {**known["plan"], "sizes": [4, 1]}})),
            "cannot be read as a plan",
        ),
    ):
        file.write_text(text)
        with pytest.raises(ex.ArtefactError, match=says):
            run.plan("onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": {"exits": ["layer1"]}}, r"names 1 exit, and the costs are of 3: name all but the last"),
        ({"model": {"spec": "mine:net", "n_classes": 4}}, r"model\.macs is missing"),
        ({"inputs": None}, r"inputs must be"),
    ],
)
def test_a_run_that_could_not_be_read_back_is_not_made(tmp_path, change, message):
    (tmp_path / "weights.safetensors").write_bytes(b"w")
    trace = made_trace()
    parts = dict(zip(TRACED, trace.split(), strict=True))
    with pytest.raises(ex.InputError, match=message):
        RunFolder.create(tmp_path, cost=trace.cost, traces=parts, about={**ABOUT, **change})
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]
