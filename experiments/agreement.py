"""What `--agree` certifies, what it costs, and how often it is wrong, on a cascade of two int8 networks.

    python -m experiments.agreement
    python -m experiments.agreement --measure [--fits 20] [--recalibrations 1000]
    python -m experiments.agreement --record runs/cifar10-cascade

Writes the page again from the kept numbers. --measure recalibrates on the recorded traces; the same command goes on
where it was interrupted. --record first records the int8 networks of the runs that `experiments.cifar10_cascade
--train` makes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from experiments.pages import RESULTS, TRACES, Measurements, kept_numbers, parser, table, write_page
from scipy.stats import binomtest

import exeunt as ex
from exeunt.rules.candidates import Candidates
from exeunt.rules.promises import MeanLoss
from exeunt.trace.splitting import shaping_and_testing_rows

PAGE = RESULTS / "agreement.md"
NAMES = ("resnet20", "resnet56")
LARGE = NAMES[-1]
ASKED = (0.95, 0.98, 0.99)
N_FIT = N_CALIBRATE = 3000
DELTA = 0.05
POINTS = 20


def trace_file(name: str) -> Path:
    return TRACES / f"{name}-int8-cifar10-cascade.parquet"


def record(runs: Path) -> None:
    """Record the int8 networks of these runs."""
    from benchmarks.cascade import with_int8
    from experiments.runs import kept_trace

    from exeunt.runs.folder import RunFolder

    for name in NAMES:
        kept_trace(with_int8(RunFolder.open(runs / name)), trace_file(name))


# -- measuring -------------------------------------------------------------------------------------------------------


def recalibrated(models: ex.CascadeTrace, agree: float, seed: int, times: int) -> dict[str, Any]:
    """Return what the certified policies do in truth, and what a threshold chosen in hindsight does.

    Random inputs fit. All the others are the truth, and calibration inputs are drawn from them anew each time, with
    replacement. Policies depend on the inputs to fit alone, so they are made once, as `cheapest` makes them.
    """
    order = np.random.default_rng(seed).permutation(models.n)
    fit, truth = (models.take(rows).with_reference(LARGE) for rows in (order[:N_FIT], order[N_FIT:]))
    shaping, learning = (fit.take(rows) for rows in shaping_and_testing_rows(N_FIT, 0.2, seed))
    make = partial(ex.cascade, learning, shaping, reference=LARGE, seed=seed)
    candidates = Candidates.made(
        learning, make, [MeanLoss(round(1 - agree, 12))], delta=DELTA, points=POINTS, evenly=False, n_tests=N_CALIBRATE,
        reference=LARGE,
    )  # fmt: skip
    label = models[LARGE].label[order[N_FIT:]]  # of the classes; the reference has replaced it in `truth`
    own = float(np.mean(truth[LARGE].prediction[:, -1] == label))
    known = {}
    for policy in candidates.policies:
        result, said = ex.evaluate(policy, truth), policy.answers(truth)
        share = result.cost / truth[LARGE].cost.full
        known[str(policy.limits)] = [1 - result.accuracy, share, own - float(np.mean(said == label))]
    draws = (np.random.default_rng((seed, one)).integers(0, truth.n, N_CALIBRATE) for one in range(times))
    found = [candidates.cheapest(truth.take(rows), None) for rows in draws]
    print(f"{agree:.0%}, fit {seed + 1}", flush=True)
    return {
        "certified": [known[str(one.limits)] for one in found if one],
        "hindsight": hindsight(truth, agree),
    }


def hindsight(truth: ex.CascadeTrace, agree: float) -> float:
    """Return the cost of a threshold on the small network's last margin, the best on these very inputs."""
    small, large = (truth[name] for name in NAMES)
    order = np.argsort(-small.scores["margin"][:, -1], kind="stable")
    differs = np.cumsum(small.prediction[order, -1] != large.prediction[order, -1])
    answered = np.flatnonzero(differs <= (1 - agree) * truth.n)[-1] + 1
    return float(small.cost.full / large.cost.full + 1 - answered / truth.n)


def measure(fits: int, recalibrations: int) -> dict[str, Any]:
    kept = Measurements(Path("runs/agreement.jsonl"))
    models = ex.CascadeTrace({name: ex.ExitTrace.load(trace_file(name)) for name in NAMES})
    times = recalibrations // fits
    rows = []
    for agree in ASKED:
        each = [
            kept.of(agree, seed, times, measure=partial(recalibrated, models, agree, seed, times))
            for seed in range(fits)
        ]
        rows.append(summary(agree, each, fits * times))
    return {"rows": rows, "fits": fits, "inputs": models.n}


def summary(agree: float, each: list[dict[str, Any]], recalibrations: int) -> dict[str, Any]:
    differs, cost, lost = np.array([one for fit in each for one in fit["certified"]]).T
    limit = 1 - agree
    violated = int(np.sum(differs > limit + 1e-12))
    test = binomtest(violated, recalibrations)
    mean_cost = (
        cost.sum() + recalibrations - len(cost)
    ) / recalibrations  # else everything asks the large network
    return {
        "agree": agree, "recalibrations": recalibrations, "certified": len(cost), "violated": violated,
        "violated_interval": list(test.proportion_ci(method="exact")), "cost": float(mean_cost),
        "gap": float(np.mean(limit - differs)), "accuracy_lost": float(lost.mean()),
        "most_accuracy_lost": float(lost.max()),
        "hindsight": float(np.mean([one["hindsight"] for one in each])),
    }  # fmt: skip


# -- the page --------------------------------------------------------------------------------------------------------


def page(found: dict[str, Any]) -> str:
    rows = []
    for one in found["rows"]:
        low, high = one["violated_interval"]
        share = one["violated"] / one["recalibrations"]
        rows.append([
            f"{one['agree']:.0%}", f"{one['cost']:.1%}", f"{one['hindsight']:.1%}", f"{100 * one['gap']:.2f}",
            f"{share:.1%} ({low:.1%} to {high:.1%})", f"{one['certified'] / one['recalibrations']:.1%}",
            f"{100 * one['accuracy_lost']:+.2f}", f"{100 * one['most_accuracy_lost']:+.2f}",
        ])  # fmt: skip
    columns = (
        "asked", "cost", "cost in hindsight", "gap in points", "violated (95%)", "certified",
        "accuracy lost, points", "at most",
    )  # fmt: skip
    return f"""# How many answers change

Made by `python -m experiments.agreement`; numbers in [agreement.json](agreement.json).

`exeunt calibrate RUN --agree 98%` finds the cheapest policy of which it is certified, with probability 95%, that at
most 2% of its answers differ from those of the model that runs today. Here that is a ResNet-56 in int8 on CIFAR-10. The
cascade puts a ResNet-20 in int8 before it; both are pretrained, with exits on the frozen networks. No label is used.

Of the {found["inputs"]:,} recorded test images {N_FIT:,} fit the policies, drawn anew {found["fits"]} times. **All
others are the truth**: {N_CALIBRATE:,} calibration inputs are drawn from them, with replacement, and the certified
policy is then measured on all of them. Costs are multiply-adds in shares of the ResNet-56's, where what is not
certified counts as 100%.

{table(columns, rows)}

- *Cost in hindsight*: a threshold on the last margin of the ResNet-20 alone, the best one for these very inputs. It
  certifies nothing.
- *Gap*: what is allowed less what differs, on average: how much of what was asked for is not used.
- *Violated*: in how many of {found["rows"][0]["recalibrations"]:,} recalibrations more answers differ than certified;
  5% may be.
- *Accuracy lost*: against the labels, which the method did not see, less than the ResNet-56. It can never be more than
  the share of answers that differ.
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", action="store_true")
    options.add_argument("--fits", type=int, default=20)
    options.add_argument("--recalibrations", type=int, default=1000)
    options.add_argument("--record", type=Path, metavar="RUNS")
    given = options.parse_args()
    if given.record:
        record(given.record)
    found = measure(given.fits, given.recalibrations) if given.measure or given.record else kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
