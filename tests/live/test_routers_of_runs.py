"""A recording with a model that tells features makes a run of which routers are made, and asked."""

import hashlib
import shutil
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from cli.command import called
from exeunt.data import open_inputs
from exeunt.live.recording import record_models
from exeunt.runs.folder import RunFolder

CLASSES = ("no", "yes")
PRICES = {"small": 0.001, "large": 0.01, "free": 0.0}
FEATURES = 0.0001
N = 400


def number(*parts):
    return int.from_bytes(hashlib.sha256(" ".join(parts).encode()).digest()[:4], "big") / 2**32


def is_hard(text):
    return number("hard", text) < 0.4


async def said(name, text):
    """`small` knows easy texts, `large` nearly all, `free` half of them."""
    skill = {"small": 0.55 if is_hard(text) else 0.95, "large": 0.95, "free": 0.5}[name]
    right = number(name, text) < skill
    return CLASSES[int(right == (number("truth", text) < 0.5))], 0.5 + number("sure", name, text) / 2


def features(text):
    return [float(is_hard(text)), number("noise", text), float(len(text))]


async def told(text):
    return features(text)


small, large, free = (partial(said, name) for name in PRICES)


def made_models(tell=told):
    models = {
        name: ex.FunctionModel(partial(said, name), price=price, classes=CLASSES)
        for name, price in PRICES.items()
    }
    return {**models, "told": ex.FeatureModel(tell, price=FEATURES)}


MODELS = "told: {features: 'live.test_routers_of_runs:told', price: 0.0001}\n" + "".join(
    f"{name}: {{function: 'live.test_routers_of_runs:{name}', classes: ['no', 'yes'], price: {price}}}\n"
    for name, price in PRICES.items()
)


def table(path, n, word):
    texts = [f"{word} {i:05}" for i in range(n)]
    labels = [CLASSES[int(number("truth", text) < 0.5)] for text in texts]
    pq.write_table(pa.table({"text": texts, "label": labels}), path)
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("routers")
    inputs = open_inputs(table(folder / "texts.parquet", N, "text"))
    done = record_models(made_models(), inputs, folder / "run", say=lambda _: None)
    assert (done.rows, done.no_run) == (N, "")
    return folder / "run"


def test_the_run_holds_the_features_first_and_their_price(recorded):
    run = RunFolder.open(recorded)
    assert [entry.name for entry in run.cascade] == ["told", "small", "large", "free"]
    whole = run.recorded("fit")
    assert whole.answering.names == ("small", "large", "free")
    assert whole["told"].cost.full == pytest.approx(FEATURES)
    assert whole["told"].features[0].shape == (whole.n, 3)
    found = pq.read_table(recorded / "recording.parquet").to_pydict()
    assert "prediction_told" not in found
    inputs = open_inputs(recorded.parent / "texts.parquet")
    row = dict(zip(inputs.content_keys().tolist(), range(N), strict=True))
    texts = [inputs.content(row[key]) for key in whole.id.tolist()]
    np.testing.assert_allclose(whole["told"].features[0], [features(text) for text in texts], rtol=1e-6)


def test_commands_make_and_ask_a_router(recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = called("calibrate", str(recorded), "--budget", "60%", "--policy", "cascade_router")
    assert (done.status, done.err) == (0, "")
    assert "told > small" in done.out
    run = RunFolder.open(recorded)
    data = table(tmp_path / "new.parquet", 200, "text")  # the first recorded ones
    (tmp_path / "models.yaml").write_text(MODELS)
    given = {"models": "models.yaml", "data": data, "total": "5 usd", "out": "out.parquet"}
    options = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    done = called("predict", str(recorded), *options)
    assert (done.status, done.err) == (0, "")
    found = pq.read_table("out.parquet").to_pydict()
    assert len(set(found["asked"])) > 1
    whole = run.recorded("test")
    keys = open_inputs(recorded.parent / "texts.parquet").content_keys().tolist()
    exits, answers = run.policy.route(whole).tolist(), run.policy.answers(whole).tolist()
    for key, exit_, answer in zip(whole.id.tolist(), exits, answers, strict=True):
        if (at := keys.index(key)) < 200:
            assert (found["asked"][at], found["label"][at]) == (run.policy.cascade[exit_].model, answer)


def test_a_server_asks_as_a_router_does(recorded, tmp_path):
    pytest.importorskip("fastapi")
    from serve.made_server import running

    run = RunFolder.open(shutil.copytree(recorded, tmp_path / "run"))
    run.save_policy(ex.router(run.recorded("fit"), run.recorded("calibrate"), budget="60%"))
    (tmp_path / "models.yaml").write_text(MODELS)
    inputs, whole = open_inputs(recorded.parent / "texts.parquet"), run.recorded("test").take(slice(0, 40))
    rows = dict(zip(inputs.content_keys().tolist(), range(N), strict=True))
    texts = [inputs.content(rows[key]) for key in whole.id.tolist()]
    with running(run, models=tmp_path / "models.yaml", max_spend="5 usd") as server:
        answers = server.client.post("/predict", json={"texts": texts}).json()["answers"]
    assert [one["label"] for one in answers] == run.policy.answers(whole).tolist()
    models = [run.policy.cascade[exit_].model for exit_ in run.policy.route(whole).tolist()]
    assert len(set(models)) > 1
    assert [one["cost"] for one in answers] == pytest.approx([FEATURES + PRICES[name] for name in models])


def test_inputs_without_features_are_no_part_of_the_run(tmp_path):
    inputs = open_inputs(table(tmp_path / "texts.parquet", 120, "text"))
    heard = []

    async def tell(text):
        if text.endswith("7"):
            raise OSError("no connection")
        return features(text)

    record_models(made_models(tell), inputs, tmp_path / "run", say=heard.append)
    assert "12 inputs left out of the run: told told no features" in "\n".join(heard)
    run = RunFolder.open(tmp_path / "run")
    assert sum(run.trace(part).n for part in ("fit", "calibrate", "test")) == 108


def test_features_of_several_lengths_are_told_without_losing_what_was_paid(tmp_path):
    inputs = open_inputs(table(tmp_path / "texts.parquet", 60, "text"))
    models = made_models(lambda text: [0.0] * (1 + int(text[-1]) % 2))
    done = record_models(models, inputs, tmp_path / "run", say=lambda _: None)
    assert "told told 1 numbers of some inputs and 2 of others" in done.no_run
    assert done.rows == 60


def test_a_cheaper_model_answers_where_money_for_the_chosen_one_is_short(recorded):
    run = RunFolder.open(recorded)
    policy = ex.router(run.recorded("fit"), run.recorded("calibrate"), budget="80%")
    texts = [f"other {i:05}" for i in range(60)]
    total = 60 * (PRICES["small"] + FEATURES) + 10 * PRICES["large"]
    ledger = ex.Ledger(total=f"{total:.6f} usd", inputs=60)
    live = ex.LiveCascade(made_models(), policy, ledger=ledger)
    ledger.promise(live.cheapest_answer({name: model.most("") for name, model in live.models.items()}))
    answers = live.ask_sync(texts)
    assert all(one.answer is not None for one in answers)
    assert ledger.spent <= total + 1e-9
    assert {one.short_of_money for one in answers} == {True, False}
    rich = ex.LiveCascade(made_models(), policy).ask_sync(texts)
    assert not any(one.short_of_money for one in rich)
    assert sum(one.cost for one in rich) > ledger.spent


def test_options_that_routers_do_not_take_are_refused(recorded):
    done = called("calibrate", str(recorded), "--budget", "60%", "--policy", "router", "--score", "margin")
    assert done.status == 2
    assert "leave out --score and --calibration" in done.err
