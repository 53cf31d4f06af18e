"""A cascade of two CIFAR-10 networks, a ResNet-20 with exits and then a ResNet-56: answers and accuracy by budget.

    python -m experiments.cifar10_cascade
    python -m experiments.cifar10_cascade --measure
    python -m experiments.cifar10_cascade --train --data ../shared/data/cifar10 --models ../shared/models

Writes the page and the README's figure again from the kept numbers. --measure replays the recorded traces; the same
command goes on where it was interrupted. --train first trains heads on the two frozen networks and fine-tunes the
ResNet-20, with its original model and with the ResNet-56 as its teacher, which also teaches a ResNet-8. `torchrun
--nproc-per-node 2 -m` trains with two processes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiments.ingredients import BLOCKS, PARTS
from experiments.pages import (
    RESULTS,
    TRACES,
    Curve,
    Measurements,
    Panel,
    at,
    draw_panels,
    kept_numbers,
    parser,
    table,
    write_page,
)

import exeunt as ex
from exeunt.evaluation.one_split import mixture_curve

PAGE = RESULTS / "cifar10-cascade.md"
SHARES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.7, 1.0)
OWN_SHARES = (0.2, 0.3, 0.4, 0.5, 0.7)
FROZEN, TUNED, DISTILLED, LARGE = "resnet20", "resnet20-tuned", "resnet20-distilled", "resnet56"
FAST = "resnet8-distilled"
"""A network for the servers of benchmarks/serving, before the ResNet-20: it is not measured here."""
SMALL = {
    FROZEN: "frozen", TUNED: "tuned, its original model as teacher", DISTILLED: "distilled by the ResNet-56"
}  # fmt: skip
WAYS = {
    "auto": "cascade",
    "own": "cascade, own answers",
    "distilled": "cascade, distilled ResNet-20",
    "frozen": "cascade, frozen ResNet-20",
    "one": "ResNet-56 with 27 exits",
    "mixture": "random mixture of two exits",
}
DRAWN = ("auto", "frozen", "one", "mixture")
CASCADES = (
    ("auto", TUNED, "auto"),
    ("own", TUNED, "own"),
    ("distilled", DISTILLED, "auto"),
    ("frozen", FROZEN, "auto"),
)


def train_all(data: str, models: Path, runs: Path) -> None:
    """Train the networks and keep their traces of the test images. The ResNet-56 teaches the small ones."""
    from experiments.runs import kept_trace, trained

    from exeunt.torch.training.job import TrainingJob

    common: dict[str, Any] = {
        "data": data, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "fit": 3000, "calibrate": 2000
    }  # fmt: skip
    small = {
        "model": "exeunt.zoo:resnet20", "weights": str(models / "resnet20_cifar10.safetensors"), "exits": BLOCKS[:-1],
        "head": {"head": "grid", "hidden": 256}, **common,
    }  # fmt: skip
    tuned = {"batch_size": 128, "heads_first": 10, **small}
    recipe = {"mode": "distill", "epochs": 15, "precision": "bf16"}
    jobs = {
        LARGE: TrainingJob(
            model="exeunt.zoo:resnet56", weights=str(models / "resnet56_cifar10.safetensors"), batch_size=256,
            exits=("layer3.2", "layer3.5"), head={"head": "grid", "hidden": 64},
            recipe={"mode": "frozen", "epochs": 10}, **common,
        ),
        FROZEN: TrainingJob(batch_size=256, recipe={"mode": "frozen", "epochs": 20}, **small),
        TUNED: TrainingJob(recipe={**recipe, "teacher": "original", "backbone_rate": 0.05}, **tuned),
        DISTILLED: TrainingJob(
            augment="crop-flip", recipe={**recipe, "teacher": str(runs / LARGE), "backbone_rate": 0.1}, **tuned
        ),
    }  # fmt: skip
    for name, job in jobs.items():
        kept_trace(trained(job, runs / name, more=True), trace_file(name))
    fast = TrainingJob(
        model="exeunt.zoo:resnet8_wide", pretrained=True, batch_size=128, exits=("layer2.0",),
        head={"head": "grid", "hidden": 64}, augment="crop-flip",
        recipe={"mode": "distill", "epochs": 24, "precision": "bf16", "teacher": str(runs / LARGE)}, **common,
    )  # fmt: skip
    trained(fast, runs / FAST)


def trace_file(name: str) -> Path:
    return TRACES / f"{name}-cifar10-cascade.parquet"


# -- measuring -------------------------------------------------------------------------------------------------------


def measured(cascades: dict[str, Any], exits: Any, share: float, seed: int) -> dict[str, list[float]]:
    """Return accuracy and mean cost, as a share of ResNet-56's cost, of each way to use this budget."""
    fit, _, test = cascades[TUNED]
    full, alone = fit[LARGE].cost.full, test.alone
    found = {}
    for way, small, answer in CASCADES:
        parts = cascades[small]
        policy = ex.cascade(*parts[:2], budget=share * full, answer=answer, seed=seed)
        result = ex.evaluate(policy, parts[2])
        found[way] = [result.accuracy, result.cost / full]
    result = ex.evaluate(ex.auto(*exits[:2], budget=f"{share:.0%}", seed=seed), exits[2])
    found["one"] = [result.accuracy, result.cost / exits[0].cost.full]
    mixture = mixture_curve(
        alone.cost.cumulative, 1 - fit.alone.risk, 1 - alone.risk, np.array([share * full])
    )
    found["mixture"] = [float(mixture[0][0]), float(mixture[1][0]) / full]
    return found


def measure_all(splits: int, kept: Path) -> dict[str, Any]:
    """Replay every way at every budget on every split, and each ResNet-20 by itself."""
    traces = {name: ex.ExitTrace.load(trace_file(name)) for name in (*SMALL, LARGE)}
    exits = ex.ExitTrace.load(TRACES / "resnet56-cifar10-grid.parquet")
    models = {name: ex.CascadeTrace({"resnet20": traces[name], LARGE: traces[LARGE]}) for name in SMALL}
    measurements = Measurements(kept)

    def by_itself(name: str, share: float, seed: int) -> float:
        fit, calibrate, test = traces[name].split(**PARTS, seed=seed)
        policy = ex.auto(fit, calibrate, budget=f"{share:.0%}", seed=seed)
        return float(ex.evaluate(policy, test).accuracy or 0.0)

    ways: dict[str, list[Any]] = {str(share): [] for share in SHARES}
    alone: dict[str, dict[str, list[float]]] = {
        str(share): {name: [] for name in SMALL} for share in OWN_SHARES
    }
    for seed in range(splits):
        cascades = {name: list(one.split(**PARTS, seed=seed)) for name, one in models.items()}
        parts = list(exits.split(**PARTS, seed=seed))
        for share in SHARES:
            measure = partial(measured, cascades, parts, share, seed)
            ways[str(share)].append(measurements.of(share, seed, measure=measure))
        for share in OWN_SHARES:
            for name in SMALL:
                measure = partial(by_itself, name, share, seed)
                alone[str(share)][name].append(measurements.of(name, share, seed, measure=measure))
        print(f"split {seed + 1} of {splits}", flush=True)
    full = traces[LARGE].cost.full
    networks = {
        "ResNet-20": [traces[TUNED].cost.full / full, 1 - float(traces[TUNED].risk[-1])],
        "ResNet-56": [1.0, 1 - float(traces[LARGE].risk[-1])],
    }
    return {"splits": splits, "networks": networks, "ways": ways, "by itself": alone}


# -- the page --------------------------------------------------------------------------------------------------------


def curve(found: dict[str, Any], way: str) -> Curve:
    """Return accuracy against mean cost of one way, means over splits."""
    runs = np.array([[run[way] for run in runs] for runs in found["ways"].values()])
    return Curve.over_splits(WAYS[way], runs[:, :, 1], runs[:, :, 0])


def reached(one: Curve, accuracy: float) -> float:
    """Return the least mean cost at which a curve has this accuracy, interpolated between the two budgets around."""
    mean = np.asarray(one.y)[:, 0]
    after = int(np.argmax(mean >= accuracy))
    return float(np.interp(accuracy, mean[after - 1 : after + 1], one.x[after - 1 : after + 1]))


def draw(found: dict[str, Any], path: Path) -> None:
    share = reached(curve(found, "auto"), found["networks"]["ResNet-56"][1])
    panel = Panel(
        f"CIFAR-10: the accuracy of a ResNet-56 at {share:.0%} of its cost",
        "mean cost per input (% of the ResNet-56's multiply-adds)",
        "accuracy",
        [curve(found, way) for way in DRAWN],
        {name: tuple(place) for name, place in found["networks"].items()},
    )
    draw_panels([panel], path)


def page(found: dict[str, Any]) -> str:
    curves = {way: curve(found, way) for way in WAYS}
    rows = [
        [f"{float(share):.0%}", *(at(one.y[row][0], one.x[row]) for one in curves.values())]
        for row, share in enumerate(found["ways"])
    ]
    ensemble = ", ".join(
        f"{100 * np.mean([run['auto'][0] - run['own'][0] for run in runs]):+.2f} at {float(share):.0%}"
        for share, runs in found["ways"].items()
    )
    target = found["networks"]["ResNet-56"][1]
    shares = ", ".join(
        f"{WAYS[way]} {reached(one, target):.1%}" for way, one in curves.items() if way != "mixture"
    )
    itself = [
        [f"{float(share):.0%}", *(f"{np.mean(runs[name]):.4f}" for name in SMALL)]
        for share, runs in found["by itself"].items()
    ]
    networks = "; ".join(
        f"{name} {accuracy:.4f} at {share:.1%}" for name, (share, accuracy) in found["networks"].items()
    )
    return f"""# A cascade of two networks on CIFAR-10

Made by `python -m experiments.cifar10_cascade`; numbers in [cifar10-cascade.json](cifar10-cascade.json).

![Accuracy against mean cost](../figures/cifar10-cascade.png)

A ResNet-20 with a head after each of its nine blocks, and then a ResNet-56 with two heads late in its last third. Both
networks are pretrained. The ResNet-20 is fine-tuned with its heads for 15 epochs, with its original model as teacher
(`--mode distill --teacher original`); of the frozen networks only heads were trained. Of the 10,000 test images, 30%
fit the policy, 20% calibrate it and 50% test it; means of {found["splits"]} splits, 95% bands over splits. Costs are
multiply-adds as a share of the ResNet-56's, heads included. An input that goes on to the ResNet-56 pays for both.

Each network alone, on all test images: {networks}.

- **{WAYS["auto"]}**: `ex.cascade(fit, calibrate, budget=...)`. Cross-validation decides whether the answer is that of
  the ensemble of the exits so far.
- **{WAYS["own"]}**: the same with `answer="own"`: each exit gives its own answer.
- **{WAYS["distilled"]}**: the first column with a ResNet-20 that was fine-tuned with the ResNet-56 as its teacher
  (`--teacher runs/resnet56`), on crops and flips.
- **{WAYS["frozen"]}**: the first column with heads on the frozen ResNet-20.
- **{WAYS["one"]}**: `ex.auto` on the ResNet-56 alone with 26 heads ([how](resnet56-cifar10/README.md)).
- **{WAYS["mixture"]}**: the best two exits of either network, drawn at random. It needs no confidence: every policy
  should do at least as well.

## Accuracy @ mean cost

{table(("budget", *WAYS.values()), rows)}

Share of the ResNet-56's cost at which its accuracy is reached, interpolated linearly between the two budgets around:
{shares}.

Ensemble answers, in points over own answers: {ensemble}.

## The ResNet-20 by itself

Accuracy under `ex.auto`, budgets in shares of its own cost.

{table(("budget", *SMALL.values()), itself)}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", action="store_true", help="replay the traces in docs/results")
    options.add_argument("--train", action="store_true", help="train, record and measure")
    options.add_argument("--data", default="../shared/data/cifar10")
    options.add_argument("--models", type=Path, default=Path("../shared/models"))
    options.add_argument("--run", type=Path, default=Path("runs/cifar10-cascade"), help="where trainings go")
    options.add_argument("--splits", type=int, default=5)
    given = options.parse_args()
    if given.train:
        train_all(given.data, given.models, given.run)
    measure = given.train or given.measure
    found = measure_all(given.splits, given.run / "measured.jsonl") if measure else kept_numbers(PAGE)
    draw(found, RESULTS.parent / "figures" / "cifar10-cascade.png")
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
