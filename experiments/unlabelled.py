"""Heads that learn from labels against heads that learn from the network's own outputs, on three trained networks.

    python -m experiments.unlabelled
    python -m experiments.unlabelled --train --minilm FOLDER [--resnet18 FILE] [--only resnet56]

Replays the recorded traces and writes the page. With --train it first trains and records: heads on the pretrained
ResNet-56; heads on a ResNet-18, whose weights are those in FILE or are trained first; and heads on the sentence encoder
in FOLDER, which is fine-tuned on labels first. Finished runs are opened.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from experiments.banking77 import EXITS
from experiments.ingredients import PARTS
from experiments.pages import RESULTS, TRACES, kept_numbers, parser, points, table, write_page
from experiments.paper import FROZEN, JOINT
from experiments.replay import Gain

import exeunt as ex

PAGE = RESULTS / "unlabelled.md"
BUDGETS = (0.3, 0.5, 0.7)
NETWORKS = {
    "resnet56": "ResNet-56, CIFAR-10", "resnet18": "ResNet-18, CIFAR-100", "minilm": "MiniLM, BANKING77",
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "labels": {},
    "unlabelled": {"label": "none", "recipe": {"unlabelled": True}},
}
BASE = {"mode": "joint", "epochs": 15, "learning_rate": 0.05, "precision": "bf16"}


# -- training --------------------------------------------------------------------------------------------------------


def jobs(given: Any) -> dict[str, dict[str, Any]]:
    """Return the options of the trainings on each network that was asked for."""
    images = {name: FROZEN[name] for name in ("mean", "std")}
    found = {
        "resnet56": lambda: {
            "model": "exeunt.zoo:resnet56", "data": f"{given.data}/cifar10", "weights": given.resnet56, **images,
        },
        "resnet18": lambda: {
            "model": "torchvision:resnet18", "data": f"{given.data}/cifar100", "weights": str(resnet18(given)),
            **images,
        },
        "minilm": lambda: {"model": f"hf:{minilm(given)}", "data": f"{given.data}/text/banking77", "exits": EXITS},
    }  # fmt: skip
    return {name: options() for name, options in found.items() if given.only in (None, name)}


def resnet18(given: Any) -> Path:
    """Return the weights of a ResNet-18 for CIFAR-100: those given, or those that are trained here."""
    from experiments.runs import trained
    from safetensors.torch import load_file, save_file

    from exeunt.torch.training.job import TrainingJob

    file = given.resnet18 or given.runs / "resnet18.safetensors"
    if not file.is_file():
        options: dict[str, Any] = {**JOINT, "mean": FROZEN["mean"], "std": FROZEN["std"]}
        job = TrainingJob(
            model="torchvision:resnet18", data=f"{given.data}/cifar100", exits=1, recipe=BASE, **options
        )
        tensors = load_file(trained(job, given.runs / "resnet18").weights)
        own = {name: value for name, value in tensors.items() if name.startswith("backbone.")}
        save_file({name.removeprefix("backbone."): value for name, value in own.items()}, file)
    return file


def minilm(given: Any) -> Path:
    """Return the folder of the encoder with a classifier, fine-tuned on labels with one exit beside it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from exeunt.data import open_source
    from exeunt.data.tokens import load_tokenizer
    from exeunt.torch import attach, train
    from exeunt.torch.loaders import make_loader

    folder = given.runs / "minilm"
    if not (folder / "model.safetensors").is_file():
        source, tokenizer = open_source(f"{given.data}/text/banking77"), load_tokenizer(str(given.minilm))
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            given.minilm, num_labels=source.n_classes, id2label=dict(enumerate(source.class_names or ()))
        )
        options: dict[str, Any] = {"batch_size": 32, "shuffle": True, "by_length": True}
        loader = make_loader(source.dataset("train"), tokenizer, **options)
        network = attach(model.eval(), next(iter(loader)).inputs, 1, verbose=False)
        recipe = {"optimiser": "adamw", "learning_rate": 3e-4, "weight_decay": 0.01, "backbone_rate": 0.3}
        train(
            network, loader, mode="joint", epochs=6, checkpoint_dir=given.runs / "minilm-training", **recipe
        )
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def train_all(given: Any) -> dict[str, Any]:
    """Train heads of both kinds on each network and keep their traces; return what was trained."""
    from experiments.runs import kept_trace, trained, training_facts

    from exeunt.torch.training.job import TrainingJob

    facts: dict[str, Any] = kept_numbers(PAGE)["training"] if PAGE.is_file() else {}
    for name, options in jobs(given).items():
        facts[name] = {}
        for kind, more in KINDS.items():
            run = trained(TrainingJob(**options, **more), given.runs / f"{name}-{kind}")
            kept_trace(run, trace_file(name, kind))
            facts[name][kind] = training_facts(run)
            del facts[name][kind]["model"], facts[name][kind]["provenance"]["command"]  # where files were
    return facts


# -- measuring -------------------------------------------------------------------------------------------------------


def trace_file(network: str, kind: str) -> Path:
    return TRACES / "unlabelled" / f"{network}-{kind}.parquet"


def measured(network: str, splits: int) -> dict[str, Any]:
    """Return accuracy and agreement of both kinds of heads within the budgets, and how they differ.

    Under policies that are fitted to labels, and under those that are fitted to what the last exit says.
    """
    traces = {kind: ex.ExitTrace.load(trace_file(network, kind)) for kind in KINDS}
    label = traces["labels"].label
    if not np.array_equal(traces["labels"].id, traces["unlabelled"].id):
        raise SystemExit(f"the two traces of {network} are of different inputs: train both anew")
    bare = {kind: replace(trace, label=None, reference="") for kind, trace in traces.items()}
    ways = {
        "labels": {kind: replace(trace, label=label) for kind, trace in bare.items()},
        "agreement": {kind: trace.with_reference() for kind, trace in bare.items()},
    }
    found = {
        way: {kind: replay(trace, label, splits) for kind, trace in each.items()}
        for way, each in ways.items()
    }
    tested = np.flatnonzero(found["labels"]["labels"]["times"])

    def of(measure: str, way: str, kind: str) -> Any:
        return found[way][kind][measure][:, tested]

    def minus(*sides: tuple[str, str]) -> list[Gain]:
        return [Gain.of(a - b) for a, b in zip(*(of("right", *side) for side in sides), strict=True)]

    means = {
        measure: {way: {kind: of(measure, way, kind).mean(axis=1).tolist() for kind in KINDS} for way in ways}
        for measure in ("right", "agrees")
    }
    return {
        "n": traces["labels"].n,
        "full_accuracy": float((traces["labels"].prediction[:, -1] == label).mean()),
        "accuracy_per_exit": {
            kind: (trace.prediction == label[:, None]).mean(axis=0).tolist() for kind, trace in traces.items()
        },
        "share_per_exit": (traces["labels"].cost.cumulative / traces["labels"].cost.full).tolist(),
        "accuracy": means["right"],
        "agreement": means["agrees"],
        "difference": {way: minus((way, "unlabelled"), (way, "labels")) for way in ways},
        "without_any_label": minus(("agreement", "unlabelled"), ("labels", "labels")),
    }


def replay(trace: ex.ExitTrace, label: Any, splits: int) -> dict[str, np.ndarray]:
    """Return how often each input is answered right, and as by the last exit, (q, n), and how often it was tested."""
    right, agrees, times = *np.zeros((2, len(BUDGETS), trace.n)), np.zeros(trace.n)
    for s in range(splits):
        fit, calibrate, test = trace.split(**PARTS, seed=s)
        rows = np.flatnonzero(np.isin(trace.id, test.id))
        times[rows] += 1
        for q, budget in enumerate(BUDGETS):
            try:
                said = ex.auto(fit, calibrate, budget=budget * trace.cost.full, seed=s).answers(test)
            except ex.InfeasibleBudget:
                right[q] = agrees[q] = np.nan
                continue
            right[q, rows] += said == label[rows]
            agrees[q, rows] += said == trace.prediction[rows, -1]
        print(f"split {s + 1} of {splits}", flush=True)
    return {"right": right / np.maximum(times, 1), "agrees": agrees / np.maximum(times, 1), "times": times}


# -- the page --------------------------------------------------------------------------------------------------------


def page(found: dict[str, Any], splits: int) -> str:
    networks, exits = found["networks"].items(), []
    rows: dict[str, list[list[str]]] = {"labels": [], "agreement": []}
    for network, one in networks:
        for q, budget in enumerate(BUDGETS):
            for way, into in rows.items():
                accuracy = [f"{one['accuracy'][way][kind][q]:.4f}" for kind in KINDS]
                more = [points(one["difference"][way][q])]
                if way == "agreement":
                    more += [f"{one['agreement'][way][kind][q]:.4f}" for kind in KINDS]
                    more += [points(one["without_any_label"][q])]
                into.append([NETWORKS[network], f"{budget:.0%}", *accuracy, *more])
        alone = one["accuracy_per_exit"]
        exits += [[NETWORKS[network], kind, *(f"{a:.4f}" for a in alone[kind])] for kind in KINDS]
    alone = "; ".join(f"{NETWORKS[name]} {one['full_accuracy']:.4f}" for name, one in networks)
    most = max(len(row) for row in exits) - 2
    exits = [[*row[:-1], *[""] * (most + 2 - len(row)), row[-1]] for row in exits]
    heads = ("network", "budget", "heads from labels", "unlabelled heads", "difference in points (95%)")
    agreeing = (*heads, "agreement, heads from labels", "unlabelled heads", "minus labels everywhere (95%)")
    return f"""# Heads without labels

Made by `python -m experiments.unlabelled`; numbers in [unlabelled.json](unlabelled.json).

The same trained networks get heads twice, by the defaults of `exeunt train`: once heads learn from the labels of the
training inputs, once with `--unlabelled` from the network's own output on the same inputs. Policies (`auto`) are
fitted, calibrated and tested on the test inputs alone, 30%, 20% and 50% of them, drawn again in {splits} splits, once
by labels and once by agreement with the last exit. Budgets are in expectation and in shares of the cost of the last
exit. Accuracy is measured by labels in any case. The networks alone: {alone}.

## Accuracy, with policies from labels

{table(heads, rows["labels"])}

## Accuracy, with policies from agreement

The last column compares heads and policies that never saw a label with those that learned from labels.

{table(agreeing, rows["agreement"])}

## Accuracy of each exit alone

{table(("network", "heads", *(f"exit {i}" for i in range(most - 1)), "last"), exits)}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--train", action="store_true")
    options.add_argument("--only", choices=NETWORKS, help="train heads on this network alone")
    options.add_argument("--data", default="../shared/data", help="folder of the data sets")
    options.add_argument(
        "--resnet56", default="../shared/models/resnet56_cifar10.safetensors", metavar="FILE"
    )
    options.add_argument("--resnet18", type=Path, metavar="FILE", help="weights for CIFAR-100")
    options.add_argument("--minilm", type=Path, metavar="FOLDER", help="of a sentence encoder")
    options.add_argument("--runs", type=Path, default=Path("runs/unlabelled"), help="where trainings go")
    options.add_argument("--splits", type=int, default=10)
    given = options.parse_args()
    if given.train and given.only in (None, "minilm") and given.minilm is None:
        raise SystemExit("--train needs --minilm FOLDER, the folder of a sentence encoder, or --only")
    training = train_all(given) if given.train else kept_numbers(PAGE)["training"]
    found = {"training": training, "networks": {}}
    for network in NETWORKS:
        if trace_file(network, "unlabelled").is_file():
            found["networks"][network] = measured(network, given.splits)
    write_page(PAGE, page(found, given.splits), found)


if __name__ == "__main__":
    main()
