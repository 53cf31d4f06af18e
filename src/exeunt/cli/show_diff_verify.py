"""What runs hold: `exeunt show RUN`, `exeunt diff RUN RUN`, and `exeunt verify RUN`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exeunt._support.text import echo, text_table
from exeunt.cli.options import RunPath, option, with_groups

if TYPE_CHECKING:
    from exeunt.jobs.difference import Side
    from exeunt.runs.folder import RunFolder

_SIDE = "A run, RUN@BUDGET for one of its policies for several budgets, or the file of a policy."


@dataclass(frozen=True, kw_only=True)
class _Options:
    json: bool = option("Print the whole manifest as JSON instead.", default=False)


@with_groups
def show(path: RunPath, options: _Options) -> None:
    """Show the exits, costs, error rates, policy, guarantee and provenance of a run."""
    from exeunt.runs.folder import RunFolder

    run = RunFolder.open(path)
    if options.json:
        typer.echo(json.dumps(dict(run.manifest), indent=1))
        return
    for title, text in _sections(run):
        typer.echo(typer.style(title, bold=True))
        echo(text + "\n")


def _sections(run: RunFolder) -> list[tuple[str, str]]:
    from exeunt.policy import PolicySet

    about = run.manifest
    policies = run.policies if run.has_policy else ()
    several = len(policies) > 1
    return [
        ("network", _lines(about["model"]) + "\n" + _exits(run)),
        ("data", _data(run)),
        ("training", _lines(about["training"])),
        *([("policies for several budgets", f"{PolicySet(policies)}\n{run.active_text}")] if several else []),
        ("active policy", str(policies[-1]) if policies else "none yet: run `exeunt calibrate`"),
        ("provenance", _lines(about["provenance"])),
    ]


def _exits(run: RunFolder) -> str:
    from exeunt.runs.file_digests import COSTS

    cost, trace = run.cost, run.trace("fit")
    run.check_exits(COSTS, cost.n_exits)
    size, unit = cost.scale
    rows = [
        [str(exit_), name, f"{up_to / size:.4g}", f"{up_to / cost.full:.1%}", f"{risk:.4f}"]
        for exit_, (name, up_to, risk) in enumerate(
            zip(run.exit_names, cost.cumulative, trace.risk, strict=True)
        )
    ]
    risk = "disagreement" if trace.reference else "risk"
    return text_table(["exit", "after", f"cost ({unit})", "of full", risk], rows)


def _data(run: RunFolder) -> str:
    from exeunt.runs.run_inputs import split_of

    source, inputs = run.manifest["data"], run.manifest["inputs"]
    lines = [
        f"{source['name']}, fingerprint {source.get('fingerprint', 'unknown')}",
        split_of(run).describe(),
    ]
    if "most_tokens" in inputs:
        chat = "in" if inputs["chat"] else "without"
        lines.append(
            f"costs are those of a token, in texts of {inputs['length']} tokens; answers have at most "
            f"{inputs['most_tokens']} tokens; prompts are put to the decoder {chat} the tokeniser's chat template"
        )
    elif "length" in inputs:
        longest = f"; texts of more than {inputs['longest']} tokens are cut" if inputs.get("longest") else ""
        lines.append(f"costs are those of texts of {inputs['length']} tokens{longest}")
    return "\n".join(lines)


def _lines(values: Any) -> str:
    width = max((len(name) for name in values), default=0)
    return "\n".join(f"{name:<{width}}  {_plain(fact)}" for name, fact in values.items())


def _plain(fact: Any) -> str:
    if isinstance(fact, dict):
        return ", ".join(f"{name} {part}" for name, part in fact.items())
    return "-" if fact is None else str(fact)


def diff(
    first: Annotated[str, typer.Argument(metavar="RUN", help=_SIDE)],
    second: Annotated[str, typer.Argument(metavar="OTHER", help=_SIDE)],
) -> None:
    """Show what differs between two runs, or two policies of a run, and between their answers.

    The answers are those to the test inputs that both have recorded.
    """
    from exeunt.jobs.difference import differences, open_sides

    a, b = open_sides(first, second)
    subjects = differences(a, b)
    rows = [
        [f"{subject}: {difference.what}", difference.first, difference.second]
        for subject, all_ in subjects.items()
        for difference in all_
    ]
    if rows:
        echo(text_table(["", a.name, b.name], rows) + "\n")
    if same := [subject for subject, all_ in subjects.items() if not all_]:
        echo(f"the same: {', '.join(same)}\n")
    echo(_answers(a, b))


def _answers(a: Side, b: Side) -> str:
    from exeunt.jobs.difference import compare_answers

    comparison = compare_answers(a, b)
    if comparison.results is None:
        return "no test input is recorded in both, so there are no answers to compare"
    rows = []
    for side, result in zip((a, b), comparison.results, strict=True):
        accuracy = "-" if result.accuracy is None else f"{result.accuracy:.2%}"
        name = side.name if side.policy is not None else f"{side.name} (full network: no policy)"
        model = result.cost_model
        rows.append([name, accuracy, model.show(result.cost), f"{result.cost / model.full:.1%}"])
    measures = "/".join(dict.fromkeys(result.measure for result in comparison.results))
    return (
        f"{comparison.answered_differently:.2%} of {comparison.n} common test inputs are answered differently, "
        f"{comparison.left_elsewhere:.2%} at another exit\n"
        + text_table(["", measures, "mean cost", "of full"], rows)
    )


def verify(path: RunPath) -> None:
    """Check every part of a run that can change an answer: digests, formats, costs, and policies.

    Prints a line for each part. A damaged part's line says how to mend it, and the exit status is then 1.
    The other commands check only the files that they read.
    """
    from exeunt.runs.verification import verify

    parts = verify(path)
    width = max(len(part.part) for part in parts)
    for part in parts:
        echo(f"{part.part:<{width}}  {part.state:<7}  {part.text}")
    sound, failed = (sum(part.state == state for part in parts) for state in ("ok", "FAILED"))
    echo(f"{sound} of {len(parts)} parts are as they were written")
    if failed:
        raise typer.Exit(1)
