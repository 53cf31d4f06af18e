"""How policies, results and frontiers read in a terminal and in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exeunt.evaluate import Result
    from exeunt.frontier import Frontier
    from exeunt.policy import Policy

_BAR = 24


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of text in columns: the first flush left, the others flush right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def lay(line: list[str]) -> str:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([lay(lines[0]), lay(["-" * w for w in widths]), *map(lay, lines[1:])])


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out the same rows as an HTML table under a title."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f"<div><p>{escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def policy_text(policy: Policy) -> str:
    """Return a policy as a title, a table of exits, and its certificate."""
    return "\n".join([_policy_title(policy), text_table(*_policy_table(policy)), *_policy_remarks(policy)])


def policy_html(policy: Policy) -> str:
    """Return a policy as HTML."""
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in _policy_remarks(policy))
    return html_table(_policy_title(policy), *_policy_table(policy)) + remarks


def result_text(result: Result) -> str:
    """Return a result as a few lines and a bar per exit."""
    return "\n".join([*_result_lines(result), text_table(*_result_table(result))])


def result_html(result: Result) -> str:
    """Return a result as HTML."""
    return html_table("; ".join(_result_lines(result)), *_result_table(result))


def frontier_text(frontier: Frontier) -> str:
    """Return a frontier as a table: a line per budget, accuracy @ share of the cost spent per policy."""
    return text_table(*_frontier_table(frontier))


def frontier_html(frontier: Frontier) -> str:
    """Return a frontier as HTML."""
    return html_table(_frontier_title(frontier), *_frontier_table(frontier))


def _policy_title(policy: Policy) -> str:
    cost = policy.cost
    return (
        f"{policy.name}: {policy.n_exits} exits, budget {cost.show(policy.budget)} "
        f"({policy.budget / cost.full:.1%} of the full cost), score {policy.score.name}, "
        f"{policy.calibration} calibration on {policy.n_calibration} inputs"
    )


def _policy_table(policy: Policy) -> tuple[list[str], list[list[str]]]:
    header = ["exit", f"cost ({policy.cost.unit})", "rate", "answers if score >="]
    rows = [
        [str(exit_), f"{cost:.4g}", f"{rate:.4f}", _threshold(threshold)]
        for exit_, (cost, rate, threshold) in enumerate(
            zip(policy.cost.cumulative, policy.rates, policy.thresholds, strict=True)
        )
    ]
    return header, rows


def _policy_remarks(policy: Policy) -> list[str]:
    """Return what the policy tells of how it was made, and its certificate."""
    told = [note["told"] for note in policy.notes.values() if "told" in note]
    return told if policy.certificate is None else [*told, f"certified: {policy.certificate}"]


def _threshold(value: float) -> str:
    if np.isinf(value):
        return "never" if value > 0 else "always"
    return f"{value:.6g}"


def _result_lines(result: Result) -> list[str]:
    model = result.cost_model
    low, high = result.cost_interval
    accuracy = f"{result.name} on {result.n} inputs: unlabelled"
    if result.accuracy is not None and result.accuracy_interval is not None:
        a, b = result.accuracy_interval
        accuracy = f"{result.name} on {result.n} inputs: accuracy {result.accuracy:.2%} [{a:.2%}, {b:.2%}]"
    allowed = "" if result.budget is None else f" of {model.show(result.budget)} allowed"
    spend = (
        f"mean cost {model.show(result.cost)} [{low:.4g}, {high:.4g}]{allowed}, "
        f"{result.saved:.1%} of the full network saved"
    )
    return [accuracy, spend]


def _result_table(result: Result) -> tuple[list[str], list[list[str]]]:
    header = ["exit", f"cost ({result.cost_model.unit})", "share", " " * _BAR]
    rows = [
        [str(exit_), f"{cost:.4g}", f"{share:.2%}", ("█" * round(share * _BAR)).ljust(_BAR)]
        for exit_, (cost, share) in enumerate(zip(result.cost_model.cumulative, result.shares, strict=True))
    ]
    return header, rows


def _frontier_title(frontier: Frontier) -> str:
    return f"accuracy @ spend (share of the full cost), mean of {frontier.accuracy.shape[2]} splits"


def _frontier_table(frontier: Frontier) -> tuple[list[str], list[list[str]]]:
    header = ["budget", *frontier.names, "oracle"]
    rows = []
    for q, budget in enumerate(frontier.budgets):
        cells = [_frontier_cell(frontier, p, q) for p in range(len(frontier.names))]
        rows.append([f"{budget / frontier.cost.full:.0%}", *cells, f"{frontier.oracle[q].mean():.4f}"])
    return header, rows


def _frontier_cell(frontier: Frontier, p: int, q: int) -> str:
    accuracy, spend = frontier.accuracy[p, q].mean(), frontier.spend[p, q].mean()
    return "infeasible" if np.isnan(accuracy) else f"{accuracy:.4f} @ {spend / frontier.cost.full:.3f}"
