"""What a cascade says where it cannot do what is asked: the way out is one that works for a cascade."""

from __future__ import annotations

import pytest
from job_inputs import made_anew, quiet

import exeunt as ex
from damaged_files import damage
from exeunt.cli.main import main
from exeunt.jobs.cascade_run import make_cascade
from exeunt.runs.folder import RunFolder
from exeunt.runs.verification import verify


@pytest.fixture
def cascade(exported, run, tmp_path) -> RunFolder:
    """A cascade of the network for ONNX Runtime, and of a copy in PyTorch."""
    return make_cascade(tmp_path / "cascade", {"small": exported, "large": run}, say=quiet)


@pytest.mark.parametrize("words", [("show", "{}@int8"), ("export", "{}", "--precision", "int8")])
def test_at_another_precision_it_is_a_cascade_of_its_models_there(words, cascade, capsys):
    said = main_says(2, capsys, *(word.format(cascade.path) for word in words))
    assert "--precision int8" in said
    assert "make a cascade of" in said


def test_what_is_damaged_in_it_is_made_again_by_the_command_that_made_it(cascade):
    damage(cascade.path / "cascade.json", "flip")
    with pytest.raises(ex.ArtefactError, match="or make the cascade anew with `exeunt cascade`"):
        RunFolder.open(cascade.path).cascade  # noqa: B018


def test_verify_finds_what_is_damaged_in_a_model(cascade, run):
    assert {part.state for part in verify(cascade.path)} == {"ok"}
    damage(run.path / "weights.safetensors", "flip")
    (failed,) = (part for part in verify(cascade.path) if part.state != "ok")
    assert failed.part == "cascade"
    assert failed.text.startswith(f"network of the model 'large': {run.path / 'weights.safetensors'}")
    assert "restore it from a copy" in failed.text


def test_a_cascade_is_not_calibrated_whose_model_is_another_now(cascade, run, capsys):
    """Nothing could be answered with the policy."""
    away = run.path.rename(run.path.parent / "away")
    main_says(0, capsys, "calibrate", cascade.path, "--budget", "90%")
    away.rename(run.path)
    made_anew(run, training={"again": True})
    said = main_says(2, capsys, "calibrate", cascade.path, "--budget", "90%")
    assert "was made anew since the cascade was" in said


def main_says(status: int, capsys, *words) -> str:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert end.value.code == status
    return capsys.readouterr().err
