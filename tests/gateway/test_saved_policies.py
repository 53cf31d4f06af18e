"""Policies of a gateway: names in order, activation and rolling back, and policies of other models."""

from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex
from exeunt.errors import ArtefactError, InputError
from exeunt.gateway.folder import GatewayModels
from exeunt.gateway.saved_policies import GatewayPolicies, forget_policies

MODELS = GatewayModels("large", {"small": 1e-4, "large": 1e-3}, "features", 1e-7)


def policy(names=("small", "large")):
    rng = np.random.default_rng(0)
    traces = {
        name: ex.ExitTrace.from_losses(
            *rng.random((2, 200, 1)), cost=ex.CostModel([1.0 + place], unit="usd"), id=np.arange(200)
        )
        for place, name in enumerate(names)
    }
    fit, calibrate, _ = ex.CascadeTrace(traces).split()
    made = ex.cascade(fit, calibrate, budget=2.0, policy="eero", order=names)
    about = {
        "rows": 20,
        "proposal": 1,
        "plan": 0,
        "question": 1,
        "max_loss": 0.05,
        "share": 0.5,
        "cost": 1e-4,
    }
    return replace(made, notes={**made.notes, "gateway": about})


def test_the_models_of_a_gateway_are_read_as_they_were_written(tmp_path):
    for models in (MODELS, GatewayModels("a", {"a": 1.0}, identity={"a": "v1"})):
        models.write(tmp_path)
        assert GatewayModels.read(tmp_path).digest == models.digest
        assert replace(GatewayModels.read(tmp_path), identity=models.identity) == models
    assert MODELS.digest != replace(MODELS, identity={"small": "other"}).digest
    text = '{"reference": "b", "models": {"a": {"highest": 1}}, "features": null}'
    (tmp_path / "gateway.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"no model 'b', the reference.*: start `exeunt gateway` again"):
        GatewayModels.read(tmp_path)
    with pytest.raises(InputError, match="start `exeunt gateway` once"):
        GatewayModels.read(tmp_path / "elsewhere")


def test_activation_and_rolling_back(tmp_path):
    policies, made = GatewayPolicies(tmp_path, MODELS), policy()
    assert policies.active() == "reference"
    assert policies.names == ()
    assert [policies.add(made) for _ in range(11)][-1] == "p11"
    assert policies.names[1:3] == ("p2", "p3")
    assert policies.load("p3") == replace(made, run=MODELS.digest)
    for now, name in enumerate(("p1", "p2", "p11")):
        policies.activate(name, float(now))
    again = GatewayPolicies(tmp_path, MODELS)
    assert again.active() == "p11"
    assert [again.roll_back(3.0) for _ in range(2)] == ["p2", "p1"]
    again.activate("reference", 5.0)
    assert policies.active() == "reference"
    assert [policies.roll_back(6.0) for _ in range(2)] == ["p1", "reference"]
    with pytest.raises(InputError, match="nothing to roll back"):
        policies.roll_back(7.0)
    assert policies.history[:4] == [[0.0, "p1"], [1.0, "p2"], [2.0, "p11"], [3.0, "p2", "back"]]
    with pytest.raises(InputError, match="has no policy 'p12': there are reference, p1, p2"):
        policies.activate("p12", 8.0)
    assert (tmp_path / "policies" / "p1.json").stat().st_mode & 0o777 == 0o600


def with_features(policies, clients=None):
    """Keep a policy as if it held features."""
    policies.models = replace(MODELS, features="small")
    return policies.add(policy(), clients)


def test_a_policy_is_removed_with_the_clients_whose_features_it_holds(tmp_path):
    assert forget_policies(tmp_path, "shop") == []
    policies = GatewayPolicies(tmp_path, MODELS)
    assert policies.add(policy(), {"shop"}) == "p1"  # of scores alone
    for clients in ({"shop", "clinic"}, {"clinic"}, None):
        with_features(policies, clients)
    assert forget_policies(tmp_path, "nobody") == ["p4"]  # nobody knows whose features it holds
    assert forget_policies(tmp_path, "shop") == ["p2"]
    assert forget_policies(tmp_path, "shop") == []
    folder = tmp_path / "policies"
    assert {file.name for file in folder.glob("p*")} == {
        "p1.json", "p1.clients", "p2.forgotten", "p3.json", "p3.clients", "p4.forgotten",
    }  # fmt: skip
    assert with_features(policies, ()) == "p5"  # no name means two policies
    policies.load("p3")
    why = "p2 held features of requests of a client that was forgotten: take"
    with pytest.raises(ArtefactError, match=why):
        policies.activate("p2", 0.0)


def test_policies_of_other_models_are_refused(tmp_path):
    policies = GatewayPolicies(tmp_path, MODELS)
    with pytest.raises(ArtefactError, match="it asks tiny, and there are small, large"):
        policies.add(policy(("tiny", "large")))
    policies.add(policy())
    for changed in ({"identity": {"small": "another prompt"}}, {"reference": "small"}):
        other = GatewayPolicies(tmp_path, replace(MODELS, **changed))
        with pytest.raises(ArtefactError, match=r"p1\.json is not for the models of .*have changed"):
            other.activate("p1", 0.0)
    for text in ("{}", '[["then", "p1"]]', '[[1.0, "p1", "back"]]'):
        (tmp_path / "active.json").write_text(text)
        with pytest.raises(ArtefactError, match="until then the reference answers"):
            policies.active()
