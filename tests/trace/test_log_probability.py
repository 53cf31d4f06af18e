"""Of many classes the likeliest are kept: against a slow oracle, through files, and as policies hear them."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from same_traces import same_trace

import exeunt as ex
from exeunt.score.confidence import Evidence, of_top_classes
from exeunt.trace import StoredTrace
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.combining import concatenate
from exeunt.trace.log_probability import TopClasses

K, TOP = 300, 32
COST = ex.CostModel([1.0, 2.0, 3.0])


def many_classes(n: int = 400, *, seed: int = 0, k: int = K) -> ex.ExitTrace:
    """Three exits that err apart."""
    logits, label = logits_of(n, seed, k)
    return ex.ExitTrace.from_logits(logits, cost=COST, label=label)


def logits_of(n: int, seed: int, k: int = K) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    logits = rng.normal(size=(n, 3, k)) * 1.5
    logits[np.arange(n), :, label] += 4.0
    return logits, label


def slowly(probabilities: np.ndarray) -> list[float]:
    """The log-probabilities of one answer that a trace gives back."""
    likeliest = sorted(range(len(probabilities)), key=lambda c: -probabilities[c])[:TOP]
    left = sum(p for c, p in enumerate(probabilities) if c not in likeliest) / (len(probabilities) - TOP)
    return [math.log(p if c in likeliest else left) for c, p in enumerate(probabilities)]


def test_the_likeliest_are_kept_and_the_others_share_what_is_left():
    trace, logits = many_classes(8), logits_of(8, 0)[0]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    kept = trace.log_probability
    assert isinstance(kept, TopClasses)
    assert kept.shape == (8, 3, K)
    assert kept.size == 8 * 3 * TOP
    expected = np.array([[slowly(answer) for answer in row] for row in probabilities])
    assert np.asarray(kept) == pytest.approx(expected, abs=1e-5)
    for exit_ in range(3):
        assert trace.evidence(exit_)["log_probability"] == pytest.approx(expected[:, exit_], abs=1e-5)
        full = np.log(probabilities[:, exit_])
        assert of_top_classes(full) == pytest.approx(expected[:, exit_], abs=1e-12)
        assert of_top_classes(of_top_classes(full)) == pytest.approx(expected[:, exit_], abs=1e-9)


@pytest.mark.parametrize(("k", "kept"), [(256, np.ndarray), (257, TopClasses)])
def test_few_classes_are_kept_whole(k, kept):
    assert isinstance(many_classes(5, k=k).log_probability, kept)


def test_classes_that_are_all_alike_stay_so():
    flat = np.full((2, 3, K), 1 / K)
    logs = np.asarray(ex.ExitTrace.from_probabilities(flat, cost=COST).log_probability)
    assert logs == pytest.approx(np.full(flat.shape, -math.log(K)), abs=1e-6)


@pytest.mark.parametrize("half", [False, True])
def test_files_give_back_what_was_kept(tmp_path, monkeypatch, half):
    if half:
        monkeypatch.setattr("exeunt.trace.log_probability._SINGLE", 1000)
    trace = many_classes(50)
    assert trace.log_probability.dtype == (np.float16 if half else np.float32)
    trace.save(tmp_path / "trace.parquet")
    assert same_trace(ex.ExitTrace.load(tmp_path / "trace.parquet"), trace)
    (chunk,) = StoredTrace.open(tmp_path).chunks()
    assert np.array_equal(np.asarray(chunk.log_probability), np.asarray(trace.log_probability))


def test_stored_files_of_other_numbers_of_classes_do_not_belong_together(tmp_path):
    many_classes(5).save(tmp_path / "a.parquet")
    many_classes(5, k=400).save(tmp_path / "b.parquet")
    with pytest.raises(ex.InputError, match="other columns"):
        StoredTrace.open(tmp_path)


@pytest.mark.parametrize("change", ["class", "number", "classes", "column"])
def test_damaged_files_are_refused(tmp_path, change):
    file = tmp_path / "trace.parquet"
    many_classes(3).save(file)
    table = pq.read_table(file)
    if change == "classes":
        known = table.schema.metadata[b"exeunt"]
        table = table.replace_schema_metadata({b"exeunt": known.replace(b'"classes": 300', b'"classes": 30')})
    elif change == "column":
        table = table.drop_columns(["other_log_probability"])
    else:
        name, bad = {"class": ("top_class", K), "number": ("log_probability", math.nan)}[change]
        column = table[name].combine_chunks()
        values = column.flatten().to_numpy().copy()
        values[7] = bad
        new = pa.FixedSizeListArray.from_arrays(pa.array(values), column.type.list_size)
        table = table.set_column(table.column_names.index(name), name, new)
    pq.write_table(table, file)
    with pytest.raises(ex.ArtefactError, match="damaged or edited"):
        ex.ExitTrace.load(file)


def test_parts_are_those_of_the_array():
    trace = many_classes(60)
    whole, rows = np.asarray(trace.log_probability), np.array([5, 3, 3, 40])
    models = ex.CascadeTrace({"a": trace, "b": trace.with_cost(ex.CostModel([2.0, 4.0, 8.0]))})
    for part, expected in (
        (trace.take(rows), whole[rows]),
        (trace.selected([0, 2]), whole[:, [0, 2]]),
        (trace.exits(1, 3), whole[:, 1:]),
        (concatenate([trace.take(slice(0, 20)), trace.take(slice(20, 60))]), whole),
        (models.along([CascadeStep("b", 1), CascadeStep("a", (0, 2))]), whole[:, [0, 0, 2]]),
    ):
        assert np.array_equal(np.asarray(part.log_probability), expected)
    with pytest.raises(ex.InputError, match=r"of \[300, 400\] classes"):
        concatenate([trace, many_classes(5, k=400)])
    with pytest.raises(ValueError, match="read-only"):
        trace.log_probability.log[0] = 0.0


def test_a_policy_hears_the_same_from_all_probabilities_as_from_those_kept():
    """It is calibrated on a trace and asked by an engine, which has the probabilities of every class."""
    fit, calibrate, test = (many_classes(n, seed=seed) for seed, n in enumerate((600, 600, 800)))
    own = ex.eero(fit, calibrate, budget="80%")
    policy = ex.eero(fit, calibrate, budget="80%", answer="ensemble")
    assert ex.evaluate(policy, test).accuracy > ex.evaluate(own, test).accuracy + 0.05
    replayed, memory = policy.answer.on(test), {}
    logits = logits_of(800, 2)[0]
    for exit_ in range(3):
        probabilities = np.exp(logits[:, exit_])
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        said, memory = policy.answer(exit_, Evidence(probabilities), memory)
        assert np.array_equal(said["prediction"], replayed.prediction[:, exit_])
        assert said["margin"] == pytest.approx(replayed.scores["margin"][:, exit_], abs=1e-5)
