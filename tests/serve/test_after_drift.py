"""What a server does after an alarm: shares are kept, the last exit answers, or it is calibrated again."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from made_server import EXITS, PixelExecutor, in_base64, made_images, made_run, prepared, running, until

pytest.importorskip("fastapi")

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.errors import InputError
from exeunt.live.live_cascade import LiveCascade
from exeunt.serve import after_drift
from exeunt.serve.after_drift import RESPONSES, Quota, at_last_exit
from exeunt.serve.live_engine import LiveEngine
from exeunt.serve.settings import Settings
from exeunt.serve.watching import ServedWatches
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.derived import score_matrix


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    run = made_run(tmp_path_factory.mktemp("drift") / "pixels", budgets=("60%",))
    return {"60%": run.policies[0]}


def harder(n, seed=1):
    """Images with half the ease of those of calibration."""
    pixels = made_images(n, seed)
    pixels[:, 0, 0, 1] //= 2
    return pixels


class Served:
    """An engine with its watches and a response."""

    def __init__(self, policies, response):
        self.engine, self.exits = Engine(PixelExecutor(), policies), {name: range(EXITS) for name in policies}
        self.watches = ServedWatches(policies, self.exits, several=False)
        self.response = RESPONSES[response](self, policies, self.exits, self.watches)

    async def call(self, action):
        return action(self.engine)

    def answer(self, pixels):
        request = self.watches.begin()
        ticket = self.engine.submit(prepared(pixels), id=np.arange(len(pixels)))
        self.engine.drain()
        self.watches.end(request, [(np.arange(len(pixels)), ticket)])
        return ticket.answers

    def alarmed(self):
        asyncio.run(self.response.alarmed("60%"))

    def follow(self):
        self.watches.follow()
        asyncio.run(self.response.follow())


def test_the_last_exit_answers_and_the_watch_rests(policies):
    served = Served(policies, "reference")
    assert served.answer(made_images(50)).exit.min() == 0
    served.follow()
    served.alarmed()
    assert set(served.answer(made_images(50)).exit.tolist()) == {EXITS - 1}
    served.follow()
    assert served.watches._watches["60%"].n == 50
    assert "The last exit answers now" in served.response.notes["60%"]
    assert at_last_exit(policies["60%"]).certificate is None


def test_by_quota_the_cost_stays_within_the_budget_that_harder_inputs_exceed(policies):
    served, policy, pixels = Served(policies, "quota"), policies["60%"], harder(1000)
    assert served.answer(pixels).cost.mean() > 1.05 * policy.budget
    served.follow()
    served.alarmed()
    parts = [*np.split(pixels[:50], 50), *np.split(pixels[50:], 19)]  # single rows, and calls of many
    costs = [served.answer(part).cost for part in parts]
    planned = float(policy.planned_shares @ policy.cost.cumulative)
    answered = np.cumsum([len(one) for one in costs])
    assert (np.cumsum([one.sum() for one in costs]) <= planned * answered * (1 + 1e-9)).all()
    assert 0.95 * planned <= np.concatenate(costs).mean() <= planned <= policy.budget
    assert "Each exit answers its planned share of the rows now" in served.response.notes["60%"]
    served.follow()
    assert served.watches._watches["60%"].n == 1000


def test_by_quota_the_surest_leave_and_rows_without_a_score_go_on():
    rng, quota = np.random.default_rng(0), Quota(np.array([0.3, 0.0, 0.7]))
    left, stayed = 0, []
    for n in rng.integers(1, 20, 200):
        scores = np.append(rng.normal(size=n), [np.nan, -np.inf])
        leave = quota.leave(0, scores, rng.random(n + 2))
        assert not leave[-2:].any()
        assert not leave.any() or scores[leave].min() >= scores[:-2][~leave[:-2]].max(initial=-np.inf)
        left += leave.sum()
        stayed.append(scores[:-2][~leave[:-2]])
        assert not quota.leave(1, stayed[-1], stayed[-1]).any()
        assert quota.leave(2, stayed[-1], stayed[-1]).all()
    n = left + len(np.concatenate(stayed))
    assert 0.3 * n <= left <= 0.3 * n + 17
    # Of single rows too, those that are surer than others lately.
    assert (np.concatenate(stayed) < 0.5).mean() > 0.9


def test_what_is_recorded_gives_the_policy_that_recalibrate_gives(policies):
    served, policy, pixels = Served(policies, "recalibrate"), policies["60%"], harder(1000)
    served.alarmed()
    begun = served.watches.begin()
    answers = [served.answer(part) for part in np.split(pixels[:900], 9)]
    assert set(np.concatenate([one.exit for one in answers]).tolist()) == {EXITS - 1}
    served.follow()
    assert "once 1,000 inputs are recorded there: 900 are." in served.response.notes["60%"]
    served.answer(pixels[900:])
    served.follow()
    executor, state = PixelExecutor(), prepared(pixels)
    logits = np.stack([executor.run(exit_, state, [exit_])[0][0] for exit_ in range(EXITS)], axis=1)
    ids = np.concatenate([np.arange(100)] * 10)
    expected = ex.recalibrate(policy, ex.ExitTrace.from_logits(logits, cost=policy.cost, id=ids))
    made = served.engine._deciders["60%"].policy
    assert made.limits.to_dict() == expected.limits.to_dict()
    assert made.watched.to_dict() == expected.watched.to_dict()
    assert served.response.receipts["60%"] == expected.notes["recalibration"]["text"]
    assert served.response.notes == {}
    # The new watch is told of requests that began under the new policy alone.
    served.watches.end(begun, [(np.arange(9), SimpleNamespace(answers=answers[0], policies=["60%"] * 100))])
    assert served.answer(harder(300, 2)).exit.min() == 0
    served.follow()
    assert served.watches._watches["60%"].n == 300
    assert served.watches._watches["60%"].policy is made


def test_more_inputs_are_recorded_where_they_are_too_few_for_the_certificate(policies, monkeypatch):
    def refuse(_, scores, __):
        raise ex.InfeasibleBudget(f"{len(scores)} are too few")

    monkeypatch.setattr(after_drift, "_ENOUGH", 4)
    monkeypatch.setattr(after_drift, "recalibrate_on_scores", refuse)
    served = Served(policies, "recalibrate")
    served.alarmed()
    served.answer(harder(5))
    served.follow()
    served.follow()
    assert "once 10 inputs are recorded there: 5 are." in served.response.notes["60%"]


def test_live_models_answer_and_record_at_the_last_exit_too():
    rng, n, prices = np.random.default_rng(0), 600, {"small": 0.001, "large": 0.01}
    label, ids = rng.integers(0, 3, n), [str(i) for i in range(n)]
    logits = rng.normal(size=(2, n, 3)) + np.array([1, 4])[:, None, None] * np.eye(3)[label]
    shares = dict(zip(prices, np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True), strict=True))
    costs = {name: ex.CostModel([price], unit="usd") for name, price in prices.items()}
    known, made = {"label": label, "id": ids}, ex.ExitTrace.from_probabilities
    models = ex.CascadeTrace(
        {name: made(share[:, None], cost=costs[name], **known) for name, share in shares.items()}
    )
    fit, calibrate, _ = models.split()
    policy = ex.cascade(fit, calibrate, budget="60%", policy="eero")

    def model(name):
        return ex.FunctionModel(lambda text: shares[name][int(text)], price=prices[name], classes=[*"abc"])

    asked = {name: model(name) for name in prices}
    engine, kept = LiveEngine({"60%": LiveCascade(asked, policy)}, list(prices), 1000), []
    engine.add("60%", after_drift._recorder(policy, lambda *some: kept.append(some)))
    said = engine._cascades["60%"].ask_sync(ids[:5], ids=ids[:5])
    assert {one.model for one in said} == {"large"}
    own = policy.score, models.along(policy.cascade)
    expected = np.sort(score_matrix(*own)[:5], axis=0)
    np.testing.assert_allclose(np.sort(np.concatenate([one for one, _ in kept]), axis=0), expected, rtol=1e-6)


def test_a_server_calibrates_again_after_a_drift_and_shows_the_receipt(tmp_path, capfd):
    run, receipts = made_run(tmp_path / "pixels", budgets=("60%",)), []
    before = {file.name: file.read_bytes() for file in run.path.iterdir() if file.is_file()}
    with running(run, on_drift="recalibrate") as server:
        images = in_base64(harder(100))

        def calibrated():
            assert [one["error"] for one in server.answers(images)] == [None] * 100
            receipts.extend(server.layer("state").state.service.active.after_drift.receipts.values())
            return receipts

        until(calibrated, 60)
        assert receipts[0].startswith("Calibrated again on 1,")
        until(lambda: list(server.event()["recalibrated"].values()) == receipts[:1])
        until(lambda: "exeunt_drift 0.0" in server.client.get("/metrics").text)
    assert {name: (run.path / name).read_bytes() for name in before} == before
    logged = [json.loads(line)["what"] for line in capfd.readouterr().err.splitlines()]
    assert logged.index("inputs have drifted") < logged.index("calibrated again")


def test_policies_and_words_that_no_response_is_for_are_refused(policies, tmp_path):
    message = "--on-drift must be one of tell, quota, reference, recalibrate, got 'stop'"
    with pytest.raises(InputError, match=message):
        Settings(run=tmp_path, on_drift="stop")
    RESPONSES["reference"].check(planned := replace(policies["60%"], distribution=None))
    with pytest.raises(InputError, match="was not planned by counts"):
        RESPONSES["recalibrate"].check(planned)
    with pytest.raises(InputError, match="nothing would follow a drift: this policy is not watched"):
        RESPONSES["quota"].check(replace(policies["60%"], n_groups=3))


def test_a_server_that_is_not_told_to_do_more_tells_alone(policies, tmp_path):
    served = Served(policies, Settings(run=tmp_path).on_drift)
    before = served.answer(made_images(50))
    served.follow()
    served.alarmed()
    served.follow()
    after = served.answer(made_images(50))
    assert served.engine._deciders["60%"].policy is policies["60%"]
    assert (after.exit == before.exit).all()
    assert served.response.notes == {}


def test_routers_can_only_tell(policies):
    steps = CascadeStep("a", 1, after=-1), CascadeStep("b", 1, after=0), CascadeStep("c", 1, after=0)
    router = replace(policies["60%"], cascade=steps)
    for word, response in RESPONSES.items():
        response.check(policies["60%"])
        refused = pytest.raises(InputError, match=r"this is a router: .* tell")
        with nullcontext() if word == "tell" else refused:
            response.check(router)
