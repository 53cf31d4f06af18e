"""Making the run of a cascade: its models, each a run, and the outputs of all their exits for the same inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exeunt._support.arrays import Keys, places_of
from exeunt._support.files import atomic_folder, check_writable, is_inside
from exeunt._support.text import listed
from exeunt.data.splits import PartRows, SplitPlan
from exeunt.errors import InputError
from exeunt.jobs.estimator_run import check_model, record_model
from exeunt.runs.file_digests import TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.cascade import CASCADE
from exeunt.runs.manifest import CascadeEntry, provenance, write_cascade
from exeunt.runs.run_inputs import text_columns
from exeunt.score.tie_breaking import distinct_keys
from exeunt.trace import CascadeTrace, ExitTrace, concatenate
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.splitting import part_rows

_SHARES = {"fit": 0.3, "calibrate": 0.2, "test": 0.5}
_FEWEST = 100  # inputs that all models have recorded
MODELS = "models"
"""The folder in a cascade's run that holds the models which were no runs."""
_PACKAGES = ("exeunt", "numpy", "scipy")


def make_cascade(
    out: str | Path,
    models: Mapping[str, RunFolder | Any],
    *,
    price: Mapping[str, float] | None = None,
    command: str = "",
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> RunFolder:
    """Make the run `out` of a cascade of these models, by name. A policy chooses among them, and their order.

    A cascade that is there already is replaced, with its policies and exports.

    The cascade's inputs are those that every model has recorded and no model has learned from, matched by content. If
    all models divide them into the same parts, the cascade has these parts; else the inputs are divided anew at random
    with `seed`.

    A model that is no run is an object with `predict_proba(inputs)`, (n, k), of raw inputs: texts, or images
    (n, h, w, 3). It answers all inputs that the first run has recorded, from which it must not have learned, and
    becomes a run in OUT/models/NAME. An estimator of scikit-learn is stored there. Another object must be given again
    to answer: `exeunt.load(OUT, models={NAME: ...})`. `price`: by name, what an answer of each of these costs, in
    the unit of the runs.

    Raises InputError for fewer than two models, no run among them, models of other classes, kinds of inputs or units,
    an object without a price or a run with one, too few inputs in common, or anything but a cascade in `out`.
    """
    out, price = Path(out), price or {}
    if len(models) < 2:
        raise InputError(
            f"a cascade needs at least two models, got {', '.join(models) or 'none'}: name the runs to ask, the "
            "cheaper ones first"
        )
    if "" in models:
        raise InputError("a model of a cascade needs a name, such as small=RUN")
    runs = {name: model for name, model in models.items() if isinstance(model, RunFolder)}
    if unknown := [name for name in price if name in runs or name not in models]:
        raise InputError(
            f"price is for models that are no runs, which have costs of their own: {unknown[0]!r} is none of these"
        )
    if any(run.cascade for run in runs.values()):
        raise InputError("a model of a cascade must be one network: name the models of the other cascade")
    if not runs:
        raise InputError("at least one model must be a run, whose recorded inputs the others answer")
    _check_place(out, runs)
    _check_alike(runs)
    like = next(iter(runs.values()))
    for name in models:
        if name not in runs:  # all of them, before one answers: that may take long, or be paid for
            check_model(name, models[name], like, price.get(name))
    if len(runs) < len(models):
        _parts(runs, seed, lambda _: None)  # likewise: raises if the runs have too few inputs in common
    with atomic_folder(out) as folder:
        runs_by_name = {
            name: runs[name]
            if name in runs
            else record_model(folder / MODELS / name, name, models[name], like, price[name], say=say)
            for name in models
        }
        write_cascade(
            folder / CASCADE,
            [
                CascadeEntry(name, run.n_exits, _way(out if name in runs else folder, run.path), run.digest)
                for name, run in runs_by_name.items()
            ],
        )
        parts, split = _parts(runs_by_name, seed, say)
        dearest = CascadeTrace(parts["fit"]).most_expensive
        steps = [CascadeStep(name, run.n_exits) for name, run in runs_by_name.items()]
        traces = {part: CascadeTrace(of).along(steps, reference=dearest) for part, of in parts.items()}
        about = _about(
            runs_by_name, dearest, labelled=all(trace.label is not None for trace in traces.values())
        ) | {
            "split": split.to_dict(),
            "provenance": provenance(_PACKAGES, command=command, seed=seed),
        }
        RunFolder.create(folder, cost=traces["fit"].cost, traces=traces, about=about, network=CASCADE)
    return RunFolder.open(out)


def _about(models: Mapping[str, RunFolder], dearest: str, *, labelled: bool) -> dict[str, Any]:
    """Return the entries of the manifest that the models determine; `dearest`: the most expensive one.

    `labelled`: the traces have labels; else the most expensive model is the reference, of equal ones the last.
    """
    first = next(iter(models.values())).manifest
    exits = [
        f"{name}: {exit_}"
        for name, run in models.items()
        for exit_ in (*run.manifest["network"]["exits"], "last exit")
    ]
    n_classes, macs = first["model"]["n_classes"], models[dearest].cost.full
    data = {name: entry for name, entry in first["data"].items() if name != "reference"}
    if not labelled:
        name = max(reversed(list(models)), key=lambda model: models[model].cost.full)
        data["reference"] = {"exit": exits.index(f"{name}: last exit"), "name": name}
    return {
        "class_names": first["class_names"],
        "data": data,
        "model": {"spec": "cascade", "n_classes": n_classes, "macs": macs},
        "network": {"exits": exits[:-1]},
        "inputs": {"kind": first["inputs"]["kind"], "raw": True},
        "training": {name: run.manifest["model"]["spec"] for name, run in models.items()},
    }


def _check_place(out: Path, runs: Mapping[str, RunFolder]) -> None:
    """Raise InputError unless `out` can be made, and holds nothing but a cascade that would be lost."""
    check_writable(out.parent, f"cannot make {out}")
    for name, run in runs.items():
        if is_inside(run.path, out):
            raise InputError(f"model {name!r} lies in {out}, which the cascade replaces: use another --out")
    is_cascade = (out / CASCADE).is_file()
    if os.path.lexists(out) and not is_cascade and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something else: choose another --out, or remove the folder")


def _way(cascade: Path, model: Path) -> str:
    """Return the path from a cascade's folder to a model's, both without links: ".." of a link leads elsewhere."""
    return os.path.relpath(os.path.realpath(model), Path(os.path.realpath(cascade.parent)) / cascade.name)


def _check_alike(models: Mapping[str, RunFolder]) -> None:
    """Raise InputError unless all models answer the same question about the same kind of inputs."""
    for name, run in models.items():
        run.refuse("join")
        if run.masks:
            raise InputError(
                f"{name} answers with masks, and the models of a cascade answer with classes: leave it out"
            )
    first, *others = models
    for name in others:
        a, b = models[first].manifest, models[name].manifest
        for subject, own, other in (
            ("inputs of kind", a["inputs"]["kind"], b["inputs"]["kind"]),
            (
                "classes",
                a["class_names"] or a["model"]["n_classes"],
                b["class_names"] or b["model"]["n_classes"],
            ),
            ("texts an input:", len(text_columns(models[first])), len(text_columns(models[name]))),
        ):
            if own != other:
                shown = [listed(answer, 5) if isinstance(answer, list) else answer for answer in (own, other)]
                raise InputError(
                    f"{first} takes {subject} {shown[0]}, {name} takes {shown[1]}: models of a cascade answer the "
                    "same question"
                )


def _parts(
    models: Mapping[str, RunFolder], seed: int, say: Callable[[str], None]
) -> tuple[dict[str, dict[str, ExitTrace]], SplitPlan]:
    """Return the traces of inputs that all models have recorded, by part and name, and the plan of the parts."""
    splits = [run.manifest["split"] for run in models.values()]
    plan = SplitPlan.from_dict(splits[0])
    if all(_rows_of(split) == _rows_of(splits[0]) for split in splits):
        return {
            part: _labelled_alike({name: run.labelled_trace(part) for name, run in models.items()})
            for part in TRACED
        }, plan
    say("the models' parts differ: the inputs that all have recorded are divided anew")
    recorded = {
        name: concatenate([run.labelled_trace(part) for part in TRACED]) for name, run in models.items()
    }
    keys = {name: distinct_keys(trace.id) for name, trace in recorded.items()}
    common = _common(keys, plan)
    chosen = dict(zip(_SHARES, part_rows(common["id"], _SHARES, seed), strict=True))
    parts = {
        part: _labelled_alike(
            {name: trace.take(places_of(keys[name], common["id"][rows])) for name, trace in recorded.items()}
        )
        for part, rows in chosen.items()
    }
    dataset = str(common["dataset"])
    n_dataset = next(rows.n_dataset for rows in plan.parts.values() if rows.dataset == dataset)
    rows_of = {part: PartRows.of(dataset, n_dataset, common["row"][rows]) for part, rows in chosen.items()}
    return parts, replace(plan, seed=seed, parts={**plan.parts, **rows_of})


def _labelled_alike(traces: dict[str, ExitTrace]) -> dict[str, ExitTrace]:
    """Return traces of the same inputs in one order, of which all have the labels that any has."""
    label = next((trace.label for trace in traces.values() if trace.label is not None), None)
    return {
        name: replace(trace, label=label) if trace.label is None else trace for name, trace in traces.items()
    }


def _rows_of(split: Mapping[str, Any]) -> Any:
    """Return which inputs of a split are recorded."""
    return split["fingerprint"], {part: split["parts"][part] for part in TRACED}


def _common(recorded: Mapping[str, Keys], plan: SplitPlan) -> dict[str, Any]:
    """Return the keys of the inputs that all models have recorded, and their places in the first model's data.

    `recorded`: keys by model, which differ between copies.
    """
    first = next(iter(recorded.values()))
    rows = np.concatenate([plan.indices(part) for part in TRACED])
    datasets = np.repeat([plan.parts[part].dataset for part in TRACED], [plan.size(part) for part in TRACED])
    known = np.ones(len(first), dtype=np.bool_)
    for keys in recorded.values():
        known &= np.isin(first, keys)
    counts = {name: int((known & (datasets == name)).sum()) for name in np.unique(datasets).tolist()}
    dataset = max(counts, key=lambda name: counts[name])
    if counts[dataset] < _FEWEST:
        raise InputError(
            f"{', '.join(recorded)} have {counts[dataset]} inputs in common that none has learned from, and a cascade "
            f"needs at least {_FEWEST}: train them on the same data with the same --seed, --fit and --calibrate"
        )
    chosen = np.flatnonzero(known & (datasets == dataset))
    chosen = chosen[np.argsort(rows[chosen])]
    return {"id": first[chosen], "row": rows[chosen], "dataset": dataset}
