"""A cascade of two CIFAR-10 networks, a ResNet-20 with exits and then a ResNet-56: own and pooled answers, by budget.

    python experiments/cifar10_cascade.py --data ../shared/data/cifar10 --models ../shared/models

Trains heads on the two frozen networks, fine-tunes the ResNet-20 with its old self and with the ResNet-56 as its
teacher, and records all of them with the probabilities of every class. A finished run is opened, not trained again, and
where the traces are there nothing is trained (--traces). `torchrun --nproc-per-node 2` trains with two processes.
Writes cifar10-cascade.md and .json, the figure, and the traces, to docs/results. What is measured is kept: the same
command goes on where it was interrupted.
"""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import RESULTS, Measurements, arguments, kept_trace, trained
from ingredients import BLOCKS
from report import heading

import exeunt as ex
from exeunt._files import atomic_path, write_json
from exeunt.comparison.one_split import mixture_curve
from exeunt.plots.style import (
    COLOURS,
    figure_of,
    new_axes,
    percent_ticks,
    save_figure,
    series_style,
    styled,
    text_halo,
)
from exeunt.torch.training.job import TrainingJob

if TYPE_CHECKING:
    import argparse

SHARES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.7, 1.0)
OWN_SHARES = (0.2, 0.3, 0.4, 0.5, 0.7)
LARGE = "resnet56"
TUNED = "resnet20-tuned"
DISTILLED = "resnet20-distilled"
FROZEN = "resnet20"
SMALL = (FROZEN, TUNED, DISTILLED)
COLUMNS = {
    "auto": "cascade",
    "own": "cascade, own answers",
    "distilled": "cascade, distilled ResNet-20",
    "frozen": "cascade, frozen ResNet-20",
    "one": "ResNet-56 with 27 exits",
    "lots": "lots between networks",
}
DRAWN = tuple(name for name in COLUMNS if name != "distilled")
NORMALISED = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "fit": 3000, "calibrate": 2000}


def jobs(data: str, models: Path, runs: Path) -> dict[str, TrainingJob]:
    """Return the trainings by name, in their order: the ResNet-56 teaches the ResNet-20."""
    small: dict[str, Any] = {
        "model": "exeunt.zoo:resnet20", "weights": str(models / "resnet20_cifar10.safetensors"), "data": data,
        "exits": BLOCKS[:-1], "head": {"head": "grid", "hidden": 256}, **NORMALISED,
    }  # fmt: skip
    tuned = {"mode": "distill", "epochs": 15, "precision": "bf16"}
    return {
        LARGE: TrainingJob(
            model="exeunt.zoo:resnet56", weights=str(models / "resnet56_cifar10.safetensors"), data=data,
            exits=("layer3.2", "layer3.5"), head={"head": "grid", "hidden": 64}, batch_size=256,
            recipe={"mode": "frozen", "epochs": 10}, **NORMALISED,
        ),
        FROZEN: TrainingJob(batch_size=256, recipe={"mode": "frozen", "epochs": 20}, **small),
        TUNED: TrainingJob(
            batch_size=128, heads_first=10,
            recipe={**tuned, "teacher": "original", "backbone_rate": 0.05}, **small,
        ),
        DISTILLED: TrainingJob(
            batch_size=128, heads_first=10, augment="crop-flip",
            recipe={**tuned, "teacher": str(runs / LARGE), "backbone_rate": 0.1}, **small,
        ),
    }  # fmt: skip


def recorded(given: argparse.Namespace) -> dict[str, ex.ExitTrace]:
    """Return the networks' traces of the test images by name, trained and recorded if need be."""
    files = {
        name: given.out.parent / "traces" / f"{name}-cifar10-cascade.parquet" for name in (*SMALL, LARGE)
    }
    if given.traces:
        return {name: ex.ExitTrace.load(file) for name, file in files.items()}
    todo = jobs(given.data, given.models, given.run)
    runs = {name: trained(job, given.run / name, more=name != DISTILLED) for name, job in todo.items()}
    return {name: kept_trace(runs[name], file) for name, file in files.items()}


def measured(
    cascades: dict[str, list[ex.CascadeTrace]], exits: list[ex.ExitTrace], share: float, seed: int
) -> dict[str, list[float]]:
    """Return accuracy and spend, as a share of ResNet-56's cost, of each way to spend this budget."""
    fit, _, test = cascades[TUNED]
    full, alone = fit[LARGE].cost.full, test.alone
    found = {}
    for way, small, answer in (
        ("auto", TUNED, "auto"),
        ("own", TUNED, "own"),
        ("distilled", DISTILLED, "auto"),
        ("frozen", FROZEN, "auto"),
    ):
        parts = cascades[small]
        policy = ex.cascade(*parts[:2], budget=share * full, answer=answer, seed=seed)
        result = ex.evaluate(policy, parts[2])
        found[way] = [result.accuracy, result.cost / full]
    result = ex.evaluate(ex.auto(*exits[:2], budget=f"{share:.0%}", seed=seed), exits[2])
    found["one"] = [result.accuracy, result.cost / exits[0].cost.full]
    lots = mixture_curve(alone.cost.cumulative, 1 - fit.alone.risk, 1 - alone.risk, np.array([share * full]))
    found["lots"] = [float(lots[0][0]), float(lots[1][0]) / full]
    return found


def all_measured(
    traces: dict[str, ex.ExitTrace], exits: ex.ExitTrace, seeds: int, kept: Path
) -> dict[float, list[dict]]:
    models = {name: ex.CascadeTrace({"resnet20": traces[name], LARGE: traces[LARGE]}) for name in SMALL}
    measurements = Measurements(kept)
    found: dict[float, list[dict]] = {share: [] for share in SHARES}
    for seed in range(seeds):
        cascades = {
            name: list(one.split(fit=0.3, calibrate=0.2, test=0.5, seed=seed)) for name, one in models.items()
        }
        parts = list(exits.split(fit=0.3, calibrate=0.2, test=0.5, seed=seed))
        for share in SHARES:
            measure = partial(measured, cascades, parts, share, seed)
            found[share].append(measurements.of(share, seed, measure=measure))
        print(f"{seed + 1} of {seeds} splits", file=sys.stderr, flush=True)
    return found


def by_themselves(
    traces: dict[str, ex.ExitTrace], seeds: int, kept: Path
) -> dict[float, dict[str, list[float]]]:
    """Return the accuracy of each ResNet-20 alone, per split, by share of its own cost."""
    measurements = Measurements(kept)

    def accuracy(name: str, share: float, seed: int) -> float:
        fit, calibrate, test = traces[name].split(fit=0.3, calibrate=0.2, test=0.5, seed=seed)
        policy = ex.auto(fit, calibrate, budget=f"{share:.0%}", seed=seed)
        return float(ex.evaluate(policy, test).accuracy or 0.0)

    return {
        share: {
            name: [
                measurements.of(name, share, seed, measure=partial(accuracy, name, share, seed))
                for seed in range(seeds)
            ]
            for name in SMALL
        }
        for share in OWN_SHARES
    }


def curves(found: dict[float, list[dict]]) -> dict[str, np.ndarray]:
    """Return means over splits, (budgets, 2): accuracy and spend of each way."""
    return {
        name: np.array([np.mean([run[name] for run in runs], axis=0) for runs in found.values()])
        for name in COLUMNS
    }


def reached(means: np.ndarray, accuracy: float) -> float:
    """Return the least spend at which a curve (budgets, 2) has this accuracy, linear between budgets."""
    at = int(np.argmax(means[:, 0] >= accuracy))
    (low, before), (high, after) = means[at - 1], means[at]
    return float(before + (accuracy - low) / (high - low) * (after - before))


def draw(means: dict[str, np.ndarray], alone: dict[str, tuple[float, float]], path: Path) -> None:
    """Draw accuracy against spend, and each network alone."""
    with styled():
        axes = new_axes(None, width_in=7.4, height_in=4.4)
        for index, name in enumerate(DRAWN):
            axes.plot(
                means[name][:, 1],
                means[name][:, 0],
                label=COLUMNS[name],
                zorder=4 - 0.1 * index,
                **series_style(index),
            )
        for name, (share, accuracy) in alone.items():
            axes.plot(
                [share],
                [accuracy],
                marker="*",
                markersize=12,
                linestyle="none",
                color=COLOURS["black"],
                zorder=5,
            )
            axes.annotate(
                name, (share, accuracy), xytext=(0, -9), textcoords="offset points", ha="center", va="top",
                path_effects=text_halo(), zorder=6,
            )  # fmt: skip
        axes.set_xlabel("mean cost per input (% of the ResNet-56's multiply-adds)")
        axes.set_ylabel("accuracy")
        axes.set_xlim(0.1, 1.05)
        axes.set_ylim(0.79, 0.95)
        percent_ticks(axes.xaxis)
        percent_ticks(axes.yaxis)
        share = reached(means["auto"], alone["ResNet-56"][1])
        axes.set_title(f"CIFAR-10: the accuracy of a ResNet-56 at {share:.0%} of its cost")
        axes.legend(loc="lower right", handlelength=4.0)
    _, svg = save_figure(figure_of(axes), path, dpi=110)
    svg.unlink()  # the pages need one form


def page(
    found: dict[float, list[dict[str, list[float]]]],
    alone: dict[str, tuple[float, float]],
    by_itself: dict[float, dict[str, list[float]]],
    splits: int,
) -> str:
    means = curves(found)
    table = heading(("budget", *COLUMNS.values()))
    for row, share in enumerate(found):
        cells = [f"{means[name][row, 0]:.4f} @ {means[name][row, 1]:.3f}" for name in COLUMNS]
        table.append(f"| {share:.0%} | {' | '.join(cells)} |")
    gains = {share: [100 * (run["auto"][0] - run["own"][0]) for run in runs] for share, runs in found.items()}
    pooled = ", ".join(f"{np.mean(one):+.2f} at {share:.0%}" for share, one in gains.items())
    at = {
        name: reached(curves(found)[name], alone["ResNet-56"][1])
        for name in ("auto", "own", "distilled", "frozen", "one")
    }
    shares = ", ".join(f"{COLUMNS[name]} {share:.1%}" for name, share in at.items())
    itself = heading(("budget", "frozen", "tuned, its old self as teacher", "distilled by the ResNet-56"))
    for share, runs in by_itself.items():
        itself.append(f"| {share:.0%} | {' | '.join(f'{np.mean(runs[name]):.4f}' for name in SMALL)} |")
    networks = "; ".join(f"{name} {accuracy:.4f} at {share:.1%}" for name, (share, accuracy) in alone.items())
    return f"""# A cascade of two networks on CIFAR-10

Made by `{shlex.join(["python", *sys.argv])}`.

![Accuracy against cost](../figures/cifar10-cascade.png)

A ResNet-20 with a head after each of its nine blocks, and then a ResNet-56 with two heads late in its last third. Both
networks are pretrained. The ResNet-20 is fine-tuned with its heads for 15 epochs, with its old self as teacher
(`--mode distill --teacher original`); of the frozen networks only heads were trained. Of the 10,000 test images, 30 %
fit the policy, 20 % calibrate it and 50 % test it; means of {splits} splits. Costs are multiply-adds as a share of the
ResNet-56's, heads included. An input that goes on to the ResNet-56 pays for both.

Each network alone, on all test images: {networks}.

- **{COLUMNS["auto"]}**: `ex.cascade(fit, calibrate, budget=...)`. Cross-validation decides whether answers are pooled.
- **{COLUMNS["own"]}**: the same with `answer="own"`: the exit that answers says what it thinks alone.
- **{COLUMNS["distilled"]}**: the first column with a ResNet-20 that was fine-tuned with the ResNet-56 as its teacher
  (`--teacher runs/resnet56`), on crops and flips.
- **{COLUMNS["frozen"]}**: the first column with heads on the frozen ResNet-20.
- **{COLUMNS["one"]}**: `ex.auto` on the ResNet-56 alone with 26 heads ([how](resnet56-cifar10/README.md)).
- **{COLUMNS["lots"]}**: the best two exits of either network, drawn by lot. It needs no confidence: no policy
  may do worse.

## Accuracy @ spend

{chr(10).join(table)}

Share of the ResNet-56's cost at which its accuracy is reached, linear between budgets: {shares}.

Pooling, in points over own answers: {pooled}.

## The ResNet-20 by itself

Accuracy under `ex.auto`, budgets in shares of its own cost.

{chr(10).join(itself)}
"""


def main() -> None:
    parser = arguments(__doc__, data="cifar10", run="cifar10-cascade", out="cifar10-cascade.md", splits=5)
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--traces", action="store_true", help="use the committed traces")
    given = parser.parse_args()
    traces = recorded(given)
    exits = ex.ExitTrace.load(given.out.parent / "traces" / "resnet56-cifar10-grid.parquet")
    found = all_measured(traces, exits, given.splits, given.run / "measured.jsonl")
    alone_too = by_themselves(traces, given.splits, given.run / "measured.jsonl")
    full = traces[LARGE].cost.full
    alone = {
        "ResNet-20": (traces[TUNED].cost.full / full, 1 - float(traces[TUNED].risk[-1])),
        "ResNet-56": (1.0, 1 - float(traces[LARGE].risk[-1])),
    }
    draw(curves(found), alone, RESULTS.parent / "figures" / "cifar10-cascade")
    with atomic_path(given.out) as path:
        path.write_text(page(found, alone, alone_too, given.splits), encoding="utf-8")
    write_json(
        given.out.with_suffix(".json"),
        {**{str(share): runs for share, runs in found.items()}, "by itself": alone_too},
    )


if __name__ == "__main__":
    main()
