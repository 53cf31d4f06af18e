"""A server that never spends more than its limits: of live models, and of a network whose costs are a price."""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from made_server import held, in_base64, made_images, made_run, running, until

import exeunt as ex
from exeunt.data import Texts, open_inputs
from exeunt.errors import InputError, QueueFull
from exeunt.live.models_file import read_models
from exeunt.live.recording import record_models
from exeunt.policy import PolicySet
from exeunt.runs.folder import RunFolder

pytest.importorskip("fastapi")

from exeunt.serve.loaded_run import load_run
from exeunt.serve.settings import Settings
from exeunt.serve.spending import Payer, Spending, key_name

MODULE = """
import hashlib, time

CALLS = []

def said(name, text):
    digest = hashlib.sha256(f"{name}: {text}".encode()).digest()
    truth = text.count("e") % 2
    sure = digest[0] / 255
    CALLS.append((name, text))
    time.sleep(0.002)
    return ("no", "yes")[truth if sure > {"small": 0.4, "large": 0.05}[name] else 1 - truth], 0.5 + sure / 2

def small(text):
    return said("small", text)

def large(text):
    return said("large", text)
"""
MODELS = """
small: {function: "served_functions:small", classes: ["no", "yes"], price: 0.001}
large: {function: "served_functions:large", classes: ["no", "yes"], price: 0.01}
"""
KEYS = ("alice-key", "bob-key")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A run of two functions that asks the large one about what the small one is not sure of, and their file."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "served_functions.py").write_text(MODULE)
    (folder / "models.yaml").write_text(MODELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        models = read_models(folder / "models.yaml")
        rows = [f"{'e' * (i % 7)} {i},{('no', 'yes')[i % 7 % 2]}" for i in range(500)]
        (folder / "texts.csv").write_text("\n".join(["text,label", *rows, ""]))
        record_models(models, open_inputs(folder / "texts.csv"), folder / "run", say=lambda _: None)
        run = RunFolder.open(folder / "run")
        fit, calibrate = run.recorded("fit"), run.recorded("calibrate")
        policy = ex.cascade(fit, calibrate, budget="60%", policy="eero", answer="own")
        assert policy.models == ("small", "large")
        run.save_policy(policy)
        yield run, str(folder / "models.yaml")


def ask(server, key, *inputs, kind="texts", **options):
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return server.client.post("/predict", headers=headers, json={kind: inputs, **options})


def money(run):
    return run.path.with_name(f"{run.path.name}-money.db")


def spent(run):
    """What the ledgers of all, and of each key, have spent."""
    whole = ex.Ledger(name="all", file=money(run))
    keys = [ex.Ledger(name=key_name(key), within=whole) for key in KEYS]
    return [one.spent for one in (whole, *keys)]


def test_answers_are_those_of_replay_and_each_key_pays_for_its_own(live):
    run, models = live
    trace = run.recorded("test")
    policy = run.policy
    keys = {key: i for i, key in enumerate(trace.id.tolist())}
    data = open_inputs(run.path.parent / "texts.csv")
    texts = [data.content(i) for i, key in enumerate(data.content_keys().tolist()) if key in keys][:40]
    places = [keys[key] for key in Texts(texts).content_keys().tolist()]
    limits = {"max_spend": "5 usd", "max_spend_per_key": "1 usd/hour", "api_keys": KEYS}
    with running(run, models=models, **limits) as server:
        found = ask(server, KEYS[0], *texts).json()
        assert found["unit"] == "usd"
        answers = found["answers"]
        for name, wanted in (("label", policy.answers(trace)), ("exit", policy.route(trace))):
            assert [one[name] for one in answers] == wanted[places].tolist()
        cost = sum(one["cost"] for one in answers)
        assert cost == pytest.approx(sum(0.001 + 0.01 * one["exit"] for one in answers))
        one = ask(server, KEYS[1], texts[0]).json()["answers"][0]
        assert ask(server, "nobody", texts[0]).status_code == 401
    assert spent(run) == pytest.approx([cost + one["cost"], cost, one["cost"]])
    assert "alice" not in money(run).read_bytes().decode("latin-1")


def test_a_key_without_money_gets_early_answers_then_402_or_429_and_others_go_on(live, tmp_path):
    run, models = live
    hard = [f"e {i}" for i in range(60)]
    limits = {"max_spend": "1 usd", "max_spend_per_key": "0.0105 usd", "live_file": tmp_path / "serving.json"}
    with running(run, models=models, api_keys=KEYS, **limits) as server:
        answers = ask(server, KEYS[0], *hard).json()["answers"]
        assert sum(one["cost"] for one in answers) <= 0.0105
        short = [one for one in answers if one["degraded"]]
        assert {one["exit"] for one in short if one["label"] >= 0} == {0}
        silent = [one["error"] for one in answers if one["label"] < 0]
        assert silent
        assert set(silent) == {"small: not asked; large: not asked"}
        refused = ask(server, KEYS[0], *hard)
        assert refused.status_code == 402
        assert "of what may be spent is left: ask who runs this server" in refused.json()["error"]
        key = {"authorization": f"Bearer {KEYS[1]}"}
        metrics = server.client.get("/metrics", headers=key).text
        assert 'exeunt_problems_total{problem="refused"} 1.0' in metrics
        assert ask(server, KEYS[1], "e 1").json()["answers"][0]["label"] >= 0
    limits = {"max_spend": "0.011 usd/hour", "live_file": tmp_path / "again" / "serving.json"}
    (tmp_path / "again").mkdir()
    with running(run, models=models, **limits) as server:
        ask(server, None, *hard)
        late = ask(server, None, *hard)
        assert late.status_code == 429
        assert 0 < int(late.headers["retry-after"]) <= 3600 / 11 + 1


def test_many_clients_never_spend_more(live, tmp_path):
    run, models = live
    total = 0.4
    limits = {"max_spend": f"{total} usd", "live_file": tmp_path / "serving.json"}

    def client(server, number):
        return [ask(server, None, *(f"e {number} {i} {j}" for j in range(4))) for i in range(10)]

    with running(run, models=models, **limits) as server, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(client, server, number) for number in range(16)]
        responses = [response for one in asked for response in one.result()]
    assert {one.status_code for one in responses} == {200, 402}
    cost = sum(row["cost"] for one in responses if one.status_code == 200 for row in one.json()["answers"])
    ledger = ex.Ledger(name="all", file=tmp_path / "serving-money.db")
    assert ledger.spent == pytest.approx(cost)
    assert 0.97 * total < ledger.spent <= total
    assert ledger.reserved == 0


def test_a_deadline_returns_what_is_known(live, tmp_path):
    run, models = live
    limits = {"max_spend": "1 usd", "live_file": tmp_path / "serving.json"}
    with running(run, models=models, **limits) as server:
        found = ask(server, None, *(f"e {i}" for i in range(500)), deadline_ms=60).json()
    late = [one for one in found["answers"] if one["expired"]]
    assert late
    for one in late:
        assert (one["label"] >= 0) == (one["exit"] >= 0) == (one["error"] is None)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "name their file with --models models.yaml"),
        ({"models": True}, "--max-spend"),
        ({"models": True, "max_spend": "1 eur"}, "eur"),
        ({"models": True, "max_spend": "1 usd", "slo_s": 0.1}, "leave out --slo-ms"),
        ({"models": True, "max_spend": "1 usd/year"}, "a rate is an amount per second"),
        ({"models": True, "max_spend_per_key": "1 usd"}, "--api-key-file"),
    ],
)
def test_limits_that_make_no_sense_are_refused_before_it_serves(live, tmp_path, settings, why):
    run, models = live
    options = settings | ({"models": models} if "models" in settings else {})

    def served():
        made = Settings(run=run.path, live_file=tmp_path / "serving.json", **options)
        return load_run(made).controller(made)

    with pytest.raises(InputError, match=re.escape(why)):
        served()


# -- networks ----------------------------------------------------------------------------------------------


def test_a_network_pays_what_its_answers_cost(tmp_path):
    run = made_run(tmp_path / "pixels")
    full = run.cost.full
    limits = {"max_spend": f"{40 * full} MACs", "api_keys": KEYS, "max_spend_per_key": f"{25 * full} MACs"}
    images = in_base64(made_images(30))
    with running(run, **limits) as server:
        refused = ask(server, KEYS[0], *images, kind="images")  # may cost more than the key has
        assert refused.status_code == 402
        found = ask(server, KEYS[0], *images[:20], kind="images")
        cost = sum(one["cost"] for one in found.json()["answers"])
        assert 20 * run.cost.first <= cost < 20 * full
    assert spent(run) == pytest.approx([cost, cost, 0.0])
    assert ex.Ledger(name="all", file=money(run)).reserved == 0


def test_a_request_may_come_again_where_others_hold_more_than_they_may_cost(tmp_path):
    run = made_run(tmp_path / "pixels")
    many, few = in_base64(made_images(30)), in_base64(made_images(18))
    with running(run, max_spend=f"{46 * run.cost.full} MACs") as server, ThreadPoolExecutor(1) as pool:
        ledger = ex.Ledger(name="all", file=money(run))
        with held(server.executor):
            first = pool.submit(ask, server, None, *many, kind="images")
            until(lambda: ledger.left == pytest.approx(16 * run.cost.full))
            refused = ask(server, None, *few, kind="images")
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert first.result().status_code == 200
        assert ask(server, None, *few, kind="images").status_code == 200


def test_limits_are_in_the_unit_of_the_policies(tmp_path):
    run = made_run(tmp_path / "pixels")
    in_ms = ex.CostModel([1.0, 2.0, 3.5], unit="ms")
    fit, calibrate = (run.recorded(part).with_cost(in_ms) for part in ("fit", "calibrate"))
    run.save_policy_set(PolicySet.make(ex.eero, fit, calibrate, budgets=("60%",)))
    with running(run, max_spend="40 ms") as server:
        cost = sum(one["cost"] for one in server.answers(made_images(5)))
        assert 5 <= cost <= 17.5
        assert ex.Ledger(name="all", file=money(run)).spent == pytest.approx(cost)
        assert ask(server, None, *in_base64(made_images(30)), kind="images").status_code == 402


@pytest.mark.parametrize(("raised", "cost"), [(None, 0.3), (QueueFull, 0.0), (asyncio.CancelledError, 1.0)])
def test_what_is_paid_for_work_that_ends_in_an_error(raised, cost):
    ledger = ex.Ledger(total="2 usd")

    async def work():
        async with Payer(ledger, 1.0).paying(1.0) as bill:
            assert ledger.spent == 1.0
            if raised is not None:
                raise raised
            bill(0.3)

    with nullcontext() if raised is None else pytest.raises(raised):
        asyncio.run(work())
    assert ledger.spent == cost


def test_a_limit_for_all_that_is_added_later_leaves_those_of_keys_where_they_were(live, tmp_path):
    run, _ = live
    each = {"live_file": tmp_path / "serving.json", "api_keys": KEYS, "max_spend_per_key": "0.012 usd"}
    cost = run.cost
    before = Spending(Settings(run=run.path, **each), cost)
    held = before.payer(KEYS[0]).ledger.reserve(0.012)
    held.dispatch()
    held.settle(0.012)
    after = Spending(Settings(run=run.path, max_spend="5 usd/day", **each), cost)
    assert after.payer(KEYS[0]).ledger.left == 0
    assert after.payer(KEYS[1]).ledger.left == 0.012
    total = Spending(Settings(run=run.path, max_spend="5 usd", **each), cost)
    assert total.payer("none").ledger.spent == 0.012


def test_money_stays_where_a_link_comes_to_lead_to_another_run(tmp_path):
    (tmp_path / "v1").mkdir()
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "v1")
    assert Settings(run=link).money_file == tmp_path / "current-money.db"


def test_a_request_that_is_cancelled_while_its_money_is_held_pays_nothing():
    class Slow(ex.Ledger):
        def reserve(self, *given, **options):
            time.sleep(0.2)
            return super().reserve(*given, **options)

    ledger = Slow(total="2 usd")

    async def request():
        async with Payer(ledger, 1.0).paying(1.0):
            raise AssertionError

    async def cancelled():
        task = asyncio.ensure_future(request())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.4)

    asyncio.run(cancelled())
    assert (ledger.spent, ledger.reserved) == (0.0, 0.0)
