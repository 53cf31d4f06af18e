"""`exeunt compare`, run as people run it, on a trace, on an archive and on a table of a cascade of models."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

import exeunt as ex

pytest.importorskip("typer")
pytest.importorskip("rich")


from exeunt.cli.compare import _check_out
from exeunt.cli.opened_tables import open_traces
from exeunt.cli.tables import Tables

from .command import exeunt

NOTHING = Tables()
FEW = ["--budgets", "50%,80%", "--splits", "2", "--policies", "eero, msdnet", "--workers", "0"]


@pytest.fixture(scope="module")
def cascade(tmp_path_factory, make_trace):
    """A CSV of three models with a price per call, and the trace that it stands for."""
    trace = make_trace(240, m=3)
    folder = tmp_path_factory.mktemp("cascade")
    table = pa.table(
        {
            **{f"conf_{i + 1}": trace.scores["score"][:, i] for i in range(3)},
            **{f"pred_{i + 1}": [f"class {k}" for k in trace.prediction[:, i]] for i in range(3)},
            "truth": [f"class {k}" for k in trace.label],
            "row": trace.id.astype(np.int64),
        }
    )
    pyarrow.csv.write_csv(table, folder / "cascade of models.csv")
    return folder, trace


def test_a_table_end_to_end(cascade):
    folder, trace = cascade
    command = [
        "compare", "cascade of models.csv", *FEW, "--confidence", "conf_{}", "--prediction", "pred_{}",
        "--label", "truth", "--id", "row", "--cost", "1,3,9", "--cost-is", "per-call", "--unit", "usd",
        "--out", "numbers.json",
    ]  # fmt: skip
    done = exeunt(*command, cwd=folder)
    right = ", ".join(f"{share:.1%}" for share in trace.correct.mean(axis=0))
    assert f"240 inputs, 3 exits that cost 1, 4, 13 usd up to each, and are right on {right}\n" in done.stdout
    assert (
        "At half the cost, `msdnet` answers" in done.stdout
        or "At half the cost, `eero` answers" in done.stdout
    )
    cache = (folder / ".exeunt-cache" / "comparison").rglob("*.*")
    measured = {file: file.stat().st_mtime_ns for file in cache if file.name != "settings.json"}
    assert measured
    comparison = ex.Comparison.load(folder / "numbers.json")
    assert comparison.command.startswith(
        "exeunt compare 'cascade of models.csv' --budgets 50%,80% --splits 2"
    )
    assert comparison.traces[0].name == "cascade of models"
    expected = ex.compare(
        trace.with_cost(ex.CostModel([1, 4, 13])), budgets="50%,80%", splits=2, policies=["eero", "msdnet"],
        workers=0,
    )  # fmt: skip
    np.testing.assert_array_equal(comparison.traces[0].accuracy, expected.traces[0].accuracy)
    # Again: nothing is left to measure, and the same numbers are in the report.
    again = exeunt(*command[:-1], "report.html", cwd=folder)
    assert again.stderr == ""
    assert again.stdout == done.stdout.replace("numbers.json", "report.html")
    assert {file: file.stat().st_mtime_ns for file in measured} == measured
    page = (folder / "report.html").read_text()
    assert "exeunt compare &#x27;cascade of models.csv&#x27;" in page or "cascade of models.csv" in page


def test_refusals_are_one_line_and_come_before_the_work(cascade):
    folder, _ = cascade
    done = exeunt("compare", "cascade of models.csv", "--out", "report.html", cwd=folder, ok=False)
    assert done.returncode == 2
    assert "is a table: name its columns with --confidence 'conf_{}'" in done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"cost": "1,3"}, "one cost per exit, got 2 for 3"),
        ({"cost": "1,x,9"}, "--cost must be numbers"),
        ({"cost": "1,-3,9"}, "above 0 and finite, got -3 at exit 1"),
        ({"prediction": "pred_1,pred_2"}, "got 3 and 2"),
        (
            {"label": "label"},
            "no column label: name the column of true classes with --label, .* It has conf_1",
        ),
        ({"confidence": "pred_{}", "prediction": "conf_{}"}, "'conf_1' must hold classes, .* got 0.3"),
        ({"cost_is": "each"}, "'cumulative' or 'per-call'"),
        ({"cost": None}, "--cost 1,4,13"),
        ({"group_column": "video"}, "no column video"),
        ({"rows_per_group": 5}, "--rows-per-group is about groups: name their column with --group-column"),
    ],
)
def test_tables_that_make_no_sense_are_refused(cascade, changes, shown):
    folder, _ = cascade
    given = {
        "confidence": "conf_{}", "prediction": "pred_{}", "label": "truth", "id": None, "cost": "1,3,9",
        "cost_is": "per-call", "unit": "usd",
    }  # fmt: skip
    with pytest.raises(ex.InputError, match=shown):
        open_traces([folder / "cascade of models.csv"], Tables(**{**given, **changes}), say=print)


def test_a_column_names_groups(cascade):
    folder, _ = cascade
    columns = {"confidence": "conf_{}", "prediction": "pred_{}", "label": "truth"}
    groups = {"group_column": "truth_of", "rows_per_group": 5}
    table = pyarrow.csv.read_csv(folder / "cascade of models.csv")
    table = table.append_column("truth_of", pa.array([f"user {k}" for k in np.arange(240) // 7]))
    pyarrow.csv.write_csv(table, folder / "users.csv")
    models = {"models": "1,3", "price": "1,9"}
    for more in ({"cost": "1,3,9"}, models):
        read = open_traces([folder / "users.csv"], Tables(**columns, **groups, **more), say=print)["users"]
        assert read.groups.index.tolist() == (np.arange(240) // 7).tolist()
        assert read.groups.rows_per_group == 5


@pytest.fixture
def services(tmp_path):
    """A table of two services that err apart."""
    rng = np.random.default_rng(0)
    names = np.array(["cat", "dog", "emu"])
    truth = rng.integers(0, 3, 400)
    columns = {"label": names[truth]}
    for name, skill in {"small": 1.5, "large": 3.0}.items():
        votes = rng.normal(size=(400, 3))
        votes[np.arange(400), truth] += skill
        share = np.exp(votes) / np.exp(votes).sum(axis=1, keepdims=True)
        columns[f"prediction_{name}"] = names[share.argmax(axis=1)]
        columns[f"confidence_{name}"] = share.max(axis=1)
    pyarrow.csv.write_csv(pa.table(columns), tmp_path / "services.csv")
    return tmp_path


def test_models_of_a_table_are_compared_as_cascades(services):
    done = exeunt(
        "compare", "services.csv", "--models", "small,large", "--price", "1,10",
        "--price-per", "10000", "--budgets", "5 usd per 10k,100%", "--policies", "eero",
        "--splits", "1", "--workers", "0", "--out", "comparison.json", cwd=services,
    )  # fmt: skip
    assert "services: 400 inputs; small at 0.0001 usd is right on " in done.stdout
    (trace,) = ex.Comparison.load(services / "comparison.json").traces
    assert trace.exit_names == ("small", "large")
    assert trace.amounts.tolist() == [0.0005, 0.001]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"price": "1"}, "each model once, and its price .* got --models small,large and --price 1$"),
        ({"models": None}, "got --models none and --price 1,10"),
        ({"models": "small,small"}, "each model once"),
        ({"models": "small,huge"}, "no column confidence_huge, prediction_huge"),
        ({"cost": "1,2"}, "models have a --price each"),
        ({"price_per": 0.0}, "price_per must be above 0"),
        ({"price_per": float("inf")}, "price_per must be finite, got inf"),
        ({"price_per": 10.0, "models": None, "price": None}, "--price-per is about --price"),
        ({"label": "truth"}, "no column truth"),
        ({"price": "1,fee"}, "no column fee"),
        ({"price": "1,confidence_large:0.1"}, "highest is the most that any input can cost, got 0.1"),
    ],
)
def test_models_that_make_no_sense_are_refused(services, changes, shown):
    given = {"models": "small,large", "price": "1,10"} | changes
    with pytest.raises(ex.InputError, match=shown):
        open_traces([services / "services.csv"], Tables(**given), say=print)


def test_a_price_may_be_a_column_and_the_most_that_it_holds(services):
    given = Tables(models="small,large", price="0.5,confidence_large:2", price_per=10.0)
    (models,) = open_traces([services / "services.csv"], given, say=print).values()
    assert models["small"].cost.cumulative.tolist() == [0.05]
    assert models["large"].cost.highest == 0.2
    expected = models["large"].scores["confidence"] / 10
    assert np.array_equal(models["large"].cost.per_input, expected)


def test_models_and_prices_may_be_named_by_a_file(services):
    (services / "models.yaml").write_text("small: {price: 0.5}\nlarge: {price: 'confidence_large:2'}\n")
    tables = Tables(models=str(services / "models.yaml"), price_per=10.0)
    (models,) = open_traces([services / "services.csv"], tables, say=print).values()
    assert models["small"].cost.cumulative.tolist() == [0.05]
    assert models["large"].cost.highest == 0.2
    with pytest.raises(ex.InputError, match="has the prices of its models: leave out --price"):
        open_traces([services / "services.csv"], replace(tables, price="1,2"), say=print)
    (services / "models.yaml").write_text("small: {price: {input: 1}}\n")
    with pytest.raises(ex.InputError, match=r"'small' of .* needs a price that is a number for each answer"):
        open_traces([services / "services.csv"], tables, say=print)


def test_exits_numbered_in_two_ways_are_refused(cascade, tmp_path):
    folder, _ = cascade
    text = (folder / "cascade of models.csv").read_text()
    (tmp_path / "off.csv").write_text(
        text.replace("pred_1", "pred_0").replace("pred_2", "pred_1").replace("pred_3", "pred_2")
    )
    given = Tables(
        confidence="conf_{}",
        prediction="pred_{}",
        label="truth",
        cost="1,3,9",
        cost_is="per-call",
        unit="usd",
    )
    with pytest.raises(
        ex.InputError, match=r"numbered 1, 2, 3 and the columns .* are numbered 0, 1, 2: rename"
    ):
        open_traces([tmp_path / "off.csv"], given, say=print)


def test_a_confidence_that_is_an_uncertainty_is_noticed(make_trace, tmp_path):
    trace = make_trace(240, m=2)
    scores = {"conf_0": trace.scores["score"][:, 0], "conf_1": -trace.scores["score"][:, 1]}
    predictions = {f"pred_{i}": trace.prediction[:, i] for i in range(2)}
    pyarrow.csv.write_csv(pa.table({**scores, **predictions, "label": trace.label}), tmp_path / "a.csv")
    told: list[str] = []
    given = replace(NOTHING, confidence="conf_{}", prediction="pred_{}", cost="1,3")
    open_traces([tmp_path / "a.csv"], given, say=told.append)
    assert [text[:49] for text in told[1:]] == ["note: the confidence of exit 1 (0 = first) is low"]


def test_options_of_tables_without_a_table_are_refused(make_trace, tmp_path):
    make_trace(50).save(tmp_path / "a.parquet")
    with pytest.raises(ex.InputError, match=r"are about tables .* there is none among .*a.parquet"):
        open_traces([tmp_path / "a.parquet"], replace(NOTHING, cost="1,2"), say=print)


def test_files_of_one_name_are_told_apart(make_trace, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make_trace(50).save(tmp_path / folder / "test.parquet")
    paths = [tmp_path / folder / "test.parquet" for folder in ("a", "b")]
    assert list(open_traces(paths, NOTHING, say=print)) == [str(path) for path in paths]
    assert list(open_traces(paths[:1], NOTHING, say=print)) == ["test"]


def test_json_is_readable_by_anyone(cascade):
    folder, _ = cascade
    document = json.loads((folder / "numbers.json").read_text())
    assert document["comparison"]["statistics"]["traces"][0]["budgets"] == pytest.approx([0.5, 0.8])


def test_a_table_without_labels_is_compared_by_agreement(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 240)
    columns = {}
    for name, right in {"small": 0.6, "large": 0.9}.items():
        columns[f"prediction_{name}"] = np.where(rng.random(240) < right, truth, rng.integers(0, 3, 240))
        columns[f"confidence_{name}"] = rng.random(240)
    pyarrow.csv.write_csv(pa.table(columns), tmp_path / "log.csv")
    command = ["compare", "log.csv", *FEW]
    ways = (
        ["--models", "small,large", "--price", "1,9"],
        ["--prediction", "prediction_small,prediction_large", "--confidence", "confidence_small,confidence_large",
         "--cost", "1,10"],
    )  # fmt: skip
    same = np.mean(columns["prediction_small"] == columns["prediction_large"])
    for way in ways:
        done = exeunt(*command, *way, "--agreement", cwd=tmp_path)
        said = " ".join(done.stdout.split())
        assert f"agreement {same:.1%}" in said
        assert "points of agreement" in said
        failed = exeunt(*command, *way, cwd=tmp_path, ok=False)
        told = " ".join(failed.stderr.split())
        assert "no column label: name the column of true classes with --label, or of graded answers" in told
        assert "without either add --agreement" in told


def test_a_table_of_graded_answers_end_to_end(tmp_path):
    """Without predictions or confidences, with empty cells; options that contradict each other are refused."""
    rng = np.random.default_rng(0)
    columns = {
        f"{name}_iou": rng.beta(skill, 2, 240).round(3) for name, skill in {"small": 3, "large": 8}.items()
    }
    table = pa.table(
        {name: pa.array(values, mask=rng.random(240) < 0.05) for name, values in columns.items()}
    )
    pyarrow.csv.write_csv(table, tmp_path / "graded.csv")
    command = [
        "compare", "graded.csv", *FEW, "--models", "small,large", "--price", "1,9",
        "--loss", "{}_iou", "--better", "higher", "--measure", "IoU",
    ]  # fmt: skip
    done = exeunt(*command, "--empty-is-no-answer", cwd=tmp_path)
    means = [f"{table[name].fill_null(0).to_numpy().mean():.1%}" for name in columns]
    assert (
        f"240 inputs; small at 1 usd has IoU {means[0]}, large at 9 usd has IoU {means[1]}\n" in done.stdout
    )
    assert " has IoU " in done.stdout.partition("At half")[2]
    for more, shown in (
        ([], "say that no answer was given there"),
        (["--label", "small_iou"], "--label is of answers that are right or wrong, --loss of graded ones"),
        (["--loss", "{}_best"], "the table has no column small_best, large_best"),
    ):
        failed = exeunt(*command, *more, cwd=tmp_path, ok=False)
        assert shown in " ".join(failed.stderr.split())
    failed = exeunt(*command[:-6], "--measure", "IoU", cwd=tmp_path, ok=False)
    assert "--better and --measure are about --loss" in failed.stderr


@pytest.mark.parametrize("better", ["lower", "higher"])
@pytest.mark.parametrize("grades", [True, False])
@pytest.mark.parametrize(
    "ways",
    [{"models": "large,small", "price": "9,1"}, {"cost": "1,9"}],
    ids=["models", "exits"],
)
def test_losses_that_look_like_grades_are_told(tmp_path, ways, grades, better):
    small, large = (0.25, 0.75) if grades else (0.75, 0.25)
    pyarrow.csv.write_csv(pa.table({"g_small": [small] * 9, "g_large": [large] * 9}), tmp_path / "graded.csv")
    loss = "g_{}" if "models" in ways else "g_small,g_large"
    said = []
    open_traces([tmp_path / "graded.csv"], Tables(loss=loss, better=better, **ways), say=said.append)
    notes = [line for line in said if "add --better higher" in line]
    assert len(notes) == (grades and better == "lower")
    if notes:
        cheap, dear = ("small", "large") if "models" in ways else ("exit 0", "exit 1")
        assert f"{dear} costs more than {cheap} and its mean --loss is higher, 0.750 beside 0.250" in notes[0]
