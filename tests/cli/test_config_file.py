"""`exeunt train --config run.yaml`: a file of options does what they do on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import pytest

pytest.importorskip("torch")
yaml = pytest.importorskip("yaml")
typer = pytest.importorskip("typer")

from exeunt.cli.app import app  # noqa: E402 - after the skips
from exeunt.errors import InputError  # noqa: E402
from exeunt.runs.file_digests import CONFIG  # noqa: E402

from .command import called  # noqa: E402

NEEDED = {"model": "exeunt.zoo:digits", "data": "sklearn:digits", "out": "run"}
GIVEN = [word for option, value in NEEDED.items() for word in (f"--{option}", value)]
ALL = {option.name: option for option in typer.main.get_command(app).commands["train"].params}
OF_GENERATION = ("task", "most_tokens", "chat")
OF_MASKS = ("ignore_class", "balance_classes")
OTHERS = {*NEEDED, *OF_GENERATION, *OF_MASKS, "config"}
OPTIONS = {name: option for name, option in ALL.items() if name not in OTHERS}
(TRAIN,) = [one.callback for one in app.registered_commands if one.callback.__name__ == "train"]
KINDS = get_type_hints(TRAIN)
TEXTS = {
    "exits": "auto", "exit_batch": "1,16", "mean": "0.1,0.2,0.3", "std": "1,2,3", "fit": "5%",
    "calibrate": "200", "test": "0.25", "head": "global", "label_column": "fine label: é",
}  # fmt: skip
ASKED_WITH = {"exit_batch": ("exits",)}
"""Options that go with others alone."""


def value_of(name: str) -> object:
    """Return a value that is not the option's default."""
    (kind,) = {*(get_args(KINDS[name]) or [KINDS[name]])} - {type(None)}
    return TEXTS.get(name, {bool: True, int: 3, float: 0.25, str: "some text", Path: "some folder"}[kind])


def words_of(name: str) -> list[str]:
    """Return how the same is given on the command line."""
    value = value_of(name)
    return [OPTIONS[name].opts[0], *([] if value is True else [str(value)])]


@pytest.fixture
def trained(monkeypatch):
    """Return a function from arguments to what `train` makes of them, and the options that the run keeps."""
    made = []

    def run_training(job, *_, config, **__):
        made.append((job, yaml.safe_load(config)))

    monkeypatch.setattr("exeunt.torch.training.run.run_training", run_training)

    def run(*arguments: object):
        done = called("train", *arguments)
        assert done == (0, "", "")
        return made.pop()

    return run


@pytest.fixture
def file(tmp_path):
    """Return a function from options, or the text of a file, to its path."""

    def write(options):
        path = tmp_path / "wanted.yaml"
        path.write_text(options if isinstance(options, str) else yaml.safe_dump(options), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_does_in_a_file_what_it_does_on_the_command_line(trained, file, name):
    others = ASKED_WITH.get(name, ())
    needed = [*GIVEN, *(word for other in others for word in words_of(other))]
    given, _ = trained(*needed, *words_of(name))
    wanted = {**NEEDED, **{one: value_of(one) for one in (*others, name)}}
    assert trained("--config", file(wanted))[0] == given
    assert trained(*needed)[0] != given


def test_options_of_generation_do_in_a_file_what_they_do_on_the_command_line(monkeypatch, file):
    made = []

    def train(job, *_, config, **__):
        made.append((job, yaml.safe_load(config)))
        raise InputError("trained")

    monkeypatch.setattr("exeunt.torch.language.training.train_language_model", train)
    given = {
        "model": "hf:some",
        "data": "p.txt",
        "out": "run",
        "task": "generate",
        "most_tokens": 3,
        "chat": False,
    }
    words = "--model hf:some --data p.txt --out run --task generate --most-tokens 3 --no-chat"
    for arguments in (words.split(), ["--config", file(given)]):
        assert called("train", *arguments).err == "exeunt: trained\n"
    assert made[0] == made[1]
    assert {name: made[0][1][name] for name in OF_GENERATION} == {name: given[name] for name in OF_GENERATION}


def test_what_a_run_keeps_makes_the_same_job_again(trained, file):
    """But for its place."""
    job, kept = trained("--config", file({**NEEDED, **{name: value_of(name) for name in OPTIONS}}))
    assert set(kept) == {*NEEDED, *OPTIONS, "task"} - {"out"}
    assert trained("--config", file(kept), "--out", "elsewhere") == (job, kept)


def test_the_command_line_wins(trained, file):
    options = file({**NEEDED, "epochs": 7, "hidden": 5, "seen": True})
    job, kept = trained("--epochs", 2, "--config", options, "--unseen")
    assert (job.recipe["epochs"], job.head["hidden"], job.pretrained) == (2, 5, False)
    assert (kept["epochs"], kept["hidden"], kept["seen"]) == (2, 5, False)


def test_names_may_have_hyphens_values_may_be_lists_and_null_is_the_default(trained, file):
    text = "learning-rate: 1e-3\nexits: [blocks.0, blocks.1]\nmean: [.5, .5, .5]\nstd:\n- 1\n- 1\n- 2\n"
    more = "seen: no\nlabel-column: null\nsize:\n"
    job, kept = trained("--config", file(yaml.safe_dump(NEEDED) + text + more))
    assert (job.exits, job.mean, job.std) == (("blocks.0", "blocks.1"), (0.5, 0.5, 0.5), (1, 1, 2))
    assert (job.recipe["learning_rate"], job.pretrained, job.label, job.size) == (1e-3, False, None, None)
    assert not {"label_column", "size"} & set(kept)


def test_an_empty_file_gives_nothing(file):
    assert "Missing option '--model'" in called("train", "--config", file("# nothing yet\n")).err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs: 3\nmodl: x", "line 2: there is no option 'modl': did you mean model?"),
        ("zzzz: x", "line 1: there is no option 'zzzz': there are augment, backbone_rate, "),
        ("config: other.yaml", "there is no option 'config'"),
        ("3: x", "there is no option '3'"),
        ("epochs: 3\nepochs: 4", "line 2: epochs is there twice"),
        ("head: {kind: grid}", "head must be one value, or a list of them"),
        ("- epochs", "must hold options, one a line"),
        ("a: b: c", "is not YAML: mapping values are not allowed here in line 1"),
        ("model: \x07", "is not YAML: "),
        ("model: !!python/object:os.system x", "Missing option '--data'"),
        ("{model: m, data: d, out: o, epochs: many}", "'--epochs'"),
        ("{model: m, data: d, out: o, epochs: 0}", "'--epochs'"),
        ("{model: m, data: d, out: o, hidden: 1.5}", "'--hidden'"),
        ("{model: m, data: d, out: o, skip_unreadable: perhaps}", "'--skip-unreadable'"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_place(file, text, told):
    done = called("train", "--config", file(text))
    message, *rest = done.err.splitlines()
    assert (done.status, done.out) == (2, "")
    assert told in message
    assert ("wanted.yaml" in message) is ("Missing" not in message)
    assert len(rest) <= 1


def test_a_value_is_not_said_to_be_of_the_file_where_the_command_line_gave_it(file):
    done = called("train", "--config", file({**NEEDED, "epochs": 3}), "--epochs", "many")
    assert "'many'" in done.err
    assert "wanted.yaml" not in done.err


@pytest.mark.parametrize(
    ("path", "told"), [("no.yaml", "cannot read"), (".", "is a folder"), ("a.png", "no text in UTF-8")]
)
def test_what_is_no_file_of_options(tmp_path, monkeypatch, path, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    done = called("train", "--config", path)
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert path in line
    assert told in line


def test_a_run_keeps_its_options_from_the_beginning(tmp_path, monkeypatch):
    """A training that was cut off says with which command it goes on."""
    monkeypatch.chdir(tmp_path)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("exeunt.torch.training.run._train", stop)
    stopped = called("train --mode joint --exits 3", *GIVEN)
    assert stopped.status == 130
    assert "go on with `exeunt train --config run/config.yaml --out run`" in stopped.err
    again = f"exeunt train --config {tmp_path / 'run' / CONFIG} --out {tmp_path / 'run'}"
    assert f"`{again}`" in called("calibrate", tmp_path / "run", "--budget", "50%").err
    assert yaml.safe_load((tmp_path / "run" / CONFIG).read_text())["mode"] == "joint"
    assert called(again.removeprefix("exeunt ")).status == 130  # accepted as the same run
