"""What `exeunt train` does: which run a folder holds, what is refused before any work, what is recorded."""

from __future__ import annotations

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


@pytest.fixture
def data(tmp_path) -> Path:
    """Two classes of pictures: 24 to train on, 6 to test on."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 3)):
        for k, name in enumerate(("dark", "light")):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(120 * k, 120 * k + 120, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture
def small(data) -> TrainingJob:
    return TrainingJob(
        model="exeunt.zoo:digits", data=str(data), exits=2, recipe={"epochs": 2, "mode": "joint"},
        batch_size=4, fit=4, calibrate=4,
    )  # fmt: skip


def run(job: TrainingJob, out: Path, **options) -> RunFolder | None:
    said: list[str] = []
    options = {"say": said.append, "progress": False} | options
    return run_training(job, out, command="test", **options)


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
    killed_after_training(small, tmp_path / "run", monkeypatch)
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


def test_a_finished_run_is_opened_and_only_its_own(small, tmp_path):
    run(small, tmp_path / "run")
    said: list[str] = []
    again = run(small, tmp_path / "run", say=said.append)
    assert again == RunFolder.open(tmp_path / "run")
    assert "finished already" in said[0]
    with pytest.raises(InputError, match="--seed was 0, now 3"):
        run(replace(small, seed=3), tmp_path / "run")
    (tmp_path / "run" / "project.json").unlink()
    with pytest.raises(InputError, match=r"a finished run without the file project\.json, .*: restore it"):
        run(small, tmp_path / "run")


def test_a_damaged_run_is_mended_as_its_message_says(small, tmp_path):
    made = run(small, tmp_path / "run")
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
    longer = replace(small, recipe={"epochs": 3, "mode": "joint", "learning_rate": 0.5})
    with pytest.raises(
        InputError, match=r"\(--epochs was 2, now 3; --learning-rate was not given, now 0\.5\)"
    ):
        run(longer, tmp_path / "run")
    fewer = replace(
        small, recipe={"epochs": 2}, exits=("blocks.0", "blocks.1"), pretrained=True, label="kind"
    )
    with pytest.raises(
        InputError,
        match=r"--seen was not given, now on; --label-column was not given, now kind; "
        r"--exits was 2, now blocks\.0,blocks\.1; --mode was joint, now not given",
    ):
        run(fewer, tmp_path / "run")


def test_another_number_of_workers_finishes_the_run(small, tmp_path, monkeypatch):
    """What is read does not depend on it (see the tests of loaders)."""
    killed_after_training(replace(small, workers=2), tmp_path / "run", monkeypatch)
    assert run(small, tmp_path / "run") is not None


@pytest.mark.parametrize("counts", [{"fit": 0}, {"calibrate": 0}, {"fit": 0, "calibrate": 0.0}])
def test_a_part_without_inputs_is_refused_before_training(small, tmp_path, counts):
    with pytest.raises(InputError, match=f"no inputs for {' and '.join(counts)}: "):
        run(replace(small, **counts), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": {"mode": "jiont"}}, "mode 'jiont' is not known"),
        ({"recipe": {"schedule": "linear"}}, "schedule 'linear' is not known"),
        ({"recipe": {"momentun": 0.9}}, "do not exist: momentun"),
        ({"augment": "crop"}, "augment must be one of none"),
        ({"head": {"head": "gird"}}, "gird"),
        ({"model": "exeunt.zoo:digit"}, "digit"),
        ({"exits": ("blocks.9",)}, r"blocks\.9"),
    ],
)
def test_a_typo_leaves_no_folder_behind(small, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        run(replace(small, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["lightning_fabric", "safetensors"])
def test_a_missing_package_is_reported_before_any_work(small, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(module, "open_source", None)
    with pytest.raises(MissingExtra, match=package):
        run(small, tmp_path / "run")


@pytest.mark.parametrize("what", ["a file", "below a file", "a file as cache", "a locked cache"])
def test_where_nothing_can_be_written_is_reported_before_any_work(small, tmp_path, monkeypatch, what):
    monkeypatch.setattr(module, "open_source", None)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path / "locked")  # root may write everywhere
    out, cache = {
        "a file": (tmp_path / "file", None),
        "below a file": (tmp_path / "file" / "deep" / "run", None),
        "a file as cache": (tmp_path / "run", tmp_path / "file"),
        "a locked cache": (tmp_path / "run", tmp_path / "locked" / "cache"),
    }[what]
    with pytest.raises(
        InputError, match=r"cannot (make|keep).*/(file is not a folder|locked is not writable)"
    ):
        run(small, out, cache=cache)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "torchvision:resnet81"}, "torchvision has no model 'resnet81'"),
        ({"model": "exeunt.zoo:digit"}, "no function 'digit'; it has digits"),
        ({"weights": "nothing.safetensors"}, "no weights file nothing.safetensors"),
        ({"model": "torchvision:resnet18", "exits": ("layer9",)}, "no place for an exit named 'layer9'"),
        ({"head": {"head": "gird"}}, "head 'gird' is not known"),
        ({"mean": (0.5, 0.5, 0.5)}, "both mean and std"),
        ({"size": 0}, "size must be at least 1"),
        ({"size": 100_000}, "a batch of 4 images of 100000x100000 pixels takes 447 GiB of memory"),
        ({"model": "torch.nn:Identity"}, "offers no place for an exit"),
        ({"model": f"{__name__}:three_classes"}, "answers with 3 classes, not with 2"),
        ({"model": f"{__name__}:wants_16_pixels"}, r"fails on a batch of shape \(2, 3, 8, 8\): RuntimeError"),
    ],
)
def test_everything_else_is_checked_before_the_data_are_read(small, tmp_path, monkeypatch, changes, said):
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the data are read")

    monkeypatch.setattr(DataSource, "decoded", read)
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


def wants_16_pixels(n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, n_classes))


def test_names_are_checked_before_the_data_are_opened(small, tmp_path):
    with pytest.raises(InputError, match="torchvision has no model"):
        run(replace(small, model="torchvision:resnet81", data="nowhere"), tmp_path / "run")


@pytest.fixture
def damaged(data) -> Path:
    """The data, with the first image and another one that cannot be read."""
    (data / "train" / "dark" / "0.png").write_bytes(b"no image")
    (data / "test" / "light" / "2.png").write_bytes(b"")
    return data


def test_images_that_cannot_be_read_are_named_with_their_part(small, damaged, tmp_path):
    with pytest.raises(InputError, match=r"cannot read the image train/dark/0\.png: .*--skip-unreadable"):
        run(small, tmp_path / "run")
    (damaged / "train" / "dark" / "0.png").unlink()
    with pytest.raises(InputError, match=r"cannot read the image test/light/2\.png: .*--skip-unreadable"):
        run(small, tmp_path / "run")


def test_images_that_cannot_be_read_are_left_out_if_asked_to(small, damaged, tmp_path, monkeypatch):
    said: list[str] = []
    job = replace(small, skip_unreadable=True)
    made = run(job, tmp_path / "run", say=said.append)
    assert (
        "1 of 24 train images cannot be read and is left out:\n  train/dark/0.png: it is not an image"
        in said[0]
    )
    assert "1 of 6 test images cannot be read and is left out:\n  test/light/2.png: " in said[1]
    assert made.manifest["data"]["unreadable"] == ["train/dark/0.png", "test/light/2.png"]
    assert made.trace("test").n == 5
    monkeypatch.setattr("exeunt.data.decode_all.ARRAY_BYTES", 0)  # images stay encoded
    lazy = run(job, tmp_path / "lazy")
    assert np.array_equal(lazy.trace("test").id, made.trace("test").id)
    (damaged / "train" / "dark" / "0.png").write_bytes((damaged / "train" / "dark" / "1.png").read_bytes())
    (tmp_path / "run" / "bundle.json").unlink()
    with pytest.raises(InputError, match="the data, or how it is split, has changed"):
        run(job, tmp_path / "run")


def test_decoding_training_and_recording_say_how_far_they_are(small, tmp_path, monkeypatch, capsys):
    real, shown = module.record, []

    def watched(*arguments, progress, **options):
        shown.append(progress)
        return real(*arguments, **options)

    said: list[str] = []
    monkeypatch.setattr(module, "record", watched)
    monkeypatch.setattr(module, "Progress", partial(Progress, every_s=0))
    run(small, tmp_path / "run", say=said.append, progress=True)
    assert "24 of 24 images decoded" in said
    assert "2 of 2 epochs, loss" in capsys.readouterr().err
    assert shown == [True, True, True]


def test_heads_first_killed_ends_as_the_uninterrupted_run(small, tmp_path, monkeypatch):
    job = replace(small, heads_first=3, augment="crop-flip")
    whole = run(job, tmp_path / "whole")
    killed_after_training(job, tmp_path / "killed", monkeypatch)
    resumed = run(job, tmp_path / "killed")
    weights = [run.path.joinpath("weights.safetensors").read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]
    first = (tmp_path / "whole" / "training" / "heads" / "history.jsonl").read_text().splitlines()
    assert len(first) == 3
    assert whole.manifest["training"]["heads_first"] == 3
    cold = run(replace(job, heads_first=0), tmp_path / "cold")
    assert cold.path.joinpath("weights.safetensors").read_bytes() != weights[0]


@pytest.mark.parametrize(("mode", "epochs"), [("joint", -1), ("frozen", 0), ("frozen", 2)])
def test_heads_first_is_for_what_trains_the_network_too(small, tmp_path, mode, epochs):
    with pytest.raises(InputError, match="heads_first"):
        run(replace(small, recipe={"mode": mode}, heads_first=epochs), tmp_path / "run")


@pytest.mark.parametrize("given", [None, 4])
def test_heads_on_kept_features_learn_in_batches_of_the_size_that_is_recorded(
    small, tmp_path, monkeypatch, given
):
    sizes = []

    def noting(*args, **options):
        sizes.append(options["batch_size"])
        return train(*args, **options)

    train = module.train
    monkeypatch.setattr(module, "train", noting)
    job = replace(small, recipe={"epochs": 1}, model=f"{__name__}:same_every_time", batch_size=given)
    assert run(job, tmp_path / "run").manifest["training"]["batch_size"] == sizes[0] == (given or 256)


@pytest.mark.parametrize(("augment", "kept"), [("none", True), ("crop-flip", False)])
def test_features_of_changing_images_are_not_kept(small, data, tmp_path, augment, kept):
    trained = run(small, tmp_path / "trained")
    backbone = load_file(trained.path / "weights.safetensors")
    weights = {
        name.removeprefix("backbone."): w for name, w in backbone.items() if name.startswith("backbone.")
    }
    save_file(weights, tmp_path / "backbone.safetensors")
    job = replace(
        small,
        weights=str(tmp_path / "backbone.safetensors"),
        pretrained=False,
        recipe={"epochs": 2},
        augment=augment,
    )
    made = run(job, tmp_path / "run")
    assert (tmp_path / "run" / "training" / "features").exists() is kept
    after = load_file(made.path / "weights.safetensors")
    assert all(np.array_equal(after[f"backbone.{name}"], w) for name, w in weights.items())


def test_a_run_records_the_recipe_that_it_was_trained_with(small, tmp_path):
    run(small, tmp_path / "first")
    weights = load_file(tmp_path / "first" / "weights.safetensors")
    own = {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}
    save_file(own, tmp_path / "own.safetensors")
    further = replace(small, weights=str(tmp_path / "own.safetensors"), pretrained=False, heads_first=1)
    recorded = run(further, tmp_path / "further").manifest["training"]
    assert (recorded["backbone_rate"], recorded["teacher"], recorded["heads_first"]) == (0.05, "original", 1)


DISTILLED = {"epochs": 1, "mode": "distill", "distill_weight": 1.0}


@pytest.fixture
def teacher(small, tmp_path) -> RunFolder:
    made = run(small, tmp_path / "teacher")
    assert made is not None
    return made


def test_another_run_teaches(small, teacher, tmp_path):
    """The network is given the teacher's logits on each batch, and nothing else when those are all that counts."""
    job = replace(small, recipe={**DISTILLED, "teacher": str(teacher.path)})
    distilled = run(job, tmp_path / "distilled")
    assert distilled.manifest["training"]["teacher"] == str(teacher.path)
    by_itself = run(replace(small, recipe=DISTILLED), tmp_path / "alone")
    after, other = (load_file(one.path / "weights.safetensors") for one in (distilled, by_itself))
    assert any(not np.array_equal(after[name], other[name]) for name in after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "has learned from .* of the part '(fit|calibrate)'.* the same --seed"),
        ({"size": 12}, r"prepared differently \(size \(8, 8\) instead of \(12, 12\), mean"),
    ],
)
def test_a_teacher_that_cannot_teach_here_is_refused(small, teacher, tmp_path, change, message):
    job = replace(small, recipe={**DISTILLED, "teacher": str(teacher.path)}, **change)
    with pytest.raises(InputError, match=message):
        run(job, tmp_path / "distilled")
    assert not (tmp_path / "distilled").exists()


def test_a_teacher_of_other_classes_is_refused(small, teacher, data, tmp_path):
    for part in ("train", "test"):
        (data / part / "light").rename(data / part / "bright")
    job = replace(small, recipe={**DISTILLED, "teacher": str(teacher.path)})
    with pytest.raises(InputError, match=r"classes dark, light, the data bright, dark"):
        run(job, tmp_path / "distilled")


def test_a_teacher_that_is_no_run_is_refused_before_the_data_are_read(small, tmp_path):
    job = replace(small, data="nowhere", recipe={**DISTILLED, "teacher": "runs/nobody"})
    with pytest.raises(
        InputError, match="teacher 'runs/nobody' is not known: choose self, original, or the folder"
    ):
        run(job, tmp_path / "distilled")


def altered(run: RunFolder, to: Path, **model: object) -> RunFolder:
    """Return a copy of a run whose manifest says otherwise what its model is."""
    shutil.copytree(run.path, to)
    about = {**run.manifest, "model": {**run.manifest["model"], **model}}
    del about[DIGEST]
    write_json(to / MANIFEST, sealed_manifest(about, about["files"]))
    return RunFolder.open(to)


def test_a_teacher_that_pytorch_cannot_open_is_refused_before_the_data_are_decoded(
    small, teacher, tmp_path, monkeypatch
):
    other = shutil.copytree(teacher.path, tmp_path / "other")
    make_cascade(tmp_path / "cascade", {"a": teacher, "b": RunFolder.open(other)}, say=lambda _: None)
    altered(teacher, tmp_path / "own", spec="somebodys_module:network")
    altered(teacher, tmp_path / "half", precision="bf16")
    weights = teacher.manifest["files"][WEIGHTS]
    altered(teacher, other / "bf16", precision="bf16", weights_digest=weights)
    monkeypatch.setattr(DataSource, "decoded", None)
    for name, message in (
        ("cascade", "holds the models of the cascade, and this takes a run that holds the weights"),
        (
            "own",
            "is a network of somebodys_module:network, and opening it would run that code: a teacher must be",
        ),
        ("half", "is a run at bf16, for answering alone: name the run that it was made from"),
        ("other@bf16", "is a run at bf16, for answering alone: name the run that it was made from"),
    ):
        with pytest.raises(InputError, match=message):
            run(replace(small, recipe={**DISTILLED, "teacher": str(tmp_path / name)}), tmp_path / "distilled")


def test_a_teacher_is_given_a_batch_before_the_data_are_decoded(small, teacher, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise TypeError("an input that it does not know")

    monkeypatch.setattr(DataSource, "decoded", None)
    monkeypatch.setattr(teachers, "output_of", lambda network, example: output_of(fail, example))
    with pytest.raises(
        InputError, match=r"cannot be given this network's inputs: .* does not know; .* the teacher's --size"
    ):
        run(replace(small, recipe={**DISTILLED, "teacher": str(teacher.path)}), tmp_path / "distilled")


def test_a_teacher_reads_as_much_of_a_text(teacher, monkeypatch):
    plan = SplitPlan.from_dict(teacher.manifest["split"])
    short, long = (SimpleNamespace(get_vocab=dict, model_max_length=most) for most in (128, 512))
    monkeypatch.setattr(teachers, "load_preparation", lambda _: short)
    teachers.check_teacher(str(teacher.path), plan, short)
    with pytest.raises(InputError, match=r"reads 128 tokens of a text, this network 512: .* reads as many"):
        teachers.check_teacher(str(teacher.path), plan, long)
    monkeypatch.setattr(teachers, "load_preparation", lambda _: long)
    teachers.check_teacher(str(teacher.path), plan, short)


def test_a_run_teaches_in_mode_distill_alone(small, teacher, tmp_path):
    job = replace(small, recipe={"mode": "joint", "teacher": str(teacher.path)})
    with pytest.raises(InputError, match="teaches in mode 'distill' alone, got mode 'joint'"):
        run(job, tmp_path / "distilled")


def test_a_training_does_not_go_on_with_another_teacher_in_the_same_folder(
    small, teacher, tmp_path, monkeypatch
):
    job = replace(small, recipe={**DISTILLED, "teacher": str(teacher.path)})
    killed_after_training(job, tmp_path / "distilled", monkeypatch)
    shutil.copytree(tmp_path / "distilled", tmp_path / "again")
    shutil.move(teacher.path, tmp_path / "before")
    run(replace(small, recipe={"epochs": 1, "mode": "joint"}), teacher.path)
    with pytest.raises(InputError, match="teacher_digest was"):
        run(job, tmp_path / "distilled")
    shutil.rmtree(teacher.path)
    shutil.move(tmp_path / "before", teacher.path)
    assert run(job, tmp_path / "again").manifest["training"]["teacher_digest"] == teacher.digest


def test_of_a_teacher_of_other_data_it_is_said_that_nobody_knows_what_it_has_seen(
    small, teacher, data, tmp_path
):
    Image.fromarray(np.full((8, 8, 3), 7, dtype=np.uint8)).save(data / "train" / "dark" / "more.png")
    theirs = teacher.manifest["inputs"]
    job = replace(
        small, recipe={**DISTILLED, "teacher": str(teacher.path)}, mean=tuple(theirs["mean"]),
        std=tuple(theirs["std"]),
    )  # fmt: skip
    said: list[str] = []
    run(job, tmp_path / "distilled", say=said.append)
    assert any("was trained on other data" in line for line in said)


@pytest.mark.parametrize("content", ["{}", "[]", '{"model": 3, "head": []}', "{"])
def test_a_damaged_record_of_the_job_is_refused(small, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "project.json").write_text(content)
    with pytest.raises(ArtefactError, match=r"project\.json .*damaged.*; choose another --out, or remove"):
        run(small, tmp_path / "run")
