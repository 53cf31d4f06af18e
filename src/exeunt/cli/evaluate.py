"""`exeunt evaluate RUN`: accuracy and mean cost on the test part, share of each exit, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from exeunt._support.text import counted, echo, text_table
from exeunt.cli.options import Execution, RunPath, changed, option, with_groups
from exeunt.errors import InputError

if TYPE_CHECKING:
    from exeunt.evaluation.replay import Result
    from exeunt.policy import EarlyCertificate, LossCertificate, Policy
    from exeunt.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class _Options:
    figures: bool = option("Draw figures into RUN/figures.", default=True)
    splits: int = option(
        "Random splits that figures with several policies average over.", default=10, min=1, max=10_000
    )
    pictures: int = option(
        "Of a network that answers with masks: a page RUN/figures/masks.html with this many test images, the mask of "
        "each exit, and where the policy answered. The network runs on them.",
        default=0,
        min=0,
        max=1_000,
    )


@with_groups
def evaluate(path: RunPath, options: _Options, execution: Execution) -> None:
    """Replay the policy on the test part: accuracy, mean cost against the budget, share of each exit, figures.

    Of policies for several budgets, a table of all comes first; RUN@50% evaluates the one for this budget alone.
    Warns if the test part is not exchangeable with the calibration part, which every guarantee assumes.
    """
    from exeunt.runs.folder import RunFolder

    run = RunFolder.open(path)
    if changed(execution) and not options.pictures:
        raise InputError(
            "traces are replayed, and the network runs for --pictures alone: leave out --executor and --model"
        )
    page = _pictures(run, options.pictures, execution)  # first: what refuses it does so before the work
    run.kind.action("evaluate", _evaluate)(run, options)
    if page is not None:
        echo(f"written to {page}")


def _evaluate(run: RunFolder, options: _Options) -> None:
    """Replay the policies of a run on its test part."""
    from exeunt._support.files import write_json
    from exeunt.runs.file_digests import EVALUATION
    from exeunt.runs.saved_policies import named_by_budget
    from exeunt.trace.derived import quality_of_each_exit

    policies, about_budgets = run.policies, dict[str, Any]()
    results = [_evaluated(run, policy) for policy in policies]
    policy, result = policies[-1], results[-1]
    if len(policies) > 1:
        about_budgets["budgets"] = [result.to_dict() for result in results]
        about_budgets["warning"] = next((result.warning for result in results if result.warning), "")
        echo(f"{_by_budget(policies, results)}{run.active_text}\n")
    if run.budget is not None:
        echo(f"the policy for {next(iter(named_by_budget(policies)))}, the largest within {run.budget}\n")
    echo(result)
    if not run.cascade and run.trace("test").has_loss:
        echo(quality_of_each_exit(run.trace("test"), "test"))
    if warning := run.worse_last_exit("test"):
        echo(f"WARNING: {warning}")
    agreement = _compare_with_reference(run, policy)
    full = _compare_with_full(run, policy)
    echo(_verdict(policy, result))
    if result.warning:
        echo("for inputs like the calibration inputs, but not for the test part (see the warning above):")
    echo(policy.guarantee)
    for line in [*policy.tested_certificates, *_promises_on(run, policy)]:
        echo(line)
    if time := _time_text(run):
        echo(time)
    guaranteed = None if policy.cost_certificate is None else policy.cost_certificate.to_dict()
    about = {"full_network_accuracy": full, "certificate": guaranteed, **agreement, **about_budgets}
    write_json(run.path / EVALUATION, {**result.to_dict(), **about})
    if options.figures:
        from exeunt.evaluation.figures import draw_evaluation

        fit, calibrate, test = (run.replayed(policy, part) for part in ("fit", "calibrate", "test"))
        figures = draw_evaluation(
            policy,
            fit,
            calibrate,
            test,
            run.folder("figures"),
            splits=options.splits,
            progress=lambda name: echo(f"drawing {name}", err=True),
        )
        for figure in figures:
            echo(f"written to {figure}")


def _pictures(run: RunFolder, count: int, execution: Execution) -> Path | None:
    """Draw the pictures that are asked for. Raises InputError for a network that cannot be drawn or opened."""
    if not count:
        return None
    from exeunt.jobs.mask_pictures import draw_masks

    return draw_masks(run, run.policies[-1], count, run.folder("figures") / "masks.html", **vars(execution))


def _compare_with_reference(run: RunFolder, policy: Policy) -> dict[str, Any]:
    """Print how many answers differ from those of the reference of the policy's guarantee, or of the run's.

    Returns what a file keeps of that: nothing if answers are compared with labels alone.
    """
    import exeunt as ex
    from exeunt.trace.cascade_trace import agreeing

    test, proof = run.recorded("test"), _of_answers(policy)
    if proof is not None and proof.measure == "agreement" and proof.reference != test.reference:
        test = agreeing(test, proof.reference)
    if not test.reference:
        return {}
    agree = ex.evaluate(policy, policy.priced(test)).accuracy
    echo(f"answering early changes {1 - (agree or 0.0):.2%} of the {test.counted} of {test.reference}")
    return {"agreement": agree, "reference": test.reference}


def _compare_with_full(run: RunFolder, policy: Policy) -> float | None:
    """Print what answering early costs in quality, and return that of the full network; None if it is not known."""
    import exeunt as ex

    test: Any = run.by_model(run.labelled_trace("test"))
    if not test.has_loss:
        return None
    name, original = "the full network", test
    if run.cascade:
        proof = _of_answers(policy)
        model = test.most_expensive if proof is None or proof.reference is None else proof.reference
        name, original = f"{model} alone", test[model]
    full = 1.0 - float(original.risk[-1])
    early = ex.evaluate(policy, policy.priced(test))
    good = f"is {full:.2%} right" if test.measure == "accuracy" else f"has {test.measure} {full:.2%}"
    echo(f"{name} {good}: {_gap(early.accuracy or 0.0, full)}")
    return full


def _promises_on(run: RunFolder, policy: Policy) -> list[str]:
    """Return a line of what the test part has of each further promise; none if there is none, or nothing tells."""
    from exeunt.rules.outcomes import Outcome
    from exeunt.rules.promises import promise_of
    from exeunt.trace.cascade_trace import agreeing

    proof = _of_answers(policy)
    if not policy.promises or proof is None:
        return []
    test: Any = run.recorded("test")
    if proof.measure != "agreement":
        test = run.by_model(run.labelled_trace("test"))
    elif proof.reference != test.reference:
        test = agreeing(test, proof.reference)
    if not test.has_loss:
        return []
    outcome = Outcome.of(policy, test, proof.reference)
    promises = map(promise_of, policy.promises)
    shares = ", ".join(
        promise.with_limit(promise.measured(outcome)).words(proof.measure, test.counted).instead
        for promise in promises
    )
    return [f"on the test part: {shares}"]


def _of_answers(policy: Policy) -> LossCertificate | EarlyCertificate | None:
    """Return the guarantee that says what answers of the policy are measured against; None if there is none."""
    from exeunt.policy import TailCertificate

    return next(
        (proof for proof in policy.tested_certificates if not isinstance(proof, TailCertificate)), None
    )


def _evaluated(run: RunFolder, policy: Policy) -> Result:
    """Return the result on the test part, compared with the run's calibration part if the policy was made from it.

    One part of the calibration inputs may have given its thresholds, and the others tested it.
    """
    import exeunt as ex

    held_out = run.replayed(policy, "calibrate")
    proof = _of_answers(policy)
    in_parts = policy.n_calibration + (0 if proof is None else proof.n_test) == held_out.n
    own = policy.calibration_cost is not None if proof is None else in_parts
    calibration = held_out if own or policy.was_calibrated_on(held_out) else None
    return ex.evaluate(policy, run.replayed(policy, "test"), calibration=calibration)


def _by_budget(policies: Sequence[Policy], results: Sequence[Result]) -> str:
    """Return a table of accuracy and mean cost on the test part, of the policy for each budget."""
    from exeunt.policy.policy_set import KEPT_WITH, kept_with

    cost = policies[0].cost
    rows = [
        [
            cost.show(policy.budget),
            f"{cost.share(policy.budget):.1%}",
            f"{result.accuracy:.2%}",
            cost.show(result.cost),
            f"{result.cost / policy.budget:.1%}",
            policy.name,
            kept_with(policy),
        ]
        for policy, result in zip(policies, results, strict=True)
    ]
    columns = ["budget", "of full", results[0].measure, "mean cost", "of budget", "policy", KEPT_WITH]
    table = text_table(columns, rows)
    warned = [result for result in results if result.warning]
    share = f"{len(warned)} of {counted(len(results), 'policy', 'policies')}"
    warning = f"WARNING, of {share}: {warned[0].warning}\n" if warned else ""
    return f"policies for several budgets, each on its own:\n{table}\n{warning}"


def _gap(accuracy: float, full: float) -> str:
    points = round(100 * full, 2) - round(100 * accuracy, 2)  # the difference of the numbers that are printed
    if abs(points) < 0.005:
        return "answering early changes nothing"
    return f"answering early {'costs' if points > 0 else 'gains'} {abs(points):.2f} points"


def _time_text(run: RunFolder) -> str:
    """Return what share of the original model's time the policy takes, or how to measure it; "" where none is spent."""
    from exeunt.timing.timing_tools import is_this_machine

    if "time" in run.kind.refuses:
        return ""
    if not (timing := run.timing):
        return (
            f"time was not measured: `exeunt bench {quote(str(run.path))}` measures it; fewer multiply-adds need not "
            "take less time"
        )
    here = (
        "this machine"
        if is_this_machine(timing["machine"])
        else f"another machine, {timing['machine'].get('node', 'unknown')}"
    )
    shares = ", ".join(f"{share} in batches of {size}" for size, share in timing["time"].items())
    return f"time on {here}: {shares}, of that of the {timing['original']} (10% to 90% of the rounds in brackets)"


def _verdict(policy: Policy, result: Result) -> str:
    """Return whether the budget was kept; if not, by how much a sample of this size usually exceeds it."""
    if policy.limit is None:
        return "no budget was asked for"
    used = result.cost / policy.budget
    if used <= 1 + 1e-9:  # a mean is rounded
        return f"within the budget: {used:.1%} of it was used"
    over = f"over the budget by {used - 1:.2%} on {counted(result.n, 'input')}"
    if policy.distribution is None:
        return over
    usual = policy.distribution.batch_quantile(0.95, result.n) / policy.budget - 1
    return f"{over}; a sample of this size stays within {max(usual, 0):.2%} over it 95 times in 100"
