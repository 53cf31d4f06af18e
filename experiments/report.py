"""From a trace to a folder of results: figures, numbers as JSON, and a page of text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from claims import all_claims
from common import kept_trace, parts_of, trained, training_facts
from replay import CERTIFIED, MARGINAL, SEQUENTIAL, Comparison, compare, compared_presets, exit_budgets

import exeunt as ex
from exeunt._files import atomic_path, write_json, write_text
from exeunt.plots import (
    accuracy_against_budget,
    cost_against_budget,
    rates_and_shares,
    risk_per_exit,
)
from exeunt.plots.style import new_figure, styled

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from exeunt.torch.training.job import TrainingJob

READING = "<!-- reading -->"
SHOWN = (SEQUENTIAL, MARGINAL, "geometric", "Gaussian, σ = 0.5", "Gaussian, σ = 2", "one common threshold")


@dataclass(frozen=True)
class Results:
    """What was found on one trace: `numbers` for the JSON, `sections` of Markdown for the page, and what both tell."""

    comparison: Comparison
    numbers: dict[str, Any]
    sections: list[str]


def evaluate_all(
    trace: ex.ExitTrace,
    folder: Path,
    *,
    shares: Mapping[str, float],
    splits: int,
    three: tuple[float, float, float],
    prefix: str = "",
) -> Results:
    """Compare the policies on a trace, draw Figures 2, 3, 4, 6 and 7, check the claims.

    `shares`: of fit, calibrate and test. `three`: budgets of the table and of Figures 4 and 6, as shares of
    the full cost. `prefix`: of the figures' file names.
    """
    found = compare(trace, exit_budgets(trace.cost), shares=shares, splits=splits)
    at_three = Budgets.of(trace, shares, three)
    drawn = found.drawn()
    save_png(accuracy_against_budget(drawn, trace).figure, folder / f"{prefix}figure2-accuracy.png")
    save_png(cost_against_budget(drawn).figure, folder / f"{prefix}figure3-spend.png")
    save_png(at_three.figure(SEQUENTIAL), folder / f"{prefix}figure4-rates-sequential.png")
    save_png(at_three.figure(MARGINAL), folder / f"{prefix}figure6-rates-marginal.png")
    save_png(risk_per_exit(trace).figure, folder / f"{prefix}figure7-risk.png")
    claims = all_claims(found)
    numbers = {
        "n": trace.n,
        "shares": dict(shares),
        "splits": splits,
        "cost": trace.cost.to_dict(),
        "accuracy_per_exit": (1 - trace.risk).tolist(),
        "claims": claims,
        "three_budgets": at_three.numbers(),
        "rows": [finite(row) for row in found.frontier.rows()],
    }
    sections = [
        "\n".join(claims_table(claims)),
        "\n".join(accuracy_table(found)),
        "\n".join(at_three.table()),
    ]
    return Results(found, numbers, sections)


@dataclass(frozen=True)
class Budgets:
    """EERO at three budgets on the split of seed 0: `made`, calibration -> (policy, its result) for each."""

    fit: ex.ExitTrace
    shares: tuple[float, ...]
    made: dict[str, list[tuple[ex.Policy, ex.Result]]]

    @classmethod
    def of(cls, trace: ex.ExitTrace, parts: Mapping[str, float], shares: tuple[float, ...]) -> Budgets:
        fit, calibrate, test = trace.split(**parts, seed=0)
        made: dict[str, list[tuple[ex.Policy, ex.Result]]] = {}
        for name in (SEQUENTIAL, MARGINAL):
            for share in shares:
                budget = share * trace.cost.full
                policy = replace(compared_presets()[name](fit, calibrate, budget=budget), name=name)
                made.setdefault(name, []).append((policy, ex.evaluate(policy, test)))
        return cls(fit, shares, made)

    def figure(self, name: str) -> Any:
        """Draw the shares planned and answered for each budget side by side, on one scale."""
        with styled():
            sheet = new_figure(4.1 * len(self.shares), 3.4, layout="constrained")
            panels = sheet.subplots(1, len(self.shares), sharey=True, squeeze=False)[0]
            for panel, (policy, result) in zip(panels, self.made[name], strict=True):
                rates_and_shares(policy, result, ax=panel).label_outer()
                panel.set_title(panel.get_title(loc="left").removeprefix(f"{name}: "), pad=22)
                if panel is not panels[0]:
                    panel.get_legend().remove()
            sheet.suptitle(f"Share of inputs planned and answered at each exit: {name}", x=0.01, ha="left")
        return sheet

    def numbers(self) -> list[dict[str, Any]]:
        return [
            {
                "calibration": name,
                "budget_share": share,
                "risk": self.fit.risk.tolist(),
                "prior": self.prior.tolist(),
                "rates": policy.rates.tolist(),
                **result.to_dict(),
            }
            for name, pairs in self.made.items()
            for share, (policy, result) in zip(self.shares, pairs, strict=True)
        ]

    @property
    def prior(self) -> np.ndarray:
        """The default prior, proportional to 1 / cost."""
        weights = 1 / self.fit.cost.cumulative
        return weights / weights.sum()

    def table(self) -> list[str]:
        """Return a table like the paper's Table 3: rate and share answered per exit, in percent."""
        sequential, marginal = self.made[SEQUENTIAL], self.made[MARGINAL]
        cost = self.fit.cost
        budgets = [
            name for share in self.shares for name in (f"budget {share:.0%}: rate", "sequential", "marginal")
        ]
        lines = heading(("exit", "cost", "risk", "prior", *budgets))
        for exit_ in range(cost.n_exits):
            cells = [
                f"{100 * policy.rates[exit_]:.1f} | {100 * result.shares[exit_]:.1f} | {100 * other.shares[exit_]:.1f}"
                for (policy, result), (_, other) in zip(sequential, marginal, strict=True)
            ]
            lines.append(
                f"| {exit_} | {cost.cumulative[exit_] / cost.full:.3f} | {self.fit.risk[exit_]:.3f} | "
                f"{self.prior[exit_]:.3f} | {' | '.join(cells)} |"
            )
        ends = [
            f" | {a.accuracy:.4f} @ {a.cost / cost.full:.3f} | {b.accuracy:.4f} @ {b.cost / cost.full:.3f}"
            for (_, a), (_, b) in zip(sequential, marginal, strict=True)
        ]
        lines.append(f"| accuracy @ spent | | | |{' |'.join(ends)} |")
        return lines


def heading(columns: Sequence[str]) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [f"| {' | '.join(columns)} |", "| --- |" + " --- |" * (len(columns) - 1)]


def claims_table(claims: list[dict[str, Any]]) -> list[str]:
    return [
        *heading(("claim", "answer", "numbers")),
        *(f"| {claim['claim']} | {claim['answer']} | {claim['why']} |" for claim in claims),
    ]


def accuracy_table(found: Comparison) -> list[str]:
    """Return accuracy @ share spent for a spread of budgets, mean over the splits."""
    table = found.frontier
    rows = {(row["policy"], row["budget"]): row for row in table.rows()}
    wanted = np.unique(np.linspace(0, len(table.budgets) - 1, 9).round().astype(int))
    names = [*SHOWN, CERTIFIED, "oracle"]
    lines = heading(("budget", *names))
    for q in wanted:
        budget = float(table.budgets[q])
        cells = [cell(rows[name, budget]) for name in names]
        lines.append(f"| {budget / table.cost.full:.3f} | {' | '.join(cells)} |")
    return lines


def cell(row: dict[str, Any]) -> str:
    if row["policy"] == "oracle":
        return f"{row['accuracy']:.4f}"
    if not np.isfinite(row["accuracy"]):
        return "cannot be guaranteed"
    return f"{row['accuracy']:.4f} @ {row['mean_cost_share']:.3f}"


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with None for what is not a number: JSON has no word for it."""
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}


def save_png(figure: Any, path: Path, *, dpi: int = 110) -> None:
    """Write a figure as a PNG small enough for a repository."""
    with atomic_path(path) as temporary, styled():
        figure.savefig(temporary, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.1)


def write_page(folder: Path, text: str, numbers: dict[str, Any]) -> None:
    """Write README.md and results.json."""
    write_text_over_reading(folder / "README.md", text)
    write_json(folder / "results.json", numbers)


def report_run(
    given: Namespace,
    job: TrainingJob,
    *,
    trace: str,
    three: tuple[float, float, float],
    page: Callable[[ex.ExitTrace, dict[str, Any], list[str], int], str],
) -> None:
    """Train a run, or open it, and write the page that `page` makes of trace, facts, sections and splits.

    `trace`: name of the file that keeps what the run recorded.
    """
    given.out.mkdir(parents=True, exist_ok=True)
    run = trained(job, given.run)
    kept = kept_trace(run, given.out.parent / "traces" / f"{trace}.parquet")
    results = evaluate_all(kept, given.out, three=three, shares=parts_of(run), splits=given.splits)
    facts = training_facts(run)
    text = page(kept, facts, results.sections, given.splits)
    write_page(given.out, text, {"training": facts, **results.numbers})
    print((given.out / "README.md").read_text(encoding="utf-8"))


def write_text_over_reading(page: Path, text: str) -> None:
    """Write a page. What people wrote under its marker is theirs: it stays when the numbers are made anew."""
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    reading = old[old.index(READING) :] if READING in old else READING + "\n"
    write_text(page, text.rstrip() + "\n\n" + reading)


def sections_of_cifar(
    trace: ex.ExitTrace, facts: dict[str, Any], sections: list[str], splits: int, *, name: str
) -> str:
    """Return what the pages of networks trained on CIFAR have in common."""
    parts, accuracy = facts["parts"], 1 - trace.risk
    held_out = parts["fit"] + parts["calibrate"]
    return f"""All numbers below come from {trace.n:,} inputs that were not trained on: {held_out:,} of the
training file and {parts["test"]:,} test images, less repeated ones ([trace](../traces/{name}.parquet)).
They are drawn again into {parts["fit"]} to fit, {parts["calibrate"]} to calibrate and the rest to test, in {splits}
splits. Exits count from 0.

Accuracy of each exit alone: {", ".join(f"{value:.4f}" for value in accuracy)}.

## The paper's claims

A difference counts as better or worse if its 95 % interval over inputs excludes zero. At equal spend, the other rule is
a random mixture of its two nearest points.

{sections[0]}

## Accuracy @ share of the full cost spent

Mean over the splits.

![Figure 2: accuracy against budget](figure2-accuracy.png)

![Figure 3: spend against budget](figure3-spend.png)

![Figure 7: risk per exit](figure7-risk.png)

{sections[1]}

## Rates and shares in percent, one split

Risk on the fit part.

![Figure 4: rates and shares with sequential calibration](figure4-rates-sequential.png)

![Figure 6: rates and shares with the paper's calibration](figure6-rates-marginal.png)

{sections[2]}"""
