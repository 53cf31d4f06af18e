"""One ONNX model answers as its policy does in NumPy, exits early, and says what it cannot hold."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from made_stages import WIDTH, K, image_stages, logits_of, session, text_stages, trace_of
from onnx import numpy_helper

import exeunt as ex
from exeunt.onnx.nested_if import ModelStage, model_with_policy
from exeunt.policy.calibration import Thresholds
from exeunt.policy.ensemble_answer import EnsembleAnswer, LogTerm, Stage
from exeunt.rules import baselines
from exeunt.rules.catalogue import PRESETS
from exeunt.score.confidence import MANY_CLASSES, NamedScore, of_top_classes
from exeunt.score.kinds import ConstantScore, Derived
from exeunt.trace.derived import score_matrix

KEYS = np.random.default_rng(5).integers(0, 2**64, 900, dtype=np.uint64)
OUTPUTS = ("label", "probabilities", "exit", "cost")


def pixels(n=900):
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(n, WIDTH)) * rng.uniform(0.1, 3, size=(n, 1))
    return {"pixels": inputs.astype(np.float32)}


def parts_of(stages):
    trace = trace_of(stages, [pixels()], key=KEYS)
    fit, calibrate, test = (trace.take(slice(i * 300, (i + 1) * 300)) for i in range(3))
    return fit, calibrate, test


@pytest.fixture(scope="module")
def four():
    """Four stages, and traces of 300 inputs each: the last are those to be answered."""
    stages = image_stages(4)
    return stages, *parts_of(stages)


@pytest.fixture(scope="module")
def stages(four):
    return four[0]


@pytest.fixture(scope="module")
def policy(four):
    return ex.eero(four[1], four[2], budget="60%")


def answers(model, inputs, keys):
    runs = session(model)
    asked = ({name: rows[i : i + 1] for name, rows in inputs.items()} for i in range(len(keys)))
    found = [runs.run(OUTPUTS, one | {"key": keys[i : i + 1]}) for i, one in enumerate(asked)]
    return dict(zip(OUTPUTS, map(np.concatenate, zip(*found, strict=True)), strict=True))


def check_against_numpy(stages, policy, test, inputs, exits=None):
    """Compare with the policy's replay of recorded outputs, but for inputs that are close to a threshold."""
    found = answers(model_with_policy(stages, policy, exits=exits), inputs, test.id)
    outputs = policy.answer.on(test)
    scores = score_matrix(policy.score, outputs)
    steps = getattr(policy.score, "in_steps", False)
    exits, rows = policy.route(test), np.arange(test.n)
    asked = np.arange(test.n_exits) <= exits[:, None]
    close = (asked & (np.abs(scores - policy.thresholds) < 1e-5)).any(axis=1) & (not steps)
    assert close.mean() < 0.1
    sure = ~close
    label, cost = outputs.prediction[rows, exits], policy.cost.cumulative[exits]
    for name, values in (("exit", exits), ("label", label), ("cost", cost)):
        np.testing.assert_array_equal(found[name][sure], values[sure], name)
    probabilities = np.exp(outputs.log_probability[rows, exits])
    shown = found["probabilities"]
    if shown.shape[1] > MANY_CLASSES:  # a trace keeps the likeliest
        shown = np.exp(of_top_classes(np.log(shown)))
    np.testing.assert_allclose(shown[sure], probabilities[sure], atol=1e-5)
    return exits


def last_inputs():
    return {name: rows[600:] for name, rows in pixels().items()}


@pytest.mark.parametrize("answer", ["own", "ensemble"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_policy_is_answered_as_in_numpy(four, name, answer):
    stages, fit, calibrate, test = four
    policy = PRESETS[name](fit, calibrate, budget="60%", answer=answer, seed=2)
    exits = check_against_numpy(stages, policy, test, last_inputs())
    assert len(set(exits.tolist())) > 1


def test_of_many_classes_the_likeliest_are_pooled():
    stages = image_stages(3, k=300)
    fit, calibrate, test = parts_of(stages)
    answer = EnsembleAnswer((Stage(0.0, LogTerm(1.0)), Stage(0.7, LogTerm(0.8)), Stage(0.5, LogTerm(1.2))))
    policy = ex.eero(fit, calibrate, budget="60%", answer=answer)
    exits = check_against_numpy(stages, policy, test, last_inputs())
    assert len(set(exits.tolist())) > 1


@pytest.mark.parametrize("score", ["max_probability", "margin", "entropy"])
@pytest.mark.parametrize("m", [1, 2, 9])
def test_from_one_exit_to_many(m, score):
    stages = image_stages(m)
    fit, calibrate, test = parts_of(stages)
    policy = baselines.msdnet(fit, calibrate, budget="100%" if m == 1 else "60%", score=score)
    check_against_numpy(stages, policy, test, last_inputs())


def test_a_score_of_ones_own_and_one_on_top_of_it(four):
    stages, fit, calibrate, test = four
    spread = Spread()
    for score in (spread, Derived(spread, "spread", Sharpened("spread"))):
        policy = ex.eero(fit, calibrate, budget="60%", score=score)
        exits = check_against_numpy(stages, policy, test, last_inputs())
        assert len(set(exits.tolist())) > 1


@dataclass(frozen=True)
class Spread:
    """Probability of the most likely class less the mean of the others' logarithms, and what was so before."""

    name: str = "spread"
    remembers: ClassVar[bool] = True

    def init(self, n):
        return {"most": np.zeros(n)}

    def __call__(self, exit_, evidence, memory):
        here = evidence["max_probability"] - 0.01 * evidence["log_probability"].mean(axis=1)
        most = np.where(here > memory["most"], here, memory["most"])
        return most * 0.5 + here, {"most": most}

    def to_dict(self):
        return {"kind": "spread"}


@dataclass(frozen=True)
class Sharpened:
    score: str
    name: str = "sharpened"
    remembers: ClassVar[bool] = False

    def init(self, n):
        return {}

    def __call__(self, exit_, evidence, memory):
        return np.tanh(np.exp(evidence[self.score]) / 3) ** 2, memory

    def to_dict(self):
        return {"kind": "sharpened"}


def test_what_has_no_form_in_onnx_is_named(four, stages, policy):
    @dataclass(frozen=True)
    class Bad(NamedScore):
        fails: object = None

        def __call__(self, exit_, evidence, memory):
            return self.fails(evidence["margin"]), memory

    for function, why in (
        (np.arctan, "arctan"),
        (np.unique, "numpy.unique"),
        (np.asarray, "np.asarray"),
        (lambda margin: margin if margin > 0 else -margin, "no `if` can depend on it"),
    ):
        with pytest.raises(ex.InputError, match=f"the score 'mine' with own answers cannot be.*{why}"):
            model_with_policy(stages, replace(policy, score=Bad("mine", function)))
    best = ex.eero(four[1], four[2], budget="60%", answer="best")
    with pytest.raises(ex.InputError, match=r"with best answers cannot be.* choose another --answer"):
        model_with_policy(stages, best)
    with pytest.raises(ex.InputError, match="4 exits but the network has 3"):
        model_with_policy(stages[:3], policy)


def copied(stage):
    return ModelStage(type(stage.model).FromString(stage.model.SerializeToString()), stage.logits)


def test_operators_of_several_versions_are_refused(stages, policy):
    """As of models of a cascade that were exported at different times: what an operator does may have changed."""
    newer = copied(stages[3])
    newer.model.opset_import[0].version = 20
    with pytest.raises(ex.InputError, match="opset 18 and 20: export them again"):
        model_with_policy([*stages[:3], newer], policy)


def test_texts_of_every_length():
    stages = text_stages()
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 9, (1, length)) for length in rng.integers(1, 40, 200)]
    inputs = [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in texts]
    trace = trace_of(stages, inputs, key=KEYS[:200])
    policy = ex.eero(trace.take(slice(60)), trace.take(slice(60, 120)), budget="70%")
    runs = session(model_with_policy(stages, policy))
    given = zip(inputs[120:], KEYS[120:200], strict=True)
    found = [runs.run(["label", "exit"], one | {"key": np.array([key])}) for one, key in given]
    label, exits = np.concatenate(found, axis=1)
    test = trace.take(slice(120, None))
    np.testing.assert_array_equal(exits, policy.route(test))
    np.testing.assert_array_equal(label, test.prediction[np.arange(test.n), exits])
    assert set(exits.tolist()) == {0, 1}


def test_some_exits_alone(four):
    """Those of a policy that has switched others off: their stages are run, their heads are not."""
    stages, *traces = four
    kept, cost = [1, 3], ex.CostModel([1.0, 3.0], unit="MMACs")
    fit, calibrate, test = (
        ex.ExitTrace.from_probabilities(
            np.exp(one.log_probability[:, kept]), cost=cost, label=one.label, id=one.id
        )
        for one in traces
    )
    policy = ex.eero(fit, calibrate, budget="70%")
    check_against_numpy(stages, policy, test, last_inputs(), exits=kept)
    assert "within0/head" not in str(model_with_policy(stages, policy, exits=kept))


def test_ties_are_broken_by_the_key(four):
    """Of a score that is the same for all, the key alone decides, as the engine's hash of it does."""
    stages, fit, calibrate, test = four
    policy = baselines.msdnet(fit, calibrate, budget="50%", score=ConstantScore(), seed=7)
    same = {name: np.repeat(rows[:1], 300, axis=0) for name, rows in last_inputs().items()}
    found = answers(model_with_policy(stages, policy), same, test.id)
    np.testing.assert_array_equal(found["exit"], policy.route(test))
    assert set(found["exit"].tolist()) == {0, 1, 2, 3}


def leaving_at(exit_, m):
    score, tie = np.full(m, np.inf), np.full(m, np.inf)
    score[:exit_], tie[:exit_] = 2.0, 0.0  # asked, but never so sure
    score[exit_:], tie[exit_:] = -1.0, 0.0
    return Thresholds(score, tie)


@pytest.mark.parametrize("exit_", range(4))
def test_stages_after_the_answer_are_not_run(stages, policy, exit_, tmp_path):
    model = model_with_policy(stages, replace(policy, limits=leaving_at(exit_, 4)))
    runs = session(model, enable_profiling=True, profile_file_prefix=str(tmp_path / "profile"))
    found = runs.run(["exit"], {"pixels": pixels()["pixels"][:1], "key": KEYS[:1]})
    events = json.loads((tmp_path / runs.end_profiling()).read_text())
    run = [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
    assert found == [[exit_]]
    assert run.count("Erf") == exit_ + 1


def test_weights_lie_in_the_branch_of_their_stage(stages, policy):
    graph = model_with_policy(stages, replace(policy, limits=leaving_at(3, 4))).graph
    for depth in range(-1, 4):  # the outermost asks whether the input is finite
        found = {weight.name for weight in graph.initializer if weight.name.startswith("within")}
        assert found == ({f"within{depth}/{name}" for name in ("w", "b", "head")} if depth >= 0 else set())
        if depth < 3:
            branches = next(node.attribute for node in graph.node if node.op_type == "If")
            taken = "then_branch" if depth == -1 else "else_branch"
            (graph,) = (branch.g for branch in branches if branch.name == taken)


def test_exits_that_nobody_asks_are_left_out(four, stages, policy):
    limits = Thresholds(np.array([np.inf, 0.5, -np.inf, -np.inf]), np.array([np.inf, 0.0, -np.inf, -np.inf]))
    policy = replace(policy, limits=limits)
    text = str(model_with_policy(stages, policy))
    assert "within0/head" not in text
    assert "within3/" not in text
    check_against_numpy(stages, policy, four[3], last_inputs())


def test_an_input_that_is_not_finite_has_no_answer(stages, policy):
    runs = session(model_with_policy(stages, policy))
    for wrong in (np.nan, np.inf, -np.inf):
        spoilt = pixels()["pixels"][:1].copy()
        spoilt[0, 2] = wrong
        label, probabilities, exit_, cost = runs.run(OUTPUTS, {"pixels": spoilt, "key": KEYS[:1]})
        assert (label, exit_, cost) == (-1, -1, 0)
        assert np.isnan(probabilities).all()


@pytest.mark.parametrize("asked", [True, False])
def test_an_input_of_which_one_exit_says_what_is_not_finite_has_no_answer(stages, policy, asked):
    """As in the engine; although later exits say what is finite. `asked`: inputs can answer at that exit."""
    first = copied(stages[0])
    (head,) = (weight for weight in first.model.graph.initializer if weight.name == "head")
    head.CopyFrom(numpy_helper.from_array(np.full((WIDTH, K), 3e38, dtype=np.float32), "head"))
    limits = leaving_at(2, 4)
    if not asked:
        limits = Thresholds(np.append(np.inf, limits.score[1:]), np.append(np.inf, limits.tie[1:]))
    answer = EnsembleAnswer((Stage(0.0, LogTerm(1.0)), *[Stage(0.7, LogTerm(0.8))] * 3))
    policy = replace(policy, limits=limits, answer=answer)
    inputs = pixels(60)
    overflows = ~np.isfinite(logits_of([first], [inputs])[:, 0]).all(axis=1)
    assert 10 < overflows.sum() < 60
    found = answers(model_with_policy([first, *stages[1:]], policy), inputs, KEYS[:60])
    np.testing.assert_array_equal(found["exit"], np.where(overflows, -1, 2))
    assert (found["label"][overflows] == -1).all()
    assert (found["label"][~overflows] >= 0).all()


def test_many_exits_and_too_many():
    """ONNX Runtime opens as many as one file may hold."""
    stages = image_stages(32)
    fit, calibrate, test = parts_of(stages)
    score = np.linspace(0.95, 0.5, 32)
    policy = replace(ex.eero(fit, calibrate, budget="60%"), limits=Thresholds(score, np.zeros(32)))
    without_first = Thresholds(np.append(np.inf, score[1:]), np.append(np.inf, np.zeros(31)))
    check_against_numpy(stages, replace(policy, limits=without_first), test, last_inputs())
    with pytest.raises(ex.InputError, match="answers at 32 exits, in one file it can at 31: switch some off"):
        model_with_policy(stages, policy)


def test_the_model_says_what_its_answers_mean(stages, policy):
    model = model_with_policy(stages, policy, about={"class_names": list("abcde")})
    kept = session(model).get_modelmeta().custom_metadata_map
    about = {name: json.loads(text) for name, text in kept.items()}
    assert about["class_names"] == list("abcde")
    assert ex.CostModel.from_dict(about["cost"]) == policy.cost
    assert about["policy"]["name"] == "eero"
