"""Graded answers: language models chosen by what a question says, and services whose mistakes differ in weight.

    python -m experiments.graded
    python -m experiments.graded --measure ../shared/data --encoder FOLDER [--splits 5]

Writes the page again from the kept numbers, or measures. The folder holds `router/questions.parquet` (a question, and a
column of grades in [0, 1] for each model) and `apis/rafdb.parquet` (see `experiments.services`). FOLDER holds a
sentence encoder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from experiments.pages import RESULTS, kept_numbers, parser, table, write_page
from experiments.services import PARTS, service_models

import exeunt as ex
from exeunt.evaluation.one_split import mixture_curve

PAGE = RESULTS / "graded.md"
DOLLARS = (0.15, 0.3, 0.36, 0.43, 0.65, 0.9)
SHARES = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 1)
MAX_LOSS = 0.02
NEGATIVE = ("1", "2", "4", "5")
"""Fear, disgust, sadness and anger, as RAF-DB numbers them."""


# -- language models -------------------------------------------------------------------------------------------------


def embeddings(questions: list[str], folder: str, layer: int = -1) -> np.ndarray:
    """Return the mean over tokens of a layer of the encoder, by default the last one, (n, d)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(questions), 64):
            batch = tokenizer(
                questions[start : start + 64],
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            mask = batch["attention_mask"][..., None]
            hidden = encoder(**batch, output_hidden_states=True).hidden_states[layer]
            found.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    return np.concatenate(found)


def predicted(features: Any, grade: Any, fit: Any) -> Any:
    """Return predicted grades (n, models): on the inputs to fit by cross-validation, on others from all of them."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    found = []
    for model in (Ridge(30), KNeighborsRegressor(40)):
        made = make_pipeline(Normalizer(), model)
        one = made.fit(features[fit], grade[fit]).predict(features)
        one[fit] = cross_val_predict(made, features[fit], grade[fit], cv=5)
        found.append(one)
    return np.mean(found, axis=0)


def language_models(file: Path, encoder: str, splits: int) -> dict[str, Any]:
    """Return mean grades of the models, of cascades and of mixtures by lot at budgets in dollars, and certificates."""
    read = pq.read_table(file)
    price = json.loads(read.schema.metadata[b"usd_per_million_tokens"])
    grade = np.column_stack([read[name].to_numpy() for name in price])
    kept = Path("runs/graded-embeddings.npy")
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        np.save(kept, embeddings(read["question"].to_pylist(), encoder))
    features = np.load(kept)

    folds = np.array_split(np.random.default_rng(0).permutation(len(grade)), splits)
    rows = []
    for fold, test in enumerate(folds):
        rest = np.concatenate(folds[:fold] + folds[fold + 1 :])
        fit, calibrate = rest[len(rest) // 4 :], rest[: len(rest) // 4]
        say = predicted(features, grade, fit)
        say -= say.max(axis=1, keepdims=True)
        parts = [models_of(price, grade, say).take(part) for part in (fit, calibrate, test)]
        alone = parts[0].alone, parts[2].alone
        mixed, paid = mixture_curve(
            alone[0].cost.cumulative, *(1 - one.risk for one in alone), np.array(DOLLARS)
        )
        for budget, at_random, cost in zip(DOLLARS, mixed.tolist(), paid.tolist(), strict=True):
            policy = ex.cascade(*parts[:2], budget=budget, seed=fold)
            rows.append({"budget": budget, "way": "cascade", **answers(policy, parts[2])})
            rows.append({"budget": budget, "way": "mixture", "grade": at_random, "cost": cost})
        rows.append({"budget": None, "way": "certified", **certified(*parts, seed=fold)})
        print(f"fold {fold + 1} of {splits}", flush=True)
    return {
        "n": len(grade), "folds": splits, "alone": dict(zip(price, grade.mean(axis=0).tolist(), strict=True)),
        "price": price, "rows": rows,
    }  # fmt: skip


def models_of(price: dict[str, float], grade: Any, score: Any) -> ex.CascadeTrace:
    """`score`: the confidence in each model, (n, models)."""
    return ex.CascadeTrace({
        name: ex.ExitTrace.from_losses(
            score[:, [k]], grade[:, [k]], better="higher", measure="grade",
            cost=ex.CostModel([dollars], unit="usd"), id=np.arange(len(grade)),
        )
        for k, (name, dollars) in enumerate(price.items())
    })  # fmt: skip


def answers(policy: ex.Policy, test: ex.CascadeTrace) -> dict[str, Any]:
    result = ex.evaluate(policy, test)
    return {"models": policy.models, "grade": result.accuracy, "cost": result.cost}


def certified(fit: Any, calibrate: Any, test: Any, seed: int, **options: Any) -> dict[str, Any]:
    """Return what the cheapest cascade does that loses at most MAX_LOSS against the best model."""
    try:
        policy = ex.cheapest(fit, calibrate, max_loss=MAX_LOSS, seed=seed, **options)
    except ex.Infeasible as error:
        print(error)
        return {"models": None}
    best = test[policy.loss_certificate.reference]
    return {**answers(policy, test), "best": 1 - float(best.risk[0]), "price": best.cost.full}


# -- services --------------------------------------------------------------------------------------------------------


def weighed(models: ex.CascadeTrace, classes: list[str]) -> ex.CascadeTrace:
    """Return the same answers with a loss: 1 for a wrong one, half of it for one negative feeling taken for another."""
    negative = np.array([name in NEGATIVE for name in classes])
    graded = {}
    for name in models.names:
        trace = models[name]
        wrong = trace.prediction != trace.label[:, None]
        known = trace.prediction >= 0
        both = known & negative[np.where(known, trace.prediction, 0)] & negative[trace.label][:, None]
        graded[name] = trace.graded(np.where(both, 0.5, 1.0) * wrong, measure="quality")
    return ex.CascadeTrace(graded)


def services(file: Path, splits: int) -> dict[str, Any]:
    """Return the mean quality of cascades that learn from the graded losses, and of those that learn from labels."""
    labelled = service_models(file)
    classes = sorted({str(one) for one in pq.read_table(file)["label"].unique().to_pylist()})
    graded, rows = weighed(labelled, classes), []
    for seed in range(splits):
        parts, plain = (models.split(**PARTS, seed=seed) for models in (graded, labelled))
        best = min(parts[0].names, key=lambda name: parts[0][name].risk[0])
        price = parts[0][best].cost.full
        for share in SHARES:
            for way, (fit, calibrate, _) in (("losses", parts), ("labels", plain)):
                policy = ex.cascade(fit, calibrate, budget=share * price, seed=seed, answer="own")
                rows.append({"share": share, "way": way, **answers(policy, parts[2])})
        rows.append({"share": None, "way": "certified", **certified(*parts, seed=seed, answer="own")})
        print(f"split {seed + 1} of {splits}", flush=True)
    alone = {name: [1 - float(graded[name].risk[0]), graded[name].cost.full] for name in graded.names}
    return {"n": graded.n, "splits": splits, "alone": alone, "rows": rows}


# -- the page --------------------------------------------------------------------------------------------------------


def page(found: dict[str, Any]) -> str:
    asked, faces = found["language_models"], found["services"]
    return f"""# Answers that are graded

Made by `python -m experiments.graded`; numbers in [graded.json](graded.json).

## Language models, by what the question says

{asked["n"]:,} questions, each answered by nine language models and graded from 0 to 1 (LLMRouter). The table has no
confidences. A regression on an embedding of the question (the mean of ridge and of 40 nearest neighbours) predicts each
model's grade before it is asked, and what a model lacks to the best prediction is its confidence. `ex.cascade` then
asks one model after the other. What has been asked is paid, so that a second model costs its price on top. *Mixture*:
the best mixture of two models by lot, each of which is asked alone. Budgets are dollars per million tokens, the price
of the embedding left out; {asked["folds"]} folds.

{table(("model", "usd", "mean grade"), [[n, p, f"{asked['alone'][n]:.3f}"] for n, p in asked["price"].items()])}

{_ways(asked["rows"], "budget", ("cascade", "mixture"), "{:.2f}")}

{_certified(asked["rows"])}

## Services whose mistakes differ in weight

Facial expressions, {faces["n"]:,} images and four services (FrugalML). To take one negative feeling for another is half
a mistake here. *Losses*: cascades that learn from the graded losses. *Labels*: those that learn from right and wrong,
measured by the same losses. Budgets are shares of the price of the best service; {faces["splits"]} splits.

{_alone(faces["alone"])}

{_ways(faces["rows"], "share", ("losses", "labels"), "{:.0%}")}

{_certified(faces["rows"])}
"""


def _alone(alone: dict[str, list[float]]) -> str:
    rows = [[name, f"{10_000 * cost:g}", f"{quality:.3f}"] for name, (quality, cost) in alone.items()]
    return table(("service", "usd per 10,000", "mean quality"), rows)


def _ways(rows: list[dict[str, Any]], key: str, ways: tuple[str, str], form: str) -> str:
    def mean(budget: float, way: str, what: str) -> float:
        return float(np.mean([one[what] for one in rows if one[key] == budget and one["way"] == way]))

    budgets = sorted({one[key] for one in rows if one[key] is not None})
    return table(
        ("budget", *ways, "difference in points"),
        [
            [form.format(b), *(f"{mean(b, way, 'grade'):.4f}" for way in ways),
             f"{100 * (mean(b, ways[0], 'grade') - mean(b, ways[1], 'grade')):+.2f}"]
            for b in budgets
        ],
    )  # fmt: skip


def _certified(rows: list[dict[str, Any]]) -> str:
    every = [one for one in rows if one["way"] == "certified"]
    made = [one for one in every if one["models"] is not None]
    if not made:
        return f"No cascade is certified to lose at most {100 * MAX_LOSS:g} points."
    share = np.mean([one["cost"] / one["price"] for one in made])
    lost = [100 * (one["best"] - one["grade"]) for one in made]
    return (
        f"`ex.cheapest(..., max_loss={MAX_LOSS:g})` certifies a loss of at most {100 * MAX_LOSS:g} points against the\n"
        f"best model in {len(made)} of {len(every)} parts, at {share:.1%} of its price on average; on the test inputs\n"
        f"it loses {np.mean(lost):.2f} points, {max(lost):.2f} at most."
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", type=Path, metavar="FOLDER")
    options.add_argument("--encoder", help="folder of a sentence encoder")
    options.add_argument("--splits", type=int, default=5)
    given = options.parse_args()
    if given.measure:
        found = {
            "language_models": language_models(
                given.measure / "router/questions.parquet", given.encoder, given.splits
            ),
            "services": services(given.measure / "apis/rafdb.parquet", given.splits),
        }
    else:
        found = kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
