"""`exeunt evaluate RUN`: accuracy and mean cost on the test part, share of each exit, figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exeunt._text import counted, echo, text_table
from exeunt.cli.options import RunPath, option, with_groups

if TYPE_CHECKING:
    from exeunt.evaluation import Result
    from exeunt.policy import Policy
    from exeunt.run.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class _Options:
    figures: bool = option("Draw figures into RUN/figures.", default=True)
    splits: int = option(
        "Random splits that figures with several policies average over.", default=10, min=1, max=10_000
    )


@with_groups
def evaluate(path: RunPath, options: _Options) -> None:
    """Replay the policy on the test part: accuracy, mean cost against the budget, share of each exit, figures."""
    import exeunt as ex
    from exeunt._files import write_json
    from exeunt.run.file_digests import EVALUATION
    from exeunt.run.folder import RunFolder

    run = RunFolder.open(path)
    if run.has_policy_set:
        echo(f"policies for several budgets, each on its own:\n{_budgets_table(run)}\n")
        if not run.has_policy:
            return
    policy = run.policy
    test = run.replayed(policy, "test")
    result = ex.evaluate(policy, test)
    original: Any = run.recorded("test")
    name = "the full network"
    if run.cascade:
        name, original = f"{original.most_expensive} alone", original[original.most_expensive]
    full = 1.0 - float(original.risk[-1])
    echo(result)
    echo(f"{name} is {full:.2%} right: {_gap(result.accuracy or 0.0, full)}")
    echo(_verdict(policy, result))
    echo(policy.guarantee)
    if policy.loss_certificate is not None:
        echo(policy.loss_certificate)
    guaranteed = None if policy.certificate is None else policy.certificate.to_dict()
    write_json(
        run.path / EVALUATION, result.to_dict() | {"full_network_accuracy": full, "certificate": guaranteed}
    )
    if options.figures:
        from exeunt.plots import draw_evaluation

        fit, calibrate = (run.replayed(policy, part) for part in ("fit", "calibrate"))
        figures = draw_evaluation(
            policy, fit, calibrate, test, run.folder("figures"), splits=options.splits,
            progress=lambda name: echo(f"drawing {name}", err=True),
        )  # fmt: skip
        for figure in figures:
            echo(f"written to {figure}")


def _budgets_table(run: RunFolder) -> str:
    """Return a table of accuracy and mean cost on the test part, of the policy for each budget."""
    import exeunt as ex
    from exeunt.policy.policy_set import KEPT_WITH, kept_with

    policies = run.policy_set
    cost = policies.policies[0].cost
    rows = []
    for policy in policies:
        found = ex.evaluate(policy, run.replayed(policy, "test"))
        rows.append(
            [cost.show(policy.budget), f"{cost.share(policy.budget):.1%}", f"{found.accuracy:.2%}",
             cost.show(found.cost), f"{found.cost / policy.budget:.1%}", policy.name, kept_with(policy)]
        )  # fmt: skip
    return text_table(["budget", "of full", "accuracy", "mean cost", "of budget", "policy", KEPT_WITH], rows)


def _gap(accuracy: float, full: float) -> str:
    points = 100 * (full - accuracy)
    if abs(points) < 0.005:
        return "answering early changes nothing"
    return f"answering early {'costs' if points > 0 else 'gains'} {abs(points):.2f} points"


def _verdict(policy: Policy, result: Result) -> str:
    """Return whether the budget was kept; if not, by how much a sample of this size usually exceeds it."""
    used = result.cost / policy.budget
    if used <= 1 + 1e-9:  # a mean is rounded
        return f"within the budget: {used:.1%} of it was used"
    over = f"over the budget by {used - 1:.2%} on {counted(result.n, 'input')}"
    if policy.distribution is None:
        return over
    usual = policy.distribution.batch_quantile(0.95, result.n) / policy.budget - 1
    return f"{over}; a sample of this size stays within {max(usual, 0):.2%} over it 95 times in 100"
