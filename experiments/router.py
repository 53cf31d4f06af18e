"""Routers against what one would do otherwise: language models chosen by the question, services, a text classifier.

    python -m experiments.router
    python -m experiments.router --measure ../shared/data --encoder FOLDER [--splits 3]

Writes the page again from the kept numbers, or measures; an interrupted command goes on where it was. The data folder
holds `router/questions.parquet` (a question, and a column of grades in [0, 1] for each model), `apis/*.parquet` (see
`experiments.services`) and `text/banking77`. FOLDER holds the sentence encoder of `experiments.banking77`.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from experiments.graded import embeddings, models_of
from experiments.pages import (
    RESULTS,
    TRACES,
    Curve,
    Measurements,
    Panel,
    draw_panels,
    kept_numbers,
    parser,
    points,
    table,
    write_page,
)
from experiments.services import PARTS, service_models

import exeunt as ex
from exeunt._support.arrays import places_of
from exeunt.data import open_inputs
from exeunt.evaluation.one_split import mixture_curve
from exeunt.guarantees.confidence_intervals import mean_interval
from exeunt.score.kernel_regression import KernelRegression
from exeunt.trace import concatenate

PAGE = RESULTS / "router.md"
DOLLARS = (0.12, 0.15, 0.3, 0.43, 0.55, 0.65)
FOLDS, REPEATS, NEIGHBOURS, RIDGE = 5, 4, 40, 10.0
CALIBRATES = 0.2
"""The share of the rest of a fold that calibrates."""
ENCODER_COST = 0.0005
"""Dollars per million tokens: a tenth of a second of a core that costs 2 cents an hour, for 1,000 tokens."""
SHARES = (0.1, 0.2, 0.35, 0.5, 0.75)
SMALL_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
BATCH, BATCHES = 64, 200
TOLD_LAYERS = 2
"""The embeddings and the first layer of the encoder are features."""
WAYS = ("router", "baseline", "k nearest neighbours", "best pair", "same shares at random", "mixture by lot")


# -- questions ---------------------------------------------------------------------------------------------------------


def told(questions: list[str], embedding: Any) -> Any:
    """Return the embedding of each question, and what its text looks like: lengths, lines, digits."""
    shape = [
        [
            np.log1p(len(q)),
            np.log1p(len(q.split())),
            np.log1p(q.count("\n")),
            np.mean([c.isdigit() for c in q or " "]),
        ]
        for q in questions
    ]
    return np.hstack([embedding / np.linalg.norm(embedding, axis=1, keepdims=True), np.array(shape)])


def asked(folder: Path, encoder: str) -> tuple[list[str], dict[str, float], Any, Any]:
    """Return the questions, the prices of the models, their grades (n, models), and features of the questions."""
    read = pq.read_table(folder / "router" / "questions.parquet")
    price = json.loads(read.schema.metadata[b"usd_per_million_tokens"])
    questions, kept = read["question"].to_pylist(), Path("runs/graded-embeddings.npy")
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        np.save(kept, embeddings(questions, encoder))
    grade = np.column_stack([read[name].to_numpy() for name in price])
    return questions, price, grade, told(questions, np.load(kept))


def of_questions(folder: Path, encoder: str) -> dict[str, Any]:
    """Return mean grades and costs of routers and of what they are compared with, for each budget and fold."""
    _, price, grade, features = asked(folder, encoder)
    cost = np.array([*price.values()])
    models = models_of(price, grade, np.zeros(grade.shape)).with_features(
        "encoder", features, cost=ENCODER_COST
    )
    rows, seconds, gained = [], [], np.zeros((len(DOLLARS), len(grade)))
    folds = [
        (repeat, fold)
        for repeat in range(REPEATS)
        for fold in np.array_split(np.random.default_rng(repeat).permutation(len(grade)), FOLDS)
    ]
    for number, (repeat, test) in enumerate(folds):
        rest = np.setdiff1d(np.arange(len(grade)), test)
        rest = np.random.default_rng(number).permutation(rest)
        calibrate, fit = np.split(rest, [int(CALIBRATES * len(rest))])
        parts = [models.take(part) for part in (fit, calibrate, test)]
        alone = [part.answering.alone for part in parts]
        mixed, paid = mixture_curve(
            alone[0].cost.cumulative, 1 - alone[0].risk, 1 - alone[2].risk, np.array(DOLLARS)
        )
        others = Others(features, grade, cost, rest, test)
        by_baseline = baseline(features[:, :-4], grade, cost, fit, calibrate, test)
        for k, budget in enumerate(DOLLARS):
            policy = ex.router(*parts[:2], budget=budget, seed=number)
            result = ex.evaluate(policy, parts[2])
            shuffled = sum(
                share * grade[test, [*price].index(step.model)].mean()
                for share, step in zip(result.shares.tolist(), policy.cascade, strict=True) if step.model in price
            )  # fmt: skip
            found = {
                "router": (result.accuracy, result.cost), "same shares at random": (shuffled, result.cost),
                "baseline": (
                    float(grade[test, by_baseline[k]].mean()), float(cost[by_baseline[k]].mean()) + ENCODER_COST
                ),
                "mixture by lot": (float(mixed[k]), float(paid[k])),
                "k nearest neighbours": others.neighbours(budget), "best pair": others.pair(budget),
            }  # fmt: skip
            rows += [
                {"budget": budget, "way": way, "repeat": repeat, "grade": float(g), "cost": float(c)}
                for way, (g, c) in found.items()
            ]
            by_router = [[*price].index(policy.cascade[exit_].model) for exit_ in policy.route(parts[2])]
            gained[k, test] += (grade[test, by_router] - grade[test, by_baseline[k]]) / REPEATS
        batch = parts[2].take(np.arange(BATCH))
        seconds.append(per_input(policy, batch))
        print(f"fold {number + 1} of {len(folds)}", flush=True)
    return {
        "n": len(grade), "alone": dict(zip(price, grade.mean(axis=0).tolist(), strict=True)), "price": price,
        "rows": rows, "microseconds": float(np.median(seconds)) * 1e6,
        "gains": [list(mean_interval(one)) for one in (*gained, gained.mean(axis=0))],
    }  # fmt: skip


def baseline(unit: Any, grade: Any, cost: Any, fit: Any, calibrate: Any, test: Any) -> list[Any]:
    """Return by budget the model for each test question, by twenty lines of NumPy that learn from the router's rows.

    The mean of ridge regression and of the nearest questions, on embeddings of length 1, predicts the grades; then the
    lowest price of quality under which calibration questions cost at most the budget.
    """
    middle, level = unit[fit].mean(axis=0), grade[fit].mean(axis=0)
    x = unit[fit] - middle
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (grade[fit] - level))

    def predicted(rows: Any) -> Any:
        nearest = np.argsort(-(unit[rows] @ unit[fit].T), axis=1)[:, :NEIGHBOURS]
        return ((unit[rows] - middle) @ weights + level + grade[fit][nearest].mean(axis=1)) / 2

    on_calibrate, on_test = predicted(calibrate), predicted(test)
    chosen = []
    for budget in DOLLARS:
        low, high = -6.0, 3.0  # the logarithm of the price
        for _ in range(50):
            price = (low + high) / 2
            spent = cost[(on_calibrate - 10**price * cost).argmax(axis=1)].mean() + ENCODER_COST
            low, high = (price, high) if spent > budget else (low, price)
        chosen.append((on_test - 10**high * cost).argmax(axis=1))
    return chosen


class Others:
    """Rules of others, with a price of quality that makes them cost the budget on the inputs that they learn from."""

    def __init__(self, features: Any, grade: Any, cost: Any, rest: Any, test: Any) -> None:
        self.grade, self.cost, self.test, self.rest = grade, cost, test, rest
        unit = features[:, :-4]
        near = unit[np.concatenate([rest, test])] @ unit[rest].T
        near[np.arange(len(rest)), np.arange(len(rest))] = -1  # not oneself
        closest = np.argpartition(-near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        self.by_neighbours = np.split(grade[rest][closest].mean(axis=1), [len(rest)])
        apart, learn = np.split(rest, [len(rest) // 4])
        self.apart = apart
        self.by_kernel = (
            KernelRegression.fit(features[learn], grade[learn], 0)(features[apart])[0],
            KernelRegression.fit(features[rest], grade[rest], 0)(features[test])[0],
        )

    def _chosen(self, on_fit: Any, on_test: Any, among: Any, budget: float) -> tuple[Any, Any]:
        """Return the model for each input of both parts, at the highest price of quality that spends the budget."""
        low, high = -6.0, 3.0  # the logarithm of the price of cost
        for _ in range(40):
            middle = (low + high) / 2
            asked = (on_fit[:, among] - 10**middle * self.cost[among]).argmax(axis=1)
            low, high = (middle, high) if self.cost[among][asked].mean() > budget else (low, middle)
        return tuple(
            among[(p[:, among] - 10**high * self.cost[among]).argmax(axis=1)] for p in (on_fit, on_test)
        )

    def _measured(self, asked: Any) -> tuple[float, float]:
        return float(self.grade[self.test, asked].mean()), float(self.cost[asked].mean())

    def neighbours(self, budget: float) -> tuple[float, float]:
        """Return grade and cost on the test part of the model that is best among the nearest questions."""
        return self._measured(self._chosen(*self.by_neighbours, np.arange(len(self.cost)), budget)[1])

    def pair(self, budget: float) -> tuple[float, float]:
        """Return those of a router between the two models that are best on inputs set apart."""
        best = (-1.0, np.zeros(0))
        for a in range(len(self.cost)):
            for b in range(a):
                among = np.array([b, a])
                if self.cost[among].min() <= budget:
                    on_fit, on_test = self._chosen(*self.by_kernel, among, budget)
                    best = max(
                        best, (float(self.grade[self.apart, on_fit].mean()), on_test), key=lambda one: one[0]
                    )
        return self._measured(best[1])


def per_input(policy: ex.Policy, batch: ex.CascadeTrace) -> float:
    """Return the seconds that the path of a decision takes per input of a batch, the median of many."""
    found = []
    for _ in range(BATCHES):
        started = time.perf_counter()
        policy.route(batch)
        found.append((time.perf_counter() - started) / batch.n)
    return float(np.median(found))


# -- services ----------------------------------------------------------------------------------------------------------


def of_services(file: Path, seed: int) -> dict[str, Any]:
    """Return accuracy and cost of the cascade and of the router, without features, at shares of the highest price."""
    return both(service_models(file), SHARES, seed)


def both(models: ex.CascadeTrace, shares: tuple[float, ...], seed: int) -> dict[str, Any]:
    """Return accuracy and cost of the cascade and of the router on one split, at shares of the highest price."""
    parts = models.split(**PARTS, seed=seed)
    price, rows = models[models.most_expensive].cost.full, []
    for share in shares:
        for way, make in (("cascade", ex.cascade), ("cascade_router", ex.cascade_router)):
            result = ex.evaluate(policy := make(*parts[:2], budget=share * price, seed=seed), parts[2])
            rows.append(
                {"share": share, "way": way, "accuracy": result.accuracy, "cost": result.cost / price}
            )
    return {"rows": rows, "microseconds": 1e6 * per_input(policy, parts[2].take(np.arange(BATCH)))}


# -- a text classifier -------------------------------------------------------------------------------------------------


def banking(data: Path, encoder: str) -> ex.CascadeTrace:
    """Return tf-idf, and a frozen encoder with exits; what its first layers tell of a text is known once they ran."""
    from exeunt.jobs.estimator_run import train_tfidf
    from exeunt.runs.file_digests import TRACED
    from exeunt.runs.folder import RunFolder

    folder = Path("runs/banking77-tfidf")
    run = RunFolder.open(folder) if RunFolder.exists(folder) else train_tfidf(str(data), folder, seen=True)
    frozen = ex.ExitTrace.load(TRACES / "banking77-frozen.parquet")
    inputs = open_inputs(data / "test.parquet")
    texts = [inputs.content(row) for row in places_of(inputs.content_keys(), frozen.id)]
    features = {exit_: embeddings(texts, encoder, layer=exit_) for exit_ in range(TOLD_LAYERS)}
    tfidf = concatenate([run.trace(part) for part in TRACED])
    return ex.CascadeTrace({"tf-idf": tfidf, "MiniLM": replace(frozen, features=features)})


def measure(folder: Path, encoder: str, splits: int) -> dict[str, Any]:
    kept = Measurements(Path("runs/router.jsonl"))
    questions, tables = kept.of("questions", measure=lambda: of_questions(folder, encoder)), {}
    models = cache(lambda: banking(folder / "text" / "banking77", encoder))
    texts = [
        kept.of("banking", seed, measure=lambda s=seed: both(models(), SMALL_SHARES, s))
        for seed in range(splits)
    ]
    for file in sorted((folder / "apis").glob("*.parquet")):
        tables[file.stem] = [
            kept.of(file.stem, seed, measure=lambda f=file, s=seed: of_services(f, s))
            for seed in range(splits)
        ]
        print(file.stem, flush=True)
    return {"questions": questions, "services": tables, "texts": texts}


# -- the page ----------------------------------------------------------------------------------------------------------


def page(found: dict[str, Any]) -> str:
    asked, tables = found["questions"], found["services"]
    means = defaultdict(list)
    for row in asked["rows"]:
        means[row["budget"], row["way"]].append((row["grade"], row["cost"]))
    at = {key: np.mean(values, axis=0) for key, values in means.items()}
    by_budget = [
        [
            f"{budget:.2f}",
            *("{:.4f} at {:.3f}".format(*at[budget, way]) for way in WAYS[:2]),
            points(gain),
            *("{:.3f} at {:.2f}".format(*at[budget, way]) for way in WAYS[2:]),
        ]
        for budget, gain in zip(DOLLARS, asked["gains"][:-1], strict=True)
    ]
    gaps = {name: gap(splits) for name, splits in tables.items()}
    every = [one for of_table in gaps.values() for one in of_table]
    micro = float(np.median([one["microseconds"] for splits in tables.values() for one in splits]))
    splits = len(next(iter(tables.values())))
    about = (
        f"{asked['n']:,} questions, nine language models, a grade from 0 to 1 for each answer (LLMRouter, MIT "
        f"licence); {FOLDS} folds of {REPEATS} random orders, of whose rest {1 - CALIBRATES:.0%} fit and "
        f"{CALIBRATES:.0%} calibrate. Features are an embedding of the question "
        f"and four numbers about its text, at {ENCODER_COST} dollars. Mean grade at the mean cost that was paid, in "
        "dollars per million tokens, by budget. `baseline`: twenty lines of NumPy with the router's rows, the mean of "
        f"ridge regression and of the {NEIGHBOURS} nearest questions on embeddings of length 1, at the price under "
        "which the calibration questions just keep the budget. `gain`: the router less this baseline in points, with "
        f"95% intervals over questions; over all budgets {points(asked['gains'][-1])}. `k nearest neighbours`: the "
        f"mean grades of the {NEIGHBOURS} nearest questions of "
        "the whole rest, none of which calibrates, so nothing keeps the budget. "
        "`best pair`: a router between two models, the pair that is best on questions set apart. `same shares at "
        "random`: each model gets as many questions as from the router, drawn by lot. `mixture by lot`: of two models, "
        "without looking."
    )
    services = (
        f"`cascade_router` less `cascade` in points of accuracy at equal budgets, means of {len(SHARES)} budgets (10 "
        f"to 75% of the highest price) and 95% intervals over {splits} splits (FrugalML's tables, Apache-2.0). Without "
        "features a router can only skip."
    )
    path = (
        f"In batches of {BATCH}, on one thread, embeddings apart: {asked['microseconds']:.0f} microseconds per input "
        f"for the questions, {micro:.0f} for the trees of the services."
    )
    texts = {
        (share, way): np.array([
            row["accuracy"] for one in found["texts"] for row in one["rows"]
            if (row["share"], row["way"]) == (share, way)
        ])
        for share in SMALL_SHARES for way in ("cascade", "cascade_router")
    }  # fmt: skip
    by_share = [
        [
            f"{share:.0%}", *(f"{texts[share, way].mean():.4f}" for way in ("cascade", "cascade_router")),
            shown((texts[share, "cascade_router"] - texts[share, "cascade"]).tolist()),
        ]
        for share in SMALL_SHARES
    ]  # fmt: skip
    classifier = (
        "BANKING77 (3,080 test texts, 30% to fit, 20% to calibrate): tf-idf, then the frozen MiniLM of "
        f"[banking77](banking77.md) with its seven exits. What the first {TOLD_LAYERS} of them have computed, the mean "
        f"over tokens, is known once they are paid for. Accuracy, and points of difference over {len(found['texts'])} "
        "splits with 95% intervals."
    )
    alone = [[name, usd, f"{asked['alone'][name]:.3f}"] for name, usd in asked["price"].items()]
    by_table = [[name, shown(one)] for name, one in gaps.items()] + [["all", shown(every)]]
    return "\n\n".join([
        "# Routers", "Made by `python -m experiments.router`; numbers in [router.json](router.json).",
        "## Language models, by the question alone", about,
        "![Mean grade against mean cost](router/questions.png)",
        table(["budget", *WAYS[:2], "gain", *WAYS[2:]], by_budget),
        table(["model", "usd", "mean grade"], alone),
        "## Services without features", services, table(["table", "difference"], by_table),
        "## A text classifier", classifier,
        table(["share of the cost", "cascade", "cascade_router", "difference"], by_share),
        "## The path of a decision", path,
    ])  # fmt: skip


def draw(asked: dict[str, Any], path: Path) -> None:
    """Draw routers and what they are compared with; points are the models alone that are right on half or more."""
    top = max(asked["price"].values())
    alone = {
        name.removesuffix("-instruct"): (asked["price"][name] / top, grade)
        for name, grade in asked["alone"].items()
        if grade >= 0.5
    }
    mean = {way: np.mean([row["grade"] for row in asked["rows"] if row["way"] == way]) for way in WAYS}

    def beside(way: str) -> str:
        gain = 100 * (mean["router"] - mean[way])
        return f"{abs(gain):.1f} points {'above' if gain > 0 else 'below'} {way}"

    def curve(way: str) -> Curve:
        of_way = [
            [
                (row["cost"] / top, row["grade"])
                for row in asked["rows"]
                if (row["budget"], row["way"]) == (budget, way)
            ]
            for budget in DOLLARS
        ]
        cost, grade = np.moveaxis(np.array(of_way), 2, 0)
        return Curve.over_splits(way, cost, grade)

    panel = Panel(
        f"The router lies {beside('best pair')} and {beside('baseline')}",
        f"mean cost, share of {top} dollars",
        "mean grade",
        [curve(way) for way in WAYS],
        alone,
    )
    draw_panels([panel], path)


def gap(splits: list[dict[str, Any]]) -> list[float]:
    """Return by split how much more accurate the router is, in the mean over budgets."""
    found = []
    for one in splits:
        by = {(row["share"], row["way"]): row["accuracy"] for row in one["rows"]}
        found.append(float(np.mean([by[share, "cascade_router"] - by[share, "cascade"] for share in SHARES])))
    return found


def shown(values: list[float]) -> str:
    return points(mean_interval(np.array(values)))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="DATA")
    options.add_argument("--encoder", help="folder of a sentence encoder")
    options.add_argument("--splits", type=int, default=3)
    given = options.parse_args()
    found = measure(given.measure, given.encoder, given.splits) if given.measure else kept_numbers(PAGE)
    draw(found["questions"], RESULTS / "router" / "questions.png")
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
