"""`exeunt calibrate` with the folder of a gateway: the policy that it keeps, its report, and what it refuses."""

import json
import re
import shutil

import pytest
from tests.cli.command import exeunt
from tests.gateway.made_records import MODELS, records

pytest.importorskip("typer")

from exeunt.cli.gateway_calibration import _check_nobody_was_forgotten
from exeunt.errors import InputError
from exeunt.gateway.records import Records
from exeunt.gateway.saved_policies import GatewayPolicies


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway") / "gateway"
    folder.mkdir()
    MODELS.write(folder)
    kept = Records(folder)
    for one in records(600, scores=False):
        kept.add(one)
    kept.close()
    return folder


def test_a_policy_is_kept_with_its_report(recorded, tmp_path):
    shutil.copytree(recorded, tmp_path / "gateway")
    labels = [{"request": f"{row:032x}", "model": "small", "grade": 1} for row in range(50)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    done = exeunt("calibrate", "gateway", "--max-loss", "10%", "--labels", "labels.jsonl", cwd=tmp_path)
    policies = GatewayPolicies(tmp_path / "gateway", MODELS)
    proof = policies.load("p1").loss_certificate
    assert (proof.max_loss, proof.delta, proof.reference) == (0.1, 0.05, "large")
    assert policies.active() == "reference"
    assert json.loads((tmp_path / "gateway" / "policies" / "p1.clients").read_text()) == ["shop"]
    policies.add(policies.load("p1"), {"shop", "clinic"})
    with pytest.raises(InputError, match="removed meanwhile"):  # had clinic been forgotten while p2 was made
        _check_nobody_was_forgotten(tmp_path / "gateway", {"shop", "clinic"})
    assert [policies.is_forgotten(name) for name in ("p1", "p2")] == [False, True]
    assert str(proof) in done.stdout
    assert "kept as p1, which does not answer before" in done.stdout
    page = (tmp_path / "gateway" / "report.html").read_text()
    right = sum(one.said["small"].grade for one in records(600, scores=False)[:50])
    agrees = f"Of 50 labels the grade agrees with {right / 50:.1%} (95% interval "
    assert agrees in done.stdout
    assert agrees in page
    assert str(proof).replace(">", "&gt;") in page
    assert "exeunt calibrate gateway --max-loss 10% --labels labels.jsonl" in page
    assert page.count("<circle") == 5  # the policy, two models, two mixtures
    assert not re.search(r"<script|(src|href)=|https?://(?!www\.w3\.org)", page)
    assert "&lt;" not in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--budget", "50%"],
            "a gateway is calibrated by --max-loss above 0, such as --max-loss 5%, and perhaps",
        ),
        (["--max-loss", "0"], "got --max-loss 0"),
        (["--max-loss", "5%", "--agree", "98%"], "got --agree"),
        (["--max-loss", "5%", "--budget", "40"], "--budget 40 has no unit: write 40% for a share"),
        (["--max-loss", "5%", "--policy", "eero"], "the calibration of a gateway takes no --policy"),
        (["--max-loss", "5%", "--labels", "none"], "cannot read the labels in none"),
        (["--max-loss", "5%", "--delta", "none"], "--max-loss is a guarantee and needs a --delta"),
        (
            ["--max-loss", "0.1%", "--delta", "0.001"],
            "no certificate yet: 600 records cannot show",
        ),
    ],
)
def test_what_is_refused(recorded, options, said):
    done = exeunt("calibrate", "gateway", *options, cwd=recorded.parent, ok=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert GatewayPolicies(recorded, MODELS).names == ()
