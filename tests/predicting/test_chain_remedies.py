"""What a chain says where it cannot do what is asked: the way out is one that works for a chain."""

from __future__ import annotations

import pytest

import exeunt as ex
from damaged_files import damage
from exeunt.cli import main
from exeunt.derived.chain_run import make_chain
from exeunt.run.folder import RunFolder
from exeunt.run.verification import verify


def quiet(_):
    pass


@pytest.fixture
def chain(exported, run, tmp_path) -> RunFolder:
    """A chain of the network for ONNX Runtime, and of a copy in PyTorch."""
    return make_chain(tmp_path / "chain", {"small": exported, "large": run}, say=quiet)


@pytest.mark.parametrize("words", [("show", "{}@int8"), ("export", "{}", "--precision", "int8")])
def test_at_another_precision_it_is_a_chain_of_its_members_there(words, chain, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([word.format(chain.path) for word in words])
    said = capsys.readouterr().err
    assert "--precision int8" in said
    assert "make a chain of" in said


def test_what_is_damaged_in_it_is_made_again_by_the_command_that_made_it(chain):
    damage(chain.path / "chain.json", "flip")
    with pytest.raises(ex.ArtefactError, match="or make the chain anew with `exeunt chain`"):
        RunFolder.open(chain.path).chain  # noqa: B018


def test_verify_finds_what_is_damaged_in_a_member(chain, run):
    assert {part.state for part in verify(chain.path)} == {"ok"}
    damage(run.path / "weights.safetensors", "flip")
    (failed,) = (part for part in verify(chain.path) if part.state != "ok")
    assert failed.part == "chain"
    assert failed.text.startswith(f"weights of the member 'large': {run.path / 'weights.safetensors'}")
    assert "restore it from a copy" in failed.text
