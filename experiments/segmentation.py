"""Segmentation as deep as the image needs, on drawn scenes; and what CamVid's drives can certify.

    python -m experiments.segmentation
    python -m experiments.segmentation --measure RUNS [--camvid RUN --tables FOLDER]
    python -m experiments.segmentation --times RUNS

Writes the page again from the kept numbers. --measure records fresh scenes with the runs RUNS/drawn-0, drawn-1, ... and
RUNS/drawn-small-0, ..., which these commands make:

    python experiments/drawn_scenes.py FOLDER --train 1100 --test 200
    exeunt train --task segment --model experiments.segmenter:segmenter --data FOLDER --exits own --mode joint \\
        --epochs 8 --learning-rate 0.003 --fit 100 --calibrate 100 --seed S --out RUNS/drawn-S

(drawn-small-S has the model experiments.segmenter:segmenter?layers=2.) CamVid's run has the tables that
`experiments/camvid.py` writes with 256 192, --calibration-data val.parquet, --ignore-class unlabelled,
--balance-classes and --epochs 16. --times runs the policies that --measure kept, on this machine's clock.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from experiments.drawn_scenes import drawn
from experiments.pages import Measurements, kept_numbers, parser, write_page
from experiments.segmentation_page import (
    ASKED,
    BUDGETS,
    DELTA,
    FIGURE,
    N_CALIBRATE,
    N_FIT,
    N_SCENES,
    PAGE,
    POINTS,
    draw,
    page,
)
from experiments.segmentation_times import times
from scipy.stats import binomtest

import exeunt as ex
from exeunt.data import SplitPlan
from exeunt.engine.inputs import input_keys
from exeunt.rules.baselines import eco_m2f, random_routing
from exeunt.rules.candidates import Candidates
from exeunt.rules.promises import MeanLoss
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import load_preparation, part_data
from exeunt.score.mask_confidence import MaskEvidence
from exeunt.torch.loaders import make_loader
from exeunt.torch.open_run import load_network
from exeunt.trace import concatenate
from exeunt.trace.mask_trace import trace_of_evidence
from exeunt.trace.splitting import shaping_and_testing_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

POLICIES = {
    "auto": ex.auto,
    "stopping": ex.stopping,
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

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        np.savez_compressed(folder / "counts.npz", both=self.both, union=self.union)
        self.trace.save(folder / "trace.parquet")

    @classmethod
    def load(cls, folder: Path) -> Recorded:
        counts = np.load(folder / "counts.npz")
        return cls(ex.ExitTrace.load(folder / "trace.parquet"), counts["both"], counts["union"])

    def miou(self, exits: np.ndarray) -> float:
        """Return the mean IoU over classes of all images together, if each is answered at its exit (n,)."""
        rows = np.arange(len(exits))
        both, union = self.both[rows, exits].sum(0), self.union[rows, exits].sum(0)
        return float(np.mean(both[union > 0] / union[union > 0]))


# -- measuring -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def recorded(run: RunFolder, batches: Iterable[Any], *, last_only: bool = False) -> Recorded:
    """Run every exit of a run's network, or the last alone, on batches of images with masks and keys."""
    network = load_network(run, trusted=run.manifest["model"]["spec"]).eval()
    cost = network.cost if not last_only else ex.CostModel([network.cost.full])
    traces, both, union = [], [], []
    for inputs, truth, keys in batches:
        logits = network(inputs)[-len(cost.cumulative) :]
        shown = [MaskEvidence(one.numpy(), network.mask_scale) for one in logits]
        traces.append(trace_of_evidence(shown, cost=cost, truth=truth, id=keys))
        counts, k = truth >= 0, logits[0].shape[1]
        of_image = np.zeros((len(truth), len(logits), k, k), np.int64)  # by true class and answer
        for exit_, one in enumerate(shown):
            for i, said in enumerate(one["mask"]):
                pairs = truth[i][counts[i]] * k + said[counts[i]]
                of_image[i, exit_] = np.bincount(pairs, minlength=k * k).reshape(k, k)
        here = np.diagonal(of_image, axis1=2, axis2=3)
        both.append(here)
        union.append(of_image.sum(2) + of_image.sum(3) - here)
    return Recorded(concatenate(traces), np.concatenate(both), np.concatenate(union))


def scenes(run: RunFolder, seed: int) -> Iterator[Any]:
    """Yield fresh scenes, which no run has seen, with their masks and keys."""
    rng, prepare = np.random.default_rng(1000 + seed), load_preparation(run)
    for start in range(0, N_SCENES, 8):
        pairs = [drawn(rng) for _ in range(min(8, N_SCENES - start))]
        inputs = prepare.batch([image for image, _ in pairs])
        truth = np.stack([mask for _, mask in pairs]).astype(np.int64)
        yield torch.from_numpy(inputs), truth, input_keys(inputs, len(inputs))


def of_part(run: RunFolder, part: str) -> Iterator[Any]:
    """Yield the images of a part of a run's data, with their masks and keys."""
    for batch in make_loader(part_data(run, part), load_preparation(run), batch_size=8):
        yield batch.inputs, batch.label.numpy(), batch.id.numpy().view(np.uint64)


def compared(
    outputs: Recorded, fit: np.ndarray, calibrate: np.ndarray, test: np.ndarray, keep: Path | None = None
) -> dict[str, Any]:
    """Return mean image IoU, mIoU and cost of each policy, of fixed depths and of the oracle, at each budget.

    `keep`: a folder for the policies, see `experiments.segmentation_times`.
    """
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
            if keep is not None:
                policy.save(keep / f"{name} {budget}.json")
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
        learning, partial(ex.eero, learning, shaping, seed=seed), [MeanLoss(round(1 - agree, 12))], delta=DELTA,
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


def of_run(folder: Path, recalibrations: int) -> dict[str, Any]:
    """Return what a run shows on fresh scenes. `recalibrations`: of each certificate; 0 for none."""
    print(folder, flush=True)
    run = RunFolder.open(folder)
    kept = folder.with_name(f"recorded-{folder.name}")
    if not (kept / "trace.parquet").is_file():
        recorded(run, scenes(run, int(folder.name[-1]))).save(kept)
    outputs = Recorded.load(kept)
    parts = np.split(np.random.default_rng(0).permutation(N_SCENES), [N_FIT, N_FIT + N_CALIBRATE])
    keep = folder.with_name(f"policies-{folder.name}")
    keep.mkdir(exist_ok=True)
    return {
        **compared(outputs, *parts, keep), "cost": run.cost.full,
        "shares": (run.cost.cumulative / run.cost.full).tolist(),
        "certificates": [certified(outputs, agree, 0, recalibrations) for agree in ASKED if recalibrations],
    }  # fmt: skip


def of_small_run(folder: Path) -> dict[str, Any]:
    """Return what the last exit of a smaller network shows on the same scenes."""
    print(folder, flush=True)
    run, n_first = RunFolder.open(folder), N_FIT + N_CALIBRATE
    outputs = recorded(run, scenes(run, int(folder.name[-1])), last_only=True)
    test = outputs.take(np.random.default_rng(0).permutation(N_SCENES)[n_first:])
    last = np.zeros(test.trace.n, np.int64)
    return {"quality": [float(test.trace.quality.mean()), test.miou(last)], "cost": run.cost.full}


def measure(runs: Path, recalibrations: int) -> dict[str, Any]:
    """Return what all runs show; runs that were measured before are not run again."""
    kept = Measurements(runs / "segmentation.jsonl")

    def of(pattern: str, measured: Any, *first: int) -> list[Any]:
        folders = [one for one in sorted(runs.glob(pattern)) if RunFolder.exists(one)]
        each = [
            (folder, (*first,) if not number else (0,) * len(first)) for number, folder in enumerate(folders)
        ]
        return [
            kept.of(RunFolder.open(folder).digest, *how, measure=partial(measured, folder, *how))
            for folder, how in each
        ]

    return {
        "seeds": of("drawn-[0-9]", of_run, recalibrations),
        "small": of("drawn-small-[0-9]", of_small_run),
    }


def drives(run: RunFolder, tables: Path) -> dict[str, Any]:
    """Return what CamVid's test images show, and what its drives can certify."""
    outputs = {part: recorded(run, of_part(run, part)) for part in ("fit", "calibrate", "test")}
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
    options.add_argument("--times", type=Path, metavar="RUNS")
    given = options.parse_args()
    found = kept_numbers(PAGE)
    if given.measure:
        found = {**found, **measure(given.measure, given.recalibrations)}
    if given.camvid:
        found["camvid"] = drives(RunFolder.open(given.camvid), given.tables)
    if given.times:
        found["times"] = times(given.times, len(found["seeds"]))
    draw(found, FIGURE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
