"""`exeunt train --model tfidf`: character n-grams and a logistic regression, by scikit-learn, without PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Integers
from exeunt._files import atomic_folder, check_writable, write_text
from exeunt.costs import CostModel
from exeunt.data import Dataset, DataSource, Texts, open_source, plan_split
from exeunt.engine.inputs import raw_rows
from exeunt.errors import InputError, require
from exeunt.making.estimator_run import PACKAGES, make_estimator_run
from exeunt.run.file_digests import CONFIG
from exeunt.run.folder import RunFolder
from exeunt.run.manifest import provenance

TFIDF = "tfidf"
_CHOICES = (3.0, 30.0, 300.0)
"""The inverse strengths of regularisation to try."""
_MANY = 1000
"""From this number of texts on, n-grams that only one text has are left out: they are many, and tell little."""
_HELD_OUT = 0.1  # of the training texts, to choose by


def train_tfidf(
    data: str,
    out: Path,
    *,
    label: str | None = None,
    text: tuple[str, ...] = (),
    seen: bool = False,
    fit: float | None = None,
    calibrate: float | None = None,
    test: float | None = None,
    seed: int = 0,
    command: str = "",
    config: str = "",
    say: Callable[[str], None] = print,
) -> RunFolder:
    """Train tf-idf on texts, into the run folder `out`; a finished run of the same `config` is opened instead.

    The strength of regularisation is the one with the lowest loss on a tenth of the training texts; then the classifier
    learns from all of them. An answer costs as many multiply-adds as a training text has features on average, times the
    number of classes. `seen`: learn from all training data, and take the parts to fit and calibrate from the test data,
    as for a pretrained network. `label`, `text`, `fit`, `calibrate`, `test`: see `open_source` and
    `plan_split`.

    Raises InputError for images, pairs of texts, or another run in `out`.
    """
    for package in ("sklearn", "skops"):  # before it is trained
        require(package, extra="tfidf")
    check_writable(out, f"cannot make the run folder {out}")
    if _is_finished(out, config):
        say(f"{out} holds this run, finished already")
        return RunFolder.open(out)
    source = open_source(data, label=label, text=text)
    _check_texts(source)
    plan = plan_split(source, fit=fit, calibrate=calibrate, test=test, seed=seed, pretrained=seen)
    say(f"data: {data} ({source.n_classes} classes)\n{plan.describe()}\n")
    plan.check_every_part()
    parts = {part: plan.select(source, part) for part in plan.parts}
    texts = raw_rows([parts["train"].content(i) for i in range(len(parts["train"]))])
    estimator, training = _fitted(texts, _labels(parts["train"]), seed, say)
    cost = CostModel(
        [training["features_per_text"] * source.n_classes],
        source=f"products of features and classes, of texts of {training['features_per_text']:.0f} features",
    )
    about = {
        "model": {"spec": TFIDF, "n_classes": source.n_classes, "macs": cost.full},
        "network": {"exits": []},
        "inputs": {"kind": source.kind, "raw": True},
        "class_names": list(source.class_names or ()),
        "data": {"name": data, "label": label, "text": list(text), "fingerprint": source.fingerprint},
        "split": plan.to_dict(),
        "training": training,
        "provenance": provenance(PACKAGES, command=command, seed=seed),
    }
    with atomic_folder(out) as folder:
        if config:
            write_text(folder / CONFIG, config)
        make_estimator_run(folder, estimator, parts, cost=cost, about=about, say=say)
    return RunFolder.open(out)


def _is_finished(out: Path, config: str) -> bool:
    """Return whether `out` is the run of this configuration. Raises InputError if it holds anything else."""
    if not out.exists() or not any(out.iterdir()):
        return False
    kept = out / CONFIG
    if config and RunFolder.exists(out) and kept.is_file() and kept.read_text(encoding="utf-8") == config:
        return True
    raise InputError(f"{out} holds something else: choose another --out, or remove the folder")


def _check_texts(source: DataSource) -> None:
    for data in source.datasets.values():
        if not isinstance(data, Texts) or data.per_input != 1:
            got = "pairs of texts" if isinstance(data, Texts) else f"{data.kind}s"
            raise InputError(f"--model {TFIDF} takes single texts, and {source.name} holds {got}")


def _labels(data: Dataset) -> Integers:
    if data.labels is None:
        raise InputError("the training data have no labels")
    if len(np.unique(data.labels)) < 2:
        raise InputError("the training texts are all of one class: a classifier needs texts of two at least")
    return data.labels


def _fitted(
    texts: NDArray[Any], labels: Integers, seed: int, say: Callable[[str], None]
) -> tuple[Any, dict[str, Any]]:
    """Return the estimator, and how it was trained."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

    order = np.random.default_rng(seed).permutation(len(texts))
    n_held = round(_HELD_OUT * len(texts))
    held, rest = order[:n_held], order[n_held:]
    features = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), min_df=1 if len(texts) < _MANY else 2, sublinear_tf=True,
        dtype=np.float32,
    )  # fmt: skip
    made = features.fit_transform(texts)

    def fitted(strength: float, rows: Any = slice(None)) -> Any:
        return LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(made[rows], labels[rows])

    losses = {}
    if n_held and len(np.unique(labels[rest])) > 1:
        losses = {one: _loss(fitted(one, rest), made[held], labels[held]) for one in _CHOICES}
    chosen = min(losses, key=lambda one: losses[one]) if losses else _CHOICES[0]
    shown = ", ".join(f"{strength:g}: {loss:.4f}" for strength, loss in losses.items())
    say(f"loss on {n_held:,} training texts, by the inverse strength of regularisation: {shown or 'too few'}")
    estimator = Pipeline([("features", features), ("classifier", fitted(chosen))])
    per_text = made.nnz / len(texts)
    return estimator, {
        "features": made.shape[1], "features_per_text": per_text, "C": chosen, "held_out": n_held,
    }  # fmt: skip


def _loss(classifier: Any, features: Any, labels: Integers) -> float:
    """Return the mean cross-entropy; a class that was not learned has the smallest probability."""
    probability = classifier.predict_proba(features)
    place = np.searchsorted(classifier.classes_, labels).clip(max=len(classifier.classes_) - 1)
    known = classifier.classes_[place] == labels
    learned = np.where(known, probability[np.arange(len(labels)), place], 0.0)
    return float(-np.log(np.maximum(learned, np.finfo(np.float32).tiny)).mean())
