"""Runs whose network is live models: a cascade, made of what was recorded of them.

`models.json` in place of weights holds their names. Whoever answers with such a run gives the models again, in Python
or on the command line with `--models models.yaml`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exeunt._support.arrays import Floats, Integers, Keys
from exeunt._support.files import make_folder, write_json
from exeunt._support.text import counted, listed
from exeunt.costs.cost_model import CostModel
from exeunt.data.splits import PartRows, SplitPlan
from exeunt.errors import InputError
from exeunt.live.function_model import FeatureModel
from exeunt.live.live_cascade import LiveCascade
from exeunt.live.live_model import LiveModel, Reply, shares_of
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.live import LIVE
from exeunt.runs.manifest import provenance
from exeunt.runs.saved_policies import POLICIES, POLICY, remove_of_policy
from exeunt.score.confidence import NO_ANSWER, PartialEvidence
from exeunt.trace import CascadeTrace, ExitTrace
from exeunt.trace.cascade_step import CascadeStep
from exeunt.trace.fields import fields_of_evidence
from exeunt.trace.splitting import part_rows

PARTS = {"fit": 0.3, "calibrate": 0.4, "test": 0.3}
"""The shares of the recorded inputs. Certificates want many inputs to calibrate on, and each was paid for."""
_PACKAGES = ("exeunt", "numpy", "scipy", "httpx")


@dataclass(frozen=True)
class RecordedModel:
    """What a model said about n inputs. `cost` (n,): what was paid; `highest`: the most that any input can cost."""

    model: LiveModel
    replies: Sequence[Reply]
    cost: Floats
    highest: float

    def take(self, rows: Integers) -> RecordedModel:
        """Return what it said about some of the inputs."""
        return replace(self, replies=[self.replies[row] for row in rows], cost=self.cost[rows])


def make_live_run(
    folder: Path,
    models: Mapping[str, RecordedModel],
    *,
    id: Keys,  # noqa: A002 - the name of the field
    label: Integers | None,
    kind: str,
    data: Mapping[str, Any],
    say: Callable[[str], None] = print,
) -> RunFolder:
    """Complete `folder` to a run of these models, which answered the same n inputs.

    `id` (n,): content keys; `label` (n,): classes by number, else models are measured by what the most expensive one
    says, and inputs that it says nothing to are left out, as are inputs without features where a model tells features.
    `kind`: of the inputs. `data`: their name, the columns of their texts, and their fingerprint.
    """
    tellers = [name for name, model in models.items() if isinstance(model.model, FeatureModel)]
    names = [*tellers, *(name for name in models if name not in tellers)]
    models, id, label = _with_features(models, tellers, id, label, say)  # noqa: A001
    answering = {name: model for name, model in models.items() if name not in tellers}
    classes = next(iter(answering.values())).model.classes or ()
    cascade_trace = CascadeTrace({name: _trace(recorded, label, id) for name, recorded in answering.items()})
    dearest = cascade_trace.most_expensive
    for name in reversed(tellers):
        features = _features(name, models[name])
        cascade_trace = cascade_trace.with_features(name, features, cost=models[name].highest)
    if label is None and (silent := cascade_trace[dearest].prediction[:, 0] == NO_ANSWER).any():
        cascade_trace, id = cascade_trace.take(np.flatnonzero(~silent)), id[~silent]  # noqa: A001
        say(
            f"{counted(int(silent.sum()), 'input')} left out of the run: {dearest} gave no answer to compare with"
        )
    return complete_run(
        folder,
        cascade_trace,
        {name: _about(models[name]) for name in names},
        classes=classes,
        kind=kind,
        data=data,
        training={name: type(model.model).__name__ for name, model in models.items()},
        say=say,
    )


def make_log_run(
    folder: Path,
    models: CascadeTrace,
    *,
    name: str,
    classes: Sequence[str] = (),
    assumption: str = "",
    worst_against: str | None = None,
    say: Callable[[str], None] = print,
) -> RunFolder:
    """Make a run of models of one exit each, of what a log says of them; `name`: of the log.

    `classes`: in the order of their numbers in `models`; none of graded answers. `assumption`: what certificates
    assume beside exchangeable inputs, see `RunFolder.assumption`. `worst_against`: the model that losses are measured
    against, where missing grades were replaced by the worst there can be. Any models of these names and classes
    may answer with the run. Raises InputError for a folder that holds something else than the run of a log.
    """
    if folder.exists() and not _is_of_log(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not the run of a log: name another folder with --out")
    make_folder(folder)
    most = {model: models[model].cost.highest for model in models.names}
    return complete_run(
        folder,
        models,
        {
            model: {"highest": cost if np.isfinite(cost) else None, "identity": ""}
            for model, cost in most.items()
        },
        classes=classes,
        kind="text",
        data={
            "name": name,
            "log": True,
            "assumption": assumption,
            "worst_against": worst_against,
            "fingerprint": hashlib.sha256(models.id.tobytes()).hexdigest()[:32],
        },
        training=dict.fromkeys(models.names, "log"),
        say=say,
    )


def _is_of_log(folder: Path) -> bool:
    return RunFolder.exists(folder) and bool(RunFolder.open(folder).manifest["data"].get("log"))


def complete_run(
    folder: Path,
    models: CascadeTrace,
    about: Mapping[str, Mapping[str, Any]],
    *,
    classes: Sequence[str],
    kind: str,
    data: Mapping[str, Any],
    training: Mapping[str, Any],
    say: Callable[[str], None] = print,
) -> RunFolder:
    """Complete `folder` to a run of these models, of what is known of them on the same inputs.

    `about`: by model, the most that an input can cost ("highest", None where that is not known), and what tells the
    model from others of its name ("identity", "" for any). `classes`: none of graded answers. `training`: how each
    model's answers were recorded. The others are as for `make_live_run`.
    """
    dearest, names = models.most_expensive, list(models.names)
    rows = dict(zip(PARTS, part_rows(models.id, PARTS, 0, models.groups), strict=True))
    steps = [CascadeStep(name, 1) for name in names]
    traces = {part: models.take(of).along(steps, reference=dearest) for part, of in rows.items()}
    unlabelled = {} if models.has_loss else {"reference": {"exit": names.index(dearest), "name": dearest}}
    if unlabelled:
        say(f"there are no labels: models are measured by how often they say what {dearest} says")
    before = RunFolder.open(folder).digest if RunFolder.exists(folder) else ""
    write_json(folder / LIVE, about)
    run = RunFolder.create(
        folder,
        cost=traces["fit"].cost,
        traces=traces,
        network=LIVE,
        about={
            "model": {"spec": "live", "n_classes": len(classes), "macs": models[dearest].cost.full},
            "class_names": list(classes),
            "network": {"exits": [f"{name}: last exit" for name in names][:-1]},
            "inputs": {"kind": kind, "raw": True},
            "data": {"label": None, **data, **unlabelled},
            "split": _split(rows, models.n, data["fingerprint"]).to_dict(),
            "training": dict(training),
            "provenance": provenance(_PACKAGES, command="", seed=0),
        },
    )
    if before not in ("", run.digest) and (removed := remove_of_policy(folder, POLICY, POLICIES)):
        say(f"removed, because there are other answers now: {', '.join(removed)}")
    return run


def _with_features(
    models: Mapping[str, RecordedModel],
    tellers: Sequence[str],
    keys: Keys,
    label: Integers | None,
    say: Callable[[str], None],
) -> tuple[Mapping[str, RecordedModel], Keys, Integers | None]:
    """Return models, keys and labels of the inputs of which these models told features."""
    missing = np.array([[reply.features is None for reply in models[name].replies] for name in tellers]).any(
        axis=0
    )
    if not missing.any():
        return models, keys, label
    say(f"{counted(int(missing.sum()), 'input')} left out of the run: {listed(tellers, 3)} told no features")
    known = np.flatnonzero(~missing)
    models = {name: model.take(known) for name, model in models.items()}
    return models, keys[known], None if label is None else label[known]


def _features(name: str, recorded: RecordedModel) -> Floats:
    """Return the features that a model told of each input (n, d)."""
    numbers = [reply.features or () for reply in recorded.replies]
    if len(lengths := sorted(set(map(len, numbers)))) > 1:
        raise InputError(
            f"{name} told {lengths[0]} numbers of some inputs and {lengths[-1]} of others: let it tell equally many"
        )
    return np.array(numbers, dtype=np.float64)


def _split(rows: Mapping[str, Integers], n: int, fingerprint: str) -> SplitPlan:
    """Return the plan of parts of a recording of n inputs, none of which a model was trained on."""
    return SplitPlan(
        source="recording",
        fingerprint=fingerprint,
        seed=0,
        pretrained=True,
        matched_by="content",
        dropped=0,
        parts={
            part: PartRows.of("recording", n, of)
            for part, of in {"train": np.empty(0, np.int64), **rows}.items()
        },
    )


def _trace(recorded: RecordedModel, label: Integers | None, id_: Keys) -> ExitTrace:
    classes = recorded.model.classes or ()
    shares = np.array([shares_of(reply, classes) for reply in recorded.replies]).reshape(-1, len(classes))
    evidence = PartialEvidence(shares)
    cost = CostModel(recorded.cost[:, None], unit="usd", source="paid", highest=recorded.highest)
    return ExitTrace(**fields_of_evidence([evidence], len(shares), 1), label=label, cost=cost, id=id_)


def live_cascade(run: RunFolder, models: Mapping[str, LiveModel], **options: Any) -> LiveCascade:
    """Return the live cascade of a run's policy. `models`: by name; `options`: those of `LiveCascade`.

    Raises InputError for a run of other models.
    """
    run.network_file(LIVE)  # raises for a run of another kind
    check_models(run, models)
    return LiveCascade(models, run.policy, classes=run.manifest["class_names"] or None, **options)


def check_models(
    run: RunFolder, models: Mapping[str, LiveModel], inputs: Iterable[Any] = ()
) -> dict[str, float]:
    """Return the most that an attempt at any of the inputs may cost, by model.

    Raises InputError unless these are the models that were recorded, and each input costs at most what was certified.
    """
    classes = tuple(run.manifest["class_names"])
    recorded = {entry.name: entry for entry in run.cascade}
    for name, known in recorded.items():
        if name not in models:
            raise InputError(
                f"{run.path} was recorded of {name!r}, and there are {', '.join(models)}: add that model"
            )
        others = not isinstance(models[name], FeatureModel) and (models[name].classes or ()) != classes
        if others or known.identity not in ("", digest_of(models[name])):
            raise InputError(
                f"the model {name!r} is not the one that {run.path} was recorded of: its classes, name, prompt, "
                "options or function differ. Record it again"
            )
    highest_of = dict.fromkeys(recorded, 0.0)
    for content in inputs:
        for name in recorded:
            highest_of[name] = max(highest_of[name], models[name].most(content))
    for name, known in recorded.items():
        highest = highest_of[name] * (1 + models[name].retries)
        if known.highest is not None and highest > known.highest * (1 + 1e-9):
            raise InputError(
                f"an input may cost {highest:.4g} usd at {name!r}, and at most {known.highest:.4g} usd was "
                "recorded, for which budgets are calibrated: record such inputs, or such prices, in a new folder"
            )
    return highest_of


def write_models(folder: Path, models: Mapping[str, RecordedModel]) -> None:
    """Write which models a folder was recorded of, and what they cost at most."""
    write_json(folder / LIVE, {name: _about(model) for name, model in models.items()})


def _about(recorded: RecordedModel) -> dict[str, Any]:
    return {"highest": recorded.highest, "identity": digest_of(recorded.model)}


def digest_of(model: LiveModel) -> str:
    """Return what tells a model from others of its name."""
    return hashlib.sha256(model.identity.encode()).hexdigest()[:16]
