"""The decision rule: whatever the order, batch or array type, and bit for bit the same from a file."""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exeunt as ex
from exeunt._support.sealed_json import write_sealed
from exeunt.policy import Certificate, PolicyState
from exeunt.policy.calibration import Thresholds
from exeunt.policy.ensemble_answer import EnsembleAnswer, LogTerm, Stage
from exeunt.score.confidence import NamedScore
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace import concatenate
from exeunt.trace.cascade_step import CascadeStep


def hand_made(scores, ties, *, seed=0):
    m = len(scores) + 1
    limits = Thresholds.of([*zip(scores, ties, strict=True), (-np.inf, -np.inf)])
    rates, cost = np.full(m, 1 / m), ex.CostModel(np.arange(1.0, m + 1))
    told = {"name": "by hand", "budget": 1.5, "calibration": "none", "n_calibration": 0}
    return ex.Policy(score=NamedScore("score"), rates=rates, limits=limits, cost=cost, seed=seed, **told)


def fold(policy, trace, batch):
    """Route in batches through init and step, dropping rows that leave, as a runtime does."""
    exits = np.empty(trace.n, dtype=int)
    for start in range(0, trace.n, batch):
        rows = np.arange(start, min(start + batch, trace.n))
        state = policy.init(len(rows), id=trace.id[rows])
        for exit_ in range(policy.n_exits):
            leave, state = policy.step(exit_, trace.evidence(exit_, rows), state)
            exits[rows[leave]] = exit_
            rows, state = rows[~leave], state.take(~leave)
        assert len(rows) == 0
    return exits


@pytest.fixture(scope="module", params=[False, True], ids=["distinct", "tied"])
def policy_and_trace(request, make_trace):
    trace = make_trace(1200, ties=request.param)
    fit, calibrate, test = (trace.take(slice(*ends)) for ends in ((300,), (300, 600), (600, 1200)))
    return ex.eero(fit, calibrate, budget="60%"), test


@pytest.mark.parametrize("batch", [1, 7, 64, 10_000])
def test_neither_order_nor_batches_matter(policy_and_trace, batch):
    policy, trace = policy_and_trace
    order = np.random.default_rng(3).permutation(trace.n)
    np.testing.assert_array_equal(policy.route(trace.take(order)), policy.route(trace)[order])
    np.testing.assert_array_equal(fold(policy, trace, batch), policy.route(trace))


def test_a_trace_met_again_in_other_company_is_answered_the_same(policy_and_trace, make_trace):
    policy, trace = policy_and_trace
    both = concatenate([make_trace(500, seed=9), trace])
    np.testing.assert_array_equal(policy.route(both)[500:], policy.route(trace))
    for n in (0, 1, 2):
        np.testing.assert_array_equal(policy.route(trace.take(slice(n))), policy.route(trace)[:n])


def test_thresholds_are_inclusive_and_the_last_exit_always_answers():
    policy = hand_made([0.5], [0.25])
    state = PolicyState(np.array([0.25, 0.2, 0.9, 0.0, 0.0]), {}, {})
    score = np.array([0.5, 0.5, 0.5, 0.6, 0.4])
    leave, after = policy.step(0, {"score": score}, state)
    assert leave.tolist() == [True, False, True, True, False]
    last, _ = policy.step(1, {"score": np.array([np.nan, -np.inf])}, after.take(~leave))
    assert last.tolist() == [True, True]


def test_the_step_works_on_torch_tensors(policy_and_trace):
    torch = pytest.importorskip("torch")
    policy, trace = policy_and_trace
    rows = torch.arange(trace.n)
    begun = policy.init(trace.n, id=trace.id)
    state = replace(begun, tie=torch.from_numpy(begun.tie))
    exits = torch.full((trace.n,), -1)
    for exit_ in range(policy.n_exits):
        evidence = {k: torch.tensor(v) for k, v in trace.evidence(exit_, rows.numpy()).items()}
        leave, state = policy.step(exit_, evidence, state)
        assert leave.dtype == torch.bool
        exits[rows[leave]] = exit_
        rows, state = rows[~leave], state.take(~leave)
    np.testing.assert_array_equal(exits.numpy(), policy.route(trace))


def test_what_does_not_fit_is_refused(policy_and_trace, make_trace, refuses):
    policy, _ = policy_and_trace
    refused = {
        "4 exits, the trace 3": lambda: policy.route(make_trace(5, 3)),
        r"^id .*shape \(3,\)": lambda: policy.init(3, id=[1, 2]),
        "'score'": lambda: policy.step(0, {"margin": np.zeros(1)}, policy.init(1, id=[0])),
    }
    refuses(refused)


thresholds = st.floats(allow_nan=False, allow_infinity=True)


@given(st.lists(st.tuples(thresholds, thresholds), max_size=6), st.integers(0, 2**63))
def test_a_file_gives_back_every_bit(tmp_path_factory, pairs, seed):
    policy = hand_made([a for a, _ in pairs], [b for _, b in pairs], seed=seed)
    path = tmp_path_factory.mktemp("policy") / "policy.json"
    policy.save(path)
    back = ex.Policy.load(path)
    assert back == policy
    assert back.seed == seed
    assert back.limits.score.tobytes() == policy.limits.score.tobytes()
    assert back.limits.tie.tobytes() == policy.limits.tie.tobytes()
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.mark.parametrize(("saved", "kind"), [(ex.Policy, "policy"), (ex.PolicySet, "policy set")])
@pytest.mark.parametrize("old", [1, 2])
def test_a_file_of_an_old_format_is_refused_with_what_to_do(tmp_path, parts, saved, kind, old):
    """1 lacks the cascade and the answer by their names of today, 2 numbered copies and parted them: both would decide
    otherwise, or guarantee what is not so, without a word.
    """
    path, policy = tmp_path / "old.json", ex.eero(parts[0], parts[1], budget="50%")
    (policy if saved is ex.Policy else ex.PolicySet((policy,))).save(path)
    document = json.loads(path.read_text())
    assert document["version"] == 3
    path.write_text(json.dumps(document | {"version": old}))
    with pytest.raises(ex.ArtefactError) as refused:
        saved.load(path)
    assert str(refused.value) == f"{path} is a {kind} of the old format {old}, not of 3: calibrate again"


def test_truncated_edited_foreign_and_newer_files_are_refused(tmp_path, parts):
    path = tmp_path / "policy.json"
    with pytest.raises(ex.InputError, match=r"policy\.json"):
        ex.Policy.load(path)
    ex.eero(parts[0], parts[1], budget="50%").save(path)
    text = path.read_text()
    for cut in range(0, len(text) - 2, 97):
        path.write_text(text[:cut])
        with pytest.raises(ex.ArtefactError, match=r"policy\.json"):
            ex.Policy.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ex.ArtefactError):
        ex.Policy.load(path)
    document = json.loads(text)
    for message, changed in (
        ("edited", document | {"policy": document["policy"] | {"budget": 1.0}}),
        ("edited", document | {"policy": None}),
        ("edited", document | {"sha256": "0" * 64}),
        ("99.*upgrade", document | {"version": 99}),
        ("'1'", document | {"version": "1"}),
        ("not a policy", document | {"format": "other"}),
        ("not a policy", []),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ex.ArtefactError, match=message):
            ex.Policy.load(path)


def test_a_step_shows_the_score_and_keeps_what_the_score_remembers():
    class Running:
        name, remembers = "running", True

        def init(self, n):
            return {"sum": np.zeros(n)}

        def __call__(self, exit_, evidence, memory):
            total = memory["sum"] + evidence["score"]
            return total, {"sum": total}

    policy = replace(hand_made([1.0, 1.0], [0.0, 0.0]), score=Running())
    assert policy.needs.tolist() == [True, True, True]
    state = policy.init(3, id=range(3))
    assert state.memory["sum"].tolist() == [0, 0, 0]
    leave, score, _, after = policy.decide(0, {"score": np.array([0.6, 1.5, 0.1])}, state)
    assert (leave.tolist(), score.tolist()) == ([False, True, False], [0.6, 1.5, 0.1])
    after = after.take(~leave)
    assert after.memory["sum"].tolist() == [0.6, 0.1]
    np.testing.assert_array_equal(after.tie, state.tie[[0, 2]])
    leave, score, _, after = policy.decide(1, {"score": np.array([0.5, 0.5])}, after)
    assert leave.tolist() == [True, False]
    assert score.tolist() == after.memory["sum"].tolist() == [1.1, 0.6]
    both = PolicyState.joined([after, state])
    assert both.memory["sum"].tolist() == [1.1, 0.6, 0, 0, 0]
    np.testing.assert_array_equal(both.tie, np.concatenate([after.tie, state.tie]))


def test_a_policy_knows_the_inputs_that_it_was_calibrated_on(parts):
    fit, calibrate, test = parts
    policy = ex.eero(fit, calibrate, budget="60%")
    assert policy.was_calibrated_on(calibrate)
    assert not policy.was_calibrated_on(calibrate.take(slice(1, None)))
    assert not policy.was_calibrated_on(test.take(slice(calibrate.n)))
    assert not replace(policy, counts=None).was_calibrated_on(calibrate)
    first = ex.compose("x", lambda _: np.eye(4)[0], fit, calibrate, budget="60%")
    assert first.was_calibrated_on(calibrate)


def test_the_run_the_answer_and_the_models_of_a_cascade_are_kept():
    own, stage = hand_made([0.5], [0.25]), Stage(0.0, LogTerm(1.5))
    cascade = CascadeStep("small", [1]), CascadeStep("large", 1)
    policy = replace(own, run="12ab", answer=EnsembleAnswer((stage, stage)), cascade=cascade)
    body = json.loads(json.dumps(policy.to_dict()))
    kept = {"run": "12ab", "answer": policy.answer.to_dict(), "cascade": [["small", [1]], ["large", 1]]}
    assert body == own.to_dict() | kept
    again = ex.Policy.from_dict(body)
    assert (again.run, again.answer, again.cascade) == (policy.run, policy.answer, policy.cascade)


def test_exits_that_nobody_leaves_need_no_evidence_but_the_last_does():
    policy = hand_made([np.inf, 0.5, 0.5], [np.inf, 0.5, np.inf])
    assert policy.active.tolist() == [False, True, False, True]
    assert policy.needs.tolist() == [False, True, False, True]
    shut = replace(policy, limits=Thresholds.of([(np.inf, np.inf)] * 4))
    assert shut.needs.tolist() == [False, False, False, True]


@pytest.fixture
def log(make_trace):
    """Parts of a query log: 1,500 draws of 60 contents whose scores depend on the content, some far more often."""
    contents = make_trace(60, ties=True)
    drawn = np.random.default_rng(2).zipf(1.4, 1500) % 60
    whole = replace(contents.take(drawn), id=contents.id[drawn], row=None)
    return whole.split(fit=0.4, calibrate=0.3, test=0.3)


@pytest.mark.parametrize("ties", ["content", "row"])
def test_copies_leave_together_by_content_and_may_part_by_row(tmp_path, log, ties):
    fit, calibrate, test = log
    policy = ex.eero(fit, calibrate, budget="55%", delta=0.1, seed=2, ties=ties)
    assert policy.ties == ties
    for data in (calibrate, test):
        exits = policy.route(data)
        # By hand: an input leaves at the first exit whose (score, tie) it reaches, the tie that of its key.
        tie = tie_breaks(data.row if ties == "row" else data.id, 2).tolist()
        scored = zip(data.scores["score"].tolist(), tie, strict=True)
        pairs = [[(s, t) for s in row] for row, t in scored]
        limits = [*zip(policy.limits.score.tolist(), policy.limits.tie.tolist(), strict=True)]
        expected = [[a >= b for a, b in zip(row, limits, strict=True)].index(True) for row in pairs]
        assert exits.tolist() == expected
        parted = sum(len(np.unique(exits[data.id == key])) > 1 for key in np.unique(data.id))
        assert (parted > 0) == (ties == "row")
        order = np.random.default_rng(0).permutation(data.n)
        assert policy.route(data.take(order)).tolist() == exits[order].tolist()
    assert policy.counts.tolist() == np.bincount(policy.route(calibrate), minlength=4).tolist()
    planned = policy.distribution.counts
    if ties == "row":
        assert policy.counts.tolist() == planned.tolist()
        assert "copies" not in policy.notes
    else:
        gone, meant = np.cumsum(policy.counts)[: len(planned)], np.cumsum(planned)
        assert (gone >= meant).all()
        assert (gone > meant).any()
    policy.save(tmp_path / "p.json")
    again = ex.Policy.load(tmp_path / "p.json")
    assert again == policy
    assert again.ties == ties
    assert again.route(test).tolist() == policy.route(test).tolist()
    assert again.distribution.counts.tolist() == planned.tolist()


def test_what_copies_leave_unused_is_noted(log, parts):
    fit, calibrate, _ = log
    policy = ex.eero(fit, calibrate, budget="55%", delta=0.1, seed=2)
    note = policy.notes["copies"]
    cost = fit.cost.cumulative
    assert note["share"] == 1 - len(np.unique(calibrate.id)) / calibrate.n
    meant = np.pad(policy.distribution.counts, (0, 4 - len(policy.distribution.counts)))
    assert note["unused"] == pytest.approx(1 - policy.counts @ cost / (meant @ cost))
    assert f"{note['share']:.1%} of the calibration inputs are copies of others" in str(policy)
    assert f"leaves about {note['unused']:.1%} of the budget unused" in str(policy)
    assert 'ties="row"' in str(policy)
    assert "copies" not in ex.eero(*parts[:2], budget="55%").notes


@pytest.mark.parametrize("ties", ["key", None, "Row"])
def test_other_ties_are_refused(parts, ties):
    with pytest.raises(ex.InputError, match=f"'content' or 'row', got {ties!r}"):
        ex.eero(parts[0], parts[1], budget="50%", ties=ties)


def test_a_policy_shows_its_exits_limits_and_remarks():
    policy = replace(
        hand_made([np.inf, 0.123456789], [np.inf, 0.5]),
        notes={"a": {"text": "made <so>"}, "b": {"text": "of old"}, "c": {"other": 1}},
        certificate=Certificate(1.5, 0.05, "MACs", 0.96, 1.25, 1.4375, 80, "x"),
    )
    lines = str(policy).splitlines()
    told = "by hand: 3 exits, budget 1.5 MACs (50.0% of the full cost), score score, own answers, "
    assert lines[0] == f"{told}none calibration on 0 inputs"
    shown = [line.split() for line in lines[1:] if line[:1] != "-"][-6:]
    for exit_, limit in enumerate(("never", "0.123457", "always")):
        assert shown[exit_] == [str(exit_), str(exit_ + 1), "33.3%", "-", "-", limit]
    assert shown[3:] == [["made", "<so>"], ["of", "old"], str(policy.certificate).split()]
    assert "exit  cost (MACs)" in str(policy)
    assert "answers if score >=" in str(policy)
    page = policy._repr_html_()
    assert page.endswith(f"<p>made &lt;so&gt;</p><p>of old</p><p>{escape(str(policy.certificate))}</p>")
    assert "0.123457" in page
    assert "by hand: 3 exits" in page
    bare = str(hand_made([0.5], [0.5])).splitlines()
    assert bare[-2].split() == ["1", "2", "50.0%", "-", "-", "always"]
    uncertified = "The budget is not certified: none calibration has no exact distribution of the mean cost."
    assert bare[-1] == uncertified


@pytest.mark.parametrize("budget", ["30%", "50%", "90%", "99%"])
@pytest.mark.parametrize("calibration", ["sequential", "marginal"])
def test_a_policy_shows_what_its_thresholds_did_beside_what_was_planned(fit, calibrate, budget, calibration):
    """The paper's thresholds release other shares than planned: "always" may stand beside a planned 94%."""
    policy = ex.eero(fit, calibrate, budget=budget, calibration=calibration)
    exits = policy.route(calibrate)
    for exit_, line in enumerate(str(policy).splitlines()[3 : 3 + policy.n_exits]):
        here, reached = np.count_nonzero(exits == exit_), np.count_nonzero(exits >= exit_)
        asked = f"{here / reached:.1%}" if reached else "-"
        assert line.split()[2:5] == [f"{policy.rates[exit_]:.1%}", f"{here / calibrate.n:.1%}", asked]


def test_the_table_shows_costs_in_the_unit_that_suits_them():
    policy = replace(hand_made([0.5], [0.25]), cost=ex.CostModel([1.5e6, 2e6], unit="MACs"))
    header, rows = policy._table()
    assert header == ["exit", "cost (MMACs)", "planned", "answered", "of those asked", "answers if score >="]
    assert rows == [["0", "1.5", "50.0%", "-", "-", "0.5"], ["1", "2", "50.0%", "-", "-", "always"]]


@pytest.mark.parametrize("calibration", ["sequential", "marginal"])
def test_a_budget_that_cannot_be_exceeded_is_kept_for_certain(parts, calibration):
    fit, calibrate, test = parts
    policy = ex.eero(fit, calibrate, budget="100%", calibration=calibration)
    sentence = f"The budget is kept for certain: no input costs more than {fit.cost.show(policy.costliest)}."
    assert str(policy).endswith(sentence)
    assert str(ex.PolicySet((policy,))).endswith(" 1")
    first = ex.compose("x", lambda _: np.eye(4)[0], fit, calibrate, budget="50%", calibration=calibration)
    assert first.costliest == fit.cost.first == ex.evaluate(first, test).cost
    loss = ex.risk_controlled(fit, calibrate, max_loss=0.2)  # its thresholds have no ties
    assert loss.costliest == fit.cost.full


def test_a_policy_says_what_is_certified_and_what_is_not(fit, calibrate):
    guaranteed = ex.eero(fit, calibrate, budget="50%", delta=0.1)
    assert str(guaranteed).endswith(str(guaranteed.certificate))
    on_average = ex.eero(fit, calibrate, budget="50%")
    assert "The budget is not certified: a mean cost of" in str(on_average)
    assert f"{fit.cost.show(on_average.distribution.mean)} is expected" in on_average._repr_html_()
    paper = ex.eero(fit, calibrate, budget="50%", calibration="marginal")
    mean = ex.evaluate(paper, calibrate).cost
    assert paper.expected_cost == pytest.approx(mean)
    assert str(paper).endswith(
        "The budget is not certified: marginal calibration has no exact distribution of the mean cost. The calibration "
        f"inputs cost {fit.cost.show(mean)} on average."
    )
    assert ex.Policy.from_dict(paper.to_dict()) == paper
    loss = ex.risk_controlled(fit, calibrate, max_loss=0.2)
    assert f"\n{loss.loss_certificate}\nThe mean cost is not certified: " in str(loss)
    assert loss.counts.tolist() == np.bincount(loss.route(calibrate), minlength=4).tolist()


def test_a_whole_file_that_holds_no_policy_is_refused(tmp_path):
    path, body = tmp_path / "p.json", hand_made([0.5], [0.25]).to_dict()
    lacking = [{k: v for k, v in body.items() if k != name} for name in ("rates", "ties", "planned_counts")]
    for broken in (
        *lacking,
        body | {"cost": None},
        body | {"rates": None, "thresholds": {"score": ["sometimes", "always"], "tie": [0, "always"]}},
        body | {"cost": body["cost"] | {"cumulative": [2.0, 1.0]}},
        *(body | {"ties": ties} for ties in ("key", None)),
    ):
        write_sealed(path, "policy", broken, format_="exeunt-policy", version=3)
        with pytest.raises(ex.ArtefactError, match=r"p\.json cannot be read as a policy.*calibrate again"):
            ex.Policy.load(path)


def test_planned_counts_make_the_distribution_and_arrays_are_frozen():
    """The counts say what calibration inputs did: where copies left together, other exits than planned."""
    body = hand_made([0.5, 0.5], [0.25, 0.25]).to_dict()
    assert ex.Policy.from_dict(body).distribution is None
    assert ex.Policy.from_dict(body | {"counts": [3, 2, 0]}).distribution is None
    changed = body | {"counts": [4, 1, 0], "planned_counts": [3, 2]}
    policy = ex.Policy.from_dict(changed)
    assert policy.counts.tolist() == [4, 1, 0]
    assert policy.distribution.counts.tolist() == [3, 2]
    assert policy.distribution.cost.tolist() == [1.0, 2.0]
    assert policy.to_dict() == changed
    only_planned = ex.Policy.from_dict(body | {"planned_counts": [3, 2]})
    assert only_planned.counts is None
    assert only_planned.distribution.counts.tolist() == [3, 2]
    assert policy.counts.dtype == np.int64
    assert policy.rates.dtype == policy.thresholds.dtype == np.float64
    for array in (policy.counts, policy.rates):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert policy != "a policy"
    # JSON has one kind of number: 1 and 1.0 are the same.
    again = ex.Policy.from_dict(body | {"rates": [1, 0, 0], "counts": [3.0, 2.0, 0.0]})
    assert (again.counts.dtype, again.rates.dtype) == (np.int64, np.float64)


def test_classes_as_texts_are_refused_where_they_are_computed_with():
    fit, calibrate = (made_of_labels(seed) for seed in (0, 1))
    policy = ex.eero(fit, calibrate, budget="60%", answer="ensemble")
    evidence = {"prediction": np.array(["cat", "dog"]), "confidence": np.array([0.5, 0.7])}
    with pytest.raises(ex.InputError, match="must be class numbers, got 'cat'"):
        policy.decide(0, evidence, policy.init(2, id=np.arange(2)))
    numbered = {**evidence, "prediction": np.array([0, 1])}
    assert len(policy.decide(0, numbered, policy.init(2, id=np.arange(2))).leave) == 2
    own = ex.eero(fit, calibrate, budget="60%", answer="own")
    answer = own.decide(0, evidence, own.init(2, id=np.arange(2))).answer
    assert answer["prediction"].tolist() == ["cat", "dog"]
    with pytest.raises(
        ex.InputError, match=r"exit 0 lacks 'prediction', and has confidence: .* ask models with"
    ):
        policy.decide(0, {"confidence": evidence["confidence"]}, policy.init(2, id=np.arange(2)))
    with pytest.raises(TypeError):  # not about texts
        policy.decide(0, {**numbered, "confidence": np.array([None, {}])}, policy.init(2, id=np.arange(2)))


def made_of_labels(seed, n=400):
    """A trace of two exits that give a label and a confidence alone."""
    rng = np.random.default_rng(seed)
    label, sure = rng.integers(0, 2, n), rng.uniform(0.5, 1, (n, 2))
    predicted = np.where(rng.uniform(size=(n, 2)) < sure, label[:, None], 1 - label[:, None])
    of = {"label": label, "id": np.arange(n) + n * seed, "name": "confidence"}
    return ex.ExitTrace.from_scores(sure, predicted, cost=ex.CostModel([1, 3]), **of)
