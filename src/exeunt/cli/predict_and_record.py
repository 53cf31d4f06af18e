"""`exeunt predict RUN --data images/` answers inputs; `exeunt record` keeps the outputs of every exit for them."""

from __future__ import annotations

import os
import sys
from dataclasses import MISSING, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from exeunt._text import counted, echo
from exeunt.cli import interruptible
from exeunt.cli.options import (
    STANDARD,
    Cluster,
    Execution,
    LiveExecution,
    RunPath,
    changed,
    cluster_option,
    column_names,
    given,
    option,
    options_under,
    standard_input,
    with_groups,
)
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exeunt.data import Dataset
    from exeunt.ledger import Ledger
    from exeunt.live import LiveCascade
    from exeunt.predicting.predict import PredictJob
    from exeunt.run.folder import RunFolder

_output = options_under("Output")


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """The inputs, and how they are read."""

    data: str = option(
        "Inputs: an image, a folder of images, a .txt file with a text per line, or any data that `exeunt train` "
        "takes; '-' reads standard input, a path or for texts a text per line.",
        default=MISSING,
    )
    strict: bool = option(
        "Stop at the first input that cannot be read; else `predict` writes a row that says why it has no answer, and "
        "`record` leaves it out.",
        default=False,
    )
    batch_size: int = option("Inputs per batch.", default=128, min=1)
    workers: int | None = option(
        "Threads that decode images while the network runs; 0 decodes between its calls. With --engine ray: the number "
        "of workers, each with a copy of the network.",
        min=0,
        show_default="0, or 1 with ray",
    )
    text_column: str | None = option(
        "Column of the texts, or two for pairs of texts: premise,hypothesis. Default: as in training."
    )

    def opened(
        self, path: Path, execution: Execution, cluster: _Workers, keep: Sequence[str] = ()
    ) -> tuple[RunFolder, Dataset, dict[str, Any]]:
        """Open the run, and the inputs as it was trained on them; return the options as the library takes them, too."""
        from exeunt.data import open_inputs, open_lines
        from exeunt.run.folder import RunFolder

        run = RunFolder.open(path)
        own = {"strict": self.strict, "batch_size": self.batch_size, **cluster.of_job(self.workers)}
        options = {**own, **vars(execution)}
        if self.data == STANDARD:
            if keep:
                raise InputError(
                    f"the standard input has no column {keep[0]!r}: name a table with --data, or leave out --keep"
                )
            return run, open_lines(standard_input(), run.manifest["inputs"]["kind"]), options
        trained_on, text = run.manifest["data"], column_names(self.text_column)
        known, label = trained_on.get("text", ()), trained_on.get("label")
        inputs = open_inputs(self.data, label=label, text=text or known, of_training=not text, keep=keep)
        return run, inputs, options


@dataclass(frozen=True, kw_only=True)
class _Workers(Cluster):
    """A cluster whose workers hold the network."""

    cpus_per_worker: int | None = cluster_option(
        "Cores that each worker computes on.", min=1, max=4096, show_default="1"
    )
    gpus_per_worker: float | None = cluster_option("GPUs of each worker.", min=0, max=64, show_default="0")

    def of_job(self, workers: int | None) -> dict[str, Any]:
        """Return the options of a job: what does its blocks and their size, or threads that decode images."""
        if not self.is_ray:
            return {"workers": workers or 0}
        from exeunt.cluster.jobs import RayWorkers

        options = self.given
        size = {name: options.pop(name) for name in ("block_size",) if name in options}
        return {"do_blocks": RayWorkers(workers=1 if workers is None else workers, **options), **size}


@dataclass(frozen=True, kw_only=True)
class _WorkersOnParts(_Workers):
    block_size: int | None = cluster_option(
        "Inputs per part that is written.", min=1, show_default="2048, or 256 of live models"
    )


@dataclass(frozen=True, kw_only=True)
class _Predictions:
    out: str = _output(
        "File to write: Parquet, or by its ending .csv or .jsonl; '-' prints CSV. Its folder is made. With --engine "
        "ray a folder, or an address such as s3://bucket/folder.",
        default=STANDARD,
    )
    force: bool = _output("Replace a file that does not hold predictions.", default=False)
    top: int = _output(
        "Also write this number of most probable classes, with their probabilities.", default=0, min=0
    )
    probabilities: bool = _output("Also write the probability of every class.", default=False)
    keep: list[str] | None = _output(
        "Columns of the table that come back beside the predictions as they are, such as id,customer; may be repeated."
    )


_live = options_under("Services and functions")


@dataclass(frozen=True, kw_only=True)
class _Total:
    total: str | None = _live("What all answers may cost together, such as '5 usd'.")
    ledger: str | None = _live(
        "Where what is spent is counted: a file, or a PostgreSQL database that several machines share, such as "
        "postgresql://user@host/database. Default: a file beside --out."
    )


@with_groups
def predict(
    path: RunPath,
    inputs: _Inputs,
    execution: LiveExecution,
    output: _Predictions,
    live: _Total,
    cluster: _WorkersOnParts,
) -> None:
    """Answer inputs: label, class name, confidence, exit and cost of each, in order.

    Says the accuracy where the inputs have labels, or lie in folders named like the classes. If interrupted while it
    writes a file, the same command resumes.
    """
    out, prints = output.out, output.out == STANDARD
    if cluster.is_ray and prints:
        raise InputError("--engine ray writes a folder: name one with --out, such as predictions/")
    if not cluster.is_ray and "://" in out:
        raise InputError(f"one process writes a file, not {out}: add --engine ray, or name a file")
    kept = "" if prints else f"parts that were answered are kept in or beside {out}: the same command goes on"
    with interruptible(lambda: kept):
        keep = [name for text in output.keep or () for name in column_names(text)]
        run, data, options = inputs.opened(path, execution, cluster, keep)
        options |= {**given(output, without=("out", "keep")), "say": lambda text: echo(text, err=prints)}
        asked = _asked(run, data, execution.trusted, live, out)
        if asked is not None:
            if cluster.is_ray and "://" not in (live.ledger or ""):
                raise InputError(
                    "the workers of a cluster share a ledger: name one with --ledger postgresql://user@host/database"
                )
            if not cluster.is_ray and not prints and not output.force and os.path.lexists(out):
                raise InputError(
                    f"{out} holds answers that were paid for: name another file, or ask all inputs anew with --force"
                )
            workers = (inputs.workers or 1) if cluster.is_ray else 0
            options["make"] = partial(asked.job, spare=workers * asked.live.concurrency)
        if cluster.is_ray:
            from exeunt.predicting.predict import predict_folder

            summary = predict_folder(run, data, out, **options)
        else:
            from exeunt.predicting import predict_inputs

            summary = predict_inputs(run, data, sys.stdout if prints else Path(out), **options)
    echo(summary, err=prints)
    if asked is not None:
        echo(asked.paid, err=prints)
    if summary.n_answered == 0 and summary.first_error is not None:
        raise InputError(f"no input could be answered; the first: {summary.first_error[1]}")


class _Asked(NamedTuple):
    """The live models that answer, and what opens the ledger that pays for them."""

    live: LiveCascade
    money: Callable[[], Ledger]
    total: str
    models: Path

    @property
    def job(self) -> Callable[..., PredictJob]:
        """Makes the job."""
        from exeunt.predicting.live import LiveJob

        return partial(LiveJob, live=self.live, money=self.money, models=self.models)

    @property
    def paid(self) -> str:
        """What was spent, also on attempts of which nothing came back, and which models failed."""
        from exeunt.budget_text import amount_text

        failed = {name: model.counts["failed"] for name, model in self.live.models.items()}
        named = ", ".join(f"{name} to {counted(n, 'input')}" for name, n in failed.items() if n)
        ledger = self.live.ledger
        spent = f"{amount_text(0.0 if ledger is None else ledger.spent, 'usd')} of {self.total} are spent"
        if lost := [] if ledger is None else ledger.unsettled():
            amount = amount_text(sum(one.maximum for one in lost), "usd")
            spent += f", {amount} of it on {counted(len(lost), 'attempt')} of which nothing came back"
        return f"{spent}; no answer of {named}" if named else spent


def _asked(run: RunFolder, data: Dataset, models: str | None, money: _Total, out: str) -> _Asked | None:
    """Open the live models of a run, with the money for an answer to every input; None for a run of networks."""
    from exeunt.run.file_digests import LIVE

    total, ledger = money.total, money.ledger
    if run.network_file != LIVE:
        if other := changed(money):
            raise InputError(
                f"{other}: such options are for runs of services and functions, and {run.path} computes its answers "
                "here: leave them out"
            )
        return None
    if models is None or total is None:
        raise InputError(
            f"{run.path} asks services or functions: name their file with --model models.yaml, and what all answers "
            "may cost with --total '5 usd'"
        )
    from exeunt._paths import place
    from exeunt._sealed import content_digest
    from exeunt.ledger import Ledger
    from exeunt.live.live_model import check_unit
    from exeunt.live.live_run import live_cascade
    from exeunt.live.models_file import read_models

    prints = out == STANDARD
    if ledger is not None and prints:
        raise InputError("what --ledger counts is spent on the answers in a file: name one with --out")
    file = None if prints else f"{out}.money.db"
    name = f"answers {run.digest[:8]}{data.fingerprint[:8]}"
    if ledger is not None:  # which may count what is spent on others, too
        file, name = ledger, f"{name} {content_digest(str(place(out).absolute()))[:8]}"
    options: dict[str, Any] = {"inputs": len(data), "file": file, "durability": "full", "name": name}
    check_unit(Ledger(total=total))
    pays = partial(Ledger, total=total, **options)
    return _Asked(live_cascade(run, read_models(models)), pays, total, Path(models).absolute())


@dataclass(frozen=True, kw_only=True)
class _Recording:
    out: str = _output("Folder to write, or an address such as s3://bucket/folder.", default=MISSING)
    force: bool = _output(
        "Replace what another recording left there, or ask anew where a model has changed.", default=False
    )
    probabilities: bool = _output(
        "Keep the probabilities of the classes (of more than 256, the likeliest 32), however many numbers these are: "
        "ensembles need them. Else up to 2^28 are kept.",
        default=False,
    )
    block_size: int = _output("Inputs per part that is written.", default=8192, min=1)


@dataclass(frozen=True, kw_only=True)
class _Live:
    """What live models may cost, and what is kept of their inputs."""

    max_spend: str | None = _live("What all runs of this recording may cost together, such as '3 usd'.")
    concurrency: int = _live("Inputs that are asked about at the same time.", default=64, min=1)
    repeat: bool = _live("Ask about each copy of an input; else once about the same content.", default=False)
    keep_texts: bool = _live("Write the texts into the table, too.", default=False)
    id_column: str | None = _live("A column of ids. Default: an HMAC of the content.")


@with_groups
def record(
    *,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]",
            help="Run folder that `exeunt train` made; or leave it out and name services or functions by --model.",
            show_default=False,
        ),
    ] = None,
    inputs: _Inputs,
    execution: LiveExecution,
    output: _Recording,
    live: _Live,
    cluster: _Workers,
) -> None:
    """Record the outputs of every exit, in a folder that `exeunt calibrate --traces` takes.

    Or ask services and functions about every input, for a run that all commands take. If interrupted, the same command
    resumes.
    """
    if path is None:
        if other := changed(cluster, replace(output, force=False), replace(execution, trusted=None)):
            raise InputError(f"{other}: such options are about a RUN, and there is none")
        return _record_models(inputs, execution.trusted, output, live)
    if other := changed(live):
        raise InputError(
            f"{other}: such options are about services and functions (--model) in place of a RUN"
        )
    from exeunt.predicting.record import record_inputs
    from exeunt.predicting.summary import recorded_text

    out = output.out
    with interruptible(lambda: f"parts that were recorded are kept in {out}: the same command goes on"):
        run, data, options = inputs.opened(path, execution, cluster)
        options |= {**given(output, without=("out",)), "say": echo}
        total = record_inputs(run, data, out, **options)
    echo(recorded_text(total, out, run))
    if total.n_answered == 0 and total.first_error is not None:
        raise InputError(f"no input could be recorded; the first: {total.first_error[1]}")
    return None


def _record_models(inputs: _Inputs, models: str | None, output: _Recording, live: _Live) -> None:
    from exeunt.budget_text import amount_text
    from exeunt.data import open_inputs
    from exeunt.ledger import Ledger
    from exeunt.live.models_file import read_models
    from exeunt.live.recording import MONEY, record_models, recording_folder

    if models is None or live.max_spend is None:
        raise InputError(
            "name a RUN; or services and functions with --model models.yaml, and what they may cost with "
            "--max-spend '3 usd'"
        )
    keep = () if live.id_column is None else (live.id_column,)
    text = column_names(inputs.text_column)
    data = open_inputs(inputs.data, text=text, keep=keep)
    folder, known = recording_folder(output.out), read_models(models)
    ledger = partial(Ledger, total=live.max_spend, file=folder / MONEY, durability="full")
    options = {**given(live, without=("max_spend",)), "force": output.force, "strict": inputs.strict}
    options |= {"ledger": ledger, "name": inputs.data, "text": text}
    with interruptible(lambda: f"answers that came are kept in {output.out}: the same command goes on"):
        done = record_models(known, data, folder, say=echo, **options)
    echo(f"{done}\n{amount_text(done.spent, 'usd')} of {live.max_spend} are spent")
    if done.missing and "raise the total" in done.stopped:
        echo("with a higher --max-spend, the same command goes on")
    if not any(each["answered"] for each in done.counts.values()):
        raise InputError(
            f"no model gave an answer: {done.stopped or next(iter(done.why.values()), 'no inputs')}"
        )
