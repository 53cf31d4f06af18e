"""Thresholds from traces in files are those of the same traces in memory, to the last bit."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exeunt as ex
from exeunt.policy import external_calibration, watched_cells
from exeunt.policy.calibration import RankedInMemory, exits_under, sequential_thresholds
from exeunt.policy.external_calibration import ranked
from exeunt.rules.by_name import policy_set
from exeunt.rules.catalogue import PRESETS
from exeunt.score.confidence import NamedScore
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace import StoredTrace, concatenate, stored_trace
from exeunt.trace.cascade_step import CascadeStep


def stored(trace, folder, sizes) -> StoredTrace:
    """Write the trace in files of these sizes, the last of them the rest."""
    ends = [0, *np.minimum(np.cumsum(sizes), trace.n).tolist(), trace.n]
    folder.mkdir()
    for number, (start, stop) in enumerate(itertools.pairwise(ends)):
        trace.take(slice(start, stop)).save(folder / f"{number:04d}.parquet")
    return StoredTrace.open(folder)


@pytest.fixture
def small(monkeypatch):
    """Let everything be done in many small steps; a function sets how small they are."""

    def set_(rows=37, sample=50, gathered=64, chunk=13):
        monkeypatch.setattr(external_calibration, "_ROWS", rows)
        monkeypatch.setattr(external_calibration, "_SAMPLE", sample)
        monkeypatch.setattr(external_calibration, "_COLLECTED", gathered)
        monkeypatch.setattr(external_calibration, "_DEVIATIONS", 1.0)
        monkeypatch.setattr(stored_trace, "_MOST_ROWS", chunk)

    return set_


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A new folder each time it is called."""
    root, made = tmp_path_factory.mktemp("parts"), []

    def new():
        made.append(root / str(len(made)))
        return made[-1]

    return new


def test_memory_does_not_grow_with_the_inputs(small, tmp_path, monkeypatch):
    """That of inputs in files; of inputs in memory it does."""
    small(rows=500, sample=300, gathered=1_000, chunk=500)
    monkeypatch.setattr(watched_cells, "_MOST", 1_000)
    rng, zeros, peaks = np.random.default_rng(0), np.zeros((16_000, 3)), {}
    whole = ex.ExitTrace.from_scores(
        rng.random((16_000, 3)),
        zeros,
        cost=ex.CostModel([1.0, 2.0, 3.0]),
        label=zeros[:, 0],
        id=np.arange(16_000),
    )
    fit = whole.take(slice(0, 200))
    for n in (2_000, 2_000, 15_000):  # what is imported comes with the first
        trace = whole.take(slice(200, 200 + n))
        parts = stored(trace, tmp_path / f"{n} {len(peaks)}", [n // 2])
        for kind, calibrate in (("memory", trace), ("files", parts)):
            tracemalloc.start()
            try:
                ex.eero(fit, calibrate, budget="60%")
                peaks[kind, n] = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
    assert peaks["files", 15_000] < 1.3 * peaks["files", 2_000]
    assert peaks["memory", 15_000] > 3 * peaks["memory", 2_000]


def whole_atoms_by_hand(pairs, counts, last):
    """Return who leaves where, (n,), by the definition: inputs with equal pairs, from the surest down, leave together
    until as many as planned have left, those of the exits before included. The last exit answers the rest.

    `pairs` [n][m]: (score, tie).
    """
    exits: list[int] = [last] * len(pairs)
    here, gone, planned = set(range(len(pairs))), 0, 0
    for exit_ in range(last):
        planned += counts[exit_]
        atoms: dict[tuple[float, float], list[int]] = {}
        for i in here:
            atoms.setdefault(pairs[i][exit_], []).append(i)
        for pair in sorted(atoms, reverse=True):
            if gone >= planned:
                break
            for i in atoms[pair]:
                exits[i] = exit_
            here -= {*atoms[pair]}
            gone += len(atoms[pair])
    return exits


@st.composite
def logs(draw):
    """A log of n rows and m exits: copies that score alike, saturated scores, and keys that clash by accident."""
    n, m = draw(st.integers(1, 120)), draw(st.integers(1, 4))
    levels = draw(st.sampled_from([1, 2, 3, 1000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    id_ = rng.integers(0, draw(st.sampled_from([1, 3, 12, 2**40])), n).astype(np.uint64)
    scores = rng.integers(0, levels, (n, m)) / levels * rng.choice([-1.0, 1.0], (n, m))
    if draw(st.booleans()):
        scores = scores[np.unique(id_, return_inverse=True)[1]]
    cost = ex.CostModel(np.arange(1.0, m + 1))
    trace = ex.ExitTrace.from_scores(scores, np.zeros((n, m)), cost=cost, id=id_)
    if draw(st.booleans()):
        order = rng.permutation(n) if draw(st.booleans()) else np.argsort(id_)
        trace = trace.take(order)
    shares = rng.dirichlet(np.ones(m)) * (rng.random(m) > 0.3)
    last = int(rng.integers(m))
    shares[last], shares[last + 1 :] = shares[last] + 0.1, 0
    return trace, rng.multinomial(n, shares / shares.sum()), last, rng


@settings(max_examples=25)
@given(log=logs(), ties=st.sampled_from(["content", "row"]), data=st.data())
def test_who_leaves_in_turn_is_the_same_with_ties_and_copies(log, ties, data, folders):
    """In files as in memory, and as in a walk through the inputs one by one."""
    trace, counts, last, rng = log
    n, m, scores = trace.n, trace.n_exits, trace.scores["score"]
    limits = rng.choice(scores.ravel(), m), rng.random(m)
    used = np.flatnonzero(counts[:last]).tolist()
    with pytest.MonkeyPatch.context() as patch:
        for name, most in {"_ROWS": 20, "_SAMPLE": 30}.items():
            patch.setattr(external_calibration, name, data.draw(st.integers(1, most)))
        patch.setattr(external_calibration, "_COLLECTED", data.draw(st.integers(12, 30)))
        patch.setattr(external_calibration, "_DEVIATIONS", data.draw(st.sampled_from([0.0, 1.0])))
        patch.setattr(stored_trace, "_MOST_ROWS", data.draw(st.integers(1, 20)))
        parts = stored(trace, folders(), data.draw(st.lists(st.integers(0, 30), max_size=3)))
        tie = tie_breaks(trace.keys(ties), 5)
        expected = RankedInMemory(scores, tie)
        with ranked(NamedScore("score"), parts, ties, 5, range(m)) as found:
            assert found.shape == expected.shape == (n, m)
            for exit_ in range(m):
                which = int(rng.integers(1, n + 1))
                assert found.release(exit_, n - which + 1) == expected.release(exit_, n - which + 1)
            thresholds = SimpleNamespace(score=limits[0], tie=limits[1])
            assert found.counts(thresholds).tolist() == expected.counts(thresholds).tolist()
            for exit_, reached in enumerate(np.cumsum(counts).tolist()):
                assert found.leave(exit_, reached) == expected.leave(exit_, reached)
        in_memory = sequential_thresholds(RankedInMemory(scores, tie), counts, last)
        with ranked(NamedScore("score"), parts, ties, 5, used) as found:
            in_files = sequential_thresholds(found, counts, last)
            answered = found.counts(in_files).tolist()
    assert in_files.score.tobytes() == in_memory.score.tobytes()
    assert in_files.tie.tobytes() == in_memory.tie.tobytes()
    pairs = [[(score, t) for score in row] for row, t in zip(scores.tolist(), tie.tolist(), strict=True)]
    exits = whole_atoms_by_hand(pairs, counts.tolist(), last)
    assert exits_under(scores, tie, in_memory).tolist() == exits
    assert answered == np.bincount(exits, minlength=m).tolist()
    # By each exit at least as many have left as planned, and exactly so many where all pairs differ.
    gone, planned = np.cumsum(answered), np.cumsum(counts)
    assert (gone >= planned)[:last].all()
    if len({*tie.tolist()}) == n:
        assert answered == counts.tolist()


@pytest.mark.parametrize("answer", ["own", "ensemble"])
@pytest.mark.parametrize("name", ["auto", "patience"])
def test_policies_of_answers_with_probabilities_are_the_same(name, answer, make_logit_trace, tmp_path, small):
    fit, calibrate, _ = make_logit_trace(600, 4).split()
    small()
    files = stored(calibrate, tmp_path / "parts", [40, 0, 3])
    options = {"budget": "60%", "delta": 0.2, "answer": answer, "seed": 3}
    assert PRESETS[name](fit, files, **options) == PRESETS[name](fit, calibrate, **options)


def check_same_but_for_the_number_of_copies(in_files, in_memory):
    """Whether inputs in files are copies of one another is not looked up."""
    found = [policy.notes.get("copies", {"unused": 0}) for policy in (in_files, in_memory)]
    assert found[0]["unused"] == found[1]["unused"]
    assert "share" not in found[0]
    assert in_files == replace(in_memory, notes=in_files.notes)


@pytest.mark.parametrize("ties", ["content", "row"])
def test_policies_of_a_log_with_copies_are_the_same_and_rows_may_overlap(
    fit, calibrate, tmp_path, small, ties
):
    """Of files neither contents nor rows are compared with those of the fit part."""
    rng = np.random.default_rng(0)
    log = replace(concatenate([calibrate, fit.take(slice(9))]).take(rng.zipf(1.3, 900) % 809), row=None)
    small()
    files = stored(log.take(np.argsort(log.id)), tmp_path / "sorted", [400, 0, 3])
    options = {"budget": "60%", "delta": 0.2, "seed": 3, "ties": ties}
    in_memory, in_files = ex.eero(fit, log, **options), ex.eero(fit, files, **options)
    assert ("copies" in in_memory.notes) == (ties == "content")
    check_same_but_for_the_number_of_copies(in_files, in_memory)


MADE = {
    **{name: partial(PRESETS[name], delta=0.2) for name in sorted(set(PRESETS) - {"auto", "genetic"})},
    **{f"{slack}": partial(ex.eero, calibration="marginal", slack=slack) for slack in ("paper", 0, 1.5)},
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_every_policy_of_an_allocation_is_the_same(make, parts, tmp_path, small):
    fit, calibrate = parts[0], parts[1].take(slice(500))
    small()
    files = stored(calibrate, tmp_path / "parts", [200, 0, 3])
    options = {"budget": "60%", "seed": 3}
    assert make(fit, files, **options) == make(fit, calibrate, **options)


def test_everything_at_the_first_exit_asks_nothing(parts, tmp_path):
    fit, calibrate, _ = parts
    files = stored(calibrate, tmp_path / "parts", [])
    assert ex.eero(fit, files, budget=fit.cost.first) == ex.eero(fit, calibrate, budget=fit.cost.first)


def test_nothing_is_left_behind_and_it_is_told_what_is_done(parts, tmp_path, small, monkeypatch):
    fit, calibrate, _ = parts
    small()
    monkeypatch.setattr(external_calibration, "_SECONDS", 0.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stored(calibrate, tmp_path / "parts", [])
    told = []
    policy = ex.eero(fit, StoredTrace.open(tmp_path / "parts", say=told.append), budget="50%")
    assert [file.name for file in tmp_path.iterdir()] == ["parts"]
    assert sum("threshold found" in line for line in told) == np.count_nonzero(policy.counts[:-1])
    assert any("inputs scored" in line for line in told)


@pytest.fixture(scope="module")
def models(make_logit_trace):
    """Fit, calibrate and test of a network with two exits and a better one, with another order of the inputs."""
    small, large = make_logit_trace(600, 2), make_logit_trace(600, 3)
    better = ex.ExitTrace.from_logits(
        np.asarray(large.log_probability) * 2, label=small.label, id=small.id,
        cost=ex.CostModel(large.cost.cumulative * 3, unit=small.cost.unit),
    )  # fmt: skip
    whole = ex.CascadeTrace({"small": small, "better": better})
    return whole.split(fit=0.4, calibrate=0.5, test=0.1)


@pytest.mark.parametrize("answer", ["own", "auto"])
def test_cascades_on_files_are_those_of_memory(models, folders, answer):
    fit, calibrate, _ = models
    steps = [CascadeStep(name, calibrate[name].n_exits) for name in calibrate.names]
    folder = folders()
    stored(calibrate.along(steps), folder, [200])
    inputs = StoredTrace.open(folder, models=steps)
    options = {"answer": answer, "delta": 0.05}
    made = {budget: ex.cascade(fit, inputs, budget=budget, **options) for budget in ("40%", "90%")}
    assert made == {budget: ex.cascade(fit, calibrate, budget=budget, **options) for budget in made}
    assert max(len(policy.models) for policy in made.values()) == 2
    of_set = {"policy": ex.auto, "budgets": ["40%", "90%"], **options}
    assert policy_set(fit, inputs, **of_set).policies == policy_set(fit, calibrate, **of_set).policies


def test_models_that_the_files_do_not_hold_are_refused(models, folders):
    fit, calibrate, _ = models
    folder = folders()
    stored(calibrate["small"], folder, [])
    told = "holds the outputs of 2 exits, and the models have small 2, better 3: record all"
    with pytest.raises(ex.InputError, match=told):
        StoredTrace.open(folder, models=[CascadeStep("small", 2), CascadeStep("better", 3)])
    with pytest.raises(ex.InputError, match=r"made of a CascadeTrace: .* StoredTrace.open\(folder, models="):
        ex.cascade(fit, StoredTrace.open(folder), budget="50%")


def test_what_is_refused(parts, tmp_path, monkeypatch):
    fit, calibrate, _ = parts
    files = stored(calibrate, tmp_path / "parts", [])
    with pytest.raises(ex.InputError, match="calibrate part is empty"):
        ex.eero(fit, stored(calibrate.take([]), tmp_path / "none", []), budget="50%")
    with pytest.raises(ex.InputError, match="different costs"):
        ex.eero(fit, files.with_cost(ex.CostModel(fit.cost.cumulative * 2)), budget="50%")
    methods = {"init": lambda *_: {}, "__call__": lambda *_: (np.full(9, np.nan), {})}
    rule = type("Rule", (), {"name": "nan", **methods})
    with pytest.raises(ex.InputError, match="is NaN"):
        ex.eero(fit, files, budget="50%", score=rule())
    monkeypatch.setattr(external_calibration.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ex.InputError, match="set TMPDIR to a folder with more"):
        ex.eero(fit, files, budget="50%")


def test_only_what_a_policy_needs_is_read(make_logit_trace, folders, monkeypatch):
    whole = make_logit_trace(320, 3)
    fit, calibrate = whole.take(slice(0, 200)), whole.take(slice(200, 320))
    read, tables = set(), stored_trace._tables

    def noted(file, columns, rows):
        read.update(columns)
        return tables(file, columns, rows)

    monkeypatch.setattr(stored_trace, "_tables", noted)
    inputs = stored(calibrate, folders(), [50])
    found = ex.eero(fit, inputs, budget="60%", answer="own")
    assert found == ex.eero(fit, calibrate, budget="60%", answer="own")
    assert read == {"id", "row", "prediction", f"score:{found.score.name}"}
    bare = replace(calibrate, scores={"entropy": calibrate.scores["entropy"]}, log_probability=None)
    with pytest.raises(ex.InputError, match="which the evidence lacks"):
        ex.eero(fit, stored(bare, folders(), [50]), budget="60%", answer="own", score="margin")
