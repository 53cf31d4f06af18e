"""`exeunt train --task generate` and the commands after it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from cli.command import exeunt


@pytest.fixture(scope="module")
def folder(asked, run, tmp_path_factory):
    """A copy of the run, the decoder and its prompts."""
    made = tmp_path_factory.mktemp("language")
    shutil.copytree(run.path, made / "lm")
    shutil.copytree(Path(asked.data).parent, made, dirs_exist_ok=True)
    shutil.copy(run.path.parent / "said.txt", made)
    return made


def train(out, *more):
    return "train", "--task", "generate", "--model", "hf:model", "--data", "prompts.txt", "--out", out, *more


@pytest.mark.slow
def test_the_way_of_the_how_to(folder):
    """Train, calibrate, evaluate, generate: each says what it did, and names the next command."""
    said = (folder / "said.txt").read_text()
    assert "adapters learn from" in said
    assert "agreement of each exit with the full network after the same tokens" in said
    assert "next: exeunt calibrate lm --agree 95%" in said
    done = exeunt("calibrate", "lm", "--agree", "70%", "--delta", "0.2", cwd=folder)
    assert "of the tokens (mean over prompts) differ from those of the full network" in done.stdout
    assert "next: exeunt evaluate lm" in done.stdout
    done = exeunt("evaluate", "lm", cwd=folder)
    assert "of the tokens differ from what the full network chooses after the same tokens" in done.stdout
    found = json.loads((folder / "lm" / "evaluation.json").read_text())
    assert found["answers"] == 80
    assert sum(found["shares"]) == pytest.approx(1)
    done = exeunt("predict", "lm", "--data", "prompts.txt", "--compare", "--out", "answers.jsonl", cwd=folder)
    assert "400 answers written to answers.jsonl" in done.stdout
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [one["prompt"] for one in answers] == (folder / "prompts.txt").read_text().splitlines()
    assert all(len(one["exits"]) == one["tokens"] <= 10 for one in answers)
    assert not [*folder.glob(".answers*")]
    shown = exeunt("predict", "lm", "--data", "prompts.txt", "--full", cwd=folder)
    assert len(shown.stdout.splitlines()) == 400
    assert "mean cost of a token" in shown.stderr
    assert "costs are those of a token, in texts of" in (shown := exeunt("show", "lm", cwd=folder)).stdout
    assert "are cut" not in shown.stdout
    assert "auto, of this run, calibrated by generating" in exeunt("verify", "lm", cwd=folder).stdout


def test_prompts_from_standard_input(folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"w3 w4\nw9\n")))
    lines = exeunt("predict", "lm", "--data", "-", "--full", cwd=folder).stdout.splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["w3 w4", "w9"]


def test_answers_are_exact_unless_something_else_is_asked_for(folder):
    """Without a policy, too; drafts are of the profile's choice, and told."""
    (folder / "few.txt").write_text("w3 w4 w3 w4 w3\nw9\n")
    done = exeunt("predict", "lm", "--data", "few.txt", cwd=folder)
    assert "exact answers" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    whole = exeunt("predict", "lm", "--data", "few.txt", "--full", cwd=folder)
    assert [one["answer"] for one in lines] == [
        json.loads(one)["answer"] for one in whole.stdout.splitlines()
    ]
    assert "exact answers" not in whole.stderr
    done = exeunt("predict", "lm", "--data", "few.txt", "--no-exact", cwd=folder, ok=False)
    assert "has no policy yet" in done.stderr or "mean cost of a token, along its exit" in done.stderr


def test_drafts_are_told(folder, monkeypatch):
    from exeunt.torch.language import DraftPlan, Drafts, LanguageModel

    plan = DraftPlan(Drafts(lookup=4), None, {"plain": 2.0, "lookup": 1.0}, 0.7, 0.5)
    monkeypatch.setattr(LanguageModel, "draft_plan", lambda *_, **__: plan)
    done = exeunt("predict", "lm", "--data", "prompts.txt", "--exact", cwd=folder)
    told = (
        "exact answers, drafted by lookup: 50% of the time of plain decoding by the profile, and 70% as timed"
    )
    assert told in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    drafted, accepted = (sum(one[name] for one in lines) for name in ("drafted", "accepted"))
    assert 0 < accepted <= drafted
    assert f"{accepted:,} of {drafted:,} drafts were right" in done.stderr


def test_where_no_profile_can_be_made_decoding_is_plain(folder, monkeypatch):
    from exeunt.errors import InputError
    from exeunt.torch.language import LanguageModel

    def lost(*_, **__):
        raise InputError("there is no prompts.txt")

    monkeypatch.setattr(LanguageModel, "draft_plan", lost)
    (folder / "few.txt").write_text("w3 w4\n")
    done = exeunt("predict", "lm", "--data", "few.txt", cwd=folder)
    assert (
        "exact answers by plain decoding: no profile could be made (there is no prompts.txt)" in done.stderr
    )
    assert len(done.stdout.splitlines()) == 1


def test_what_is_interrupted_while_it_writes_a_file_goes_on(folder, monkeypatch):
    from exeunt.torch.language import model

    made, asked = model.continuations, []

    def interrupted(network, prompts, *given, **options):
        asked.append(len(prompts))
        for n, one in enumerate(made(network, prompts, *given, **options)):
            if n == 20 and len(asked) == 1:
                raise KeyboardInterrupt
            yield one

    prompts = (folder / "prompts.txt").read_text().splitlines(keepends=True)
    (folder / "some.txt").write_text("".join(prompts[:40]))
    monkeypatch.setattr(model, "continuations", interrupted)
    command = ("predict", "lm", "--data", "some.txt", "--full", "--most-tokens", "2", "--out")
    done = exeunt(*command, "answers-so-far.jsonl", cwd=folder, ok=False)
    assert "the same command goes on where it was" in done.stderr
    assert not (folder / "answers-so-far.jsonl").exists()
    exeunt(*command, "answers-so-far.jsonl", cwd=folder)
    assert asked == [40, 20]
    exeunt(*command, "whole.jsonl", cwd=folder)
    assert (folder / "answers-so-far.jsonl").read_text() == (folder / "whole.jsonl").read_text()


@pytest.mark.slow
def test_budgets_and_whole_answers(folder):
    done = exeunt("calibrate", "lm", "--budgets", "88%,97%", "--delta", "0.2", cwd=folder)
    assert "future prompts are exchangeable" in done.stdout
    done = exeunt("evaluate", "lm", cwd=folder)
    assert all(f"the policy for {budget}:" in done.stdout for budget in ("88%", "97%"))
    assert set(json.loads((folder / "lm" / "evaluation.json").read_text())["budgets"]) == {"88%", "97%"}
    exeunt("evaluate", "lm@88%", cwd=folder)
    done = exeunt("predict", "lm", "--data", "prompts.txt", "--most-tokens", "3", "--no-exact", cwd=folder)
    assert "the policy was calibrated for answers of at most 10 tokens" in done.stderr
    exeunt("predict", "lm@97%", "--data", "prompts.txt", "--out", "some.jsonl", cwd=folder)
    done = exeunt("calibrate", "lm", "--agree", "40%", "--per", "answer", "--delta", "0.2", cwd=folder)
    assert "at most 60% of the answers differ from those of the full network" in done.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("calibrate", "lm", "--max-loss", "1%"), "by --agree, --budget or --budgets, got --max-loss"),
        (("calibrate", "lm", "--agree", "98%", "--delta", "none"), "needs a --delta"),
        (("calibrate", "lm", "--budget", "80%", "--delta", "none"), "what a language model guarantees is tested"),
        (("predict", "lm", "--data", "prompts.txt", "--out", "p.csv"), "name a file .jsonl, not p.csv"),
        (("predict", "lm", "--data", "prompts.txt", "--exact", "--full"), "leave out --full, or --exact"),
        (("predict", "lm", "--data", "prompts.txt", "--exact", "--compare"), "leave out --compare, or --exact"),
        (("predict", "lm", "--data", "prompts.txt", "--top", "3"), "generates takes no --top: leave it out"),
        (("cascade", "a=lm", "b=lm", "--out", "both"), "lm generates texts, and the models of a cascade answer"),
        (("export", "lm"), "lm generates texts: answer with `exeunt predict`"),
        (("serve", "lm", "--port", "0"), "generates texts"),
        (("calibrate", "lm", "--agree", "60%", "--ties", "row", "--of", "macs"), "model takes no --ties, --of"),
        (("predict", "lm", "--data", "prompts.txt", "--text-column", "a,b"), "name one column with --text-column"),
        (("predict", "lm", "--data", "prompts.txt", "--out", "."), ". is a folder: give a file for --out"),
        (train("x", "--size", "3"), "--task generate takes no --size: exits learn the decoder's own answers"),
        (("train", "--model", "hf:m", "--data", "d", "--out", "x", "--no-chat"), "takes no --chat: only --task gen"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_line(folder, command, message):
    done = exeunt(*command, cwd=folder, ok=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
