"""Making the run of a classifier with `predict_proba`: the classifier, and its outputs for recorded inputs.

The classifier is given, or trained here: `exeunt train --model tfidf` is character n-grams and a logistic regression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Integers
from exeunt._support.files import atomic_folder, check_writable, write_json, write_text
from exeunt.costs.cost_model import CostModel
from exeunt.data import Dataset, DataSource, Texts, open_source, plan_split
from exeunt.engine.inputs import raw_rows
from exeunt.errors import InputError, require
from exeunt.jobs.batches import prepared_batches
from exeunt.jobs.record import record_data
from exeunt.runs.estimator_executor import EstimatorExecutor, save_estimator
from exeunt.runs.file_digests import CONFIG, TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.estimator import ESTIMATOR
from exeunt.runs.kinds.own_object import OBJECT
from exeunt.runs.manifest import provenance
from exeunt.runs.run_inputs import part_data, restore_preparation

_PACKAGES = ("exeunt", "scikit-learn", "skops", "numpy", "scipy")
_BATCH = 256
_TFIDF = "tfidf"
_CHOICES = (3.0, 30.0, 300.0)
"""The inverse strengths of regularisation to try."""
_MANY = 1000
"""From this number of texts on, n-grams that only one text has are left out: they are many, and tell little."""
_HELD_OUT = 0.1  # of the training texts, to choose by


def make_estimator_run(
    folder: Path,
    classifier: Any,
    parts: Mapping[str, Dataset],
    *,
    cost: CostModel,
    about: Mapping[str, Any],
    model: str = "",
    say: Callable[[str], None] = print,
) -> RunFolder:
    """Complete `folder` to the run of a classifier, with its outputs for the inputs of `parts`.

    `about`: as for `RunFolder.create`. `model`: the name of an object that no file holds; without a name, the
    classifier is an estimator and is stored. Raises InputError for an estimator that cannot be stored, or has other
    classes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if model:
        write_json(folder / OBJECT, {"model": model, "class": type(classifier).__qualname__})
    else:
        save_estimator(classifier, folder / ESTIMATOR)
    executor = EstimatorExecutor(
        classifier, n_classes=about["model"]["n_classes"], class_names=about["class_names"]
    )
    raw = restore_preparation(about["inputs"], folder)
    traces = {}
    for part in TRACED:
        say(f"recording its outputs for {len(parts[part]):,} inputs of {part}")
        batches = prepared_batches(raw, parts[part], batch_size=_BATCH)
        traces[part] = record_data(executor, parts[part], batches, cost=cost)
    network = OBJECT if model else ESTIMATOR
    return RunFolder.create(folder, cost=cost, traces=traces, about=about, network=network)


def check_model(name: str, classifier: Any, like: RunFolder, price: float | None) -> None:
    """Raise InputError for a name that no folder can have, without a price or `predict_proba`, or for other classes.

    `like`: a run, which has the classes.
    """
    if not name or name.startswith(".") or {*name} & {*"/\\\0"}:
        raise InputError(f"a model that is no run gets a folder of its name, which cannot be {name!r}")
    classes = {"n_classes": like.manifest["model"]["n_classes"], "class_names": like.manifest["class_names"]}
    if isinstance(classifier, (str, Path)):
        raise InputError(
            f"the model {name!r} is a path, {str(classifier)!r}: open a run there with RunFolder.open, or give an "
            "object with predict_proba"
        )
    EstimatorExecutor(classifier, **classes)
    if not isinstance(price, (int, float, np.number)) or not price > 0:
        raise InputError(
            f"the model {name!r} needs a price above 0, what an answer costs in {like.cost.unit}: "
            f"price={{{name!r}: ...}}, got {price!r}"
        )


def record_model(
    folder: Path,
    name: str,
    classifier: Any,
    like: RunFolder,
    price: float,
    *,
    say: Callable[[str], None] = print,
) -> RunFolder:
    """Make the run of a model that is no run: it answers all inputs that the run `like` has recorded.

    An estimator of scikit-learn is stored; any other object must be given again to answer. `price`: what an answer
    costs, in the unit of `like`. Raises InputError for data that are not where they were. See `check_model`.
    """
    stored = type(classifier).__module__.partition(".")[0] == "sklearn"
    spec = f"{'sklearn' if stored else 'object'}:{type(classifier).__qualname__}"
    model = {"spec": spec, "n_classes": like.manifest["model"]["n_classes"], "macs": price, "model": name}
    about = {
        **{entry: like.manifest[entry] for entry in ("class_names", "data", "split")},
        "model": model,
        "network": {"exits": []},
        "inputs": {"kind": like.manifest["inputs"]["kind"], "raw": True},
        "training": {},
        "provenance": provenance(_PACKAGES, command="", seed=0),
    }
    say(f"asking {name}, {spec}")
    return make_estimator_run(
        folder,
        classifier,
        {part: part_data(like, part) for part in TRACED},
        cost=CostModel([price], unit=like.cost.unit, source="given"),
        about=about,
        model="" if stored else name,
        say=say,
    )


def train_tfidf(
    data: str,
    out: Path,
    *,
    label: str | None = None,
    text: tuple[str, ...] = (),
    calibration_data: str | None = None,
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
    as for a pretrained network. `label`, `text`, `calibration_data`, `fit`, `calibrate`, `test`: see `open_source` and
    `plan_split`.

    Raises InputError for images, pairs of texts, or another run in `out`.
    """
    for package in ("sklearn", "skops"):  # before it is trained
        require(package, extra="tfidf")
    check_writable(out, f"cannot make the run folder {out}")
    if _is_finished(out, config):
        say(f"{out} holds this run, finished already")
        return RunFolder.open(out)
    source = open_source(data, label=label, text=text, calibration_data=calibration_data)
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
        "model": {"spec": _TFIDF, "n_classes": source.n_classes, "macs": cost.full},
        "network": {"exits": []},
        "inputs": {"kind": source.kind, "raw": True},
        "class_names": list(source.class_names or ()),
        "data": {
            "name": data,
            "label": label,
            "text": list(text),
            "calibration_data": calibration_data,
            "fingerprint": plan.fingerprint,
        },
        "split": plan.to_dict(),
        "training": training,
        "provenance": provenance(_PACKAGES, command=command, seed=seed),
    }
    with atomic_folder(out) as folder:
        _is_finished(out, config)  # raises if another process has written there meanwhile
        if config:
            write_text(folder / CONFIG, config)
        make_estimator_run(folder, estimator, parts, cost=cost, about=about, say=say)
    return RunFolder.open(out)


def _is_finished(out: Path, config: str) -> bool:
    """Return whether `out` is the run of this configuration. Raises InputError if it holds anything else."""
    if not out.exists() or not any(out.iterdir()):
        return False
    config_file = out / CONFIG
    if (
        config
        and RunFolder.exists(out)
        and config_file.is_file()
        and config_file.read_text(encoding="utf-8") == config
    ):
        return True
    raise InputError(f"{out} holds something else: choose another --out, or remove the folder")


def _check_texts(source: DataSource) -> None:
    for data in source.datasets.values():
        if not isinstance(data, Texts) or data.per_input != 1:
            got = "pairs of texts" if isinstance(data, Texts) else f"{data.kind}s"
            raise InputError(f"--model {_TFIDF} takes single texts, and {source.name} holds {got}")


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
        analyzer="char_wb",
        ngram_range=(2, 4),
        min_df=1 if len(texts) < _MANY else 2,
        sublinear_tf=True,
        dtype=np.float32,
    )
    matrix = features.fit_transform(texts)

    def fitted(strength: float, rows: Any = slice(None)) -> Any:
        return LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(matrix[rows], labels[rows])

    losses = {}
    if n_held and len(np.unique(labels[rest])) > 1:
        losses = {
            strength: _loss(fitted(strength, rest), matrix[held], labels[held]) for strength in _CHOICES
        }
    chosen = min(losses, key=lambda strength: losses[strength]) if losses else _CHOICES[0]
    shown = ", ".join(f"{strength:g}: {loss:.4f}" for strength, loss in losses.items())
    say(f"loss on {n_held:,} training texts, by the inverse strength of regularisation: {shown or 'too few'}")
    estimator = Pipeline([("features", features), ("classifier", fitted(chosen))])
    per_text = matrix.nnz / len(texts)
    return estimator, {
        "features": matrix.shape[1],
        "features_per_text": per_text,
        "C": chosen,
        "held_out": n_held,
    }


def _loss(classifier: Any, features: Any, labels: Integers) -> float:
    """Return the mean cross-entropy; a class that was not learned has the smallest probability."""
    probability = classifier.predict_proba(features)
    place = np.searchsorted(classifier.classes_, labels).clip(max=len(classifier.classes_) - 1)
    learned = np.where(classifier.classes_[place] == labels, probability[np.arange(len(labels)), place], 0.0)
    return float(-np.log(np.maximum(learned, np.finfo(np.float32).tiny)).mean())
