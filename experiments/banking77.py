"""A sentence encoder with exits on BANKING77: frozen, and fine-tuned with its exits, both by the defaults.

    python -m experiments.banking77
    python -m experiments.banking77 --train hf:FOLDER [--data ../shared/data/text/banking77]

Replays the recorded traces and writes the page. With --train it first trains and records the encoder in FOLDER, with an
exit after the embeddings and after every layer. Finished runs are opened.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from experiments.ingredients import PARTS
from experiments.pages import RESULTS, TRACES, kept_numbers, parser, points, table, write_page
from experiments.replay import Gain, replay

import exeunt as ex
from exeunt.rules import baselines
from exeunt.score.confidence import entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = RESULTS / "banking77.md"
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


def train_all(given: Any) -> dict[str, Any]:
    """Train both networks and keep their traces; return what was trained."""
    from experiments.runs import kept_trace, trained, training_facts

    from exeunt.torch.training.job import TrainingJob

    facts = {}
    for name, recipe in RECIPES.items():
        job = TrainingJob(model=given.train, data=given.data, exits=EXITS, recipe=recipe)
        run = trained(job, given.run / name)
        kept_trace(run, TRACES / f"banking77-{name}.parquet")
        facts[name] = training_facts(run)
        del facts[name]["model"], facts[name]["provenance"]["command"]  # where the folder was
    return facts


def measured(
    trace: ex.ExitTrace,
    rules: dict[str, Callable[..., ex.Policy]],
    splits: int,
    budgets: Sequence[float] = BUDGETS,
) -> dict[str, Any]:
    """Return each rule's accuracy within the budgets, what it spent, and its difference from the last exit alone."""
    trace = trace.take(np.argsort(trace.id, kind="stable"))
    probability = np.exp(np.asarray(trace.log_probability, dtype=np.float64))
    by_entropy = np.stack([entropy(probability[:, exit_]) for exit_ in range(trace.n_exits)], axis=1)
    trace = replace(trace, scores={**trace.scores, "entropy": by_entropy})
    found = replay(
        trace, [share * trace.cost.full for share in budgets], parts=PARTS, splits=splits, policies=rules
    )
    last = trace.correct[found.tested, -1]
    right = found.right[:, :, found.tested]
    return {
        "n": trace.n, "accuracy_per_exit": trace.correct.mean(axis=0).tolist(),
        "rules": {
            name: {
                "accuracy": one.mean(axis=1).tolist(),
                "cost": found.cost_shares(name).mean(axis=1).tolist(),
                "minus_last_exit": [Gain.of(right_at - last) for right_at in one],
            }
            for name, one in zip(rules, right, strict=True)
        },
    }  # fmt: skip


def page(found: dict[str, Any], splits: int) -> str:
    runs = found["runs"]
    exits = [[f"`{name}`", *(f"{a:.4f}" for a in run["accuracy_per_exit"])] for name, run in runs.items()]
    columns, by_budget = ["budget"], [[f"{budget:.0%}"] for budget in BUDGETS]
    for name, run in runs.items():
        columns += [f"{name}, auto", "minus its last exit", "EERO"]
        auto, eero = run["rules"]["`auto`"], run["rules"]["EERO as in the paper, own answers"]
        for q, row in enumerate(by_budget):
            gain = points(auto["minus_last_exit"][q], digits=1)
            row += [f"{auto['accuracy'][q]:.4f}", gain, f"{eero['accuracy'][q]:.4f}"]
    rules = [[name, *(f"{a:.4f}" for a in one["accuracy"])] for name, one in runs["tuned"]["rules"].items()]
    recipes = "\n".join(
        f"- `{name}`: " + ", ".join(f"{key} {value}" for key, value in facts["recipe"].items()) + "."
        for name, facts in found["training"].items()
    )
    return f"""# A sentence encoder on BANKING77

Made by `python -m experiments.banking77`; numbers in [banking77.json](banking77.json).

MiniLM with 6 layers (all-MiniLM-L6-v2), which has no classifier, on BANKING77: 10,003 training texts, 77 classes. An
exit after the embeddings and after every layer, all options by default. `frozen` leaves the encoder as it is, `tuned`
trains everything. Policies are fitted, calibrated and tested on the {runs["frozen"]["n"]:,} test texts alone, 30%, 20%
and 50% of them, drawn again in {splits} splits. Budgets are in expectation and in shares of the cost of the last exit.

{recipes}

## Accuracy of each exit alone

{table(("run", "embeddings", *(f"layer {i}" for i in range(1, 6)), "last"), exits)}

## Accuracy within a budget

Differences are in points, with 95% intervals over texts.

{table(columns, by_budget)}

## Other rules on `tuned`, at the same budgets

{table(("rule", *(f"{budget:.0%}" for budget in BUDGETS)), rules)}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--train", metavar="hf:FOLDER", help="of a text encoder")
    options.add_argument("--data", default="../shared/data/text/banking77")
    options.add_argument("--run", type=Path, default=Path("runs/banking77"), help="where trainings go")
    options.add_argument("--splits", type=int, default=3)
    given = options.parse_args()
    found = {"training": train_all(given) if given.train else kept_numbers(PAGE)["training"], "runs": {}}
    for name in RECIPES:
        rules = {rule: RULES[rule] for rule in ("EERO as in the paper, own answers", "`auto`")}
        trace = ex.ExitTrace.load(TRACES / f"banking77-{name}.parquet")
        found["runs"][name] = measured(trace, RULES if name == "tuned" else rules, given.splits)
    write_page(PAGE, page(found, given.splits), found)


if __name__ == "__main__":
    main()
