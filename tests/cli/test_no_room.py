"""A full disk, and a run that may not be written to: one line, nothing half-written, earlier files whole."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from exeunt.errors import FileError  # noqa: E402 - after the skips
from exeunt.runs.folder import RunFolder  # noqa: E402

from .command import Called, called, exeunt  # noqa: E402
from .damaged_runs import image_run  # noqa: E402

TRAIN = (
    "train --model exeunt.zoo:digits --exits 2 --mode joint --epochs 1 --augment none --fit 4 --calibrate 4"
)
COMMANDS = {
    "calibrate": "calibrate RUN --budget 70% --policy eero",
    "calibrate for several budgets": "calibrate RUN --budgets 60%,80% --policy eero",
    "evaluate": "evaluate RUN --no-figures",
    "predict": "predict RUN --data PICTURES --out RUN/out.parquet",
    "export": "export RUN",
    "bench": "bench RUN --batch-size 2 --repeats 1 --max-seconds 0.01",
    "bench --profile": "bench RUN --profile --batch-size 2 --repeats 1 --max-seconds 0.01",
}
SLOW = ("predict", "export", "bench", "bench --profile")  # they build, cut or time networks
NAMED = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in COMMANDS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run with everything but an export, and pictures in two classes."""
    folder = tmp_path_factory.mktemp("whole")
    run = image_run(folder / "run")
    (run.path / "evaluation.json").write_text("{}")
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for k in range(2):
            pictures = folder / "pictures" / part / f"class{k}"
            pictures.mkdir(parents=True)
            for i in range(12):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(pictures / f"{i}.png")
    return folder


def ran(name: str, run: Path, whole: Path) -> Called:
    pictures = whole / "pictures" / "test" / "class0"
    return called(COMMANDS[name].replace("RUN", str(run)).replace("PICTURES", str(pictures)))


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder; empty folders are nobody's loss."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_one_line(err: str) -> None:
    lines = [line for line in err.splitlines() if line.startswith("exeunt: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert "cannot write" in lines[0] or "cannot make" in lines[0]
    assert "no space left on device, free some space or choose another place" in lines[0]


def check_refused(name: str, run: Path, whole: Path) -> None:
    """A command says that there is no room, and leaves the run as it was."""
    before = contents(run)
    status, _, err = ran(name, run, whole)
    assert status == 2
    check_one_line(err)
    assert contents(run) == before


@pytest.mark.parametrize("name", NAMED)
def test_no_room_for_the_last_step(name, whole, tmp_path, monkeypatch):
    """Everything is written under a temporary name, and then cannot take its place."""
    run = shutil.copytree(whole / "run", tmp_path / "run")
    for step in ("replace", "rename"):
        monkeypatch.setattr(os, step, refuse)
    check_refused(name, run, whole)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of its own with room for 6 MB; skipped where it may not be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system may not be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # a reader may not be collected yet


def fill(disk: Path, *, but: int = 0) -> None:
    """Take all room but some bytes."""
    with (disk / "filler").open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(file.tell() - but)


@pytest.mark.parametrize("name", NAMED)
def test_a_full_disk(name, whole, disk):
    run = shutil.copytree(whole / "run", disk / "run")
    fill(disk)
    check_refused(name, run, whole)
    (disk / "filler").unlink()
    done = ran(name, run, whole)
    assert done.status == 0, done.err


@pytest.mark.parametrize("name", NAMED)
def test_a_run_that_may_not_be_written_to(name, whole, disk):
    run = shutil.copytree(whole / "run", disk / "run")
    before = contents(run)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    status, out, err = ran(name, run, whole)
    assert status == 2
    assert "Traceback" not in err
    (line,) = (line for line in err.splitlines() if line.startswith("exeunt: "))
    assert "choose another place" in line or "can be written to" in line
    assert contents(run) == before
    if name == "evaluate":
        assert "accuracy" in out  # which needs no file


def train(whole: Path, out: Path) -> tuple[int, str]:
    done = exeunt(TRAIN, "--data", whole / "pictures", "--out", out, cwd=whole, ok=False)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.2, 0.4, 0.6, 0.8, 0.97])
def test_training_on_a_disk_that_gets_full_goes_on_when_there_is_room(share, whole, disk):
    """`share`: room as a share of what the finished run takes."""
    run, twin = disk / "run", whole / "trained"
    assert RunFolder.exists(twin) or train(whole, twin)[0] == 0
    room = int(share * sum(len(content) for content in contents(twin).values()))
    fill(disk, but=room)
    status, err = train(whole, run)
    assert status == 2
    check_one_line(err)
    assert not RunFolder.exists(run)
    assert not [name for name in contents(disk) if ".tmp" in name or ".new" in name]
    (disk / "filler").unlink()
    status, err = train(whole, run)
    assert status == 0, err
    RunFolder.open(run).files.check_all()


@pytest.mark.parametrize("written", ["weights", "checkpoint", "tokenizer"])
def test_libraries_that_write_files_themselves_say_that_there_is_no_room(written, disk):
    """Each has an error of its own for it, and none of them is an OSError."""
    torch = pytest.importorskip("torch")
    from exeunt.torch.models.hugging_face import save_tokenizer
    from exeunt.torch.models.weights import save_weights
    from exeunt.torch.training.checkpoint import save_checkpoint

    network = torch.nn.Linear(1500, 1500)
    if written == "tokenizer":
        tokenizers, transformers = (pytest.importorskip(name) for name in ("tokenizers", "transformers"))
        words = {f"a rather long word {i}": i for i in range(20_000)}
        model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a rather long word 0"))
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model)
    fill(disk, but=100_000)
    save = {
        "weights": lambda path: save_weights(network, path),
        "checkpoint": lambda path: save_checkpoint(path, {}, network.state_dict()),
        "tokenizer": lambda path: save_tokenizer(tokenizer, path),
    }[written]
    with pytest.raises(FileError, match=r"cannot write \S+: no space left on device, free some space"):
        save(disk / written)
    assert set(contents(disk)) == {"filler"}
