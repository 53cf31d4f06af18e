"""`exeunt compare`, run as people run it, on a trace, on an archive and on a table of a cascade of models."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

import exeunt as ex
from exeunt.cli.compare import _check_out
from exeunt.cli.opened_tables import open_traces
from exeunt.cli.tables import Tables

from .command import exeunt, refusal

FEW = "--budgets 50%,80% --splits 2 --policies 'eero, msdnet' --workers 0"
COLUMNS = {"confidence": "conf_{}", "prediction": "pred_{}", "label": "truth"}
PRICED = {**COLUMNS, "cost": "1,3,9", "cost_is": "per-call", "unit": "usd"}


@pytest.fixture(scope="module")
def cascade(tmp_path_factory, make_trace):
    """A CSV of three models with a price per call, and the trace that it stands for."""
    trace = make_trace(240, m=3)
    folder = tmp_path_factory.mktemp("cascade")
    columns = {f"conf_{i + 1}": trace.scores["score"][:, i] for i in range(3)}
    columns |= {f"pred_{i + 1}": [f"class {k}" for k in trace.prediction[:, i]] for i in range(3)}
    columns |= {"truth": [f"class {k}" for k in trace.label], "row": trace.id.astype(np.int64)}
    write(folder / "cascade of models.csv", columns)
    write(folder / "users.csv", {**columns, "user": [f"user {k}" for k in np.arange(240) // 7]})
    return folder, trace


def write(file, columns):
    pyarrow.csv.write_csv(pa.table(columns), file)


def read(file, say=print, **options):
    """Return the only trace of a file."""
    (trace,) = open_traces([file], Tables(**options), say=say).values()
    return trace


def test_a_table_end_to_end(cascade):
    folder, trace = cascade
    command = (
        f"compare 'cascade of models.csv' {FEW} --confidence conf_{{}} --prediction pred_{{}} --label truth --id row "
        "--cost 1,3,9 --cost-is per-call --unit usd --out"
    )
    done = exeunt(f"{command} numbers.json", cwd=folder)
    right = ", ".join(f"{share:.1%}" for share in trace.correct.mean(axis=0))
    assert f"240 inputs, 3 exits that cost 1, 4, 13 usd up to each, and are right on {right}\n" in done.stdout
    assert re.search(r"\n50% +(msdnet|eero) +\d", done.stdout)
    cache = (folder / ".exeunt-cache" / "comparison").rglob("*.*")
    measured = {file: file.stat().st_mtime_ns for file in cache if file.name != "settings.json"}
    assert measured
    comparison = ex.Comparison.load(folder / "numbers.json")
    ran = "exeunt compare 'cascade of models.csv' --budgets 50%,80% --splits 2"
    assert comparison.command.startswith(ran)
    assert comparison.traces[0].name == "cascade of models"
    options = {"budgets": "50%,80%", "splits": 2, "policies": ["eero", "msdnet"], "workers": 0}
    expected = ex.compare(trace.with_cost(ex.CostModel([1, 4, 13])), **options)
    np.testing.assert_array_equal(comparison.traces[0].accuracy, expected.traces[0].accuracy)
    document = json.loads((folder / "numbers.json").read_text())  # which is readable by anyone
    assert document["comparison"]["statistics"]["traces"][0]["budgets"] == pytest.approx([0.5, 0.8])
    # Again: nothing is left to measure, and the same numbers are in the report.
    again = exeunt(f"{command} report.html", cwd=folder)
    assert again.stderr == ""
    assert again.stdout == done.stdout.replace("numbers.json", "report.html")
    assert {file: file.stat().st_mtime_ns for file in measured} == measured
    assert "cascade of models.csv" in (folder / "report.html").read_text()


def test_refusals_are_one_line_and_come_before_the_work(cascade):
    folder, _ = cascade
    assert "with --confidence 'conf_{}' --prediction 'pred_{}'" in refusal(
        "compare 'cascade of models.csv' --out report.html", cwd=folder
    )


@pytest.mark.parametrize(
    ("out", "shown"),
    [
        ("report.pdf", "--out must end in .html or .json"),
        ("nowhere/report.html", "folder .*nowhere does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, out, shown):
    with pytest.raises(ex.InputError, match=shown):
        _check_out(tmp_path / out)


@pytest.fixture(scope="module")
def services(cascade):
    """The folder of a table of two services that err apart."""
    rng = np.random.default_rng(0)
    names = np.array(["cat", "dog", "emu"])
    truth = rng.integers(0, 3, 400)
    columns = {"label": names[truth]}
    for name, skill in {"small": 1.5, "large": 3.0}.items():
        votes = rng.normal(size=(400, 3))
        votes[np.arange(400), truth] += skill
        share = np.exp(votes) / np.exp(votes).sum(axis=1, keepdims=True)
        columns |= {
            f"prediction_{name}": names[share.argmax(axis=1)],
            f"confidence_{name}": share.max(axis=1),
        }
    folder, _ = cascade
    write(folder / "services.csv", columns)
    return folder


MODELS = {"models": "small,large", "price": "1,10"}
EXITS = [
    ({"cost": "1,x,9"}, "--cost must be numbers"),
    ({"label": "cnf_1"}, r"no column cnf_1 \(did you mean conf_1\?\): name the"),
    ({"label": "label"}, "no column label: name the column of true classes with --label; .* It has conf_1"),
    ({"cost": None}, "--cost 1,4,13"),
    ({"rows_per_group": 5}, "--rows-per-group is about groups: name their column with --group-column"),
]
SERVICES = [
    ({"cost": "1,2"}, "models have a --price each"),
    ({"price": "1"}, "once for each model, by name or in the order of --models small,large, got 1"),
    ({"price": "small=1"}, "large has no --price: give one for each of small, large"),
    ({"price": "small=1,huge=2"}, "give --price once for each model"),
    ({"models": "small,small"}, "name two models or more, each once, .* got small,small"),
    ({"models": "small,huge"}, "no column prediction_huge"),
    ({"highest": "large=much"}, "--highest must be numbers such as mini=0.01"),
]


@pytest.mark.parametrize(
    ("file", "given", "shown"),
    [("cascade of models.csv", {**PRICED, **changes}, shown) for changes, shown in EXITS]
    + [("services.csv", {**MODELS, **changes}, shown) for changes, shown in SERVICES],
)
def test_tables_that_make_no_sense_are_refused(services, file, given, shown):
    with pytest.raises(ex.InputError, match=shown):
        read(services / file, **given)


def test_models_of_a_table_are_compared_as_cascades(services):
    done = exeunt(
        "compare services.csv --models small,large --price 1,10 --price-per 10000 --budgets '5 usd per 10k,100%' "
        "--policies eero --splits 1 --workers 0 --out comparison.json",
        cwd=services,
    )
    assert "services: 400 inputs; small at 0.0001 usd is right on " in done.stdout
    (trace,) = ex.Comparison.load(services / "comparison.json").traces
    assert trace.exit_names == ("small", "large")
    assert trace.amounts.tolist() == [0.0005, 0.001]


def test_a_price_may_be_a_column_and_the_most_that_it_holds_and_be_named_by_a_file(services, tmp_path):
    file, given = tmp_path / "models.yaml", {"price_per": 10.0}
    file.write_text("small: {price: 0.5}\nlarge: {price: confidence_large, highest: 2}\n")
    by_name = {"price": "large=confidence_large,small=0.5", "highest": "large=2"}
    in_order = {"models": "small,large", "price": "0.5,confidence_large", "highest": "large=2"}
    for named in (in_order, by_name, {"models": str(file)}):
        models = read(services / "services.csv", **given, **named)
        assert models["small"].cost.cumulative.tolist() == [0.05]
        assert models["large"].cost.highest == 0.2
        expected = models["large"].scores["confidence"] / 10
        assert np.array_equal(models["large"].cost.per_input, expected)
    with pytest.raises(ex.InputError, match="has the prices of its models: leave out --price"):
        read(services / "services.csv", **given, models=str(file), price="1,2")
    file.write_text("small: {price: {input: 1}}\n")
    with pytest.raises(ex.InputError, match=r"'small' of .* needs a price that is a number for each answer"):
        read(services / "services.csv", **given, models=str(file))


def test_exits_numbered_in_two_ways_are_refused(cascade, tmp_path):
    text = (cascade[0] / "cascade of models.csv").read_text()
    for number in (1, 2, 3):
        text = text.replace(f"pred_{number}", f"pred_{number - 1}")
    (tmp_path / "off.csv").write_text(text)
    told = "numbered 1, 2, 3 and the columns .* are numbered 0, 1, 2: rename"
    with pytest.raises(ex.InputError, match=told):
        read(tmp_path / "off.csv", **PRICED)


def test_a_confidence_that_is_an_uncertainty_is_noticed(make_trace, tmp_path):
    trace = make_trace(240, m=2)
    scores = {"conf_0": trace.scores["score"][:, 0], "conf_1": -trace.scores["score"][:, 1]}
    predictions = {f"pred_{i}": trace.prediction[:, i] for i in range(2)}
    write(tmp_path / "a.csv", {**scores, **predictions, "truth": trace.label})
    told: list[str] = []
    read(tmp_path / "a.csv", told.append, **COLUMNS, cost="1,3")
    assert [text[:49] for text in told[1:]] == ["note: the confidence of exit 1 (0 = first) is low"]


def test_files_of_one_name_are_told_apart_and_take_no_options_of_tables(make_trace, tmp_path):
    paths = [tmp_path / folder / "test.parquet" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        make_trace(50).save(path)
    assert list(open_traces(paths, Tables(), say=print)) == [str(path) for path in paths]
    assert list(open_traces(paths[:1], Tables(), say=print)) == ["test"]
    with pytest.raises(ex.InputError, match=r"are about tables .* there is none among .*a.test.parquet"):
        read(paths[0], cost="1,2")


def test_a_table_without_labels_is_compared_by_agreement(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 240)
    columns = {}
    for name, right in {"small": 0.6, "large": 0.9}.items():
        columns[f"prediction_{name}"] = np.where(rng.random(240) < right, truth, rng.integers(0, 3, 240))
        columns[f"confidence_{name}"] = rng.random(240)
    write(tmp_path / "log.csv", columns)
    ways = (
        "--models small,large --price 1,9",
        "--prediction prediction_small,prediction_large --confidence confidence_small,confidence_large --cost 1,10",
    )
    same = np.mean(columns["prediction_small"] == columns["prediction_large"])
    for way in ways:
        done = exeunt(f"compare log.csv {FEW} {way} --agreement", cwd=tmp_path)
        said = " ".join(done.stdout.split())
        assert f"agreement {same:.1%}" in said
        assert "best policy agreement" in said
        told = " ".join(refusal(f"compare log.csv {FEW} {way}", cwd=tmp_path).split())
        assert "no column label: name the column of true classes with --label; or of graded answers" in told
        assert "without either add --agreement" in told


def test_a_table_of_graded_answers_end_to_end(tmp_path):
    """Without predictions or confidences, with empty cells; options that contradict each other are refused."""
    rng = np.random.default_rng(0)
    skills = {"small": 3, "large": 8}
    columns = {f"{name}_iou": rng.beta(skill, 2, 240).round(3) for name, skill in skills.items()}
    cells = {name: pa.array(values, mask=rng.random(240) < 0.05) for name, values in columns.items()}
    write(tmp_path / "graded.csv", cells)
    any_empty = sum(map(any, zip(*(cell.is_null().to_pylist() for cell in cells.values()), strict=True)))
    models = f"compare graded.csv {FEW} --models small,large --price 1,9"
    command = f"{models} --loss {{}}_iou --better higher --measure IoU"
    done = exeunt(f"{command} --empty-is-no-answer", cwd=tmp_path)
    means = [f"{cell.fill_null(0).to_numpy().mean():.1%}" for cell in cells.values()]
    graded = f"240 inputs; small at 1 usd has IoU {means[0]}, large at 9 usd has IoU {means[1]}\n"
    assert graded in done.stdout
    assert "best policy    IoU" in done.stdout
    every = exeunt(f"{command} --empty-is-no-answer --all", cwd=tmp_path).stdout
    assert "points of IoU, mean over budgets" in every
    assert " has IoU " in every.partition("At half")[2]
    assert (
        f"left out: {any_empty} of 240 rows, because an answer has no grade"
        in exeunt(command, cwd=tmp_path).stdout
    )
    for line, shown in (
        (f"{command} --label small_iou", "--label is of answers that are right or wrong, --loss of graded"),
        (f"{command} --loss {{}}_best", "the table has no column small_best, large_best"),
        (f"{models} --measure IoU", "--better and --measure are about --loss"),
    ):
        assert shown in " ".join(refusal(line, cwd=tmp_path).split())


@pytest.mark.parametrize("better", ["lower", "higher", None])
@pytest.mark.parametrize("grades", [True, False])
@pytest.mark.parametrize(
    "ways", [{"models": "large,small", "price": "9,1"}, {"cost": "1,9"}], ids=["models", "exits"]
)
def test_losses_that_look_like_grades_must_be_said_to_be_losses(tmp_path, ways, grades, better):
    small, large = (0.25, 0.75) if grades else (0.75, 0.25)
    write(tmp_path / "graded.csv", {"g_small": [small] * 9, "g_large": [large] * 9})
    loss = "g_{}" if "models" in ways else "g_small,g_large"
    options = {"loss": loss, "better": better, **ways}
    if grades and better is None:
        with pytest.raises(
            ex.InputError, match=r"0\.750 beside 0\.250: if these are grades, add --better higher"
        ):
            read(tmp_path / "graded.csv", **options)
    else:
        read(tmp_path / "graded.csv", **options)
