"""`exeunt evaluate RUN`: accuracy on the test part, spend against budget, shares per exit, figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exeunt.cli.arguments import Run

if TYPE_CHECKING:
    from exeunt.evaluate import Result
    from exeunt.policy import Policy


def evaluate(
    run: Run,
    figures: Annotated[bool, typer.Option(help="Draw the figures into RUN/figures.")] = True,
    splits: Annotated[int, typer.Option(help="Splits behind the frontier figures.", min=1)] = 10,
) -> None:
    """Replay the policy on the test part: accuracy, spend against budget, shares per exit, figures."""
    import exeunt as ex
    from exeunt._files import write_json
    from exeunt.bundle import Bundle

    bundle = Bundle.open(run)
    policy = bundle.policy
    test = bundle.trace("test").with_cost(policy.cost)
    result = ex.evaluate(policy, test)
    full = 1.0 - float(test.risk[-1])
    typer.echo(result)
    typer.echo(f"the full network is {full:.2%} right: {_gap(result.accuracy or 0.0, full)}")
    typer.echo(_verdict(policy, result))
    write_json(bundle.path / "evaluation.json", result.to_dict() | {"full_network_accuracy": full})
    if figures:
        from exeunt.cli.figures import draw

        for path in draw(bundle, splits=splits):
            typer.echo(f"drew {path}")


def _gap(accuracy: float, full: float) -> str:
    points = 100 * (full - accuracy)
    return f"answering early {'costs' if points > 0 else 'gains'} {abs(points):.2f} points"


def _verdict(policy: Policy, result: Result) -> str:
    """Say whether these inputs kept the budget, and what a sample of this size may be off by."""
    used = result.cost / policy.budget
    if used <= 1:
        return f"within the budget: {used:.1%} of it was spent"
    over = f"over the budget by {used - 1:.2%} on these {result.n} inputs"
    if policy.law is None:
        return over
    usual = policy.law.batch_quantile(0.95, result.n) / policy.budget - 1
    return f"{over}; a sample of this size stays within {max(usual, 0):.2%} over it 95 times in 100"
