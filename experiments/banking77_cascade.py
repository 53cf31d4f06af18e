"""A cascade on BANKING77: tf-idf of character n-grams, then a frozen sentence encoder with exits.

    python -m experiments.banking77_cascade [--data ../shared/data/text/banking77]

Tf-idf with a logistic regression (scikit-learn) learns from the training texts and answers the texts of the encoder's
recorded trace. Its price is 2% of the encoder's cost, more than it takes. Without the data the page is written again
from the kept numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from experiments.ingredients import PARTS
from experiments.pages import RESULTS, TRACES, at, kept_numbers, parser, table, write_page
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import exeunt as ex
from exeunt.data.dataset import content_key

PAGE = RESULTS / "banking77-cascade.md"
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
PRICE = 0.02
WAYS = {"encoder": "encoder with exits, auto", "own": "cascade, own answers", "auto": "cascade"}


def models(data: Path) -> ex.CascadeTrace:
    """Return the encoder's trace, and that of tf-idf on the same texts."""
    encoder = ex.ExitTrace.load(TRACES / "banking77-frozen.parquet")
    train, test = (pq.read_table(data / f"{name}.parquet").to_pydict() for name in ("train", "test"))
    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        LogisticRegression(C=30, max_iter=300),
    )
    model.fit(train["text"], train["label"])
    by_key = {content_key(text): text for text in test["text"]}
    tfidf = ex.ExitTrace.from_probabilities(
        model.predict_proba([by_key[key] for key in encoder.id.tolist()])[:, None], label=encoder.label,
        id=encoder.id, cost=ex.CostModel([PRICE * encoder.cost.full], unit=encoder.cost.unit),
    )  # fmt: skip
    return ex.CascadeTrace({"tf-idf": tfidf, "encoder": encoder})


def measured(found: ex.CascadeTrace, share: float, seed: int) -> dict[str, list[float]]:
    """Return accuracy and mean cost, as a share of the encoder's cost, of each way to use this budget."""
    parts = found.split(**PARTS, seed=seed)
    alone = [part["encoder"] for part in parts]
    full = alone[0].cost.full
    results = {
        answer: ex.evaluate(ex.cascade(*parts[:2], budget=share * full, answer=answer, seed=seed), parts[2])
        for answer in ("own", "auto")
    }
    results["encoder"] = ex.evaluate(ex.auto(*alone[:2], budget=share * full, seed=seed), alone[2])
    return {name: [one.accuracy, one.cost / full] for name, one in results.items()}


def page(found: dict[str, Any]) -> str:
    rows = []
    for share, runs in found["budgets"].items():
        cells = [at(*np.mean([run[way] for run in runs], axis=0)) for way in WAYS]
        rows.append([f"{float(share):.0%}", *cells])
    alone = ", ".join(f"{name} {accuracy:.4f}" for name, accuracy in found["alone"].items())
    return f"""# Tf-idf, then a sentence encoder, on BANKING77

Made by `python -m experiments.banking77_cascade`; numbers in [banking77-cascade.json](banking77-cascade.json).

Character n-grams with a logistic regression are asked first, and the frozen MiniLM [with its exits](banking77.md)
where they are not confident. Of the 3,080 test texts, 30% fit the policy, 20% calibrate it and 50% test it; means of
{found["splits"]} splits. Costs are shares of the encoder's; the price of tf-idf is {PRICE:.0%} of it, more than it
takes.

Each alone and in full, on all test texts: {alone}.

## Accuracy @ mean cost

{table(("budget", *WAYS.values()), rows)}
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=Path("../shared/data/text/banking77"))
    options.add_argument("--splits", type=int, default=5)
    given = options.parse_args()
    if (given.data / "train.parquet").is_file():
        both = models(given.data)
        budgets = {
            str(share): [measured(both, share, seed) for seed in range(given.splits)] for share in SHARES
        }
        alone = {name: 1 - float(both[name].risk[-1]) for name in both.names}
        found = {"splits": given.splits, "alone": alone, "budgets": budgets}
    else:
        found = kept_numbers(PAGE)
    write_page(PAGE, page(found), found)


if __name__ == "__main__":
    main()
