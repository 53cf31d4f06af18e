"""Answering many inputs from disk: in order, so that an interrupted run can resume, and naming unreadable inputs."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exeunt._files import atomic_path, check_writable, make_folder, read_json, write_json
from exeunt._sealed import content_digest
from exeunt.data.dataset import Texts
from exeunt.data.stored_inputs import ImageFiles
from exeunt.engine.deciding import BORDER
from exeunt.engine.stream_pool import Batch
from exeunt.errors import ExeuntError, InputError
from exeunt.predicting.batches import prepared_batches
from exeunt.run.executors import default_executor, executor_device
from exeunt.run.runner import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from exeunt._arrays import Integers
    from exeunt.data import Dataset, UnreadableInput
    from exeunt.policy import Policy
    from exeunt.predicting.batches import PreparedBatch
    from exeunt.run.folder import RunFolder
    from exeunt.run.runner import Runner

__all__ = ["PredictionSummary", "predict_inputs"]

_CHUNK = 2048  # inputs per part file: an interruption loses at most so many answers
_NO_ANSWER = "the network's output for this input is not finite"
_SCHEMA: Any = pa.schema(
    [
        ("name", pa.string()),
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("confidence", pa.float64()),
        ("exit", pa.int64()),
        ("cost", pa.float64()),
        ("borderline", pa.bool_()),
        ("truncated", pa.bool_()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class PredictionSummary:
    """What was predicted: number of inputs, and mean cost per answered input (`spend`), in `unit`.

    `spend_apart`: what they would have cost had no two exits been run together (see `Answers.cost`).
    `n_unanswered`: inputs that could not be read, or led to values that are not finite. `n_borderline`: see
    `Answers`. `n_truncated`: texts that were longer than the network takes. `out`: the file written.
    """

    n: int
    n_unanswered: int
    n_borderline: int
    n_truncated: int
    spend: float
    spend_apart: float
    budget: float
    unit: str
    out: Path

    def __str__(self) -> str:
        skipped = f", {self.n_unanswered} not (see the column 'error')" if self.n_unanswered else ""
        close = (
            f"{self.n_borderline} came within {BORDER:g} of a threshold or of another class and might be answered "
            "otherwise in another batch (see the column 'borderline')\n"
            if self.n_borderline
            else ""
        )
        together = (
            "exits were run together, by the plan for this machine or because the network runs whole; one by one they "
            f"would have cost {self.spend_apart:.4g} {self.unit}\n"
            if self.spend > self.spend_apart * (1 + 1e-6)
            else ""
        )
        if self.n_truncated:
            close += (
                f"{self.n_truncated} texts were longer than the network takes and were cut (see the column "
                "'truncated')\n"
            )
        return (
            f"{self.n - self.n_unanswered} inputs answered{skipped}; mean cost {self.spend:.4g} {self.unit} of "
            f"{self.budget:.4g} allowed ({self.spend / self.budget:.1%} of the budget)\n"
            f"{together}{close}written to {self.out}"
        )


def predict_inputs(
    run: RunFolder,
    inputs: Dataset,
    out: Path,
    *,
    batch_size: int = 128,
    workers: int = 0,
    strict: bool = False,
    executor: str | None = None,
    trusted: str | None = None,
    say: Callable[[str], None] = print,
) -> PredictionSummary:
    """Answer every input with the run folder's network and policy, and write a row for each to `out` (Parquet).

    Columns: name, label, class_name, confidence, exit, cost, borderline, truncated, and error for an input that cannot
    be read or answered (its other columns are then null). Parts that an interrupted run of the same job has answered
    are kept. `workers`: threads that decode images while the network runs. `executor`, `trusted`: see
    `exeunt.run.load`.

    Raises InputError if the inputs are of another kind than the network takes, UnreadableInput if `strict`.
    """
    _check_out(out)
    policy = run.policy
    kind = run.manifest["inputs"]["kind"]
    if inputs.kind != kind:
        raise InputError(f"the network of {run.path} takes inputs of kind {kind!r}, got {inputs.kind!r}")
    if isinstance(inputs, Texts):
        _check_pairs(run, inputs)
    executor = default_executor(run) if executor is None else executor
    with _parts_folder(out, _job(inputs, run, policy, executor, strict=strict)) as parts:
        runner: Runner | None = None
        for start in range(0, len(inputs), _CHUNK):
            part = parts / f"{start:012d}.parquet"
            if part.is_file():
                continue
            chunk = inputs.take(np.arange(start, min(start + _CHUNK, len(inputs))))
            if runner is None:
                runner = load(run, executor=executor, trusted=trusted)
            unreadable: list[tuple[int, UnreadableInput]] = []
            batches = _readable(
                prepared_batches(run, chunk, batch_size=batch_size, workers=workers),
                unreadable,
                strict=strict,
            )
            columns = _answered(runner, batches, len(chunk))
            _write(part, _table(columns, chunk, unreadable, run.manifest["class_names"]))
            for _, error in unreadable:
                say(str(error))
            say(f"{min(start + _CHUNK, len(inputs))} of {len(inputs)} inputs done")
        return _join(parts, out, policy)


def _check_pairs(run: RunFolder, texts: Texts) -> None:
    """Raise InputError for pairs of texts where the network reads single ones, and the other way round."""
    columns = run.manifest["data"].get("text") or ["text"]
    if texts.per_input != len(columns):
        words = {1: "single texts", 2: "pairs of texts"}
        raise InputError(
            f"the network of {run.path} was trained on {words[len(columns)]} ({', '.join(columns)}), these inputs are "
            f"{words[texts.per_input]}: name the columns (--text-column)"
        )


def _readable(
    batches: Iterator[PreparedBatch], unreadable: list[tuple[int, UnreadableInput]], *, strict: bool
) -> Iterator[PreparedBatch]:
    """Yield the batches that have inputs, and note what could not be read; `strict`: raise it."""
    for batch in batches:
        if batch.unreadable and strict:
            raise batch.unreadable[0][1]
        unreadable += batch.unreadable
        if len(batch.positions):
            yield batch


def _answered(runner: Runner, batches: Iterator[PreparedBatch], n: int) -> dict[str, Any]:
    """Return the columns of n inputs, with label -1 where there is no answer."""
    columns: dict[str, Any] = {
        "label": np.full(n, -1),
        "confidence": np.zeros(n),
        "exit": np.zeros(n, dtype=np.int64),
        "cost": np.zeros(n),
        "borderline": np.zeros(n, dtype=bool),
        "truncated": np.zeros(n, dtype=bool),
        "error": np.full(n, None, dtype=object),
    }
    places: list[Integers] = []

    def keyed() -> Iterator[Batch]:
        for batch in batches:
            places.append(batch.positions)
            columns["truncated"][batch.positions] = batch.truncated
            yield Batch(batch.inputs, batch.keys)

    for answers in runner.stream(keyed()):
        for name in ("label", "confidence", "exit", "cost", "borderline"):
            columns[name][places[answers.batch]] = getattr(answers, name)
        columns["error"][places[answers.batch][~answers.valid]] = _NO_ANSWER
    return columns


def _check_out(out: Path) -> None:
    """Raise InputError, before anything is computed, if `out` cannot be written."""
    if out.is_dir():
        raise InputError(
            f"cannot write {out}: it is a folder; name a Parquet file, such as {out}/answers.parquet"
        )
    if out.suffix.lower() not in ("", ".parquet", ".pq"):
        raise InputError(
            f"predictions are written as Parquet: name a file such as {out.stem}.parquet, got {out}"
        )
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: the folder {out.parent} does not exist, create it first")
    check_writable(out.parent, f"cannot write {out}")


def _job(inputs: Dataset, run: RunFolder, policy: Policy, executor: str, *, strict: bool) -> dict[str, Any]:
    """Return everything that the answers depend on: parts of a job that differs in any of it cannot be used."""
    plan = run.plan(executor, executor_device(executor))
    return {
        "inputs": _identity(inputs),
        "run": run.digest,
        "policy": content_digest(policy.to_dict()),
        "executor": executor,
        "segments": None if plan is None else plan.to_dict()["segments"],
        "strict": strict,
        "columns": _SCHEMA.names,
    }


def _identity(inputs: Dataset) -> str:
    """Return a hash of the inputs' names and content; of more than 1 GiB, sizes and times of the files instead."""
    digest = hashlib.sha256("\n".join(inputs.name(i) for i in range(len(inputs))).encode())
    if inputs.is_small:
        digest.update(inputs.stored_keys().tobytes())
    elif isinstance(inputs.stored, ImageFiles):
        stats = [inputs.stored[int(row)].stat() for row in inputs.rows]
        digest.update(repr([(stat.st_size, stat.st_mtime_ns) for stat in stats]).encode())
    else:
        digest.update(inputs.fingerprint.encode())
    return digest.hexdigest()


@contextmanager
def _parts_folder(out: Path, job: dict[str, Any]) -> Iterator[Path]:
    """Yield the folder of answered parts, after deleting parts of another job; if nothing is answered, it goes."""
    parts = out.with_name(f".{out.name}.parts")
    if parts.is_dir() and not _is_of(parts, job):
        shutil.rmtree(parts)
    make_folder(parts)
    try:
        write_json(parts / "job.json", job)
        yield parts
    finally:
        if parts.is_dir() and not any(parts.glob("*.parquet")):
            shutil.rmtree(parts, ignore_errors=True)


def _is_of(parts: Path, job: dict[str, Any]) -> bool:
    try:
        return bool(read_json(parts / "job.json") == job)
    except ExeuntError:  # missing or damaged
        return False


def _table(
    columns: dict[str, Any],
    chunk: Dataset,
    unreadable: Sequence[tuple[int, UnreadableInput]],
    class_names: Sequence[str],
) -> Any:
    answered = columns["label"] >= 0
    errors = columns.pop("error")
    for position, error in unreadable:
        errors[position] = str(error)
    cells = {
        name: [
            value if is_answer else None for value, is_answer in zip(column.tolist(), answered, strict=True)
        ]
        for name, column in columns.items()
    }
    cells["class_name"] = [None if label is None else class_names[label] for label in cells["label"]]
    cells["name"] = [chunk.name(i) for i in range(len(chunk))]
    cells["error"] = errors.tolist()
    return pa.Table.from_pydict(cells, schema=_SCHEMA)


def _write(path: Path, table: Any) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def _join(parts: Path, out: Path, policy: Policy) -> PredictionSummary:
    files = sorted(parts.glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files]) if files else _SCHEMA.empty_table()
    _write(out, table)
    shutil.rmtree(parts)
    rows = zip(table["exit"].to_pylist(), table["cost"].to_pylist(), strict=True)
    answered = [(policy.cost.cumulative[exit_], cost) for exit_, cost in rows if exit_ is not None]
    apart, spent = np.mean(answered, axis=0) if answered else (0.0, 0.0)
    return PredictionSummary(
        n=len(table),
        n_unanswered=table["label"].null_count,
        n_borderline=sum(filter(None, table["borderline"].to_pylist())),
        n_truncated=sum(filter(None, table["truncated"].to_pylist())),
        spend=float(spent),
        spend_apart=float(apart),
        budget=policy.budget,
        unit=policy.cost.unit,
        out=out,
    )
