"""A log becomes a run of recorded models: `exeunt calibrate TABLE --out run`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from cli.command import exeunt, printed, refusal
from exeunt.errors import InputError
from exeunt.runs.folder import RunFolder
from exeunt.serve.loaded_run import load_run
from exeunt.serve.settings import Settings
from exeunt.serve.spending import Payer

MODELS = {"mini": (0.6, 0.0004), "mid": (0.75, 0.002), "big": (0.9, 0.02)}


def log(n: int = 1500, *, seed: int = 0, labelled: bool = False) -> dict[str, Any]:
    """Return columns of what three models answered; hard inputs have long, dear answers and lower scores."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    columns: dict[str, Any] = {}
    for name, (skill, price) in MODELS.items():
        good = np.clip(skill + 0.5 * (0.5 - hard) + 0.1 * rng.standard_normal(n), 0, 1)
        columns[f"{name}_cost"] = price * (0.5 + hard)
        columns[f"{name}_logprob"] = -2 * hard + 0.2 * rng.standard_normal(n)
        if labelled:
            columns[f"{name}_prediction"] = np.where(rng.random(n) < good, "yes", "no")
        else:
            columns[f"{name}_grade"] = good
    return columns | ({"label": np.full(n, "yes")} if labelled else {})


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graded log and the run that it became."""
    folder = tmp_path_factory.mktemp("log")
    pq.write_table(pa.table(log()), folder / "log.parquet")
    (folder / "list.yaml").write_text("[mini, big]")
    pq.write_table(pa.table(log(20) | {"mid_grade": pa.nulls(20, pa.float64())}), folder / "empty.parquet")
    exeunt("calibrate log.parquet --max-loss 5% --policy eero --out run", cwd=folder)
    return folder


def test_columns_are_told_by_their_names_and_the_run_is_certified(graded: Path) -> None:
    run = RunFolder.open(graded / "run")
    assert [entry.name for entry in run.cascade] == list(MODELS)
    assert run.policy.loss_certificate is not None
    assert (run.policy.loss_certificate.measure, run.policy.loss_certificate.max_loss) == ("grade", 0.05)
    parts = [run.recorded(part).n for part in ("fit", "calibrate", "test")]
    assert parts == [450, 600, 450]
    recorded = np.sort(
        np.concatenate([run.trace(part).grades.loss for part in ("fit", "calibrate", "test")]), axis=0
    )  # type: ignore[union-attr]
    stated = np.sort(1 - np.stack([log()[f"{name}_grade"] for name in MODELS], axis=1), axis=0)
    np.testing.assert_allclose(recorded, stated)


def test_all_commands_go_on_from_there(graded: Path) -> None:
    assert "Guarantee: with probability 95%" in exeunt("show run", cwd=graded).stdout
    shown = exeunt("evaluate run --no-figures", cwd=graded).stdout
    assert "big alone has grade" in shown
    table = exeunt("compare run --policies eero --budgets 50% --splits 1 --workers 0", cwd=graded).stdout
    assert "best model alone" in table
    (graded / "voices.py").write_text(
        "\n".join(f"def {name}(text): return '{name}: ' + text, -len(text) / 10" for name in MODELS)
    )
    prices = {name: {"function": f"voices:{name}", "price": price} for name, (_, price) in MODELS.items()}
    (graded / "models.yaml").write_text(json.dumps(prices))
    texts = ["short", "a rather long question, " * 2]
    pq.write_table(pa.table({"text": texts}), graded / "new.parquet")
    done = exeunt(
        "predict run --models models.yaml --data new.parquet --out answers.jsonl --total '1 usd'", cwd=graded
    )
    assert "2 of 2 inputs answered" in done.stdout
    answers = [json.loads(line) for line in (graded / "answers.jsonl").read_text().splitlines()]
    assert [answer["class_name"] for answer in answers] == [
        f"{answer['asked']}: {text}" for answer, text in zip(answers, texts, strict=True)
    ]
    assert [answer["label"] for answer in answers] == [None, None]
    served = load_run(Settings(run=graded / "run", models=graded / "models.yaml", max_spend="1 usd/day"))
    rows, payer = served.reader.texts(texts), Payer(ex.Ledger(total="1 usd"), 1.0)
    ticket = asyncio.run(served.started().paid_answer(payer, 2, rows.inputs))
    said = served.answers(rows, [(rows.places, ticket)])
    assert [(one.class_name.partition(": ")[2], one.label) for one in said] == [(text, -1) for text in texts]


@pytest.mark.parametrize("labelled", [True, False])
def test_rows_without_a_grade_or_label_are_refused_or_left_out(tmp_path: Path, labelled: bool) -> None:
    columns = log(600, labelled=labelled)
    name = "label" if labelled else "mid_grade"
    columns[name] = pa.array(columns[name], mask=np.arange(600) % 10 == 3)
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    command = "calibrate log.parquet --max-loss 20% --policy eero --out run"
    why = "there is no label" if labelled else "an answer has no grade"
    refused = refusal(command, cwd=tmp_path)
    assert f"in 60 of 600 rows {why} (the first is row 3, rows count from 0): add --ungraded drop" in refused
    assert ("--ungraded worst" in refused) is not labelled
    assert not (tmp_path / "run").exists()

    shown = exeunt(f"{command} --ungraded drop", cwd=tmp_path).stdout
    assert f"left out: 60 of 600 rows, because {why}" in shown
    assert "no difference from the others shows in 6 columns of scores and prices" in shown
    assumed = f"and that the 60 of 600 rows that were left out, because {why}, are like the others."
    run = RunFolder.open(tmp_path / "run")
    assert str(run.policy.loss_certificate).endswith(assumed)
    again = exeunt("calibrate run --max-loss 25% --policy eero", cwd=tmp_path).stdout
    assert assumed in again
    assert run.recorded("calibrate").n == 216
    compared = exeunt("compare run --policies eero --budgets 50% --splits 1 --workers 0", cwd=tmp_path).stdout
    assert (
        f"run: what holds here assumes that the 60 of 600 rows that were left out, because {why}" in compared
    )
    columns["mid_cost"] = np.where(np.arange(600) == 14, -1.0, 0.5)
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    refused = refusal(f"{command} --ungraded drop --price mini=0.2,mid=mid_cost,big=3", cwd=tmp_path)
    assert "in row 12 of column 'mid_cost'" in refused
    assert "(rows count without those left out)" in refused


def test_rows_that_differ_are_told_apart(tmp_path: Path) -> None:
    columns = log(600)
    dearest = columns["big_cost"] > np.quantile(columns["big_cost"], 0.9)
    columns["mini_grade"] = pa.array(columns["mini_grade"], mask=dearest)
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    command = "compare log.parquet --policies eero --budgets 50% --splits 1 --workers 0"
    shown = exeunt(command, cwd=tmp_path).stdout
    assert "left out: 60 of 600 rows" in shown
    assert "they differ from the others in mini_logprob, mid_logprob, big_logprob and 3 more" in shown


def test_the_worst_grades_can_only_raise_the_loss(tmp_path: Path) -> None:
    columns = log(600)
    missing = np.arange(600) % 20 == 7
    columns["mini_grade"] = pa.array(columns["mini_grade"], mask=missing)
    columns["big_grade"] = pa.array(columns["big_grade"], mask=np.roll(missing, 1))
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    command = "calibrate log.parquet --max-loss 30% --policy eero --out run --ungraded worst"
    assert "it counts as the worst there can be against big" in exeunt(command, cwd=tmp_path).stdout
    run = RunFolder.open(tmp_path / "run")
    losses = np.concatenate([run.trace(part).grades.loss for part in ("fit", "calibrate", "test")])  # type: ignore[union-attr]
    assert (losses[:, 0] == 1).sum() >= 30
    assert (losses[:, 2] == 0).sum() >= 30
    other = refusal("calibrate run --max-loss 30% --reference mid", cwd=tmp_path)
    assert "are the worst there can be against big, not against mid: calibrate the table again" in other


WRONG = {
    "no out": ("log.parquet --max-loss 2%", "name the folder of the run that it becomes with --out"),
    "no share": (
        "log.parquet --max-loss 2 --out nothing",
        "max-loss must be a share between 0 and 1, .* got '2'",
    ),
    "no file": ("logg.parquet --max-loss 2% --out nothing", "there is no file logg.parquet"),
    "no promise": ("log.parquet --out run", "give a budget, a loss or an agreement"),
    "one model": ("log.parquet --max-loss 2% --out run --models mini", "name two models or more, each once"),
    "another model": ("log.parquet --max-loss 2% --out run --models mini,huge", "no column huge_grade"),
    "price twice": (
        "log.parquet --max-loss 2% --out run --price mini=1,mini=2",
        "name two models or more, each once",
    ),
    "no number": (
        "log.parquet --max-loss 2% --out run --highest mini=much",
        "--highest must be numbers such as",
    ),
    "one network": (
        "log.parquet --max-loss 2% --out run --cost 1,2,3",
        "--cost is of the exits of one network",
    ),
    "word": (
        "log.parquet --max-loss 2% --out run --ungraded keep",
        "--ungraded must be drop or worst, got 'keep'",
    ),
    "negative": (
        "log.parquet --max-loss 2% --out run --price -1,2,3 --models mini,mid,big",
        "prices must be above 0, got -1",
    ),
    "not empty": ("log.parquet --max-loss 2% --out .", "exists and is not the run of a log"),
    "run": ("run --max-loss 2% --ungraded drop", "--ungraded: such options are about a table"),
    "budget": ("log.parquet --budget 50% --out run", "the most that any input can cost is known"),
    "no description": (
        "log.parquet --max-loss 2% --out run --models list.yaml",
        "must hold a model for each name, such as `small: ",
    ),
    "all ungraded": ("empty.parquet --max-loss 2% --out run", "column 'mid_grade' is empty in every row"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_done_is_said(graded: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    options, message = WRONG[case]
    monkeypatch.chdir(graded)
    with pytest.raises(InputError, match=message):
        printed("calibrate", *options.split())
    assert not Path("nothing").exists()


def test_without_a_highest_cost_policies_that_certify_a_budget_are_left_out(graded: Path) -> None:
    pq.write_table(pa.table(log(200)), graded / "few.parquet")
    shown = exeunt("compare few.parquet --budgets 50% --splits 1 --workers 0", cwd=graded).stdout
    assert (
        "risk_controlled, which certifies a budget, is left out because the most that an answer can cost"
        in shown
    )


def test_a_highest_cost_lets_a_budget_be_certified(graded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(graded)
    command = (
        "calibrate log.parquet --budget 60% --policy eero --out bounded --highest mini=0.001,mid=0.01,big=0.1"
    )
    assert "the long-run mean cost is at most" in printed(*command.split())
    assert {entry.highest for entry in RunFolder.open("bounded").cascade} == {0.001, 0.01, 0.1}
