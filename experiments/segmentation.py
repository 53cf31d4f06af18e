"""Segmentation as deep as the image needs, on drawn scenes; and what CamVid's drives can certify.

    python -m experiments.segmentation
    python -m experiments.segmentation --measure RUNS [--camvid RUN --tables FOLDER]

Writes the page again from the kept numbers. --measure records fresh scenes with the runs RUNS/drawn-0, drawn-1, ... and
RUNS/drawn-small, which these commands make:

    python -c "from experiments.drawn_scenes import write_table as w; w('train.parquet', 1700, 0, 48, 64)"
    exeunt train --task segment --model 'experiments.segmenter:segmenter?height=48&width=64&base=12' --data FOLDER \\
        --exits own --mode joint --epochs 12 --learning-rate 0.003 --fit 100 --calibrate 100 --seed S --out RUNS/drawn-S

(FOLDER also holds test.parquet, 300 scenes of seed 1; drawn-small has base=8 and seed 0.) CamVid's run has
height=96&width=128, the tables that `experiments/camvid.py` writes with 128 96, --calibration-data val.parquet,
--ignore-class unlabelled, --balance-classes, --epochs 20 and --batch-size 4.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from experiments.drawn_scenes import write_table
from experiments.pages import Measurements, kept_numbers, parser, write_page
from experiments.segmentation_page import (
    ASKED,
    BUDGETS,
    DELTA,
    HEIGHT,
    N_CALIBRATE,
    N_FIT,
    N_SCENES,
    PAGE,
    POINTS,
    WIDTH,
    page,
)
from scipy.stats import binomtest

import exeunt as ex
from exeunt.baselines import eco_m2f, random_routing
from exeunt.data import SplitPlan, open_source
from exeunt.policies.candidates import Candidates
from exeunt.run.folder import RunFolder
from exeunt.run.run_inputs import load_preparation, part_data
from exeunt.torch.loaders import make_loader
from exeunt.torch.open_run import load_network
from exeunt.trace import concatenate
from exeunt.trace.masks import mask_trace
from exeunt.trace.splitting import shaping_and_testing_rows

POLICIES = {
    "`auto`": ex.auto,
    "EERO": ex.eero,
    "the gate alone (ECO-M2F)": eco_m2f,
    "EERO's rates by lot": random_routing,
}


class Recorded(NamedTuple):
    """A trace, and by image, exit and class the pixels of intersection and union (n, m, k)."""

    trace: ex.ExitTrace
    both: np.ndarray
    union: np.ndarray

    def take(self, rows: np.ndarray) -> Recorded:
        return Recorded(self.trace.take(rows), self.both[rows], self.union[rows])

    def miou(self, exits: np.ndarray) -> float:
        """Return the mean IoU over classes of all images together, if each is answered at its exit (n,)."""
        rows = np.arange(len(exits))
        both, union = self.both[rows, exits].sum(0), self.union[rows, exits].sum(0)
        return float(np.mean(both[union > 0] / union[union > 0]))


# -- measuring -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def recorded(run: RunFolder, data: Any) -> Recorded:
    """Run every exit of a run's network on images with masks."""
    network = load_network(run, trusted=run.manifest["model"]["spec"]).eval()
    traces, both, union = [], [], []
    for batch in make_loader(data, load_preparation(run), batch_size=8):
        logits = [one.numpy() for one in network(batch.inputs)]
        truth = batch.label.numpy()
        keys = batch.id.numpy().view(np.uint64)
        traces.append(mask_trace(logits, cost=network.cost, truth=truth, id=keys))
        said = np.stack([one.argmax(1) for one in logits], axis=1)
        classes = np.arange(logits[0].shape[1])[:, None, None]
        counts = (truth >= 0)[:, None, None]
        here, there = (said[:, :, None] == classes) & counts, truth[:, None, None] == classes
        both.append((here & there).sum((3, 4)))
        union.append((here | there).sum((3, 4)))
    return Recorded(concatenate(traces), np.concatenate(both), np.concatenate(union))


def scenes(run: RunFolder, seed: int) -> Recorded:
    """Record fresh scenes, which no run has seen."""
    with TemporaryDirectory() as folder:
        write_table(Path(folder) / "train.parquet", N_SCENES, 1000 + seed, HEIGHT, WIDTH)
        return recorded(run, open_source(folder, masks=True).dataset("train"))


def compared(outputs: Recorded, fit: np.ndarray, calibrate: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Return mean image IoU and mIoU of each policy and of fixed depths, at each budget."""
    of_fit, of_calibrate, of_test = (outputs.take(rows) for rows in (fit, calibrate, test))
    cost, rows = of_test.trace.cost.cumulative, np.arange(len(test))

    def quality(exits: np.ndarray) -> list[float]:
        spent = float(cost[exits].mean() / cost[-1])
        return [float(of_test.trace.quality[rows, exits].mean()), of_test.miou(exits), spent]

    found: dict[str, Any] = {name: {} for name in (*POLICIES, "one fixed depth")}
    for budget in BUDGETS:
        for name, make in POLICIES.items():
            policy = make(of_fit.trace, of_calibrate.trace, budget=budget)
            found[name][budget] = quality(policy.route(of_test.trace))
        within = np.flatnonzero(cost <= of_test.trace.budget(budget))
        depth = within[of_fit.trace.risk[within].argmin()]
        found["one fixed depth"][budget] = quality(np.full(len(test), depth))
    exits = [quality(np.full(len(test), exit_)) for exit_ in range(len(cost))]
    return {"policies": found, "exits": exits}


def certified(outputs: Recorded, agree: float, seed: int, times: int) -> dict[str, Any]:
    """Return how often a certified policy changes more pixels than certified; see `experiments.agreement`."""
    order = np.random.default_rng(seed).permutation(outputs.trace.n)
    fit, truth = (outputs.trace.take(rows).with_reference() for rows in (order[:N_FIT], order[N_FIT:]))
    shaping, learning = (fit.take(rows) for rows in shaping_and_testing_rows(N_FIT, 0.2, seed))
    candidates = Candidates.made(
        learning, partial(ex.eero, learning, shaping, seed=seed), max_loss=round(1 - agree, 12), delta=DELTA,
        points=POINTS, evenly=False, n_tests=N_CALIBRATE, reference=None,
    )  # fmt: skip
    known = {}
    for policy in candidates.policies:
        result = ex.evaluate(policy, truth)
        known[str(policy.limits)] = [1 - result.accuracy, result.cost / truth.cost.full]
    draws = (np.random.default_rng((seed, one)).integers(0, truth.n, N_CALIBRATE) for one in range(times))
    found = [candidates.cheapest(truth.take(rows), None) for rows in draws]
    differs, cost = np.array([known[str(one.limits)] for one in found if one]).reshape(-1, 2).T
    violated = int((differs > 1 - agree + 1e-12).sum())
    return {
        "agree": agree, "times": times, "certified": len(differs), "violated": violated,
        "interval": list(binomtest(violated, times).proportion_ci(method="exact")),
        "p": float(binomtest(violated, times, DELTA, alternative="greater").pvalue),
        "cost": float((cost.sum() + times - len(cost)) / times), "differs": float(differs.mean()),
    }  # fmt: skip


def of_run(folder: Path, times: int) -> dict[str, Any]:
    """Return what a run shows on fresh scenes. `times`: recalibrations of each certificate; 0 for none."""
    run = RunFolder.open(folder)
    outputs = scenes(run, int(folder.name[-1]) if folder.name[-1].isdecimal() else 0)
    parts = np.split(np.random.default_rng(0).permutation(N_SCENES), [N_FIT, N_FIT + N_CALIBRATE])
    print(folder, flush=True)
    return {
        **compared(outputs, *parts), "cost": run.cost.full, "shares": (run.cost.cumulative / run.cost.full).tolist(),
        "certificates": [certified(outputs, agree, 0, times) for agree in ASKED if times],
    }  # fmt: skip


def measure(runs: Path, times: int) -> dict[str, Any]:
    """Return what all runs show; runs that were measured before are not run again."""
    kept = Measurements(Path("runs/segmentation.jsonl"))

    def of(folder: Path, times: int) -> dict[str, Any]:
        digest = RunFolder.open(folder).digest
        return kept.of(digest, times, measure=partial(of_run, folder, times))  # type: ignore[no-any-return]

    folders = sorted(runs.glob("drawn-[0-9]"))
    seeds = [of(folder, 0 if number else times) for number, folder in enumerate(folders)]
    return {"seeds": seeds, "small": of(runs / "drawn-small", 0)}


def drives(run: RunFolder, tables: Path) -> dict[str, Any]:
    """Return what CamVid's test images show, and what its drives can certify."""
    outputs = {part: recorded(run, part_data(run, part)) for part in ("fit", "calibrate", "test")}
    each, n = list(outputs.values()), [one.trace.n for one in outputs.values()]
    traces, both, union = zip(*each, strict=True)
    whole = Recorded(concatenate(traces), np.concatenate(both), np.concatenate(union))
    found = compared(whole, *np.split(np.arange(sum(n)), np.cumsum(n)[:-1]))
    plan = SplitPlan.from_dict(run.manifest["split"])
    groups = {}
    for part, file in (("fit", "val"), ("calibrate", "val"), ("test", "test")):
        names = pq.read_table(tables / f"{file}.parquet", columns=["name"])["name"].to_pylist()
        groups[part] = [names[row] for row in plan.indices(part)]
    # To learn from, frames do as groups of their own: certificates count those of the other part.
    learned = replace(concatenate(traces[:2]), groups=[*groups["fit"], *groups["calibrate"]])
    held_out = replace(traces[2], groups=[name.split("_")[0] for name in groups["test"]])
    refused = {
        "a mean cost of at most 60%": tried(partial(ex.eero, learned, held_out, budget="60%", delta=DELTA)),
        "95% of the pixels": tried(
            partial(ex.cheapest, learned, held_out, agree=0.95, delta=DELTA, policy="eero")
        ),
    }
    return {**found, "refused": refused, "n": n, "shares": (run.cost.cumulative / run.cost.full).tolist()}


def tried(make: partial[ex.Policy]) -> str:
    """Return the guarantee of a policy, or why there is none."""
    try:
        made = make()
    except (ex.Infeasible, ex.InfeasibleBudget) as error:
        return f"{type(error).__name__}: {error}"
    return str(made.loss_certificate or made.certificate)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="RUNS")
    options.add_argument("--recalibrations", type=int, default=500)
    options.add_argument("--camvid", type=Path, metavar="RUN")
    options.add_argument("--tables", type=Path, metavar="FOLDER")
    given = options.parse_args()
    found = kept_numbers(PAGE) if given.measure is None else measure(given.measure, given.recalibrations)
    if given.camvid:
        found = {**found, "camvid": drives(RunFolder.open(given.camvid), given.tables)}
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
