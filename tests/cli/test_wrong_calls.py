"""The command line is called wrong in every way: each option of each command, as the application itself lists them.

Whatever is refused is told in one or two lines, before any work, and nothing is written.
"""

from __future__ import annotations

import os
import re
import shutil
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

import numpy as np
import pytest

import exeunt as ex

typer = pytest.importorskip("typer")
pytest.importorskip("torch")
pytest.importorskip("fastapi")

from PIL import Image  # noqa: E402 - after the skips
from tests.gateway.running_gateway import written  # noqa: E402

from exeunt.cli.app import app  # noqa: E402
from exeunt.cli.gateway import GATEWAY_VERBS  # noqa: E402
from exeunt.runs.file_digests import TRACED  # noqa: E402
from exeunt.runs.folder import RunFolder  # noqa: E402
from made_runs import ABOUT, made_run  # noqa: E402

from .command import called  # noqa: E402

_VERBS = typer.main.get_command(app).commands
COMMANDS = {verb: command for verb, command in _VERBS.items() if verb != "gateway"}
COMMANDS |= {f"gateway {verb}": command for verb, command in _VERBS["gateway"].commands.items()}
CALLBACKS = {command.callback.__name__: command.callback for command in app.registered_commands}
CALLBACKS |= {f"gateway {verb.__name__}": verb for verb in GATEWAY_VERBS}

# What work a command begins with once everything that was given has been accepted.
WORK = {
    "train": "exeunt.torch.training.job_network:attach",
    "calibrate": "exeunt.runs.folder:RunFolder.check_policy",
    "evaluate": "exeunt.evaluation.figures:draw_evaluation",
    "compare": "exeunt.evaluation.compare:_records",
    "predict": "exeunt.torch.open_run:open_eager",
    "record": "exeunt.torch.open_run:open_eager",
    "export": "exeunt.torch.to_onnx:load_network",
    "bench": "exeunt.jobs.timed_run:TimedNetwork.original_macs",
    "cascade": "exeunt.jobs.cascade_run:_parts",
    "serve": "exeunt.serve.loaded_run:open_shared",
    **{f"gateway {verb.__name__}": "exeunt.gateway.config:read_config" for verb in GATEWAY_VERBS},
    "gateway demo": "exeunt.gateway.demo:demonstrate",
    "gateway import": "exeunt.gateway.folder:gateway_folder",
    "gateway prices": "exeunt.gateway.price_list:written",
    "demo": "exeunt.cli.demo:demonstrate",
    "watch": "exeunt.jobs.watching:watch_file",
    "show": "exeunt.cli.show_diff_verify:_sections",
    "diff": "exeunt.cli.show_diff_verify:_answers",
    "verify": "exeunt.runs.verification:verify",
}
# Options in which every text is right, or which are looked at where the network is made.
ANY_TEXT = {
    ("compare", "unit"), ("predict", "trusted"), ("predict", "out"), ("bench", "trusted"), ("calibrate", "trusted"),
    ("record", "trusted"), ("record", "out"),
    ("calibrate", "executor"), ("export", "trusted"), ("train", "exits"), ("train", "gate"),
    ("gateway keys", "add"), ("gateway keys", "add_admin"), ("gateway keys", "spend"), ("gateway certify", "labels"),
    ("gateway import", "client"), ("gateway import", "measure"),
    ("gateway money", "book"), ("gateway money", "drop"), ("gateway money", "reason"), ("gateway money", "resume"),
    ("watch", "group_column"), ("serve", "name"), ("serve", "executor"), ("serve", "trusted"),
}  # fmt: skip

HUGE = "9" * 30
NO_NUMBER = ["many", "NaN", "-inf", "1,5", "☃", "½", "0x10", "1 2", "--", "{folder}"]
WRONG = {
    int: ["nan", "1e400", "1.5", "-1", "-" + HUGE],
    float: ["nan", "inf", "1e400", "-1", "-1e-9"],
    str: ["☃ nothing", "../☃"],
    Path: ["{file}/inside", "{folder}/../file.txt/x"],
    bool: [],
}
PERHAPS_WRONG = {
    int: [HUGE, "0"],
    float: [HUGE, "0", "1e300", "1e-300"],
    str: [
        "nan", "-1", "1e400", "1e-400", "nan%", "-5%", "1e400%", HUGE,
        "0", "0%", "5", "{folder}", "{file}", "{nothing}",
        "{folder}/", ",", "%", ":", "::", "1:2", ",,1", "a\nb", "\udcff", "\x1b[31m", "a" * 5000,
        "--help", "?", "a?b", "a:b",
        "hf:", "timm:", "torchvision:", "a.b:c", ".", "/", "~", "*", "none", "None", "null", "{}", "[]",
    ],
    Path: ["{folder}", "{file}", "{nothing}", "{nothing}/deeper", "a" * 5000, ".", "☃"],
    bool: [],
}  # fmt: skip


STEP = 20  # of the calls that are perhaps wrong, the quick test takes one in so many
MOST = (
    4  # of what one parser refuses for all options one in so many, and every other text that is surely wrong
)


class Call(NamedTuple):
    """Arguments, and whether they are wrong without a doubt."""

    arguments: list[str]
    wrong: bool


def kind_of(verb: str, parameter: object) -> type:
    """Return what type a parameter's function takes."""
    annotation = get_type_hints(CALLBACKS[verb]).get(parameter.name, str)
    (kind,) = {*(get_args(annotation) or [annotation])} - {type(None)}
    return next(iter(get_args(kind)), kind)  # of options that are given several times, each


def calls(verb: str, base: list[str], *, step: int = 1) -> list[Call]:
    """Return wrong calls of a command: each of its parameters, given wrong in each way.

    `step`: of those that are perhaps wrong one in so many, others for each parameter.
    """
    made = [Call([*base, "--no-such-option"], True), Call([*base, "--no-such-option", "3"], True)]
    for number, parameter in enumerate(COMMANDS[verb].params):
        if parameter.name == "help":
            continue
        kind = kind_of(verb, parameter)
        perhaps = PERHAPS_WRONG[kind][number % step :: step]
        some = min(step, MOST)
        sure = WRONG[kind][number % min(step, 2) :: min(step, 2)]
        sure += NO_NUMBER[number % some :: some] if kind in (int, float) else []
        if parameter.param_type_name == "argument":
            place = base.index("{run}") if "{run}" in base else 0
            values = sure + perhaps
            made += [Call([*base[:place], value, *base[place + 1 :]], False) for value in values]
            made.append(Call([*base, "{run}", "{run}"], verb != "compare"))
            continue
        for name in [*parameter.opts, *parameter.secondary_opts]:
            if number % some == 0:  # the parser's, which knows no option from another
                made += [Call([*base, f"{name}x"], True), Call([*base, f"{name}="], True)]
            if kind is bool:
                made += [Call([*base, f"{name}=yes"], True), Call([*base, name, "yes"], True)]
            else:
                made += [Call([*base, name], True), Call([*base, name, ""], True)]
            is_wrong = (verb, parameter.name) not in ANY_TEXT
            made += [Call([*base, f"{name}={value}"], is_wrong) for value in sure]
            made += [Call([*base, f"{name}={value}"], False) for value in perhaps]
    return made


TABLE = "--confidence conf_{} --prediction pred_{} --cost 1,3 --policies eero --workers 0 --cache {cache}"
BASES = {
    "train": [
        "--model exeunt.zoo:digits --data sklearn:digits --mode joint --exits 1 --augment none --out {nothing}"
    ],
    "calibrate": [
        "{run} --budget 60% --policy eero --delta none",
        "{run} --max-loss 40% --policy eero --delta 0.2",
        "{run} --budgets 60%,70% --policy eero --delta none",
        "{run} --max-early-worse 95% --tail 90% 99% --policy eero --delta 0.2",
    ],
    "evaluate": ["{run} --splits 1"],
    "compare": [
        "{run} --policies eero --budgets 60% --splits 1 --workers 0 --cache {cache}",
        f"{{table}} {TABLE}",
    ],
    "predict": ["{run} --data {image} --out {nothing}"],
    "record": ["{run} --data {image} --out {nothing}"],
    "export": ["{run}"],
    "bench": ["{run} --repeats 1"],
    "cascade": ["small={run} {run} --out {nothing}"],
    "serve": ["{run} --port 0"],
    "gateway serve": ["{file}"],
    "gateway demo": [""],
    "demo": ["--out {nothing}"],
    "gateway certify": ["{file}"],
    "gateway import": ["{gateway} {log} --time when --group-column who"],
    "gateway keys": ["{file} --add bob"],
    "gateway forget": ["{file} bob"],
    "gateway labels": ["{file} --count 3"],
    "gateway money": ["{file} --book large --reason why"],
    "gateway prices": ["{prices} large"],
    "watch": ["{run} {file}"],
    "show": ["{run}"],
    "diff": ["{run} {run}"],
    "verify": ["{run}"],
}


class Accepted(BaseException):
    """What was given was found to be right."""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What stands for each name in braces, and the folder that holds it all."""
    root = tmp_path_factory.mktemp("wrong")
    run = made_run(root / "run")
    answers = np.random.default_rng(0).dirichlet(np.ones(4) / 4, size=(600, 3))
    trace = ex.ExitTrace.from_probabilities(answers, cost=run.cost, label=answers[:, 2].argmax(axis=1))
    parts = zip(TRACED, trace.split(fit=0.3, calibrate=0.5, test=0.2), strict=True)
    about = {**ABOUT, "inputs": {"kind": "image", "size": [8, 8]}}
    run = RunFolder.create(run.path, cost=run.cost, traces=dict(parts), about=about)
    run.save_policy(ex.eero(run.trace("fit"), run.trace("calibrate"), budget="60%", delta=None))
    (root / "lm").mkdir()
    (root / "lm" / "decoder.safetensors").write_bytes(b"weights")
    inputs = {"kind": "text", "chat": False, "most_tokens": 8, "ends": []}
    traces, about = {part: run.trace(part) for part in TRACED}, {**ABOUT, "inputs": inputs}
    RunFolder.create(root / "lm", cost=run.cost, traces=traces, about=about, network="decoder.safetensors")
    (root / "texts.txt").write_text("a prompt\nanother\n")
    (root / "folder").mkdir()
    (root / "file.txt").write_text("nothing of ours")
    Image.new("RGB", (8, 8)).save(root / "image.png")
    lines = ["label,pred_0,conf_0,pred_1,conf_1"]
    lines += [f"{i % 3},{i % 3},0.{i % 9},{i % 2},0.{i % 7}" for i in range(200)]
    (root / "table.csv").write_text("\n".join(lines))
    written(root)
    rows = [f"{i}.5,user {i},{i % 2},1,-0.{i % 7},0.1,1" for i in range(200)]
    header = "when,who,small_grade,large_grade,small_logprob,small_cost,large_cost"
    (root / "log.csv").write_text("\n".join([header, *rows]))
    (root / "prices.json").write_text(
        '{"large": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}}'
    )
    files = (
        "gateway.yaml",
        "log.csv",
        "prices.json",
        "run",
        "folder",
        "file.txt",
        "image.png",
        "table.csv",
        "lm",
        "texts.txt",
        "nothing",
        "cache",
    )
    return root, {f"{{{file.partition('.')[0]}}}": str(root / file) for file in files}


def filled(word: str, places: dict[str, str]) -> str:
    for name, path in places.items():
        word = word.replace(name, path)
    return word


def listed(root: Path) -> dict[str, tuple[int, int]]:
    """Return when each file below was written, and its size."""
    entries = [entry for folder, _, _ in os.walk(root) for entry in os.scandir(folder)]
    return {entry.path: (entry.stat().st_mtime_ns, entry.stat().st_size) for entry in entries}


@pytest.fixture
def outcome(places, monkeypatch):
    """Return a function from arguments to what the command did: None if they were accepted."""
    root, names = places
    monkeypatch.chdir(root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    import_module("exeunt.gateway.server")  # else it may bind what is replaced here
    accepted = []

    def work(*_, **__):
        accepted.append(True)
        raise Accepted

    def call(verb: str, arguments: list[str]):
        module, _, name = WORK[verb].partition(":")
        *owner, function = name.split(".")
        monkeypatch.setattr(reduce(getattr, owner, import_module(module)), function, work)
        accepted.clear()
        try:
            done = called(*verb.split(), *(filled(word, names) for word in arguments))
        except Accepted:
            shutil.rmtree(root / "nothing", ignore_errors=True)
            return None
        return None if accepted else done

    return call


def complaint(done, before, after) -> str:
    """Return what is wrong about a refusal; "" if nothing is."""
    lines = done.err.splitlines()
    told = [line for line in lines if line.startswith("exeunt: ") and not line.startswith("exeunt: warning")]
    if done.status not in (2, 3):
        return f"status {done.status}"
    if len(told) != 1 or "Traceback" in done.err:
        return "not one message"
    rest = lines[lines.index(told[0]) + 1 :]
    if rest and not (len(rest) == 1 and re.fullmatch(r"`exeunt.* --help` lists what can be given", rest[0])):
        return "a message of several lines"
    if told[0].startswith("exeunt: unexpected") or "object at 0x" in done.err:
        return "an error that nobody foresaw"
    return "" if before == after else f"written: {sorted(set(after) ^ set(before)) or 'changed'}"


def test_every_command_is_called_wrong():
    assert set(COMMANDS) == set(BASES) == set(WORK) == set(CALLBACKS)
    made = [calls(verb, base.split(), step=STEP) for verb, bases in BASES.items() for base in bases]
    assert sum(map(len, made)) > 500


@pytest.mark.parametrize("step", [STEP, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_wrong_calls_are_told_in_a_line_and_nothing_is_written(outcome, places, verb, step):
    faults = []
    for text in BASES[verb]:
        base = text.split()
        done = outcome(verb, base)
        assert done is None, f"the call that the wrong ones are made of must be right: {done}"
        for arguments, wrong in calls(verb, base, step=step):
            before = listed(places[0])
            done = outcome(verb, arguments)
            if done is None or (done.status == 0 and not wrong):
                problem = "accepted" if wrong else ""
            else:
                problem = complaint(done, before, listed(places[0]))
            if problem:
                given = " ".join(arguments[len(base) :] or arguments)
                faults.append((problem, given[:100], done and done.err[:300]))
    assert not faults, f"{len(faults)} faults\n" + "\n".join(map(str, faults))
