"""What can be asked of `exeunt calibrate`: a budget, a loss of accuracy, both, or many budgets."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import exeunt as ex
from exeunt._support.files import read_json
from exeunt.runs.folder import RunFolder
from exeunt.serve import events
from exeunt.serve.settings import Settings

from .command import printed as exeunt
from .conftest import ABOUT


def calibrate(run, options):
    return exeunt(f"calibrate {run.path} {options}")


def evaluate(run):
    return exeunt(f"evaluate {run.path} --no-figures")


def test_the_cheapest_within_a_loss(run):
    told = calibrate(run, "--max-loss 5%")
    guarantee = run.policy.loss_certificate
    assert (guarantee.max_loss, guarantee.delta) == (0.05, 0.05)
    assert str(guarantee) in told
    assert f"expected to save {1 - run.policy.expected_cost / run.cost.full:.1%}" in told
    assert run.policy.name == "auto"
    assert str(guarantee) in evaluate(run)


def test_a_loss_and_a_budget(run):
    calibrate(run, "--max-loss 10% --budget 80% --policy eero")
    assert run.policy.certificate.budget <= 0.8 * run.cost.full * (1 + 1e-9)
    assert run.policy.loss_certificate.delta == 0.025
    told = r"the loss stands in the way.*a loss of 0\.5% at a budget of .*MACs"
    with pytest.raises(ex.Infeasible, match=told):
        calibrate(run, "--max-loss 0.5% --budget 30% --policy eero")


@pytest.mark.parametrize("jointly", ["", "--jointly"])
def test_many_budgets_in_one_file(run, jointly):
    told = calibrate(run, f"--budgets 40%:80%:20% --policy eero {jointly}")
    policies = run.policy_set
    assert [policy.budget / run.cost.full for policy in policies] == pytest.approx([0.4, 0.6, 0.8])
    assert policies.at("70%").certificate.delta == pytest.approx(0.05 / 3 if jointly else 0.05)
    assert str(policies) in told
    accuracy = ex.evaluate(policies.at("40%"), run.trace("test")).accuracy
    assert f"{accuracy:.2%}" in evaluate(run)


def test_early_answers_and_the_tail_are_promised_beside_a_loss_and_shown_everywhere(run):
    told = calibrate(
        run, "--max-loss 5% --max-early-loss 8% --max-early-worse 15% --tail 90% 60% --policy eero"
    )
    policy = run.policy
    assert [proof.promise for proof in policy.promises] == ["max_early_loss", "max_early_worse", "max_tail"]
    assert [proof.limit for proof in policy.promises] == [0.08, 0.15, 0.6]
    assert policy.loss_certificate.max_loss == 0.05
    shown = evaluate(run)
    for proof in policy.tested_certificates:
        assert all(str(proof) in text for text in (told, shown, exeunt("show", run.path)))
    test = run.trace("test")
    exits = policy.route(test)
    early = exits < test.n_exits - 1
    lost = test.correct[early, -1].astype(float) - test.correct[np.flatnonzero(early), exits[early]]
    dear = test.cost.cumulative[exits] > 0.9 * test.cost.full
    amount = test.cost.show(0.9 * test.cost.full)
    assert (
        f"on the test part: a loss of early answers of {100 * lost.mean():.4g}%, {100 * (lost > 0).mean():.4g}% of "
        f"early answers that are worse, {100 * dear.mean():.4g}% of the inputs above {amount}"
    ) in shown


def test_early_answers_alone_are_promised_also_where_agreement_counts(run):
    told = calibrate(run, "--max-early-worse 10% --policy eero")
    assert run.policy.loss_certificate is None
    assert "The mean cost is not certified" in told
    assert "on the test part: " in evaluate(run)
    told = calibrate(run, "--agree 90% --max-early-worse 15% --policy eero")
    assert "% of the answers that come early differ from those of the full network" in told
    assert "of early answers that differ" in evaluate(run)
    calibrate(run, "--max-early-worse 10% --budget 80% --policy eero")
    assert run.policy.cost_certificate.delta < run.policy.promises[0].delta == 0.025
    with pytest.raises(ex.InputError, match=r"stands in the way: .* what can be shown: "):
        calibrate(run, "--max-early-worse 0.2% --budget 30% --policy eero")
    calibrate(run, "--budget 60% --policy eero")
    assert "\non the test part" not in evaluate(run)


def test_recorded_outputs_in_a_folder_take_the_place_of_the_runs_own(run, tmp_path):
    held_out, more = run.trace("calibrate"), tmp_path / "more"
    more.mkdir()
    for number, rows in enumerate([slice(0, 700), slice(700, None)]):
        held_out.take(rows).save(more / f"{number}.parquet")
    for asked in ("--agree 80%", "--budget 60%"):
        made = []
        for traces in ("", f"--traces {more}"):
            told = calibrate(run, f"{asked} --policy eero {traces}")
            made.append(run.policy)
        assert made[0] == made[1]
    assert "threshold found among 2,000 inputs" in told
    calibrate(run, f"--budgets 50%,60% --policy eero --traces {more}")
    assert run.policy_set.at("60%") == made[0]
    with pytest.raises(ex.InputError, match="--max-loss is tested on labelled inputs in memory"):
        calibrate(run, f"--max-loss 5% --traces {more}")
    with pytest.raises(ex.InputError, match="share"):
        calibrate(run, f"--budget 60% --traces {run.path / 'traces'}")


def test_a_run_folder_without_policies_says_how_to_make_some(run):
    with pytest.raises(ex.InputError, match="--budgets"):
        _ = run.policy_set


def test_marginal_calibration_says_everywhere_that_it_certifies_nothing(run):
    told = calibrate(run, "--budget 50% --policy eero --calibration marginal")
    assert run.policy.certificate is None
    nothing = "The budget is not certified: marginal calibration has no exact distribution of the mean cost"
    for shown in (told, exeunt("show", run.path), evaluate(run)):
        assert nothing in shown
    assert read_json(run.path / "evaluation.json")["certificate"] is None
    calibrate(run, "--budgets 40%,60% --policy eero --calibration marginal")
    for shown in (exeunt("show", run.path), evaluate(run)):
        assert "not certified" in shown


def test_a_certified_budget_is_said_everywhere(run):
    told = calibrate(run, "--budget 50% --policy eero")
    guarantee = run.policy.certificate
    for shown in (told, exeunt("show", run.path), evaluate(run)):
        assert str(guarantee) in shown
        assert "not certified" not in shown
    assert read_json(run.path / "evaluation.json")["certificate"] == guarantee.to_dict()


def test_a_loss_is_tested_whatever_the_calibration(run):
    calibrate(run, "--max-loss 10% --calibration marginal --policy eero")
    assert run.policy.loss_certificate.delta == 0.05
    assert run.policy.calibration == "marginal"
    told = exeunt("show", run.path)
    assert str(run.policy.loss_certificate) in told
    assert "The mean cost is not certified" in told


SHARE = "--agree must be a share above 0% and at most 100%, such as 98%, got"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", "--max-loss 1%"),
        ("--budgets 40%,60% --budget 50%", "neither"),
        ("--budgets 40%,60% --max-loss 1%", "neither"),
        ("--budget 50% --jointly", "--budgets"),
        ("--max-loss 1% --delta none", "--max-loss is a guarantee"),
        ("--budget 50% --calibration marginal --delta 0.05", "no exact distribution to certify"),
        ("--budgets 40%,60% --jointly --calibration marginal", "--jointly is a guarantee"),
        ("--max-loss 1% --budget 50% --calibration marginal", "use --calibration sequential, or"),
        ("--budget 50% --calibration best", "--calibration must be sequential or marginal, got 'best'"),
        ("--budgets 40%,60% --jointly --delta none", "--jointly is a guarantee"),
        ("--budget 50% --delta 95%", "got 0.95: for 95% confidence write 0.05"),
        ("--max-loss half", "'half'"),
        ("--budgets 40%:60%", "first:last:step"),
        ("--budgets 50,60", "write 50%"),
        ("--agree 102%", f"{SHARE} '102%'"),
        ("--agree 0%", f"{SHARE} '0%'"),
        ("--agree 98", "such as 98%, got '98'"),
        ("--agree 98% --max-loss 2%", "--agree and --max-loss are two guarantees of answers: give one"),
        ("--agree 98% --reference huge", "is one network, which agrees with its last exit: leave out"),
        ("--budget 50% --reference huge", "--reference is the model that answers are measured against"),
        ("--agree 98% --delta none", "--agree is a guarantee"),
        ("--agree 98% --budgets 50%,60%", "neither --budget nor --agree"),
        ("--max-early-loss 5% --budgets 50%,60%", "neither --budget nor --max-early-loss"),
        ("--max-early-loss 0", "--max-early-loss must be a share between 0 and 1, such as 10%, got '0'"),
        ("--max-early-loss 5", "--max-early-loss must be a share between 0 and 1, such as 10%, got '5'"),
        (
            "--max-early-worse 100%",
            "--max-early-worse must be a share between 0 and 1, such as 10%, got '100%'",
        ),
        ("--max-early-worse few", "'few'"),
        ("--max-early-worse 5% --delta none", "--max-early-worse is a guarantee and needs a --delta"),
        (
            "--max-loss 5% --max-early-worse 5% --delta none",
            "--max-loss and --max-early-worse are guarantees and need",
        ),
        ("--max-early-worse 5% --reference huge", "is one network, which loses against its last exit"),
        (
            "--tail 50% 1%",
            "--tail alone is kept by answering everything at the cheapest exit: limit what is lost",
        ),
        ("--tail 50% 1% --budget 60%", "--tail alone"),
        ("--tail 50% 0 --max-loss 5%", "the share of --tail must be a share between 0 and 1"),
        ("--tail 50% 2 --max-loss 5%", "the share of --tail must be a share between 0 and 1"),
        (
            "--tail 1% 1% --max-loss 5%",
            "every input costs more than .*, the cost of max_tail: the cheapest exit costs",
        ),
        ("--tail 4usd 1% --max-loss 5%", "'4usd' is in 'usd', which is no unit of these costs"),
        ("--tail 4ms 1% --budget 50% --max-loss 5%", "shares of time and of multiply-adds differ"),
    ],
)
def test_what_does_not_go_together_is_refused(run, options, told):
    with pytest.raises(ex.InputError, match=told):
        calibrate(run, options)


def with_calibration_part(run, *, edge):
    """Make the run anew with calibration and fit inputs that its exits are surer of, by an edge, than of others."""
    rng = np.random.default_rng(1)
    traces = {"test": run.trace("test")}
    for part in ("fit", "calibrate"):
        label = rng.integers(0, 5, 1000)
        logits = rng.normal(size=(1000, 3, 5))
        logits[np.arange(1000), :, label] += np.array([2.0, 4.0, 4.2]) + edge
        traces[part] = ex.ExitTrace.from_logits(logits, cost=run.cost, label=label)
    return RunFolder.create(run.path, cost=run.cost, traces=traces, about=ABOUT)


SAID = "These inputs are not exchangeable with the calibration inputs (p = "


@pytest.mark.parametrize("options", ["--budget 60%", "--max-loss 5%", "--budgets 50%,70%"])
def test_a_test_part_that_the_certificate_does_not_describe_is_said_and_kept(run, options):
    run = with_calibration_part(run, edge=1.5)
    calibrate(run, f"{options} --policy eero")
    told = evaluate(run)
    assert SAID in told
    assert "exeunt train --calibration-data FILE" in told
    if run.has_policy:
        caution = "for inputs like the calibration inputs, but not for the test part (see the warning above):"
        assert f"{caution}\n{run.policy.guarantee}" in told
    assert run.evaluation_warning.startswith(SAID)
    assert read_json(run.path / "evaluation.json")["warning"] == run.evaluation_warning
    assert about(run)["warning"] == run.evaluation_warning
    calibrate(run, f"{options} --policy eero")
    assert run.evaluation_warning == ""  # it was about the policy before
    fair = with_calibration_part(run, edge=0.0)
    calibrate(fair, f"{options} --policy eero")
    told = evaluate(fair)
    assert "exchangeable with the calibration inputs (p" not in told
    assert "not for the test part" not in told
    assert fair.evaluation_warning == ""


def about(run):
    """What the server's page is told of a run that is loaded."""
    policies = dict.fromkeys(["a"], run.policy_set.policies[0] if run.has_policy_set else run.policy)
    facts = {"accuracy": {"a": None}, "exit_names": [], "warning": run.evaluation_warning}
    loaded = SimpleNamespace(policies=policies, **facts)
    return events.about(SimpleNamespace(loaded=loaded, policy="a", limit=1.0), Settings(run=run.path))


def test_a_policy_from_other_recorded_outputs_is_not_compared_with_the_runs_own(run, tmp_path):
    """The run's own calibration part is bad, and the policy was not made from it."""
    good = run.trace("calibrate")
    run = with_calibration_part(run, edge=1.5)
    (tmp_path / "more").mkdir()
    good.save(tmp_path / "more" / "0.parquet")
    calibrate(run, f"--budget 60% --policy eero --traces {tmp_path / 'more'}")
    evaluate(run)
    assert run.evaluation_warning == ""


def test_a_damaged_evaluation_names_the_remedy(run):
    (run.path / "evaluation.json").write_text("{")
    with pytest.raises(ex.ArtefactError, match="repeat `exeunt evaluate`"):
        _ = run.evaluation_warning


def test_an_agreement_with_the_full_network(run):
    told = calibrate(run, "--agree 95% --policy eero")
    proof, test = run.policy.loss_certificate, run.recorded("test")
    assert (proof.max_loss, proof.measure, proof.reference) == (0.05, "agreement", "the full network")
    assert "at most 5% of the answers differ from those of the full network" in told
    said = evaluate(run)
    agree = float((run.policy.answers(test) == test.prediction[:, -1]).mean())
    assert f"answering early changes {1 - agree:.2%} of the answers of the full network" in said
    assert f"accuracy {ex.evaluate(run.policy, test).accuracy:.2%}" in said  # the run has labels as well
    assert "the full network is " in said
    assert str(proof) in said
    found = read_json(run.path / "evaluation.json")
    assert (found["agreement"], found["reference"]) == (pytest.approx(agree), "the full network")


def test_a_full_network_worse_than_an_earlier_exit_is_warned_of(run):
    told = "WARNING: The full network is much worse than exit"
    assert told not in calibrate(run, "--max-loss 5%")
    assert told not in evaluate(run)
    swapped = {}
    for part in ("fit", "calibrate", "test"):
        trace = run.trace(part)
        logs = trace.log_probability[:, [1, 2, 0]]
        swapped[part] = ex.ExitTrace.from_logits(logs, cost=run.cost, label=trace.label, id=trace.id)
    worse = RunFolder.create(run.path, cost=run.cost, traces=swapped, about=ABOUT)
    for said in (calibrate(worse, "--max-loss 5%"), evaluate(worse)):
        assert told in said
        assert "Usual causes: its weights were trained with another mean and std" in said
    rates = ", ".join(f"{risk:.3f}" for risk in worse.trace("test").risk)
    assert f"error rate of each exit on the test part: {rates}" in evaluate(worse)
