"""What each promise costs beside a mean loss alone, how often it is broken, and MAPIE's risk control beside it.

    python -m experiments.promises
    python -m experiments.promises --measure FOLDER [--fits 5] [--recalibrations 1000]

Writes the page again from the kept numbers, or measures. FOLDER holds rafdb.parquet and imdb.parquet, tables of the
recorded answers of paid services as `experiments.services` reads them. An interrupted measurement goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from experiments.pages import RESULTS, TRACES, Measurements, kept_numbers, parser, table, write_page
from experiments.services import service_models
from scipy.stats import binomtest

import exeunt as ex
from exeunt.rules.candidates import Candidates, FixedSequence
from exeunt.rules.outcomes import Outcome, instead
from exeunt.rules.promises import EarlyLoss, EarlyWorse, MeanLoss, Promise, Tail
from exeunt.trace.splitting import shaping_and_testing_rows

PAGE = RESULTS / "promises.md"
N_FIT = N_CALIBRATE = 3000
DELTA = 0.05
POINTS = 20
NETWORKS = {
    "MSDNet, CIFAR-100": "msdnet-cifar100.parquet",
    "ResNet-20, CIFAR-10": "resnet20-cifar10-joint.parquet",
}
SERVICES = {"rafdb": "Microsoft", "imdb": "Google"}
"""The most accurate service of each, which the loss is measured against."""
FIRST = {"rafdb": "GitHub_CNN", "imdb": "GitHub_Vader", "MSDNet, CIFAR-100": 2, "ResNet-20, CIFAR-10": 3}
"""The model, or the exit, that is asked first where MAPIE is compared."""
TAILS = {"rafdb": ("100%", 0.5), "imdb": ("100%", 0.5)}
"""Cost and share; of a network: at most 40% of the inputs cost more than 60% of the full cost."""
LOSS, EARLY_LOSS, EARLY_WORSE, OF_NETWORKS = 0.02, 0.05, 0.1, ("60%", 0.4)


def promises_of(name: str, fit: Any, reference: str | None) -> dict[str, list[Promise]]:
    """Return what is promised, by what it is called on the page."""
    loss, early, worse = MeanLoss(LOSS), EarlyLoss(EARLY_LOSS), EarlyWorse(EARLY_WORSE)
    tail = Tail.of(TAILS.get(name, OF_NETWORKS), fit, reference)
    return {
        "loss": [loss],
        "loss, early loss": [loss, early],
        "loss, early worse": [loss, worse],
        "loss, tail": [loss, tail],
        "all four": [loss, early, worse, tail],
        "early loss alone": [early],
        "early worse alone": [worse],
    }


def inputs_of(name: str, folder: Path | None) -> Any:
    """Return the recorded outputs of a task."""
    if name in NETWORKS:
        return ex.ExitTrace.load(TRACES / NETWORKS[name])
    return service_models(Path(str(folder)) / f"{name}.parquet")


# -- measuring -------------------------------------------------------------------------------------------------------


def drawn(outcome: Outcome, rows: Any) -> Outcome:
    """Return what a policy does to these inputs."""
    return Outcome(outcome.loss[rows], outcome.early[rows], outcome.paid[rows])


def is_broken(promise: Promise, truth: Outcome) -> bool:
    return promise.measured(truth) > promise.limit + 1e-12


def recalibrated(inputs: Any, name: str, seed: int, times: int) -> dict[str, list[Any]]:
    """Return, by what is promised, of each recalibration the true cost and whether anything promised is broken.

    Random inputs fit. All the others are the truth, and calibration inputs are drawn from them anew each time, with
    replacement. Policies depend on the inputs to fit alone, so they are made once, as `cheapest` makes them.
    """
    order = np.random.default_rng(seed).permutation(inputs.n)
    fit, truth = inputs.take(order[:N_FIT]), inputs.take(order[N_FIT:])
    reference = SERVICES.get(name)
    shaping, learning = (fit.take(rows) for rows in shaping_and_testing_rows(N_FIT, 0.2, seed))
    rule = ex.eero if reference is None else partial(ex.cascade, policy="eero", reference=reference)
    made = cache(lambda budget: rule(learning, shaping, budget=budget, delta=None, seed=seed))
    full, measured = instead(truth, reference).cost.full, dict[str, list[Any]]()
    for called, promises in promises_of(name, fit, reference).items():
        candidates = Candidates.made(
            learning, made, promises, delta=DELTA, points=POINTS, evenly=False, n_tests=N_CALIBRATE,
            reference=reference,
        )  # fmt: skip
        known = [Outcome.of(policy, truth, reference) for policy in candidates.policies]
        measured[called] = [chosen(candidates, known, rows, full) for rows in draws(truth.n, seed, times)]
        print(f"{name}, fit {seed + 1}, {called}", flush=True)
    return measured


def chosen(candidates: Candidates, known: list[Outcome], rows: Any, full: float) -> Any:
    """Return the share of the full cost of the policy that is certified, and whether it breaks a promise; or None."""
    tests = FixedSequence(candidates, lambda k: drawn(known[k], rows))
    k = tests.cheapest(candidates.promises, np.inf)
    if k is None:
        return None
    broken = any(is_broken(promise, known[k]) for promise in candidates.promises)
    return [float(known[k].paid.mean()) / full, broken]


def draws(n: int, seed: int, times: int) -> Iterator[Any]:
    return (np.random.default_rng((seed, one)).integers(0, n, N_CALIBRATE) for one in range(times))


def beside_mapie(inputs: Any, name: str, seed: int, times: int) -> dict[str, list[Any]]:
    """Return the same of two exits, where MAPIE promises the same: at most so many of the early answers are worse.

    To MAPIE an early answer is a positive prediction, and one that is not worse a positive label: then the share of
    worse ones is 1 - precision. Both have the same scores and calibration inputs; its thresholds are quantiles of the
    fit inputs.
    """
    from mapie.risk_control import BinaryClassificationController

    if (reference := SERVICES.get(name)) is None:
        pair = inputs.selected([FIRST[name], inputs.n_exits - 1])
        score, first, last = pair.scores["margin"][:, 0], pair.quality[:, 0], pair.quality[:, 1]
        costs = pair.cost.cumulative
    else:
        first, last = inputs[FIRST[name]], inputs[reference]
        costs = np.cumsum([first.cost.full, last.cost.full])
        score = first.scores[first.default_score][:, 0]
        first, last = first.quality[:, 0], last.quality[:, -1]
    score = np.argsort(np.argsort(score, kind="stable")) / len(score)  # in [0, 1), without ties
    correct = np.stack([first, last], axis=1) > 0.5
    pair = ex.ExitTrace.from_scores(
        np.stack([score, np.zeros(len(score))], axis=1),
        np.where(correct, 0, 1),
        cost=ex.CostModel(costs),
        label=np.zeros(len(score), dtype=int),
    )
    order = np.random.default_rng(seed).permutation(pair.n)
    fit, truth = pair.take(order[:N_FIT]), pair.take(order[N_FIT:])
    shaping, learning = (fit.take(rows) for rows in shaping_and_testing_rows(N_FIT, 0.2, seed))
    made = cache(
        lambda budget: ex.eero(learning, shaping, budget=budget, delta=None, seed=seed, answer="own")
    )
    promise = EarlyWorse(EARLY_WORSE)
    candidates = Candidates.made(
        learning, made, [promise], delta=DELTA, points=POINTS, evenly=False, n_tests=N_CALIBRATE, reference=None
    )  # fmt: skip
    known = [Outcome.of(policy, truth, None) for policy in candidates.policies]
    ours = [chosen(candidates, known, rows, truth.cost.full) for rows in draws(truth.n, seed, times)]
    of_truth, worse = truth.scores[truth.default_score][:, 0], truth.correct[:, 1] & ~truth.correct[:, 0]
    thresholds = np.quantile(fit.scores[fit.default_score][:, 0], np.linspace(0.99, 0.0, 100))
    found: dict[str, list[Any]] = {"Exeunt": ours}
    for method in ("bonferroni_holm", "fixed_sequence"):
        results = []
        for rows in draws(truth.n, seed, times):
            controller = BinaryClassificationController(
                lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1), "precision", 1 - EARLY_WORSE,
                confidence_level=1 - DELTA, best_predict_param_choice="predicted_positive_fraction",
                list_predict_params=thresholds, fwer_method=method,
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                controller.calibrate(of_truth[rows][:, None], (~worse[rows]).astype(int))
            valid = np.ravel(controller.valid_predict_params)
            if len(valid) == 0:
                results.append(None)
                continue
            early = of_truth >= valid.min()
            cost = np.where(early, *truth.cost.cumulative).mean() / truth.cost.full
            results.append([float(cost), bool(worse[early].mean() > EARLY_WORSE + 1e-12)])
        found[f"MAPIE, {method.replace('_', ' ')}"] = results
    print(f"{name}, fit {seed + 1}, MAPIE", flush=True)
    return found


def measure(folder: Path, fits: int, recalibrations: int) -> dict[str, Any]:
    kept, times = Measurements(Path("runs/promises.jsonl")), recalibrations // fits
    tasks: dict[str, Any] = {}
    for name in (*SERVICES, *NETWORKS):
        inputs = inputs_of(name, folder)
        tasks[name] = {"inputs": inputs.n}
        functions: dict[str, Callable[..., Any]] = {"promises": recalibrated, "mapie": beside_mapie}
        for kind, function in functions.items():
            each = [
                kept.of(kind, name, seed, times, measure=partial(function, inputs, name, seed, times))
                for seed in range(fits)
            ]
            tasks[name][kind] = {
                called: summary([one for fit in each for one in fit[called]]) for called in each[0]
            }
    return {"tasks": tasks, "fits": fits, "recalibrations": times * fits}


def summary(results: list[Any]) -> dict[str, Any]:
    """Return the mean cost, where what is not certified counts as the full cost, and how often promises were broken."""
    certified = [one for one in results if one is not None]
    broken = sum(one[1] for one in certified)
    cost = (sum(one[0] for one in certified) + len(results) - len(certified)) / len(results)
    interval = binomtest(broken, len(results)).proportion_ci(method="exact")
    return {
        "cost": cost, "broken": broken / len(results), "interval": list(interval),
        "certified": len(certified) / len(results),
    }  # fmt: skip


# -- the page --------------------------------------------------------------------------------------------------------


def rows_of(found: dict[str, Any], kind: str) -> Iterator[list[str]]:
    for name, task in found["tasks"].items():
        for called, one in task[kind].items():
            low, high = one["interval"]
            broken = f"{one['broken']:.1%} ({low:.1%} to {high:.1%})"
            yield [name, called, f"{one['cost']:.1%}", broken, f"{one['certified']:.1%}"]


def page(found: dict[str, Any]) -> str:
    columns = ("task", "promised", "cost", "broken (95%)", "certified")
    return f"""# What each promise costs

Made by `python -m experiments.promises`; numbers in [promises.json](promises.json).

`exeunt calibrate` can promise more than a mean loss: what the answers that come early lose (`--max-early-loss`), what
share of them is worse (`--max-early-worse`), and what share of the inputs costs more than an amount (`--tail`). Here
each is asked for beside a loss of at most {100 * LOSS:g} points, and alone: early answers lose at most
{100 * EARLY_LOSS:g} points on average; at most {EARLY_WORSE:.0%} of them are worse; at most {OF_NETWORKS[1]:.0%} of the
inputs cost more than {OF_NETWORKS[0]} of the network, at most {TAILS["rafdb"][1]:.0%} more than the reference alone.
Two tasks are services that answer for money (the reference is the most accurate one, {SERVICES["rafdb"]} and
{SERVICES["imdb"]}), two are networks with exits. Policies are `eero`, of services cascades of the most useful ones, and
delta is {DELTA:g}.

{N_FIT:,} random inputs fit the policies, drawn anew {found["fits"]} times. **All others are the truth**:
{N_CALIBRATE:,} calibration inputs are drawn from them, with replacement, {found["recalibrations"]:,} times in all, and
the certified policy is then measured on all of them. Costs are shares of the reference's or the network's; what is not
certified counts as 100%. *Broken*: in how many recalibrations anything that was promised is false.

{table(columns, rows_of(found, "promises"))}

## Beside MAPIE

MAPIE 1.6 controls the risk of a binary classifier. If an early answer is a positive prediction, and one that is not
worse a positive label, then 1 - precision is the share of early answers that are worse: the promise of
`--max-early-worse`. Here both choose the threshold of one exit before the last (of services, one model before the
reference), from the same scores and the same calibration inputs, at the same delta. MAPIE tries 100 thresholds,
quantiles of the fit inputs.

{table(("task", "by", *columns[2:]), rows_of(found, "mapie"))}
"""


def main() -> None:
    """Measure, or write the page from the kept numbers."""
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="FOLDER")
    options.add_argument("--fits", type=int, default=5)
    options.add_argument("--recalibrations", type=int, default=1000)
    given = options.parse_args()
    found = (
        kept_numbers(PAGE)
        if given.measure is None
        else measure(given.measure, given.fits, given.recalibrations)
    )
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
