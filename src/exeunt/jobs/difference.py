"""Differences between two runs, or between two policies of a run, and between their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Integers
from exeunt._support.sealed_json import content_digest, flattened
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.evaluation.replay import Result, score_exits
from exeunt.policy import Policy
from exeunt.runs.folder import RunFolder
from exeunt.trace import ExitTrace

_REST = "details"  # a digest of everything: shown where nothing else differs
_DIGITS = 12  # of a digest: enough to tell two apart


@dataclass(frozen=True, eq=False)
class Side:
    """A run with one of its policies; without a policy the full network answers."""

    name: str
    run: RunFolder
    policy: Policy | None

    @property
    def trace(self) -> ExitTrace:
        """The recorded outputs on the test part, of the exits that the policy runs."""
        return self.run.trace("test") if self.policy is None else self.run.replayed(self.policy, "test")


class Difference(NamedTuple):
    """What differs, and its value on either side."""

    what: str
    first: str
    second: str


@dataclass(frozen=True, eq=False)
class ComparedAnswers:
    """Answers of two sides to the n test inputs that both have recorded.

    `answered_differently`, `left_elsewhere`: shares of these inputs in [0, 1] with another class, or another exit.
    `results`: of each side on these inputs, see `exeunt.evaluate`; None where there are no common inputs.
    """

    n: int
    answered_differently: float
    left_elsewhere: float
    results: tuple[Result, Result] | None


def open_sides(first: str, second: str) -> tuple[Side, Side]:
    """Open two sides, each a run, "RUN@BUDGET" for its policy of that budget, or a policy's file.

    A file belongs to the run that it lies in, else to the run of the other side. Raises InputError if there is neither,
    ArtefactError if the policy was calibrated for another run.
    """
    runs = [_run_of(name) for name in (first, second)]
    a, b = (_side(name, runs[i] or runs[1 - i]) for i, name in enumerate((first, second)))
    return a, b


def _run_of(name: str) -> RunFolder | None:
    """Return the run that a name means; None for a policy's file that lies in no run."""
    path = Path(name)
    if path.is_file():
        return RunFolder.open(path.parent) if RunFolder.exists(path.parent) else None
    return RunFolder.open(name)


def _side(name: str, run: RunFolder | None) -> Side:
    if run is None:
        raise InputError(f"{name} lies in no run: compare it with a run, or with a policy in one")
    path = Path(name)
    if path.is_file():
        policy = Policy.load(path)
        run.check_policy(policy, name)
        return Side(name, run, policy)
    return Side(name, run, run.policy if run.has_policy or run.budget else None)


def differences(first: Side, second: Side) -> dict[str, list[Difference]]:
    """Return what differs, by subject; a subject in which nothing differs has an empty list."""
    differing = {}
    for (subject, a), b in zip(_facts(first).items(), _facts(second).values(), strict=True):
        names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
        if len(names) > 1 and _REST in names:
            names.remove(_REST)
        differing[subject] = [Difference(name, *_texts(a.get(name), b.get(name))) for name in names]
    return differing


def _facts(side: Side) -> dict[str, dict[str, Any]]:
    """Return the facts about a side, by subject and name."""
    about, files = side.run.manifest, side.run.manifest["files"]
    short = {name: digest[:_DIGITS] for name, digest in files.items()}
    split, origin = dict(about["split"]), about["provenance"]
    return {
        "network": {
            **{("weights given" if name == "weights" else name): v for name, v in about["model"].items()},
            **_numbered("exit", side.run.exit_names),
            "weights": short[side.run.kind.file],
            **{name: short[name] for name in side.run.files.names_below("model")},
        },
        "heads": flattened({name: setting for name, setting in about["network"].items() if name != "exits"}),
        "inputs": {
            **flattened(about["inputs"]),
            **_numbered("class", about["class_names"]),
            **{name: short[name] for name in side.run.files.names_below("tokenizer")},
        },
        "recipe": {**flattened(about["training"]), "seed": origin.get("seed")},
        "data": {
            **flattened(about["data"]),
            "inputs of each part": content_digest(split.pop("parts", None))[:_DIGITS],
            **{
                f"split {name}": setting
                for name, setting in split.items()
                if name not in ("source", "fingerprint")
            },
        },
        "costs": {**_numbered("exit", side.run.cost.cumulative.tolist()), "unit": side.run.cost.unit},
        "policy": _policy_facts(side.policy),
        "versions": {
            **origin.get("packages", {}),
            "python": origin.get("python"),
            "platform": origin.get("platform"),
        },
    }


def _policy_facts(policy: Policy | None) -> dict[str, Any]:
    if policy is None:
        return {"rule": "none"}
    cost, loss = policy.cost, policy.loss_certificate
    body = {name: setting for name, setting in policy.to_dict().items() if name != "run"}
    exits = [
        f"{rate:.1%} planned, score >= {threshold if isinstance(threshold, str) else f'{threshold:.6g}'}"
        for rate, threshold in zip(policy.rates, body["thresholds"]["score"], strict=True)
    ]
    return {
        "rule": policy.name,
        "score": policy.score.name,
        "answer": policy.answer.name,
        "calibration": f"{policy.calibration}, {counted(policy.n_calibration, 'input')}, seed {policy.seed}",
        "budget": policy.limit and f"{cost.show(policy.limit)} ({policy.limit / cost.full:.1%})",
        "expected cost": cost.show(policy.expected_cost),
        "budget kept with probability": None
        if policy.cost_certificate is None
        else 1 - policy.cost_certificate.delta,
        "loss at most": None if loss is None else f"{loss.max_loss:.3%} with probability {1 - loss.delta:g}",
        **{
            promise.promise: f"{promise.limit:.3%} with probability {1 - promise.delta:g}"
            for promise in policy.promises
        },
        **_numbered("exit", exits),
        _REST: content_digest(body)[:_DIGITS],
    }


def _numbered(name: str, values: Sequence[Any]) -> dict[str, Any]:
    return {f"{name} {i}": fact for i, fact in enumerate(values)}


def _texts(first: Any, second: Any) -> tuple[str, str]:
    """Return two texts that differ as the values do."""
    short = [f"{v:.6g}" if isinstance(v, float) else "-" if v is None else str(v) for v in (first, second)]
    a, b = short if short[0] != short[1] else (repr(first), repr(second))
    return a, b


def compare_answers(first: Side, second: Side) -> ComparedAnswers:
    """Compare the answers to the test inputs that both runs have recorded, each by its own policy and outputs."""
    traces = first.trace, second.trace
    common, *rows = np.intersect1d(traces[0].id, traces[1].id, return_indices=True)
    if not len(common):
        return ComparedAnswers(0, 0.0, 0.0, None)
    sides = zip((first, second), traces, rows, strict=True)
    (exits, names, a), (other_exits, other_names, b) = (_answers(*side) for side in sides)
    return ComparedAnswers(
        n=len(common),
        answered_differently=float((names != other_names).mean()),
        left_elsewhere=float((exits != other_exits).mean()),
        results=(a, b),
    )


def _answers(side: Side, trace: ExitTrace, rows: Integers) -> tuple[Integers, NDArray[Any], Result]:
    """Return the exit (n,) and the class (n,), by name if there are names, of each answer to some test inputs."""
    if (policy := side.policy) is None:
        exits = np.full(trace.n, trace.n_exits - 1)
    else:
        exits, trace = policy.route(trace), policy.answer.on(trace)
    chosen, exits = trace.take(rows), exits[rows]
    classes = chosen.prediction[np.arange(chosen.n), exits]
    names = side.run.manifest["class_names"]
    return exits, np.array(names)[classes] if names else classes.astype(str), score_exits(chosen, exits)
