"""`exeunt show RUN`: exits, costs, error rates, policy, guarantee and provenance of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from exeunt.cli.options import RunPath, option, with_groups
from exeunt.cli.terminal import echo

if TYPE_CHECKING:
    from exeunt.run.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class _Options:
    json: bool = option("Print the whole manifest as JSON instead.", default=False)


@with_groups
def show(path: RunPath, options: _Options) -> None:
    """Show the exits, costs, error rates, policy, guarantee and provenance of a run."""
    from exeunt.run.folder import RunFolder

    run = RunFolder.open(path)
    if options.json:
        typer.echo(json.dumps(dict(run.manifest), indent=1))
        return
    for title, text in _sections(run):
        typer.echo(typer.style(title, bold=True))
        echo(text + "\n")


def _sections(run: RunFolder) -> list[tuple[str, str]]:
    about = run.manifest
    return [
        ("network", _lines(about["model"]) + "\n" + _exits(run)),
        ("data", _data(about)),
        ("training", _lines(about["training"])),
        ("policy", str(run.policy) if run.has_policy else "none yet: run `exeunt calibrate`"),
        *([("policies for several budgets", str(run.policy_set))] if run.has_policy_set else []),
        ("provenance", _lines(about["provenance"])),
    ]


def _exits(run: RunFolder) -> str:
    from exeunt._text import text_table

    cost, trace = run.cost, run.trace("fit")
    network = run.manifest["network"]
    new = network.get("new_classifier")
    names = [*network["exits"], f"(new classifier: {new})" if new else "(own classifier)"]
    size, unit = cost.scale
    rows = [
        [str(exit_), name, f"{up_to / size:.4g}", f"{up_to / cost.full:.1%}", f"{risk:.4f}"]
        for exit_, (name, up_to, risk) in enumerate(zip(names, cost.cumulative, trace.risk, strict=True))
    ]
    return text_table(["exit", "after", f"cost ({unit})", "of full", "risk"], rows)


def _data(about: Any) -> str:
    from exeunt.data import SplitPlan

    source = about["data"]
    plan = SplitPlan.from_dict(about["split"])
    lines = [f"{source['name']}, fingerprint {source['fingerprint']}", plan.describe()]
    inputs = about["inputs"]
    if "length" in inputs:
        longest = f"; texts of more than {inputs['longest']} tokens are cut" if inputs.get("longest") else ""
        lines.append(f"costs are those of texts of {inputs['length']} tokens{longest}")
    return "\n".join(lines)


def _lines(values: Any) -> str:
    width = max((len(name) for name in values), default=0)
    return "\n".join(f"{name:<{width}}  {_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return "-" if value is None else str(value)
