"""`exeunt diff RUN RUN`: differences between two runs or two policies, and between their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from exeunt.cli.terminal import echo

if TYPE_CHECKING:
    from exeunt.run.difference import Side

_SIDE = "A run, RUN@BUDGET for one of its policies for several budgets, or the file of a policy."


def diff(
    first: Annotated[str, typer.Argument(metavar="RUN", help=_SIDE)],
    second: Annotated[str, typer.Argument(metavar="OTHER", help=_SIDE)],
) -> None:
    """Show what differs between two runs, or two policies of a run, and between their answers.

    The answers are those to the test inputs that both have recorded.
    """
    from exeunt._text import text_table
    from exeunt.run.difference import differences, open_sides

    a, b = open_sides(first, second)
    found = differences(a, b)
    rows = [
        [f"{subject}: {one.what}", one.first, one.second] for subject, all_ in found.items() for one in all_
    ]
    if rows:
        echo(text_table(["", a.name, b.name], rows) + "\n")
    if same := [subject for subject, all_ in found.items() if not all_]:
        echo(f"the same: {', '.join(same)}\n")
    echo(_answers(a, b))


def _answers(a: Side, b: Side) -> str:
    from exeunt._text import text_table
    from exeunt.run.difference import compare_answers

    found = compare_answers(a, b)
    if found.results is None:
        return "no test input is recorded in both, so there are no answers to compare"
    rows = []
    for side, result in zip((a, b), found.results, strict=True):
        accuracy = "-" if result.accuracy is None else f"{result.accuracy:.2%}"
        name = side.name if side.policy is not None else f"{side.name} (full network: no policy)"
        model = result.cost_model
        rows.append([name, accuracy, model.show(result.cost), f"{result.cost / model.full:.1%}"])
    return (
        f"{found.answered_differently:.2%} of {found.n} common test inputs are answered differently, "
        f"{found.left_elsewhere:.2%} at another exit\n"
        + text_table(["", "accuracy", "mean cost", "of full"], rows)
    )
