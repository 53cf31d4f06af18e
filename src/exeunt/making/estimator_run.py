"""Making the run of a classifier with `predict_proba`: the classifier, and its outputs for recorded inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exeunt._files import write_json
from exeunt.costs import CostModel
from exeunt.data import Dataset
from exeunt.data.preprocess import RawImages
from exeunt.data.tokens import RawTexts
from exeunt.errors import InputError
from exeunt.estimator_executor import EstimatorExecutor, save_estimator
from exeunt.predicting.batches import prepared_batches
from exeunt.predicting.record import record_data
from exeunt.run.file_digests import ESTIMATOR, OBJECT, TRACED
from exeunt.run.folder import RunFolder
from exeunt.run.manifest import provenance
from exeunt.run.run_inputs import part_data

PACKAGES = ("exeunt", "scikit-learn", "skops", "numpy", "scipy")
_BATCH = 256


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
    raw = RawImages() if about["inputs"]["kind"] == "image" else RawTexts()
    traces = {}
    for part in TRACED:
        say(f"recording its outputs for {len(parts[part]):,} inputs of {part}")
        batches = prepared_batches(raw, parts[part], batch_size=_BATCH)
        traces[part] = record_data(executor, parts[part], batches, cost=cost)
    network = OBJECT if model else ESTIMATOR
    return RunFolder.create(folder, cost=cost, traces=traces, about=about, network=network)


def check_model(name: str, classifier: Any, like: RunFolder, price: float | None) -> None:
    """Raise InputError without a price or `predict_proba`, or for other classes than the run `like` has."""
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
        "provenance": provenance(PACKAGES, command="", seed=0),
    }
    say(f"asking {name}, {spec}")
    return make_estimator_run(
        folder, classifier, {part: part_data(like, part) for part in TRACED},
        cost=CostModel([price], unit=like.cost.unit, source="given"), about=about, model="" if stored else name,
        say=say,
    )  # fmt: skip
