"""A sentence encoder with exits on BANKING77: frozen, and fine-tuned with its exits, both by the defaults.

    python experiments/banking77.py --model hf:FOLDER

An exit after the embeddings and after every layer. Finished runs are opened, not trained again.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from common import RESULTS, arguments, kept_trace, trained, training_facts
from ingredients_report import PARTS, measure, points
from replay import compare
from report import heading, write_text_over_reading

import exeunt as ex
from exeunt import baselines
from exeunt._files import read_json, write_json
from exeunt.run.folder import RunFolder
from exeunt.score.confidence import entropy
from exeunt.torch.training.job import TrainingJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingredients_report import Measured

EXITS = ("bert.embeddings", *(f"bert.encoder.layer.{i}" for i in range(5)))
RECIPES: dict[str, dict[str, Any]] = {"frozen": {}, "tuned": {"mode": "joint"}}
BUDGETS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
RULES: dict[str, Callable[..., ex.Policy]] = {
    "EERO as in the paper, own answers": partial(ex.eero, answer="own"),
    "PABEE: exits in a row agree (`patience`)": baselines.patience,
    "PCEE: exits in a row are confident (`confident_patience`)": baselines.confident_patience,
    'DeeBERT: one entropy for all exits (`common_threshold`, `score="entropy"`)': partial(
        ex.common_threshold, score="entropy", answer="own"
    ),
    "MSDNet's rates (`msdnet`)": partial(baselines.msdnet, answer="own"),
    "learned probability of being right (`learned_correctness`)": ex.learned_correctness,
    "learned gain against cost (`stopping`)": ex.stopping,
    "thresholds searched (`optimised`)": ex.optimised,
    "`auto`, own answers": partial(ex.auto, answer="own"),
    "`auto`": ex.auto,
}


def job(name: str, model: str, data: str) -> TrainingJob:
    return TrainingJob(model=model, data=data, exits=EXITS, recipe=RECIPES[name])


def from_command_to_policy(given: TrainingJob, out: Path) -> RunFolder:
    """Train a run and fit a policy for half of the cost; an unbroken one leaves its times in seconds.json."""
    if RunFolder.exists(out):
        return RunFolder.open(out)
    unbroken = not (out / "training").is_dir()
    began, used = time.monotonic(), _processor_s()
    run = trained(given, out)
    policy = ex.auto(run.trace("fit"), run.trace("calibrate"), budget="50%", delta=0.05)
    run.save_policy(policy)
    seconds = {
        "wall_s": time.monotonic() - began,
        "processor_s": _processor_s() - used,
        "load_average": os.getloadavg()[1],
        "cores": os.cpu_count(),
    }
    if unbroken:
        write_json(out / "seconds.json", seconds)
    return run


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def seconds_of(run: RunFolder) -> dict[str, float] | None:
    file = run.path / "seconds.json"
    return read_json(file) if file.is_file() else None


def budget_table(runs: dict[str, Measured]) -> list[str]:
    """Return accuracies of both networks at all budgets, and what is lost against the last exit."""
    lines = heading(
        ("budget", *(f"{name}, {kind}" for name in runs for kind in ("auto", "minus its last exit", "EERO")))
    )
    for budget in BUDGETS:
        cells = []
        for run in runs.values():
            last = run.correct[:, -1].astype(float)
            cells += [
                f"{run.accuracy(budget, 'auto'):.4f}",
                points(run.minus_network(last, budget, "auto")),
                f"{run.accuracy(budget, 'eero'):.4f}",
            ]
        lines.append(f"| {budget:.0%} | {' | '.join(cells)} |")
    return lines


def rules_measured(trace: ex.ExitTrace, splits: int) -> dict[str, list[float]]:
    """Return the accuracy of each rule within each budget, a share of the cost of the last exit."""
    amounts = [share * trace.cost.full for share in BUDGETS]
    said = np.exp(np.asarray(trace.log_probability, dtype=np.float64))
    sure = np.stack([entropy(said[:, exit_]) for exit_ in range(trace.n_exits)], axis=1)
    trace = replace(trace, scores={**trace.scores, "entropy": sure})
    found = compare(trace, amounts, shares=PARTS, splits=splits, policies=RULES)
    right = found.right[:, :, found.rows].mean(axis=2)
    return dict(zip(RULES, right.tolist(), strict=True))


def rules_table(rules: dict[str, list[float]]) -> list[str]:
    lines = heading(("rule", *(f"{budget:.0%}" for budget in BUDGETS)))
    return lines + [
        f"| {name} | {' | '.join(f'{value:.4f}' for value in row)} |" for name, row in rules.items()
    ]


def exits_table(found: dict[str, Any]) -> list[str]:
    """Return the accuracy of each exit on all test texts, one row per network."""
    lines = heading(("run", "embeddings", *(f"layer {i}" for i in range(1, 6)), "last"))
    for name, numbers in found.items():
        lines.append(f"| `{name}` | {' | '.join(f'{value:.4f}' for value in numbers['accuracy_per_exit'])} |")
    return lines


def page(
    runs: dict[str, Measured],
    found: dict[str, Any],
    facts: dict[str, Any],
    rules: dict[str, list[float]],
    splits: int,
) -> str:
    exits = "\n".join(exits_table(found))
    told = []
    for name, fact in facts.items():
        recipe = ", ".join(f"{key} {value}" for key, value in fact["recipe"].items())
        took = fact["seconds"]
        spent = (
            "its time was not taken"
            if took is None
            else f"from the command to a policy {took['processor_s']:.0f} seconds of processor time, "
            f"{took['wall_s']:.0f} seconds on {took['cores']} cores with a load of {took['load_average']:.1f}"
        )
        told.append(f"- `{name}`: {recipe}; {spent}.")
    n = next(iter(found.values()))["n"]
    return f"""# A sentence encoder on BANKING77

Made by `python experiments/banking77.py`; numbers in [banking77.json](banking77.json).

MiniLM with 6 layers (all-MiniLM-L6-v2), which has no classifier, on BANKING77: 10,003 training texts, 77 classes. An
exit after the embeddings and after every layer, all options by default. `frozen` leaves the encoder as it is, `tuned`
learns everything. The {n:,} test texts were never learned from. Policies are fitted, calibrated and tested
on them alone, 30, 20 and 50 % of them, drawn again in {splits} splits. Budgets are in expectation and in shares of the
cost of the last exit.

{chr(10).join(told)}

## Accuracy of each exit alone

{exits}

## Accuracy within a budget

{chr(10).join(budget_table(runs))}

## Other rules on `tuned`, at the same budgets

{chr(10).join(rules_table(rules))}
"""


def main() -> None:
    parser = arguments(__doc__, data="text/banking77", run="banking77", out="banking77.md", splits=3)
    parser.add_argument("--model", required=True, help="hf:FOLDER of a text encoder")
    given = parser.parse_args()
    runs, facts, found = {}, {}, {}
    for name in RECIPES:
        run = from_command_to_policy(job(name, given.model, given.data), given.run / name)
        trace = kept_trace(run, RESULTS / "traces" / f"banking77-{name}.parquet")
        own = run.trace("test").cost.full
        runs[name] = measure(trace, given.run / name / "replayed", BUDGETS, own_cost=own, splits=given.splits)
        facts[name] = {**training_facts(run), "seconds": seconds_of(run)}
        del facts[name]["model"], facts[name]["provenance"]["command"]  # where the folder was
        found[name] = {
            "n": trace.n,
            "accuracy_per_exit": trace.correct.mean(axis=0).tolist(),
            "budgets": {
                str(budget): {kind: runs[name].accuracy(budget, kind) for kind in ("auto", "eero")}
                for budget in BUDGETS
            },
        }
    rules = rules_measured(trace, given.splits)
    write_json(given.out.with_suffix(".json"), {"training": facts, "runs": found, "rules": rules})
    write_text_over_reading(given.out, page(runs, found, facts, rules, given.splits))
    print(given.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
