"""MSDNet on CIFAR-100, a network that brings its own 8 exits: EERO against MSDNet's own rule (the paper's Figure 5).

    python experiments/msdnet_cifar100.py --data ../shared/data/cifar100

The network is in msdnet.py. It is trained from random weights on the sum of its exits' cross-entropies, in mixed
precision. A finished run is opened, not trained again. Two processes of one thread each share the batches
(`torchrun --nproc-per-node 2 experiments/msdnet_cifar100.py`): on cores that have other work, that is several times as
fast as one process of two threads, which wait for each other.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from common import arguments, kept_trace, parts_of, trained, training_facts
from replay import MARGINAL, SEQUENTIAL, Comparison
from report import cell, evaluate_all, heading, save_png, sections_of_cifar, write_page

from exeunt.plots import accuracy_against_budget, cost_against_budget
from exeunt.torch.training.job import TrainingJob

if TYPE_CHECKING:
    from pathlib import Path

    import exeunt as ex

EPOCHS = 20
THREE = (0.3, 0.5, 0.7)
MSDNETS = "geometric"
FIGURE_5 = (SEQUENTIAL, MARGINAL, MSDNETS)


def job(data: str) -> TrainingJob:
    return TrainingJob(
        model="msdnet:cifar",
        data=data,
        exits="own",
        recipe={"mode": "joint", "epochs": EPOCHS, "precision": "bf16"},
        augment="crop-flip",
        fit=500,
        calibrate=500,
    )


def figure5(found: Comparison, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Draw both parts of Figure 5; return EERO's gains over MSDNet's rule, and a table of them."""
    shown = found.only(FIGURE_5)
    save_png(accuracy_against_budget(shown, found.trace).figure, folder / "figure5-accuracy.png")
    save_png(cost_against_budget(shown).figure, folder / "figure5-spend.png")
    rows = {(row["policy"], row["budget"]): row for row in shown.rows()}
    numbers = []
    lines = heading(("budget", *FIGURE_5, "sequential minus geometric, points (95 %)"))
    for q, budget in enumerate(shown.budgets.tolist()):
        gain = found.against(SEQUENTIAL, MSDNETS, q)
        told = (
            "-"
            if gain is None
            else f"{100 * gain.mean:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})"
        )
        cells = " | ".join(cell(rows[name, budget]) for name in FIGURE_5)
        lines.append(f"| {budget / shown.cost.full:.3f} | {cells} | {told} |")
        numbers.append({"budget": budget, "gain": None if gain is None else asdict(gain)})
    return numbers, "\n".join(lines)


def page(trace: ex.ExitTrace, facts: dict[str, Any], sections: list[str], table: str, splits: int) -> str:
    parts = facts["parts"]
    return f"""# MSDNet on CIFAR-100, with its own 8 exits

Made by `torchrun --nproc-per-node 2 experiments/msdnet_cifar100.py`. A multi-scale dense network after Huang et al.
2018 (`experiments/msdnet.py`: three scales, 8 layers, a classifier after each), {trace.cost.full:.4g} multiply-adds in
full. Its forward returns the logits of all exits, and `--exits own` takes it as it is. Training on {parts["train"]:,}
images: {facts["recipe"]["epochs"]} epochs of one-cycle SGD with crops and flips, mixed precision,
{sum(facts["epochs_s"]) / 60:.0f} minutes on two CPU cores that had other work as well.

## EERO against MSDNet's own rule (Figure 5)

MSDNet lets a geometric share of the inputs leave at each exit, and finds its thresholds on the inputs that are left, as
sequential calibration does. Mean over the splits; at equal spend, the other rule is a random mixture of its two nearest
points.

![Figure 5: accuracy against budget](figure5-accuracy.png)

![Figure 5: spend against budget](figure5-spend.png)

{table}

{sections_of_cifar(trace, facts, sections, splits, name="msdnet-cifar100")}
"""


def main() -> None:
    given = arguments(
        __doc__, data="cifar100", run="msdnet-cifar100", out="msdnet-cifar100", splits=20
    ).parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    run = trained(job(given.data), given.run)
    trace = kept_trace(run, given.out.parent / "traces" / "msdnet-cifar100.parquet")
    results = evaluate_all(trace, given.out, three=THREE, shares=parts_of(run), splits=given.splits)
    gains, table = figure5(results.comparison, given.out)
    facts = training_facts(run)
    numbers = {"training": facts, **results.numbers, "figure5": gains}
    write_page(given.out, page(trace, facts, results.sections, table, given.splits), numbers)
    print((given.out / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
