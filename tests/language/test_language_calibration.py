"""Certificates of whole answers: against known truth, and by really generating."""

from contextlib import suppress
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

import exeunt as ex
from exeunt.errors import Infeasible, InputError
from exeunt.guarantees.p_values import betting
from exeunt.policy import Policy
from exeunt.runs.run_inputs import part_data
from exeunt.torch.language import Continuation, LanguageModel
from exeunt.torch.language import model as language_model
from exeunt.torch.language.calibration import Candidates, agreement_to_try, differing
from exeunt.trace.splitting import random_order

COST = ex.CostModel([1.0, 2.0, 4.0])
DELTA = 0.1


def spoken(differs, exits):
    """An answer whose tokens differ where `differs` says."""
    return Continuation([1 if one else 0 for one in differs], list(exits), full=[0] * len(differs))


@cache
def made_policies(n):
    options = {"cost": COST, "label": np.zeros(50, int)}
    trace = ex.ExitTrace.from_scores(np.zeros((50, 3)), np.zeros((50, 3), int), **options)
    one = ex.eero(trace.take(slice(25)), trace.take(slice(25, 50)), budget=3.0, delta=None)
    return [replace(one, name=str(k)) for k in range(n)]


class World:
    """Prompts of which policy k gets a share of tokens wrong that is drawn anew for each prompt, with mean rate[k]."""

    def __init__(self, rates, costs, seed, n=80):
        self.rates, self.costs, self.n, self.asked = rates, costs, n, []
        self.rng = np.random.default_rng(seed)
        self.policies = made_policies(len(rates))

    def answers(self, k, n):
        rate = self.rates[k]
        of_prompt = self.rng.beta(0.5 * rate, 0.5 * (1 - rate), n) if rate else np.zeros(n)
        sizes = self.rng.integers(1, 9, n)
        leaves = self.rng.beta(1, 1, n)  # prompts differ in how many tokens leave
        share = (4.0 - self.costs[k]) / 3.0 * 2.0  # of tokens at the first exit: leaves has mean 1/2
        return [
            spoken(self.rng.random(m) < p, np.where(self.rng.random(m) < min(share * q, 1), 0, 2))
            for p, q, m in zip(of_prompt, leaves, sizes, strict=True)
        ]

    def generate(self, policy):
        k = self.policies.index(policy)
        self.asked.append(k)
        return self.answers(k, self.n)

    def candidates(self, per="token"):
        """As the fit part, 60 prompts, shows them."""
        found = [self.answers(k, 60) for k in range(len(self.rates))]
        return Candidates(
            self.policies,
            [np.array([COST.cumulative[one.exits].mean() for one in answers]) for answers in found],
            [differing(per)(answers) for answers in found],
        )

    def certified(self, candidates=None, **options):
        options = {"loss": differing("token"), "seed": 0, **options}
        return (candidates or self.candidates()).certified(self.generate, self.n, **options)


RATES = np.array([0.0, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2])
COSTS = np.array([4.0, 3.8, 3.6, 3.4, 3.2, 3.0, 2.8])


@pytest.mark.parametrize("n", [40, pytest.param(1_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["loss", "cost", "both"])
def test_what_is_certified_is_false_at_most_as_often_as_delta_allows(what, n):
    """Whole prompts are wrong or right more often than alike tokens would be; the rates are the truth."""
    loss, budget = {"loss": (0.08, None), "cost": (None, 3.3), "both": (0.15, 3.6)}[what]
    found = []
    for seed in range(n):
        with suppress(Infeasible):
            world = World(RATES, COSTS, seed)
            certified = world.certified(max_loss=loss, budget=budget, delta=DELTA, seed=seed)
            found.append(int(certified.name))
    assert len(found) > 0.5 * n  # it has power
    false = sum(RATES[k] > (loss or 1) or COSTS[k] > (budget or 9) for k in found)
    assert false <= binom.ppf(1 - 1e-6, n, DELTA)


def one_policy(answers):
    """Candidates of a single policy, which answers so."""
    policies = made_policies(1)
    nothing = Candidates(policies, [np.zeros(9)], [np.zeros(9)])
    options = {"loss": differing("token"), "delta": DELTA}
    return lambda **limits: nothing.certified(lambda _: answers, len(answers), **options, **limits)


def rejected(values, bound, level):
    return betting(values[random_order(len(values), 0)], bound, delta=level) <= level


def some_answers():
    answers = World(np.array([0.05]), np.array([3.0]), 7).answers(0, 80)
    return answers, differing("token")(answers)


def check_passes(found, certify, binding, said):
    """What the betting test says of each limit is what `certify` does."""
    assert {passes for _, passes in found} == {True, False}
    for limit, passes in found:
        if passes:
            certify(limit)
            continue
        with pytest.raises(Infeasible, match=said) as error:
            certify(limit)
        assert error.value.binding == binding


def test_a_loss_passes_exactly_where_betting_rejects_it():
    answers, lost = some_answers()

    def certify(bound):
        proof = one_policy(answers)(max_loss=bound).loss_certificate
        assert proof.p_value == betting(lost[random_order(80, 0)], bound, delta=DELTA)

    found = [(bound, rejected(lost, bound, DELTA)) for bound in np.linspace(0.01, 0.3, 30)]
    check_passes(found, certify, "max_loss", "cannot show that at most")


def test_a_budget_passes_exactly_where_betting_rejects_it():
    """Between the cheapest and the dearest token, whose costs are known."""
    answers, _ = some_answers()
    paid = np.array([np.mean([COST.cumulative[exit_] for exit_ in one.exits]) for one in answers])

    def certify(budget):
        assert one_policy(answers)(budget=budget).certificate.budget == budget

    budgets = np.linspace(2.8, 3.6, 30)
    found = [(budget, rejected((paid - 1) / 3, (budget - 1) / 3, DELTA)) for budget in budgets]
    check_passes(found, certify, "budget", "cannot show that the mean cost")


def test_how_many_prompts_a_loss_takes_at_least_is_said():
    few, enough = ([spoken([False], [2])] * n for n in (100, 331))
    said = r"more calibration prompts \(--calibrate; at least about 2\d\d, even if nothing is lost\)"
    with pytest.raises(Infeasible, match=said):
        one_policy(few)(max_loss=0.01)
    one_policy(enough)(max_loss=0.01)


def test_the_agreement_to_try_is_one_that_can_be_shown():
    shown = {5: 0.5, 10: 0.7, 15: 0.8, 32: 0.9, 66: 0.95, 166: 0.95, 167: 0.98}
    assert {n: agreement_to_try(n) for n in shown} == shown


def test_what_so_few_prompts_can_never_show_is_refused_before_anything_is_generated():
    policies = Candidates(made_policies(1), [np.zeros(9)], [np.zeros(9)])
    said = "100 calibration prompts cannot show that at most 1% of the answers differ"
    with pytest.raises(Infeasible, match=said):
        policies.certified(pytest.fail, 100, loss=differing("answer"), of="answers", max_loss=0.01)


def test_both_are_each_tested_at_half_of_delta():
    answers, lost = some_answers()
    bounds = np.linspace(0.01, 0.3, 3_000)
    between = [x for x in bounds if rejected(lost, x, DELTA) and not rejected(lost, x, DELTA / 2)]
    one_policy(answers)(max_loss=between[0])
    with pytest.raises(Infeasible, match=r"that at most .* differ and that the mean cost"):
        one_policy(answers)(max_loss=between[0], budget=3.99)
    wide = next(x for x in bounds if rejected(lost, x, DELTA / 2))
    one_policy(answers)(max_loss=wide, budget=3.99)
    with pytest.raises(Infeasible, match="and that the mean cost"):
        one_policy(answers)(max_loss=wide, budget=2.9)


def test_units_are_prompts_not_tokens():
    """With tokens as units the same data would certify far more than there is."""
    world = World(np.array([0.12]), np.array([3.0]), 5, n=40)
    answers = [spoken(np.repeat(one.differs, 200), np.repeat(one.exits, 200)) for one in world.answers(0, 40)]
    assert len(differing("token")(answers)) == 40
    assert differing("answer")(answers).tolist() == [float(any(one.differs)) for one in answers]
    candidates = Candidates(world.policies, [np.full(9, 3.0)], [np.full(9, 0.01)])
    said = "40 calibration prompts cannot show that at most 13% of the tokens differ"
    with pytest.raises(Infeasible, match=said):
        candidates.certified(lambda _: answers, 40, loss=differing("token"), max_loss=0.13, seed=1)


def test_the_sequence_begins_where_the_fit_part_is_surely_careful_and_ends_at_the_first_failure():
    world = World(np.array([0.0, 0.0, 0.0, 0.0, 0.9, 0.0]), COSTS[:6], 1)
    losses = [np.full(9, rate) for rate in (0, 0.01, 0.03, 0.05, 0.09, 0)]
    candidates = Candidates(world.policies, [np.full(9, cost) for cost in COSTS[:6]], losses)
    assert world.certified(candidates, max_loss=0.2).name == "3"
    assert world.asked == [3, 4]  # 0.05 is a quarter of 0.2
    world.asked.clear()
    assert world.certified(candidates, budget=3.7).budget == 3.7
    assert world.asked[0] == 2  # of the fit part, the first within the budget
    with pytest.raises(InputError, match="give a loss, a budget or both"):
        world.certified(candidates)


def test_certificates_say_what_was_shown():
    world = World(np.array([0.0, 0.0]), np.array([4.0, 3.0]), 2)
    found = world.certified(max_loss=0.2, budget=3.9, delta=0.1)
    shown = str(found.loss_certificate)
    assert "at most 20% of the tokens (mean over prompts) differ from those of the full network" in shown
    assert "80 calibration prompts" in shown
    assert "at most 3.9 MACs" in found.guarantee
    assert "future prompts are exchangeable" in found.guarantee
    assert Policy.from_dict(found.to_dict()).loss_certificate == found.loss_certificate
    assert (found.n_groups, found.calibration) == (80, "generation")
    assert found.counts.sum() == found.n_calibration


# -- by really generating ----------------------------------------------------------------------------------------------


TRIED = {"delta": 0.2, "points": 5}


@pytest.fixture(scope="module")
def policy(model):
    return model.calibrate(agree=0.7, **TRIED)


def contents(run, part):
    data = part_data(run, part)
    return [data.content(i) for i in range(len(data))]


def test_a_policy_is_certified_by_what_it_says(model, run, policy):
    answers = model.generate(contents(run, "calibrate"), policy=policy, compare=True)
    assert [one.continuation for one in answers] == model.answers_of("calibrate", policy)
    lost = [np.mean(one.continuation.differs) for one in answers]
    assert policy.loss_certificate.loss == pytest.approx(np.mean(lost))
    assert policy.loss_certificate.n_groups == len(answers) == 80
    assert policy.loss_certificate.max_loss == pytest.approx(1 - 0.7)
    assert policy.calibration_cost == pytest.approx(np.mean([one.cost for one in answers]))
    exits = np.concatenate([one.continuation.exits for one in answers])
    assert policy.counts.tolist() == np.bincount(exits, minlength=3).tolist()
    assert policy.counts[:2].sum() > 0.1 * policy.counts.sum()  # something leaves early


def test_policies_decide_alike_in_recorded_and_in_generated_tokens(model, run):
    """On the first token, which nothing precedes; also of scores that remember what earlier exits said."""
    fit, texts = run.recorded("fit"), contents(run, "fit")
    first = np.unique(fit.groups.index, return_index=True)[1]
    blind = replace(fit, prediction=np.zeros_like(fit.prediction), label=None, reference="")
    for name in ("auto", "patience", "eero"):
        for policy in Candidates.made(fit, policy=name, points=4).policies[1:]:
            answers = model.generate(texts, policy=policy, most_tokens=1)
            assert [one.continuation.exits[0] for one in answers] == policy.route(blind)[first].tolist()


CONTRADICT = r"give agree=\.\.\., or both grade=\.\.\. and max_loss"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agree": 98}, "agree must be above 0 and at most 1"),
        ({"agree": "98%"}, "agree must be a number, got '98%'"),
        ({"agree": -1}, "agree must be above 0"),
        ({"agree": 0.9, "points": 0}, "points must be at least 1, got 0"),
        ({"agree": 0.9, "delta": 2.0}, "delta"),
        ({"agree": 0.9, "per": "word"}, "per must be one of token, answer, got 'word'"),
        ({"grade": lambda *_: 1.0, "max_loss": -0.1}, "max_loss must lie in"),
        ({}, "give what shall be kept"),
        ({"grade": lambda *_: 1.0}, CONTRADICT),
        ({"max_loss": 0.1}, CONTRADICT),
        ({"agree": 0.9, "grade": lambda *_: 1.0, "max_loss": 0.1}, CONTRADICT),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_generated(model, monkeypatch, options, message):
    monkeypatch.setattr(LanguageModel, "_answers", lambda *_, **__: pytest.fail("generated"))
    with pytest.raises(InputError, match=message):
        model.calibrate(**options)


def test_answers_are_kept_and_not_made_again(model, policy, monkeypatch):
    made, generate = [], language_model.continuations

    def counted(network, prompts, *arguments, **options):
        made.append(len(prompts))
        return generate(network, prompts, *arguments, **options)

    monkeypatch.setattr(language_model, "continuations", counted)
    again = model.calibrate(agree=0.7, **TRIED)
    assert set(made) == {0}
    assert again.to_dict() == policy.to_dict()


def test_a_grade_of_ones_own(model, run):
    """Long answers are good: the loss is against the full network's grade, and may be negative."""
    asked = []

    def grade(prompt, answer):
        asked.append(prompt)
        return min(1.0, len(answer.split()) / 12)

    policy = model.calibrate(grade=grade, max_loss=0.3, **TRIED)
    assert set(asked) == set(contents(run, "calibrate"))
    grades = [
        np.array([grade("", model.prompts.text(one.tokens)) for one in model.answers_of("calibrate", by)])
        for by in (None, policy)
    ]
    assert policy.loss_certificate.loss == pytest.approx((grades[0] - grades[1]).mean())
    assert policy.loss_certificate.measure == "grade"
    said = "mean over prompts of their grade is at most 30 points below that of the full network"
    assert said in str(policy.loss_certificate)


@pytest.mark.parametrize("grade", [2.0, -0.1, "x", None, float("nan")])
def test_a_grade_is_a_number_from_0_to_1(model, grade):
    """Betting bounds are for losses within bounds."""
    with pytest.raises(InputError, match="a grade must "):
        model.calibrate(grade=lambda *_: grade, max_loss=0.3, delta=0.2, points=1)


def test_a_budget_chooses_among_the_runs_policies(model, run, policy):
    policies = ex.PolicySet(tuple(model.calibrate(budget=share, **TRIED) for share in ("75%", "95%")))
    prompts, cheap = ["w3 w4 w5", "w6 w3"], policies.policies[0]
    run.save_policy_set(policies)
    try:
        for share, of_share in zip(("75%", "95%"), policies, strict=True):
            by_budget = model.generate(prompts, budget=share)
            assert by_budget == model.generate(prompts, policy=of_share)
            assert LanguageModel.open(f"{run.path}@{share}").generate(prompts) == by_budget
        run.save_policy(cheap)
        assert model.generate(prompts, budget="80%") == model.generate(prompts, policy=cheap)
        with pytest.raises(InputError, match=r"keeps a budget of .*, and .* was asked for: run `exeunt cal"):
            model.generate(prompts, budget="70%")
        run.save_policy(policy)
        with pytest.raises(InputError, match="keeps no budget"):
            model.generate(prompts, budget="70%")
    finally:
        for name in ("policies.json", "policy.json"):
            (run.path / name).unlink(missing_ok=True)
