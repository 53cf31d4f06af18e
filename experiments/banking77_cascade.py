"""A cascade on BANKING77: tf-idf of character n-grams, then a sentence encoder with exits.

    python experiments/banking77_cascade.py RUN [--data ../shared/data/text/banking77]

RUN is a run of `banking77.py`. Tf-idf with a logistic regression (scikit-learn) learns from the same training texts,
and answers the texts that the run recorded. It is priced at 2 % of the encoder, above what it takes. Writes
banking77-cascade.md and .json to docs/results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from common import RESULTS
from report import heading
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import exeunt as ex
from exeunt._files import atomic_path, write_json
from exeunt.run.file_digests import TRACED
from exeunt.run.folder import RunFolder
from exeunt.trace import concatenate

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
PRICE = 0.02
WAYS = {"encoder": "encoder with exits, auto", "own": "cascade, own answers", "auto": "cascade"}


def models(run: RunFolder, data: Path) -> ex.CascadeTrace:
    """Return the encoder's trace, and that of tf-idf on the same texts."""
    encoder = concatenate([run.trace(part) for part in TRACED])
    parts = run.manifest["split"]["parts"]
    rows = np.concatenate([parts[part]["listed"] for part in TRACED])
    train, test = (pq.read_table(data / f"{name}.parquet") for name in ("train", "test"))
    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        LogisticRegression(C=30, max_iter=300),
    )
    model.fit(train["text"].to_pylist(), train["label"].to_numpy())
    texts = test["text"].take(rows).to_pylist()
    if not np.array_equal(test["label"].to_numpy()[rows], encoder.label):
        raise SystemExit(f"the rows of {data} are not those that {run.path} recorded")
    tfidf = ex.ExitTrace.from_probabilities(
        model.predict_proba(texts)[:, None], label=encoder.label, id=encoder.id,
        cost=ex.CostModel([PRICE * encoder.cost.full], unit=encoder.cost.unit),
    )  # fmt: skip
    return ex.CascadeTrace({"tf-idf": tfidf, "encoder": encoder})


def measured(found: ex.CascadeTrace, share: float, seed: int) -> dict[str, list[float]]:
    """Return accuracy and spend, as a share of the encoder's cost, of each way to spend this budget."""
    parts = found.split(fit=0.3, calibrate=0.2, test=0.5, seed=seed)
    alone = [part["encoder"] for part in parts]
    amount = share * alone[0].cost.full
    results = {
        answer: ex.evaluate(ex.cascade(*parts[:2], budget=amount, answer=answer, seed=seed), parts[2])
        for answer in ("own", "auto")
    }
    results["encoder"] = ex.evaluate(ex.auto(*alone[:2], budget=amount, seed=seed), alone[2])
    return {name: [one.accuracy, one.cost / alone[0].cost.full] for name, one in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/text/banking77"))
    parser.add_argument("--splits", type=int, default=5)
    given = parser.parse_args()
    found = models(RunFolder.open(given.run), given.data)
    runs = {share: [measured(found, share, seed) for seed in range(given.splits)] for share in SHARES}
    lines = heading(("budget", *WAYS.values()))
    for share, seeds in runs.items():
        cells = ["{:.4f} @ {:.3f}".format(*np.mean([one[way] for one in seeds], axis=0)) for way in WAYS]
        lines.append(f"| {share:.0%} | {' | '.join(cells)} |")
    alone = ", ".join(f"{name} {1 - found[name].risk[-1]:.4f}" for name in found.names)
    with atomic_path(RESULTS / "banking77-cascade.md") as path:
        path.write_text(page(lines, alone, given.splits), encoding="utf-8")
    write_json(RESULTS / "banking77-cascade.json", {str(share): seeds for share, seeds in runs.items()})


def page(lines: list[str], alone: str, splits: int) -> str:
    return f"""# Tf-idf, then a sentence encoder, on BANKING77

Made by `python experiments/banking77_cascade.py RUN`, of the frozen run of [the encoder](banking77.md).

Character n-grams with a logistic regression are asked first, and the frozen MiniLM [with its exits](banking77.md) where
they are not sure. Of the 3,080 test texts, 30 % fit the policy, 20 % calibrate it and 50 % test it; means of {splits}
splits. Costs are shares of the encoder's; tf-idf is priced at {PRICE:.0%} of it, above what it takes.

Each alone and in full, on all test texts: {alone}.

## Accuracy @ spend

{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
