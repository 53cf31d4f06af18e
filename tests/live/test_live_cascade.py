"""A cascade of live models answers as replay of the recorded outputs does."""

import asyncio
import functools
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from exeunt.rules import router_fitting as router
from exeunt.score.confidence import NO_ANSWER
from exeunt.score.tie_breaking import tie_breaks
from exeunt.trace.derived import score_matrix

from .service import FAULTS, PRICE, MemoryLedger, Service, served

CLASSES = ["anger", "fear", "joy", "calm"]
SKILL = {"small": 1.6, "middle": 2.6, "large": 4.0}
PRICES = {"small": 0.001, "middle": 0.004, "large": 0.02}


@functools.cache
def outputs(n=400, k=4):
    """Class and probabilities by model, and labels: few different values, so that ties are many."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, k, n)
    found = {}
    for name, skill in SKILL.items():
        logits = rng.standard_normal((n, k))
        logits[np.arange(n), label] += skill
        shares = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 2) + 0.01
        found[name] = shares / shares.sum(axis=1, keepdims=True)
    return found, label


def ids(n):
    return [f"input {i}" for i in range(n)]


@functools.cache
def traces(*, probabilities=False, silent=0.0):
    found, labels = outputs()
    rng = np.random.default_rng(4)
    made = {}
    for name, shares in found.items():
        about = {"cost": ex.CostModel([PRICES[name]], unit="usd"), "label": labels, "id": ids(len(shares))}
        if probabilities:
            made[name] = ex.ExitTrace.from_probabilities(shares[:, None], **about)
        else:
            scores, no_answer = shares.max(axis=1)[:, None], rng.random((len(shares), 1)) < silent
            answers = shares.argmax(axis=1)[:, None]
            made[name] = ex.ExitTrace.from_scores(scores, answers, no_answer=no_answer, **about)
    return ex.CascadeTrace(made)


@functools.cache
def parts(*, seed=1, **options):
    """The traces in three parts, of which what was fitted is remembered; and the texts of the last one."""
    fit, calibrate, test = traces(**options).split(seed=seed)
    return fit, calibrate, test, test["small"].id_text.tolist()


def made_cascade(budget="40%", **options):
    fit, calibrate, *_ = parts()
    return ex.cascade(fit, calibrate, budget=budget, **options)


@functools.cache
def functions(*, probabilities=False, silent=0.0):
    """Functions that answer an id with what a trace has recorded."""
    models = traces(probabilities=probabilities, silent=silent)
    place = {name: i for i, name in enumerate(models["small"].id_text.tolist())}
    shares, _ = outputs()

    async def answer(name, text):
        i, trace = place[text], models[name]
        if probabilities:
            return shares[name][i]
        if trace.prediction[i, 0] == NO_ANSWER:
            raise TimeoutError
        return CLASSES[trace.prediction[i, 0]], trace.scores["score"][i, 0]

    return {
        name: ex.FunctionModel(functools.partial(answer, name), price=PRICES[name], classes=CLASSES)
        for name in SKILL
    }


def asked(policy, live=None, **options):
    """Return what a cascade answers to all texts of the last part."""
    *_, names = parts()
    return ex.LiveCascade(functions() if live is None else live, policy, **options).ask_sync(names, ids=names)


@pytest.mark.parametrize(
    ("told", "seed", "options"),
    [
        ({}, 1, {"policy": "auto"}),
        ({"silent": 0.1}, 1, {"policy": "eero"}),
        ({"probabilities": True}, 1, {"policy": "eero", "answer": "own"}),
        ({"probabilities": True}, 1, {"policy": "eero", "answer": "ensemble"}),
        ({"silent": 0.05}, 2, {"policy": "eero", "answer": "ensemble", "budget": "60%"}),
    ],
)
def test_answers_equal_replay(told, seed, options):
    fit, calibrate, test, names = parts(seed=seed, **told)
    made = ex.cascade(fit, calibrate, **{"budget": "40%", **options})
    cascade = ex.LiveCascade(functions(**told), made)
    answers = cascade.ask_sync(dict(zip(names, names, strict=True)))
    check_replay(cascade, made, answers, test)
    assert answers.cost == pytest.approx(sum(one.cost for one in answers))
    assert ([one.id for one in answers], {one.bound for one in answers}) == (names, {0.0})
    silent = bool(told.get("silent"))
    assert (bool(answers.failed), "if models fail as often" in str(answers)) == (silent, silent)


def check_replay(cascade, made, answers, test):
    expected, exits = cascade.policy.answers(test), cascade.policy.route(test)
    prices = np.diff(test.along(made.cascade).cost.cumulative, prepend=0.0)
    costs = np.cumsum(prices * made.needs)  # models whose answers cannot matter are not asked
    for one, code, exit_ in zip(answers, expected.tolist(), exits.tolist(), strict=True):
        assert one.answer == (None if code == NO_ANSWER else CLASSES[code])
        assert (one.model, one.cost) == (cascade.policy.models[exit_], pytest.approx(costs[exit_]))
    trace, n = test.along(made.cascade), len(exits)
    scores = score_matrix(made.score, made.answer.on(trace))
    np.testing.assert_allclose([one.score for one in answers], scores[np.arange(n), exits], rtol=1e-6)
    np.testing.assert_allclose([one.first_score for one in answers], scores[:, made.watched.first], rtol=1e-6)
    np.testing.assert_array_equal([one.tie for one in answers], tie_breaks(trace.keys(made.ties), made.seed))


def test_texts_that_are_graded():
    found, label = outputs()
    rows = np.arange(len(label))

    def graded(name):
        scores, losses = found[name].max(axis=1)[:, None], 1.0 - found[name][rows, label][:, None]
        cost = ex.CostModel([PRICES[name]], unit="usd")
        return ex.ExitTrace.from_losses(scores, losses, cost=cost, id=ids(len(rows)))

    async def answer(name, text):
        return f"{name} on {text}", found[name][int(text.split()[1])].max()

    fit, calibrate, test = ex.CascadeTrace({name: graded(name) for name in found}).split(seed=1)
    policy = ex.cascade(fit, calibrate, budget="40%")
    live = {name: ex.FunctionModel(functools.partial(answer, name), price=PRICES[name]) for name in SKILL}
    names = test["small"].id_text.tolist()
    cascade = ex.LiveCascade(live, policy)
    answers = cascade.ask_sync(names, ids=names)
    exits = cascade.policy.answers(test) - NO_ANSWER - 1
    expected = [f"{policy.models[exit_]} on {name}" for name, exit_ in zip(names, exits, strict=True)]
    assert [one.answer for one in answers] == expected


def test_a_failure_at_the_last_model_leaves_what_is_known():
    """Nobody failed while it was recorded."""

    async def down(_):
        raise TimeoutError

    policy = made_cascade(policy="eero")
    last = policy.models[-1]
    answers = asked(policy, {**functions(), last: ex.FunctionModel(down, price=0.02, classes=CLASSES)})
    assert answers.failed[last] > 0
    assert all(one.answer for one in answers)
    assert f"No answer of {last} to {answers.failed[last]} inputs" in str(answers)


def test_a_ledger_is_never_overspent_and_inputs_get_what_is_known():
    ledger = MemoryLedger(0.7)
    answers = asked(made_cascade("60%"), ledger=ledger)
    assert answers.cost == pytest.approx(ledger.spent)
    assert ledger.spent <= 0.7 + 1e-9
    assert ledger.refused > 0
    assert "input" in str(answers).splitlines()[-1]


def test_every_input_gets_the_answer_that_the_ledger_promises():
    policy, ledger = made_cascade("60%"), ex.Ledger(total="1.2 usd", inputs=len(parts()[-1]))
    ledger.promise(PRICES[policy.models[0]])
    answers = asked(policy, ledger=ledger)
    assert all(one.answer for one in answers)
    assert answers.failed
    assert answers.cost == pytest.approx(ledger.spent) == pytest.approx(1.2, abs=0.05)
    assert ledger.spent <= 1.2


def test_names_that_do_not_fit_are_refused():
    fit, calibrate, *_ = parts()
    policy, live = made_cascade(), functions()
    for models, of, why in (
        ({"other": live["small"]}, policy, "give that model"),
        (live, ex.eero(fit["small"], calibrate["small"], budget=0.001), "needs a policy of models"),
        ({**live, policy.models[0]: ex.FunctionModel(len, price=1)}, policy, "differ in their classes"),
    ):
        with pytest.raises(ex.InputError, match=why):
            ex.LiveCascade(models, of)
    with pytest.raises(ex.InputError, match="a text alone"):
        ex.LiveCascade(live, policy).ask_sync("a text")


def test_no_inputs_inputs_without_ids_and_where_a_loop_runs_already():
    cascade = ex.LiveCascade(functions(), made_cascade())
    assert len(cascade.ask_sync([])) == 0
    twice = cascade.ask_sync(["input 5", "input 6", "input 5"])
    assert twice[0] == twice[2] != twice[1]

    async def notebook():
        return cascade.ask_sync(["input 5"]), await cascade.ask(["input 5"])

    one, other = asyncio.run(notebook())
    assert one[0] == other[0] == twice[0]


def test_services_with_faults_answer_as_replay_of_what_they_answered(quick):
    check_with_faults(made_cascade("50%"), parts()[2].take(slice(40)), CLASSES, share=0.06)


def check_with_faults(policy, known, classes, *, share):
    """Ask services that say what is `known`, with every fault on this share of their calls, and check all answers."""
    names = known[known.names[0]].id_text.tolist()
    answers = {}
    for name in known.names:
        said = [classes[code] for code in known[name].prediction[:, 0]]
        logs = np.log(known[name].scores["score"][:, 0]).tolist()
        answers[name] = dict(zip(names, zip(said, logs, strict=True), strict=True))
    service, ledger = Service(answers, faults=dict.fromkeys(FAULTS, share), seed=2), MemoryLedger(1e9)
    with served(service) as url:
        given = {"base_url": f"{url}/v1", "classes": classes, "price": PRICE, "timeout_s": 60, "retries": 1}
        live = {name: ex.OpenAICompatible(name, **given) for name in known.names}
        cascade = ex.LiveCascade(live, policy, ledger=ledger)
        said = cascade.ask_sync(names, ids=names)
    replayed = ex.CascadeTrace(
        {
            name: ex.ExitTrace.from_scores(
                np.exp(np.log(known[name].scores["score"])), known[name].prediction,
                no_answer=np.array([[name in one.failed] for one in said]), cost=known[name].cost, id=names,
            )
            for name in known.names
        }
    )  # fmt: skip
    expected = cascade.policy.answers(replayed).tolist()
    assert [one.answer for one in said] == [None if code == NO_ANSWER else classes[code] for code in expected]
    assert sum(said.failed.values()) > 0
    certain = 0
    for text, one in zip(names, said, strict=True):
        billed = sum(service.books[name, text] for name in known.names)
        faults = {fault for name in known.names for fault in service.happened[name, text]}
        if one.bound == 0 and not faults & {"huge", "negative"}:
            assert one.cost == pytest.approx(billed, rel=1e-12)
            certain += 1
        else:
            assert one.cost >= billed
    assert certain > len(names) / 4
    assert ledger.spent == pytest.approx(said.cost)
    lies = sum(faults.count("huge") + faults.count("negative") for faults in service.happened.values())
    assert sum(model.counts["lies"] for model in live.values()) == lies > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rafdb", "imdb", "waimai"])
def test_recorded_services_with_faults(name, quick):
    file = Path(__file__).parents[3] / "shared" / "data" / "apis" / f"{name}.parquet"
    if not file.is_file():
        pytest.skip("no recorded services here")
    table = pq.read_table(file)
    prices = json.loads(table.schema.metadata[b"usd_per_10k"])
    texts = [table[column].to_pylist() for column in table.column_names if "confidence" not in column]
    classes = sorted(map(str, set().union(*texts)))
    made = ex.CascadeTrace.from_table(
        table, label="label", prediction="prediction_{}", confidence="confidence_{}", price=prices, price_per=10_000,
        classes=classes,
    )  # fmt: skip
    highest = {one: made[one].scores["confidence"].max() for one in prices}
    models = ex.CascadeTrace(
        {
            one: ex.ExitTrace.from_scores(
                np.maximum(made[one].scores["confidence"] / highest[one], 1e-6), made[one].prediction,
                cost=made[one].cost, label=made.label, id=[f"row {i} of the table" for i in range(made.n)],
            )
            for one in prices
        }
    )  # fmt: skip
    fit, calibrate, test = models.split(seed=0)
    policy = ex.cascade(fit, calibrate, budget="50%", delta=0.05)
    check_with_faults(policy, test.take(slice(1000)), classes, share=0.03)


@functools.cache
def told_parts(probabilities=False):
    """The parts of the traces with a feature of each input that tells how sure `small` will be; and all features."""
    shares, _ = outputs()
    features = np.stack([shares["small"].max(axis=1), np.arange(len(shares["small"])) % 7], axis=1)
    models = traces(probabilities=probabilities).with_features("length", features, cost=0.0001)
    return *models.split(seed=1), features


@pytest.mark.parametrize(("make", "probabilities"), [(ex.router, False), (ex.cascade_router, True)])
def test_a_router_asks_whom_replay_asks(make, probabilities, monkeypatch):
    monkeypatch.setattr(router, "_SURELY", -np.inf)  # also where a cascade would do
    fit, calibrate, test, features = told_parts(probabilities)
    policy, heard = make(fit, calibrate, budget=0.01), []

    def counted(name, model):
        async def function(text):
            heard.append(name)
            return await model.function(text)

        return ex.FunctionModel(function, price=PRICES[name], classes=CLASSES)

    live = {name: counted(name, one) for name, one in functions(probabilities=probabilities).items()}

    async def length(text):
        return features[int(text.split()[1])]

    live["length"] = ex.FeatureModel(length, price=0.0001)
    names = test["small"].id_text.tolist()
    answers = ex.LiveCascade(live, policy).ask_sync(dict(zip(names, names, strict=True)))
    exits = policy.route(test)
    assert [one.model for one in answers] == [policy.cascade[exit_].model for exit_ in exits]
    assert [one.answer for one in answers] == [CLASSES[k] for k in policy.answers(test)]
    paid = policy.priced(test).cost.cumulative[exits]
    np.testing.assert_allclose([one.cost for one in answers], paid, rtol=1e-6)
    # Skipped models are not asked.
    assert len(heard) == sum(policy.exit_names[exit_].count(">") for exit_ in exits)
    assert len({*exits.tolist()}) > 1
    assert not answers.failed


def test_where_features_do_not_come_the_best_model_answers():
    fit, calibrate, test, _ = told_parts()
    policy = ex.router(fit, calibrate, budget=0.01)

    def broken(_):
        raise OSError

    live = {**functions(), "length": ex.FeatureModel(broken, price=0.0001)}
    names = test["small"].id_text.tolist()[:20]
    answers = ex.LiveCascade(live, policy).ask_sync(dict(zip(names, names, strict=True)))
    assert ({one.model for one in answers}, answers.failed) == ({"large"}, {"length": 20})
    told = ex.FeatureModel(lambda _: ["many", "words"], price=0.0001)
    answers = ex.LiveCascade({**live, "length": told}, policy).ask_sync(names[:1])
    assert "not a list of finite numbers" in answers[0].why


def test_a_pace_chooses_the_policy_of_each_input():
    fit, calibrate, _, names = parts()
    policies = ex.cascades(fit, calibrate, budgets="10%:90%:40%", policy="eero")
    total = 0.4 * PRICES["large"] * len(names)
    pace = ex.Pace(policies, total=total, inputs=len(names))
    ledger = ex.Ledger(total=f"{total} usd")
    cascade = ex.LiveCascade(functions(), policies.policies[-1], ledger=ledger)
    why = "the pace has 3 inputs to come, got 4: give it the number of all"
    with pytest.raises(ex.InputError, match=why):
        cascade.ask_sync(names[:4], pace=ex.Pace(policies, total=total, inputs=3))
    assert ledger.spent == 0
    answers = cascade.ask_sync(dict(zip(names, names, strict=True)), pace=pace)
    assert not answers.failed
    assert 0.9 * total < answers.cost <= total
    assert ledger.spent == pytest.approx(answers.cost)
    assert pace.left == pytest.approx(total - answers.cost)
    by_model = re.findall(r"(\d+) at (\w+)", str(answers))  # also those that the last policy does not ask
    assert sum(int(n) for n, _ in by_model) == len(names)
    assert {name for _, name in by_model} == {one.model for one in answers}
