"""Which exits pay for their heads: against all sets of exits, one by one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from exeunt.policy.allocation_search import RightWithin
from exeunt.rules.useful_exits import worthwhile_exits
from exeunt.trace.cascade_step import NETWORK, CascadeStep


@cache
def made(head: float, n: int = 1500, m: int = 5, seed: int = 0, stage: float = 1.0) -> ex.ExitTrace:
    """Exits that get better with depth; a stage costs 1, a head `head`."""
    rng = np.random.default_rng(seed)
    ease = rng.random((n, 1))
    skill = np.linspace(0.4, 0.95, m)
    right = rng.random((n, m)) < np.clip(skill + 0.8 * (ease - 0.5), 0, 1)
    score = np.clip(0.5 * ease + 0.5 * rng.random((n, m)) * (0.3 + right), 0, 1)
    heads = np.append(np.full(m - 1, head), 0.0)
    cost = ex.CostModel(np.cumsum(stage + heads), heads=heads, reference=m * stage)
    return ex.ExitTrace.from_scores(
        score, (~right).astype(int), cost=cost, label=np.zeros(n, dtype=int), name="margin"
    )


@cache
def right_within(head: float, exits: tuple[int, ...]) -> RightWithin:
    return RightWithin(made(head).selected(exits), 0)


def check_best(head: float, amount: float, least: float, step: CascadeStep) -> None:
    """None of all sets of exits whose first costs at most `least` is clearly better at the amount."""
    fit = made(head)
    sets = [(*some, 4) for k in range(5) for some in combinations(range(4), k)]
    cheap = [some for some in sets if fit.selected(some).cost.first <= least]
    best = max(right_within(head, some)(amount).mean() for some in cheap)
    chosen = right_within(head, tuple(step.exits))(amount)
    assert chosen.mean() >= best - 0.5 * chosen.std() / len(chosen) ** 0.5 - 0.005


@pytest.mark.parametrize(("head", "amount"), [(0.0, 3.0), (0.3, 3.0), (0.3, 4.5), (0.9, 3.5)])
def test_no_other_set_is_clearly_better(head, amount):
    (step,) = worthwhile_exits(made(head), amount)
    assert (step.model, step.exits[-1]) == (NETWORK, 4)
    check_best(head, amount, amount, step)


@pytest.mark.parametrize("least", [1.0, 2.0, 3.0, 9.0])
def test_a_smaller_budget_can_be_kept_with_the_same_exits(least):
    fit = made(0.0)
    (step,) = worthwhile_exits(fit, 4.0, least=least)
    assert fit.selected(step.exits).cost.first <= least
    check_best(0.0, 4.0, min(least, 4.0), step)


def test_the_first_exit_is_as_cheap_as_is_asked_for():
    fit = made(0.9)
    (dear,), (cheap,) = worthwhile_exits(fit, 4.5), worthwhile_exits(fit, 4.5, least=2.0)
    assert (dear.exits[0] > 0, cheap.exits[0]) == (True, 0)


def test_exits_that_are_timed_keep_the_least_of_all_budgets(monkeypatch):
    from exeunt.jobs import timed_run

    fit = made(0.9)
    run = SimpleNamespace(n_exits=5, refuse=lambda _: None, cascade=[], runs_whole="", recorded=lambda _: fit)
    stubs = {"chosen_executor": "onnx", "_timed": (fit, None), "replace": run, "open_executor": None}
    for name, stub in {**stubs, "self_consistent_cost": fit.cost}.items():
        monkeypatch.setattr(timed_run, name, lambda *_, stub=stub, **__: stub)

    said = []

    def first(*budgets):
        said.clear()
        found = timed_run.choose_by_time(run, ex.eero, budgets, None, say=said.append)
        return fit.along(found.steps).cost.first

    assert first(5, 4.0, 4.7) == first(4.7) > first(4.5) > 2
    assert first(5, 2, "90%") <= 2
    assert not any("left out" in line for line in said)
    assert first(5, 1, 4.5) == first(4.5, 5)
    first(1, 4.5, "1%")
    assert said[0] == "left out, since the first answer takes longer: 1, 1%"
    with pytest.raises(ex.InfeasibleBudget):
        first(1, 0.5)


def test_the_full_network_answers_alone_where_no_exit_is_as_fast(monkeypatch):
    from exeunt.jobs import timed_run

    fit = made(0.9).with_cost(ex.CostModel([3.0, 4.0, 5.0, 6.0, 7.0], unit="ms", reference=2.0))
    run = SimpleNamespace(
        n_exits=5, refuse=lambda _: None, cascade=[], runs_whole="", recorded=lambda _: fit, has_gate=False
    )
    for name, stub in {"chosen_executor": "onnx", "_timed": (fit, None)}.items():
        monkeypatch.setattr(timed_run, name, lambda *_, stub=stub, **__: stub)
    said = []
    found = timed_run.choose_by_time(run, ex.auto, ["60%", "100%"], None, say=said.append)
    assert found.steps == (CascadeStep(NETWORK, (4,)),)
    assert found.cost.cumulative.tolist() == [2.0]
    assert "the full network answers alone, in 2 ms" in said[-1]
    alone = found.trace(fit)
    policy = found.rule(ex.auto)(*alone.split()[:2], budget="100%")
    assert (policy.route(alone) == 0).all()
    with pytest.raises(ex.InfeasibleBudget, match="below the cheapest exit"):
        timed_run.choose_by_time(run, ex.auto, ["60%"], None, say=said.append)


def test_heads_that_take_much_are_few():
    many, few = (len(worthwhile_exits(made(head), 3.5)[0].exits) for head in (0.0, 0.9))
    assert few < many


def test_models_are_asked_up_to_the_last_of_their_exits_that_pays():
    cheap, dear = made(0.0, m=3, seed=1, stage=0.2), made(0.0, seed=2)
    models = ex.CascadeTrace({"cheap": cheap, "dear": replace(dear, id=cheap.id)})
    steps = worthwhile_exits(models, 1.5)
    assert [step.model for step in steps] == ["cheap", "dear"]
    assert steps[-1].exits[-1] == 4
    alone = RightWithin(models["dear"], 0)(1.5).mean()
    assert RightWithin(models.along(steps), 0)(1.5).mean() > alone


def test_a_network_may_have_seen_the_same_text_twice():
    fit = made(0.3)
    copies = replace(fit, id=np.arange(fit.n) // 2, row=None)
    (step,) = worthwhile_exits(copies, 3.0)
    assert step.model == NETWORK


def test_a_budget_below_every_exit_is_refused():
    with pytest.raises(ex.InfeasibleBudget, match="ask for more") as caught:
        worthwhile_exits(made(0.3), 0.9)
    assert caught.value.smallest_budget == pytest.approx(1.3)
    with pytest.raises(ex.InfeasibleBudget, match=r"a budget of 0\.9 .* ask for more"):
        worthwhile_exits(made(0.3), 3.0, least=0.9)
    assert worthwhile_exits(made(0.3, m=1), 2.0) == (CascadeStep(NETWORK, 1),)
