"""A frozen ResNet-56 on CIFAR-10 with an exit at each of its 27 blocks (Figures 2, 3, 4, 6, 7, Table 3).

    python experiments/resnet56_cifar10.py --data ../shared/data/cifar10 \\
        --weights ../shared/models/resnet56_cifar10.safetensors

The setting of the paper's ConvNeXt at a size for two CPU cores: 26 heads on a pretrained network, trained for
40 epochs on cached features, once the paper's heads (global average, linear) and once a 4x4 grid of averages
and maxima with one hidden layer of 64. Then the same heads for a few epochs through the backbone,
to see what the cache saves. Finished runs are opened, not trained again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cache_timing import cache_saving
from common import arguments, kept_trace, parts_of, trained, training_facts
from report import evaluate_all, heading, write_page

from exeunt._files import read_json, write_json
from exeunt.torch.training.job import TrainingJob

if TYPE_CHECKING:
    from pathlib import Path

    from exeunt.run.folder import RunFolder

BLOCKS = tuple(f"layer{group}.{block}" for group in (1, 2, 3) for block in range(9))
HEADS = {"paper": {"head": "paper"}, "grid": {"head": "grid", "hidden": 64}}
EPOCHS = 40
THREE = (0.3, 0.5, 0.7)


def job(data: str, weights: str, head: str) -> TrainingJob:
    return TrainingJob(
        model="exeunt.zoo:resnet56",
        weights=weights,
        data=data,
        exits=BLOCKS[:-1],  # after the last block comes the network's own classifier
        head=HEADS[head],
        recipe={"mode": "frozen", "epochs": EPOCHS},
        batch_size=256,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        fit=3000,
        calibrate=2000,
    )


def saving(given: TrainingJob, run: Path, *, n: int, epochs: int) -> dict[str, Any]:
    """Return what the cache saves; measured once and kept beside the run."""
    file = run / "cache.json"
    if not file.is_file():
        write_json(file, cache_saving(given, n=n, epochs=epochs, epochs_in_full=EPOCHS))
    found: dict[str, Any] = read_json(file)
    return found


def saving_table(savings: dict[str, dict[str, Any]], facts: dict[str, dict[str, Any]]) -> list[str]:
    columns = (
        "heads", "fill the cache", "an epoch on it", "an epoch through the backbone", f"{EPOCHS} epochs cached",
        f"{EPOCHS} epochs through the backbone", "times faster", "the whole run, measured",
        "accuracy apart by at most", "answers that differ",
    )  # fmt: skip
    lines = heading(columns)
    for head, found in savings.items():
        scale, full = found["images_in_full"] / found["images"], found["extrapolated"]
        run = facts[head]["training_s"]
        lines.append(
            f"| {head} | {scale * found['fill_cache_s']:.0f} s | {scale * found['cached_epoch_s']:.2f} s | "
            f"{scale * found['through_backbone_epoch_s']:.0f} s | {full['cached_s']:.0f} s | "
            f"{full['through_backbone_s']:.0f} s | {found['times_faster']:.1f} | "
            f"{'broken off' if run is None else f'{run:.0f} s'} | {found['largest_difference']:.4f} | "
            f"{found['answers_that_differ']:.2%} |"
        )
    return lines


def heads_table(runs: dict[str, RunFolder]) -> list[str]:
    """Return the accuracy of each exit with either kind of head, on everything that was recorded."""
    traces = {head: run.trace("test") for head, run in runs.items()}
    names = [*BLOCKS[:-1], "own classifier"]
    lines = heading(("exit", "after", "cost, paper", "accuracy, paper", "cost, grid", "accuracy, grid"))
    for exit_, name in enumerate(names):
        cells = [
            f"{trace.cost.cumulative[exit_] / trace.cost.full:.3f} | {1 - trace.risk[exit_]:.4f}"
            for trace in (traces["paper"], traces["grid"])
        ]
        lines.append(f"| {exit_} | {name} | {' | '.join(cells)} |")
    return lines


def section(head: str, full: float, sections: list[str]) -> str:
    return f"""
## Heads: {head}

{full:.5g} multiply-adds in full, heads included.

### The paper's claims

A difference counts as better or worse if its 95 % interval over inputs excludes zero. At equal spend, the other rule is
a random mixture of its two nearest points.

{sections[0]}

### Accuracy @ share of the full cost spent

Mean over the splits.

![Figure 2: accuracy against budget]({head}-figure2-accuracy.png)

![Figure 3: spend against budget]({head}-figure3-spend.png)

![Figure 7: risk per exit]({head}-figure7-risk.png)

{sections[1]}

### Rates and shares in percent, one split (Table 3, Figures 4 and 6)

Risk on the fit part.

![Figure 4: rates and shares with sequential calibration]({head}-figure4-rates-sequential.png)

![Figure 6: rates and shares with the paper's calibration]({head}-figure6-rates-marginal.png)

{sections[2]}
"""


def page(
    savings: dict[str, dict[str, Any]],
    facts: dict[str, dict[str, Any]],
    runs: dict[str, RunFolder],
    sections: list[str],
    splits: int,
) -> str:
    parts, timing = facts["paper"]["parts"], savings["paper"]
    newline = "\n"
    return f"""# A frozen ResNet-56 on CIFAR-10 with 27 exits

Made by `python experiments/resnet56_cifar10.py`. A pretrained network that stays as it is, with a head after each
block but the last, which has the network's own classifier. {EPOCHS} epochs of one-cycle SGD on the cached features of
{parts["train"]:,} training images, without augmentation. The network has seen all training images, so the policies
are fitted, calibrated and tested on the 10,000 test images alone: {parts["fit"]:,}, {parts["calibrate"]:,} and
{parts["test"]:,} of them, drawn again in {splits} splits (traces: [paper](../traces/resnet56-cifar10-paper.parquet),
[grid](../traces/resnet56-cifar10-grid.parquet)). Exits count from 0.

## What the cache saves

Times of {timing["epochs"]} epochs on {timing["images"]:,} images, scaled to {timing["images_in_full"]:,}. Only
"the whole run, measured" is not extrapolated; it includes measuring the fit part after every epoch. Both ways
see the same batches in the same order. Accuracies and answers are compared after those {timing["epochs"]} epochs on
{timing["test_images"]:,} test images and all exits.

{newline.join(saving_table(savings, facts))}

## Accuracy of each exit on the run's {parts["test"]:,} test images

{newline.join(heads_table(runs))}
{newline.join(sections)}"""


def main() -> None:
    parser = arguments(__doc__, data="cifar10", run="resnet56-cifar10", out="resnet56-cifar10", splits=10)
    parser.add_argument("--weights", default="../shared/models/resnet56_cifar10.safetensors")
    parser.add_argument("--timed-images", type=int, default=10_000)
    parser.add_argument("--timed-epochs", type=int, default=2)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    runs, savings, facts, numbers, sections = {}, {}, {}, {}, []
    for head in HEADS:
        run, made = given.run / head, job(given.data, given.weights, head)
        runs[head] = trained(made, run)
        facts[head] = training_facts(runs[head])
        savings[head] = saving(made, run, n=given.timed_images, epochs=given.timed_epochs)
    for head, run in runs.items():
        trace = kept_trace(run, given.out.parent / "traces" / f"resnet56-cifar10-{head}.parquet")
        results = evaluate_all(
            trace, given.out, shares=parts_of(run), splits=given.splits, three=THREE, prefix=f"{head}-"
        )
        sections.append(section(head, trace.cost.full, results.sections))
        numbers[head] = {"training": facts[head], "cache": savings[head], **results.numbers}
    write_page(given.out, page(savings, facts, runs, sections, given.splits), numbers)
    print((given.out / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
