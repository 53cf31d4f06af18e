"""A language model as a classifier: exits after layers of a frozen SmolLM2-135M on BANKING77.

    python -m experiments.decoder_classifier
    python -m experiments.decoder_classifier --train hf:FOLDER [--data ../shared/data/text/banking77]
    python -m experiments.decoder_classifier --clock

Replays the recorded traces and writes the page. With --train it first trains and records the model in FOLDER (which
`python -m experiments.smollm2 FOLDER` makes), and tf-idf on the same texts. Finished runs are opened. With --clock it
exports the first run, also at int8, and times it; do this on an idle machine.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiments.banking77 import RULES, measured
from experiments.pages import RESULTS, TRACES, kept_numbers, parser, points, table, write_page

import exeunt as ex

PAGE = RESULTS / "decoder-classifier.md"
N_EXITS, FEW = 9, 3000
LINEAR = {"head": "mean", "hidden": 0, "input_norm": "batch"}
RUNS: dict[str, tuple[bool, dict[str, Any]]] = {
    "all labels, default heads": (False, {}),
    "3,000 labels, linear heads": (True, LINEAR),
}
"""By name: whether few texts have labels, and the options of the heads."""
BUDGETS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
CERTIFIED = "`auto`, certified"
BY_RUN = {"`auto`": ex.auto, CERTIFIED: partial(ex.auto, delta=0.05)}
OTHER_RULES = {**RULES, CERTIFIED: BY_RUN[CERTIFIED]}
COMPARED = "3,000 labels, linear heads"


def file_name(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


# -- training --------------------------------------------------------------------------------------------------------


def with_few_labels(data: Path, folder: Path) -> Path:
    """Write a folder with some of the training texts, drawn at random, and all test texts."""
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    train = parquet.read_table(data / "train.parquet")
    rows = np.sort(np.random.default_rng(0).permutation(train.num_rows)[:FEW])
    parquet.write_table(train.take(rows), folder / "train.parquet")
    (folder / "test.parquet").write_bytes((data / "test.parquet").read_bytes())
    return folder


def train_all(given: Any) -> dict[str, Any]:
    """Train all runs and keep their traces; return what was trained."""
    from experiments.runs import kept_trace, trained, training_facts

    from exeunt.torch.training.job import TrainingJob

    few = with_few_labels(given.data, given.run / "few")
    facts: dict[str, Any] = {}
    for name, (has_few, head) in RUNS.items():
        data = few if has_few else given.data
        job = TrainingJob(model=given.train, data=str(data), exits=N_EXITS, head=head)
        run = trained(job, given.run / file_name(name))
        kept_trace(run, TRACES / f"decoder-{file_name(name)}.parquet")
        facts[name] = training_facts(run)
        del facts[name]["model"], facts[name]["provenance"]["command"]  # where the folder was
    facts["tf-idf"] = {
        name: accuracy_of_tfidf(data, given.run / f"tfidf-{len(name)}")
        for name, data in (("all labels", given.data), ("3,000 labels", few))
    }
    return facts


def accuracy_of_tfidf(data: Path, folder: Path) -> float:
    """Return the accuracy of tf-idf on all test texts."""
    from exeunt.jobs.estimator_run import train_tfidf
    from exeunt.runs.file_digests import TRACED
    from exeunt.runs.folder import RunFolder
    from exeunt.trace import concatenate

    run = RunFolder.open(folder) if RunFolder.exists(folder) else train_tfidf(str(data), folder, seen=True)
    return float(concatenate([run.trace(part) for part in TRACED]).correct.mean())


# -- the clock -------------------------------------------------------------------------------------------------------


def clock(run: Path) -> dict[str, Any]:
    """Return the tables that `exeunt bench` prints for a run in PyTorch, in ONNX Runtime and at int8."""
    import subprocess

    from benchmarks.texts import EXEUNT, printed

    from exeunt.timing.timing_tools import describe_machine

    for command in (
        ("export", run),
        ("export", run, "--precision", "int8"),
        ("calibrate", run, "--budget", "35%"),
        ("calibrate", f"{run}@int8", "--budget", "35%"),
    ):
        subprocess.run([*EXEUNT, *map(str, command)], check=True)
    tables = {
        "PyTorch": printed(run, "eager", "1,64", "--max-seconds", "30"),
        "ONNX Runtime": printed(run, "onnx", "1,64", "--max-seconds", "30"),
        "ONNX Runtime, int8": printed(run / "int8", "onnx", "1,64", "--max-seconds", "30"),
    }
    return {"machine": describe_machine(), "tables": tables}


# -- the page --------------------------------------------------------------------------------------------------------


def page(found: dict[str, Any], splits: int) -> str:
    runs = found["runs"]
    exits = [[name, *(f"{a:.4f}" for a in run["accuracy_per_exit"])] for name, run in runs.items()]
    columns, by_budget = ["budget"], [[f"{budget:.0%}"] for budget in BUDGETS]
    for name, run in runs.items():
        columns += [f"{name}: auto", "certified", "spent", "minus its last exit"]
        for q, row in enumerate(by_budget):
            auto, certified = run["rules"]["`auto`"], run["rules"][CERTIFIED]
            accuracy = certified["accuracy"][q]
            row += [f"{auto['accuracy'][q]:.4f}"]
            if accuracy is None or np.isnan(accuracy):
                row += ["not possible", "", ""]
            else:
                gain = points(certified["minus_last_exit"][q], digits=1)
                row += [f"{accuracy:.4f}", f"{certified['cost'][q]:.1%}", gain]
    rules = [[name, *(f"{a:.4f}" for a in one["accuracy"])] for name, one in runs[COMPARED]["rules"].items()]
    tfidf = [[name, f"{accuracy:.4f}"] for name, accuracy in found["training"]["tf-idf"].items()]
    recipe = next(iter(found["training"].values()))["recipe"]
    tables = "\n\n".join(f"### {name}\n\n```\n{text}\n```" for name, text in found["clock"]["tables"].items())
    machine = found["clock"]["machine"]
    layers = [str(3 * (i + 1)) for i in range(N_EXITS)]
    return f"""# A decoder as a classifier

Made by `python -m experiments.decoder_classifier`; numbers in [decoder-classifier.json](decoder-classifier.json).

SmolLM2-135M-Instruct, a language model of 30 layers, frozen, on BANKING77: 77 classes, and 10,003 training texts, or
{FEW:,} of them drawn at random. Exits after every third layer read the tokens of a text; the last one reads the output
of the last layer. Default heads read mean and deviation of the tokens and have a hidden layer; linear heads read the
mean (`--head mean --hidden 0 --input-norm batch`). Policies are fitted, calibrated and tested on the 3,080 test texts
alone, 30%, 20% and 50% of them, drawn again in {splits} splits. Budgets are in shares of the cost of the last exit, in
expectation or certified: then the mean cost on all texts to come keeps the budget with probability 95%.

Training: {", ".join(f"{key} {value}" for key, value in recipe.items())}.

## Accuracy of each exit alone

{table(("run", *(f"layer {layer}" for layer in layers), "last"), exits)}

Tf-idf with a logistic regression (`--model tfidf`), on the same texts:

{table(("tf-idf", "accuracy"), tfidf)}

## Accuracy within a budget

*spent* is the mean cost of the certified policy on test texts. Differences are of the certified policy, in points, with
95% intervals over texts.

{table(columns, by_budget)}

## Other rules

With {COMPARED}, at the same budgets.

{table(("rule", *(f"{budget:.0%}" for budget in BUDGETS)), rules)}

## On the clock

What `exeunt bench` prints for *{next(iter(RUNS))}*. {machine["processor"]}, {machine["cores"]} cores.
*original* is the network as one piece, with its last exit alone.
The run's policy is `auto`, certified for 35% of the cost.

{tables}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--train", metavar="hf:FOLDER", help="of the language model")
    options.add_argument("--clock", action="store_true", help="export and time the first run")
    options.add_argument("--data", type=Path, default=Path("../shared/data/text/banking77"))
    options.add_argument("--run", type=Path, default=Path("runs/decoder"), help="where trainings go")
    options.add_argument("--splits", type=int, default=3)
    given = options.parse_args()
    found = kept_numbers(PAGE) if PAGE.is_file() else {}
    if given.train:
        found["training"] = train_all(given)
    if given.clock:
        found["clock"] = clock(given.run / file_name(next(iter(RUNS))))
    found["runs"] = {}
    for name in RUNS:
        trace = ex.ExitTrace.load(TRACES / f"decoder-{file_name(name)}.parquet")
        rules = OTHER_RULES if name == COMPARED else BY_RUN
        found["runs"][name] = measured(trace, rules, given.splits, BUDGETS)
    write_page(PAGE, page(found, given.splits), found)


if __name__ == "__main__":
    main()
