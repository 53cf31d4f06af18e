"""Options of the command line reach the library as it takes them."""

from __future__ import annotations

import dataclasses
import inspect
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from exeunt.cli.app import app
from exeunt.errors import InputError
from exeunt.jobs.timed_run import TimedNetwork
from exeunt.runs.kinds import KINDS
from exeunt.runs.kinds.pytorch import WEIGHTS
from exeunt.torch import attach
from exeunt.torch.exits.heads import HeadOptions
from exeunt.torch.training.recipe import Recipe

from .command import printed

TRAIN = "train --model exeunt.zoo:digits --data sklearn:digits --out run"


@pytest.fixture
def job(monkeypatch):
    """Return a function from arguments to the job that `train` makes of them."""
    made = []
    monkeypatch.setattr("exeunt.torch.training.run.run_training", lambda job, *_, **__: made.append(job))

    def run(*arguments: str):
        printed(TRAIN, *arguments)
        return made[-1]

    return run


def test_every_option_of_recipes_and_heads_can_be_given():
    (train,) = (one.callback for one in app.registered_commands if one.callback.__name__ == "train")
    wanted = {field.name for group in (Recipe, HeadOptions) for field in dataclasses.fields(group)}
    wanted.remove("class_weights")  # with --balance-classes
    # The library says which layers it made, masks come with --task segment, and HeadOptions are known already.
    others = {"new_classifier", "masks", "head_options", "model", "example", "n_classes", "check", "verbose"}
    wanted |= set(inspect.signature(attach).parameters) - others
    assert wanted <= set(inspect.signature(train).parameters)


def test_options_left_out_have_the_librarys_defaults(job):
    plain = job()
    assert plain == job("--task", "classify")
    assert plain.augment == "none"
    assert not {"momentum", "distill_weight", "teacher", "smoothing"} & set(plain.recipe)
    assert not {"norm", "dropout"} & set(plain.head)


def test_options_given_are_passed_on(job):
    options = (
        "--mode distill --momentum 0.8 --distill-weight 0.25 --temperature 3 --teacher original --smoothing 0.1 "
        "--backbone-rate 0 --norm layer --dropout 0.5 --workers 2"
    )
    given = job(*options.split())
    expected = {"momentum": 0.8, "distill_weight": 0.25, "temperature": 3.0, "teacher": "original"}
    expected |= {"smoothing": 0.1, "backbone_rate": 0.0}
    assert {name: given.recipe[name] for name in expected} == expected
    assert (given.head["norm"], given.head["dropout"], given.workers) == ("layer", 0.5, 2)


def test_predict_decodes_in_worker_threads_where_asked(monkeypatch, tmp_path):
    seen, answered = {}, SimpleNamespace(n_answered=1)
    run = SimpleNamespace(cascade=(), manifest={"data": {}}, kind=KINDS[WEIGHTS])
    monkeypatch.setattr("exeunt.runs.folder.RunFolder.open", lambda _: run)
    monkeypatch.setattr("exeunt.data.open_inputs", lambda *_, **__: None)
    monkeypatch.setattr("exeunt.jobs.predict_inputs", lambda *_, **given: seen.update(given) or answered)
    printed("predict run --data x --workers 3 --out", tmp_path / "o.parquet")
    assert seen["workers"] == 3


@pytest.mark.parametrize(
    ("text", "fit"),
    [("0", 0), ("200", 200), ("1e3", 1000), ("5%", 0.05), ("0.05", 0.05), ("99.9%", 0.999), ("0%", 0.0)],
)
def test_parts_are_counts_or_shares(job, text, fit):
    found = job("--fit", text).fit
    assert (type(found), found) == (type(fit), pytest.approx(fit))


def test_one_mean_and_deviation_are_those_of_all_channels(job):
    one, three = (job("--mean", mean, "--std", std) for mean, std in (("0", "1"), ("0,0,0", "1,1,1")))
    assert one == three
    assert one.mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("option", "text", "told"),
    [
        *(
            ("--fit", text, "fit must be a count such as 1000 or a share such as 5%")
            for text in ("-1", "1.5", "100%", "-5%", "nan", "inf", "1e400", "1e400%", "many", "%", "1e13")
        ),
        ("--exits", "1001", "exits must be at most 1,000, got 1001"),
        ("--augment", "", "an empty text was given for --augment"),
        (
            "--mean",
            "0,1",
            "mean must be three numbers such as 0.49,0.48,0.45, or one for all channels, got '0,1'",
        ),
        ("--task", "clasify", "there is no task 'clasify': choose one of classify"),
    ],
)
def test_what_cannot_be_is_refused_before_the_data_are_read(job, option, text, told):
    with pytest.raises(InputError, match=told):
        job(option, text)


@pytest.mark.parametrize(
    "inputs", [{"kind": "image", "size": [8, 8]}, {"kind": "text", "length": 32, "folder": "tokenizer"}]
)
def test_a_batch_that_does_not_fit_in_memory_is_refused_before_it_is_made(inputs):
    network = TimedNetwork(SimpleNamespace(cascade=(), manifest={"inputs": inputs}), "eager", None)
    told = r"a batch of 1,000,000,000,000 inputs takes .* GiB of memory, .*--batch-size"
    with pytest.raises(InputError, match=told):
        network.batch(10**12)
