"""What `exeunt train` does: which run a folder holds, what is refused before any work, what is recorded."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import nn

import exeunt as ex
from exeunt._support.files import locked, write_json
from exeunt._support.progress import Progress
from exeunt._support.sealed_json import DIGEST
from exeunt.data import DataSource, SplitPlan
from exeunt.errors import ArtefactError, InputError, MissingExtra
from exeunt.jobs.cascade_run import make_cascade
from exeunt.runs.file_digests import MANIFEST
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.pytorch import WEIGHTS
from exeunt.runs.manifest import sealed_manifest
from exeunt.runs.verification import verify
from exeunt.torch.exits.multiply_adds import output_of
from exeunt.torch.training import run as module
from exeunt.torch.training import teacher as teachers
from exeunt.torch.training.job import TrainingJob
from exeunt.torch.training.run import run_training
from exeunt.zoo import DigitsNet

if TYPE_CHECKING:
    from pathlib import Path


class Killed(BaseException):
    """Stands in for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two classes of pictures: 24 to train on, 6 to test on. Nobody changes them: who wants to copies them."""
    made, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 3)):
        for k, name in enumerate(("dark", "light")):
            (made / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(120 * k, 120 * k + 120, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(made / part / name / f"{i}.png")
    return made


@pytest.fixture(scope="module")
def small(pictures) -> TrainingJob:
    return TrainingJob(
        model="exeunt.zoo:digits", data=str(pictures), exits=2, recipe={"epochs": 2, "mode": "joint"},
        batch_size=4, fit=4, calibrate=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory) -> RunFolder:
    made = run(small, tmp_path_factory.mktemp("trained") / "run")
    assert made is not None
    return made


@pytest.fixture
def finished(trained, tmp_path) -> RunFolder:
    """A copy of the trained run, in `run`."""
    return RunFolder.open(shutil.copytree(trained.path, tmp_path / "run"))


@pytest.fixture
def data(pictures, tmp_path) -> Path:
    """The pictures, to be changed."""
    return shutil.copytree(pictures, tmp_path / "data")


def run(job: TrainingJob, out: Path, **options) -> RunFolder | None:
    said: list[str] = []
    return run_training(job, out, command="test", **({"say": said.append, "progress": False} | options))


def killed_after_training(job: TrainingJob, out: Path, monkeypatch) -> None:
    """Die after training, before the run is finished."""

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(module, "record", kill)
        with pytest.raises(Killed):
            run(job, out)
    assert not RunFolder.exists(out)


def test_data_that_changed_since_the_run_began_are_refused(small, data, tmp_path, monkeypatch):
    small = replace(small, data=str(data))
    killed_after_training(
        replace(small, workers=2), tmp_path / "run", monkeypatch
    )  # what is read is the same
    extra = data / "train" / "dark" / "extra.png"
    Image.fromarray(np.full((8, 8, 3), 7, dtype=np.uint8)).save(extra)
    with pytest.raises(InputError, match="the data, or how it is split, has changed"):
        run(small, tmp_path / "run")
    extra.unlink()
    assert run(small, tmp_path / "run") is not None


def test_two_processes_do_not_train_in_one_folder(small, tmp_path, monkeypatch):
    out = tmp_path / "new" / "run"
    with (
        locked(out / ".lock", out),
        pytest.raises(InputError, match=f"another process is writing {out}: wait until it is done"),
    ):
        run(small, out)
    assert not out.exists()
    with pytest.raises(InputError, match="no function"):
        run(replace(small, model="exeunt.zoo:nothing"), out)
    assert not out.exists()  # nothing was written
    killed_after_training(small, out, monkeypatch)
    half = out / "training" / f".last.ckpt.{'0f' * 16}.tmp"
    half.touch()
    (out / ".lock").touch()  # as a killed process leaves it
    made = run(small, out)
    assert not [*out.rglob("*.tmp"), *out.rglob("*.lock")]
    with locked(out / ".lock", out):
        assert run(small, out) == made  # a finished run is opened


def test_a_folder_that_holds_other_files_is_refused(small, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(notes.txt\): choose a new folder for --out"):
        run_training(small, tmp_path, command="test")
    assert [file.name for file in tmp_path.iterdir() if file.name != ".lock"] == ["notes.txt"]


def test_a_finished_run_is_opened_and_only_its_own(small, finished, tmp_path):
    said: list[str] = []
    assert run(small, tmp_path / "run", say=said.append) == finished
    assert "finished already" in said[0]
    with pytest.raises(InputError, match="--seed was 0, now 3"):
        run(replace(small, seed=3), tmp_path / "run")
    (tmp_path / "run" / "project.json").unlink()
    with pytest.raises(InputError, match=r"a finished run without the file project\.json, .*: restore it"):
        run(small, tmp_path / "run")


@pytest.mark.parametrize("counts", [{"fit": 0}, {"fit": 0, "calibrate": 0.0}])
def test_a_part_without_inputs_is_refused_before_training(small, tmp_path, counts):
    with pytest.raises(InputError, match=f"no inputs for {' and '.join(counts)}: "):
        run(replace(small, **counts), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_run_is_mended_as_its_message_says(small, finished, tmp_path):
    made = finished
    made.save_policy(ex.eero(made.trace("fit"), made.trace("calibrate"), budget="80%"))
    weights = made.weights.read_bytes()
    made.weights.write_bytes(weights[:-1])
    (made.path / "costs.json").unlink()
    with pytest.raises(ArtefactError, match=r"remove \S+bundle\.json and repeat the run's `exeunt train`"):
        run(small, tmp_path / "run")
    assert [part.part for part in verify(made.path) if part.state != "ok"] == ["network", "costs"]
    (made.path / "bundle.json").unlink()
    run(small, tmp_path / "run")
    assert {part.state for part in verify(made.path)} == {"ok"}
    assert made.weights.read_bytes() == weights


def test_a_changed_option_is_named_with_its_old_and_new_value(small, tmp_path, monkeypatch):
    killed_after_training(small, tmp_path / "run", monkeypatch)
    longer = {"recipe": {"epochs": 3, "mode": "joint", "learning_rate": 0.5}}
    others = {"exits": ("blocks.0", "blocks.1"), "pretrained": True, "label": "kind", "recipe": {"epochs": 2}}
    shown = (
        "--seen was not given, now on; --label-column was not given, now kind; "
        "--exits was 2, now blocks.0,blocks.1; --mode was joint, now not given"
    )
    rates = "(--epochs was 2, now 3; --learning-rate was not given, now 0.5)"
    for changes, said in ((longer, rates), (others, shown)):
        with pytest.raises(InputError, match=re.escape(said)):
            run(replace(small, **changes), tmp_path / "run")


@pytest.mark.parametrize("package", ["lightning_fabric", "safetensors"])
def test_a_missing_package_is_reported_before_any_work(small, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(module, "open_source", None)
    with pytest.raises(MissingExtra, match=package):
        run(small, tmp_path / "run")


@pytest.mark.parametrize(("out", "cache"), [("file/run", None), ("run", "file"), ("run", "locked/cache")])
def test_where_nothing_can_be_written_is_reported_before_any_work(small, tmp_path, monkeypatch, out, cache):
    monkeypatch.setattr(module, "open_source", None)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path / "locked")  # root may write everywhere
    said = r"cannot (make|keep).*/(file is not a folder|locked is not writable)"
    with pytest.raises(InputError, match=said):
        run(small, tmp_path / out, cache=cache and tmp_path / cache)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "run").exists()


DISTILLED = {"epochs": 1, "mode": "distill", "distill_weight": 1.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": {"epochs": 1}}, "random weights"),
        ({"recipe": {"mode": "jiont"}}, "mode 'jiont' is not known"),
        ({"recipe": {"momentun": 0.9}}, "do not exist: momentun"),
        ({"recipe": {"mode": "joint"}, "heads_first": -1}, "heads_first"),
        ({"recipe": {"mode": "frozen"}, "heads_first": 2}, "heads_first"),
        ({"augment": "crop"}, "augment must be one of none"),
        ({"model": "exeunt.zoo:digit"}, "no function 'digit'; it has digits"),
        ({"model": "torchvision:resnet81", "data": "nowhere"}, "torchvision has no model 'resnet81'"),
        ({"weights": "nothing.safetensors"}, "no weights file nothing.safetensors"),
        ({"exits": ("blocks.9",)}, r"no place for an exit named 'blocks\.9'"),
        ({"mean": (0.5, 0.5, 0.5)}, "both mean and std"),
        ({"size": 0}, "size must be at least 1"),
        ({"size": 100_000}, "a batch of 4 images of 100000x100000 pixels takes 447 GiB of memory"),
        ({"model": "torch.nn:Identity"}, "no place for an exit was found"),
        ({"model": f"{__name__}:three_classes"}, "answers with 3 classes, not with 2"),
        ({"data": "nowhere", "recipe": {**DISTILLED, "teacher": "runs/nobody"}}, "runs/nobody' is not kn"),
    ],
)
def test_what_does_not_fit_is_told_before_the_data_are_read(small, tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(DataSource, "decoded", None)
    with pytest.raises(InputError, match=said):
        run(replace(small, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def same_every_time(n_classes):
    network = DigitsNet(n_classes)
    for weight in network.parameters():
        nn.init.constant_(weight, 0.01)
    return network


def three_classes():
    return DigitsNet(3)


def test_images_that_cannot_be_read_are_named_and_left_out_if_asked_to(small, data, tmp_path, monkeypatch):
    first, last = data / "train" / "dark" / "0.png", data / "test" / "light" / "2.png"
    content = first.read_bytes()
    last.write_bytes(b"")
    small = replace(small, data=str(data))
    with pytest.raises(InputError, match=r"cannot read the image test/light/2\.png: .*--skip-unreadable"):
        run(small, tmp_path / "run")
    first.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read the image train/dark/0\.png: .*--skip-unreadable"):
        run(small, tmp_path / "run")
    said: list[str] = []
    job = replace(small, skip_unreadable=True)
    made = run(job, tmp_path / "run", say=said.append)
    left_out = "images cannot be read and is left out:\n "
    assert f"1 of 24 train {left_out} train/dark/0.png: it is not an image" in said[0]
    assert f"1 of 6 test {left_out} test/light/2.png: " in said[1]
    assert made.manifest["data"]["unreadable"] == ["train/dark/0.png", "test/light/2.png"]
    assert made.trace("test").n == 5
    monkeypatch.setattr("exeunt.data.decode_all.ARRAY_BYTES", 0)  # images stay encoded
    lazy = run(job, tmp_path / "lazy")
    assert np.array_equal(lazy.trace("test").id, made.trace("test").id)
    first.write_bytes(content)
    (tmp_path / "run" / "bundle.json").unlink()
    with pytest.raises(InputError, match="the data, or how it is split, has changed"):
        run(job, tmp_path / "run")


def test_decoding_and_training_say_how_far_they_are(small, tmp_path, monkeypatch, capsys):
    said: list[str] = []
    monkeypatch.setattr(module, "Progress", partial(Progress, every_s=0))
    run(small, tmp_path / "run", say=said.append, progress=True)
    assert "24 of 24 images decoded" in said
    assert "2 of 2 epochs, loss" in capsys.readouterr().err


def test_heads_first_killed_ends_as_the_uninterrupted_run(small, tmp_path, monkeypatch):
    job = replace(small, heads_first=3, augment="crop-flip")
    whole = run(job, tmp_path / "whole")
    killed_after_training(job, tmp_path / "killed", monkeypatch)
    resumed = run(job, tmp_path / "killed")
    weights = [made.weights.read_bytes() for made in (whole, resumed)]
    assert weights[0] == weights[1]
    first = (tmp_path / "whole" / "training" / "heads" / "history.jsonl").read_text().splitlines()
    assert len(first) == 3
    assert whole.manifest["training"]["heads_first"] == 3
    cold = run(replace(job, heads_first=0), tmp_path / "cold")
    assert cold.weights.read_bytes() != weights[0]


@pytest.mark.parametrize("given", [None, 4])
def test_heads_on_kept_features_learn_in_batches_that_are_recorded(small, tmp_path, monkeypatch, given):
    sizes = []

    def noting(*args, **options):
        sizes.append(options["batch_size"])
        return train(*args, **options)

    train = module.train
    monkeypatch.setattr(module, "train", noting)
    said: list[str] = []
    job = replace(small, recipe={"epochs": 1}, model=f"{__name__}:same_every_time", batch_size=given)
    made = run(job, tmp_path / "run", say=said.append)
    assert made.manifest["training"]["batch_size"] == sizes[0] == (given or 256)
    assert any(f"{job.model} must return a trained network" in line for line in said)


@pytest.fixture
def further(small, trained, tmp_path) -> TrainingJob:
    """A job on the weights of the trained network."""
    weights = load_file(trained.weights)
    own = {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}
    save_file(own, tmp_path / "own.safetensors")
    return replace(small, weights=str(tmp_path / "own.safetensors"), pretrained=False)


@pytest.mark.parametrize(("augment", "kept"), [("none", True), ("crop-flip", False)])
def test_features_of_changing_images_are_not_kept(further, trained, tmp_path, augment, kept):
    made = run(replace(further, recipe={"epochs": 2}, augment=augment), tmp_path / "run")
    assert (tmp_path / "run" / "training" / "features").exists() is kept
    before, after = load_file(trained.weights), load_file(made.weights)
    assert all(np.array_equal(after[name], w) for name, w in before.items() if name.startswith("backbone."))


def test_a_run_records_the_recipe_that_it_was_trained_with(further, tmp_path):
    recorded = run(replace(further, heads_first=1), tmp_path / "further").manifest["training"]
    assert (recorded["backbone_rate"], recorded["teacher"], recorded["heads_first"]) == (0.05, "original", 1)


def taught(job: TrainingJob, teacher: RunFolder, **changes) -> TrainingJob:
    return replace(job, recipe={**DISTILLED, "teacher": str(teacher.path)}, **changes)


def test_another_run_teaches(small, trained, tmp_path):
    """The network is given the teacher's logits on each batch, and nothing else when those are all that counts."""
    distilled = run(taught(small, trained), tmp_path / "distilled")
    assert distilled.manifest["training"]["teacher"] == str(trained.path)
    by_itself = run(replace(small, recipe=DISTILLED), tmp_path / "alone")
    after, other = (load_file(one.weights) for one in (distilled, by_itself))
    assert any(not np.array_equal(after[name], other[name]) for name in after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "has learned from .* of the part '(fit|calibrate)'.* the same --seed"),
        ({"size": 12}, r"prepared differently \(size \(8, 8\) instead of \(12, 12\), mean"),
        ({}, "classes dark, light, the data bright, dark"),
    ],
)
def test_a_teacher_that_cannot_teach_here_is_refused(small, trained, data, tmp_path, change, message):
    if not change:
        for part in ("train", "test"):
            (data / part / "light").rename(data / part / "bright")
    with pytest.raises(InputError, match=message):
        run(taught(small, trained, **change or {"data": str(data)}), tmp_path / "distilled")
    assert not (tmp_path / "distilled").exists()


def altered(run: RunFolder, to: Path, **model: object) -> RunFolder:
    """Return a copy of a run whose manifest says otherwise what its model is."""
    shutil.copytree(run.path, to)
    about = {**run.manifest, "model": {**run.manifest["model"], **model}}
    del about[DIGEST]
    write_json(to / MANIFEST, sealed_manifest(about, about["files"]))
    return RunFolder.open(to)


def test_a_teacher_that_pytorch_cannot_open_is_refused(small, trained, finished, tmp_path, monkeypatch):
    """Before the data are decoded."""
    make_cascade(tmp_path / "cascade", {"a": trained, "b": finished}, say=lambda _: None)
    altered(trained, tmp_path / "own", spec="somebodys_module:network")
    altered(trained, tmp_path / "half", precision="bf16")
    weights = trained.manifest["files"][WEIGHTS]
    altered(trained, finished.path / "bf16", precision="bf16", weights_digest=weights)
    monkeypatch.setattr(DataSource, "decoded", None)
    at_bf16 = "is a run at bf16, for answering alone: name the run that it was made from"
    for name, message in (
        ("cascade", "holds the models of the cascade, and this takes a run that holds the weights"),
        ("own", "is a network of somebodys_module:network, and opening it would run that code"),
        ("half", at_bf16),
        ("run@bf16", at_bf16),
    ):
        with pytest.raises(InputError, match=message):
            run(replace(small, recipe={**DISTILLED, "teacher": str(tmp_path / name)}), tmp_path / "distilled")
    with pytest.raises(InputError, match="teaches in mode 'distill' alone, got mode 'joint'"):
        run(replace(small, recipe={"mode": "joint", "teacher": str(trained.path)}), tmp_path / "distilled")


def test_a_teacher_is_given_a_batch_before_the_data_are_decoded(small, trained, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise TypeError("an input that it does not know")

    monkeypatch.setattr(DataSource, "decoded", None)
    monkeypatch.setattr(teachers, "output_of", lambda network, example: output_of(fail, example))
    said = r"cannot be given this network's inputs: .* does not know; .* the teacher's --size"
    with pytest.raises(InputError, match=said):
        run(taught(small, trained), tmp_path / "distilled")


def test_a_teacher_reads_as_much_of_a_text(trained, monkeypatch):
    plan = SplitPlan.from_dict(trained.manifest["split"])
    short, long = (SimpleNamespace(get_vocab=dict, model_max_length=most) for most in (128, 512))
    monkeypatch.setattr(teachers, "load_preparation", lambda _: short)
    teachers.check_teacher(str(trained.path), plan, short)
    with pytest.raises(InputError, match=r"reads 128 tokens of a text, this network 512: .* reads as many"):
        teachers.check_teacher(str(trained.path), plan, long)
    monkeypatch.setattr(teachers, "load_preparation", lambda _: long)
    teachers.check_teacher(str(trained.path), plan, short)


def test_a_training_does_not_go_on_with_another_teacher(small, trained, finished, tmp_path, monkeypatch):
    job = taught(small, finished)
    killed_after_training(job, tmp_path / "distilled", monkeypatch)
    shutil.copytree(tmp_path / "distilled", tmp_path / "again")
    shutil.rmtree(finished.path)
    altered(trained, finished.path, macs=1.0)
    with pytest.raises(InputError, match="teacher_digest was"):
        run(job, tmp_path / "distilled")
    shutil.rmtree(finished.path)
    shutil.copytree(trained.path, finished.path)
    assert run(job, tmp_path / "again").manifest["training"]["teacher_digest"] == trained.digest


def test_nobody_knows_what_a_teacher_of_other_data_has_seen(small, trained, data, tmp_path):
    Image.fromarray(np.full((8, 8, 3), 7, dtype=np.uint8)).save(data / "train" / "dark" / "more.png")
    mean, std = (tuple(trained.manifest["inputs"][name]) for name in ("mean", "std"))
    said: list[str] = []
    job = taught(small, trained, data=str(data), mean=mean, std=std)
    run(job, tmp_path / "distilled", say=said.append)
    assert any("was trained on other data" in line for line in said)


@pytest.mark.parametrize("content", ["{}", "[]", '{"model": 3, "head": []}', "{"])
def test_a_damaged_record_of_the_job_is_refused(small, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "project.json").write_text(content)
    with pytest.raises(ArtefactError, match=r"project\.json .*damaged.*; choose another --out, or remove"):
        run(small, tmp_path / "run")
