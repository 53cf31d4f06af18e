"""Labels of answers, given by people, and how often a gateway's grades agree with them.

A label is a line of JSON: the `request` of a record, the `model` that answered, and the `grade` of its answer beside
the reference's, in [0, 1]; null where it is not labelled yet.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from exeunt._support.arrays import Floats
from exeunt._support.files import parse_json, why_it_failed
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.evaluation.replay import mean_quality
from exeunt.gateway.graders import normalised_match
from exeunt.guarantees.confidence_intervals import mean_interval, weighted_interval
from exeunt.stream.ratios import Interval
from exeunt.stream.records import Record
from exeunt.trace.groups import Groups, n_units


class _Answer(NamedTuple):
    """A graded answer of a model that is compared with the reference."""

    record: Record
    model: str
    grade: float


def to_label(records: Sequence[Record], reference: str, n: int, *, seed: int = 0) -> Iterator[str]:
    """Yield lines to label, n or as many as there are, drawn at random from the records' graded answers.

    A line holds the messages of the request and both answers. Answers that are the same as the reference's are left
    out. Raises InputError if there is no answer to label, such as where no texts are kept.
    """
    texts = {record.request: json.loads(record.text) for record in records if record.text is not None}
    lines = []
    for record, model, _ in _answers(records, reference):
        text = texts.get(record.request, {"answers": {}})
        answer, of_reference = text["answers"].get(model), text["answers"].get(reference)
        if answer is None or of_reference is None or normalised_match({}, answer, of_reference) == 1:
            continue
        line = {"request": record.request, "model": model, "grade": None}
        lines.append({**line, "messages": text["messages"], "answer": answer, "reference": of_reference})
    if not lines:
        raise InputError(
            "there is no answer to label: compared requests are labelled by their texts, which the gateway keeps with "
            "`keep: {texts: true}` alone, where a model says something else than the reference"
        )
    for row in np.random.default_rng(seed).permutation(len(lines))[:n]:
        # Half a character, which an answer may hold, stays escaped.
        yield json.dumps(lines[row], ensure_ascii=False).encode(errors="backslashreplace").decode()


def read_labels(file: Path) -> dict[tuple[str, str], float]:
    """Return the grades in a file of labels, by request and model. Raises InputError for a line that is no label."""
    grades: dict[tuple[str, str], float] = {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"cannot read the labels in {file}: {why_it_failed(error)}") from error
    except UnicodeDecodeError:
        raise InputError(f"cannot read the labels in {file}: it is not UTF-8 text, save it as such") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        request, model, grade = _label(line, f"line {number} of {file}")
        if grade is None:
            continue
        if (request, model) in grades:
            raise InputError(f"line {number} of {file} labels an answer again: give one label for each")
        grades[request, model] = grade
    return grades


def _label(line: str, where: str) -> tuple[str, str, float | None]:
    try:
        body: Any = parse_json(line)
        request, model, grade = body["request"], body["model"], body["grade"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{where} is no label: give JSON with request, model and grade") from None
    if grade is not None and (type(grade) not in (int, float) or not 0 <= grade <= 1):
        raise InputError(f"{where}: a grade is a number from 0 to 1, or null, got {grade!r:.60}")
    return str(request), str(model), grade


def agreement(
    labels: Mapping[tuple[str, str], float], records: Sequence[Record], reference: str, measure: str
) -> str:
    """Say how often the grades of the records' answers are those of the labels, with a 95% interval, and how much
    higher they are. `measure`: what the grades are called. Units are groups.

    Raises InputError unless two answers, or groups of them, are labelled.
    """
    chosen = [
        answer for answer in _answers(records, reference) if (answer.record.request, answer.model) in labels
    ]
    units = [answer.record.unit for answer in chosen]
    groups = Groups(np.array(units)) if len(set(units)) < len(units) else None
    if n_units(len(chosen), groups) < 2:
        raise InputError(
            f"of {counted(len(labels), 'label')} {len(chosen)} are of answers in the records that a policy is made of, "
            "in fewer than two units: label more of what `exeunt gateway labels FILE` prints"
        )
    grades = np.array([answer.grade for answer in chosen])
    labelled = np.array([labels[answer.record.request, answer.model] for answer in chosen])
    share, (low, high) = mean_quality((grades == labelled).astype(float), groups)
    mean, lowest, highest = (100 * bound for bound in _interval(grades - labelled, groups))
    left = len(labels) - len(chosen)
    out = f" {counted(left, 'label')} left out, of other records." if left else ""
    return (
        f"Of {len(chosen):,} labels the {measure} agrees with {share:.1%} (95% interval {low:.1%} to {high:.1%}). It "
        f"is {abs(mean):.1f} points {'lower' if mean < 0 else 'higher'} on average (interval of the difference "
        f"{lowest:.1f} to {highest:.1f}).{out}"
    )


def _answers(records: Sequence[Record], reference: str) -> Iterator[_Answer]:
    """Yield the graded answers of models other than the reference, of requests that were recorded once: a request is
    all that a label names.
    """
    times = Counter(record.request for record in records)
    for record in records:
        for model, answer in record.said.items():
            if (
                model != reference
                and answer.grade is not None
                and not answer.failed
                and times[record.request] == 1
            ):
                yield _Answer(record, model, answer.grade)


def _interval(values: Floats, groups: Groups | None) -> Interval:
    """Return the mean of values (n,) with its 95% t interval, over groups if there are any."""
    if groups is None:
        return Interval(*mean_interval(values))
    mean, ends = weighted_interval(groups.means(values), groups.weight, within=(-np.inf, np.inf))
    return Interval(mean, *ends)
