"""`exeunt evaluate RUN`: accuracy on the test part, spend against budget, shares per exit, figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from exeunt.cli.arguments import Run
from exeunt.errors import ExeuntError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exeunt.evaluate import Result
    from exeunt.policy import Policy
    from exeunt.run.folder import Bundle


def draw(bundle: Bundle, *, splits: int) -> list[Path]:
    """Draw a bundle's figures into its folder `figures` and return their paths."""
    from exeunt.plots import evaluate_figures
    from exeunt.run.folder import TRACED

    policy = bundle.policy
    fit, calibrate, test = (bundle.trace(part).with_cost(policy.cost) for part in TRACED)
    return evaluate_figures(
        policy,
        fit,
        calibrate,
        test,
        bundle.folder("figures"),
        image=_test_image(bundle),
        class_names=bundle.manifest["class_names"] or None,
        splits=splits,
        progress=lambda name: typer.echo(f"drawing {name}", err=True),
    )


def _test_image(bundle: Bundle) -> Callable[[int], Any] | None:
    """Return what reads the image of a row of the test trace, or None where there is none to be had."""
    from exeunt.data import SplitPlan, open_source

    if bundle.manifest["inputs"]["kind"] != "image":
        return None
    try:
        source = open_source(bundle.manifest["data"]["name"], label=bundle.manifest["data"]["label"])
        data = SplitPlan.from_dict(bundle.manifest["split"]).select(source, "test")
    except ExeuntError as error:  # the data moved, changed or damaged, or its library missing: draw the rest
        typer.echo(f"no sheet of images: {error}", err=True)
        return None
    return lambda row: data.content(row)


def evaluate(
    run: Run,
    figures: Annotated[bool, typer.Option(help="Draw the figures into RUN/figures.")] = True,
    splits: Annotated[int, typer.Option(help="Splits behind the frontier figures.", min=1)] = 10,
) -> None:
    """Replay the policy on the test part: accuracy, spend against budget, shares per exit, figures."""
    import exeunt as ex
    from exeunt._files import write_json
    from exeunt.policies.loss_certificate import LossCertificate
    from exeunt.run.folder import Bundle

    bundle = Bundle.open(run)
    if bundle.has_policy_set:
        typer.echo(_for_each_budget(bundle) + "\n")
        if not bundle.has_policy:
            return
    policy = bundle.policy
    test = bundle.trace("test").with_cost(policy.cost)
    result = ex.evaluate(policy, test)
    full = 1.0 - float(test.risk[-1])
    typer.echo(result)
    typer.echo(f"the full network is {full:.2%} right: {_gap(result.accuracy or 0.0, full)}")
    typer.echo(_verdict(policy, result))
    if (promise := LossCertificate.of(policy)) is not None:
        typer.echo(f"promised: {promise}")
    write_json(bundle.path / "evaluation.json", result.to_dict() | {"full_network_accuracy": full})
    if figures:
        from exeunt.cli.evaluate import draw

        for path in draw(bundle, splits=splits):
            typer.echo(f"drew {path}")


def _for_each_budget(bundle: Bundle) -> str:
    """Return how each policy of the bundle's set does on the test part, as a table."""
    import exeunt as ex
    from exeunt.display import text_table

    policies = bundle.policy_set
    cost = policies.policies[0].cost
    test = bundle.trace("test").with_cost(cost)
    rows = []
    for policy in policies:
        found = ex.evaluate(policy, test)
        rows.append(
            [cost.show(policy.budget), f"{policy.budget / cost.full:.1%}", f"{found.accuracy:.2%}",
             cost.show(found.cost), f"{found.cost / policy.budget:.1%}"]
        )  # fmt: skip
    return text_table(["budget", "of full", "accuracy", "spent", "of budget"], rows)


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
