"""`exeunt predict RUN --data images/` answers inputs; `exeunt record` keeps the outputs of every exit for them."""

from __future__ import annotations

import os
import sys
from dataclasses import MISSING, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exeunt._support.text import echo
from exeunt.cli.language import Generation
from exeunt.cli.options import (
    STANDARD,
    Cluster,
    LiveExecution,
    RunPath,
    changed,
    cluster_option,
    column_names,
    given,
    interruptible,
    option,
    options_under,
    standard_input,
    with_groups,
)
from exeunt.cli.paid_predictions import Total, asked_models, live_option
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exeunt.data import Dataset
    from exeunt.runs.folder import RunFolder

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
    batch_size: int | None = option(
        "Inputs per batch.", min=1, show_default="128, or 16 of texts that are generated"
    )
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
        self,
        run: RunFolder,
        execution: LiveExecution,
        cluster: _Workers,
        keep: Mapping[str, str] | None = None,
    ) -> tuple[Dataset, dict[str, Any]]:
        """Open the inputs as the run was trained on them; return the options as the library takes them, too.

        `keep`: columns that come back beside the predictions, and the option that named each.
        """
        from exeunt.data import open_inputs, open_lines

        own = {"strict": self.strict, "batch_size": self.batch_size or 128, **cluster.of_job(self.workers)}
        options = {**own, **execution.of_network}
        if self.data == STANDARD:
            for name, named_by in (keep or {}).items():
                raise InputError(
                    f"the standard input has no column {name!r}: name a table with --data, or leave out {named_by}"
                )
            return open_lines(standard_input(), run.manifest["inputs"]["kind"]), options
        trained_on, text = run.manifest["data"], column_names(self.text_column)
        known, label = trained_on.get("text", ()), trained_on.get("label")
        inputs = open_inputs(
            self.data, label=label, text=text or known, of_training=not text, keep=keep or ()
        )
        return inputs, options


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
        from exeunt.jobs.cluster.jobs import RayWorkers

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
    masks: Path | None = _output(
        "Of a network that answers with masks: a folder to write them to as PNG files, too; pixels are numbers of "
        "classes."
    )
    keep: list[str] | None = _output(
        "Columns of the table that come back beside the predictions as they are, such as id,customer; may be repeated."
    )
    group_column: str | None = _output(
        "A column of the table that names the group of each input, where inputs come in groups, such as conversations "
        "or users, in order of arrival. When drift is looked for at the end, a group counts once, by its first row. "
        "The column comes back beside the predictions."
    )

    @property
    def prints(self) -> bool:
        """Whether predictions go to the standard output."""
        return self.out == STANDARD

    @property
    def columns(self) -> dict[str, str]:
        """The columns that come back, and the option that named each."""
        columns = {name: "--keep" for text in self.keep or () for name in column_names(text)}
        if self.group_column is not None:
            columns.setdefault(self.group_column, "--group-column")
        return columns

    def check(self, cluster: Cluster) -> None:
        """Raise InputError for options that do not go together."""
        if cluster.is_ray and self.prints:
            raise InputError("--engine ray writes a folder: name one with --out, such as predictions/")
        if self.masks is not None and (cluster.is_ray or self.prints):
            raise InputError(
                "--masks goes with a file of predictions: name one with --out, without --engine ray"
            )
        if self.group_column is not None and self.prints:
            raise InputError(
                "drift is looked for in a file of predictions: name one with --out, or leave out --group-column"
            )
        if not cluster.is_ray and "://" in self.out:
            raise InputError(f"one process writes a file, not {self.out}: add --engine ray, or name a file")


@with_groups
def predict(
    path: RunPath,
    inputs: _Inputs,
    execution: LiveExecution,
    output: _Predictions,
    generation: Generation,
    live: Total,
    cluster: _WorkersOnParts,
) -> None:
    """Answer inputs: label, class name, confidence, exit and cost of each, in order; or prompts of a language model.

    Says the accuracy where the inputs have labels, or lie in folders named like the classes. If interrupted while it
    writes a file, the same command resumes.
    """
    from exeunt.runs.folder import RunFolder

    run = RunFolder.open(path)
    run.kind.action("predict", _predict)(run, inputs, execution, output, generation, live, cluster)


def _predict(
    run: RunFolder,
    inputs: _Inputs,
    execution: LiveExecution,
    output: _Predictions,
    generation: Generation,
    live: Total,
    cluster: _WorkersOnParts,
) -> None:
    """Answer the inputs of a run that classifies, or answers with masks."""
    if others := changed(generation):
        raise InputError(
            f"{others}: such options are of language models that generate, and {run.path} holds none: leave them out"
        )
    output.check(cluster)
    out, prints = output.out, output.prints
    kept_work = (
        "" if prints else f"parts that were answered are kept in or beside {out}: the same command goes on"
    )
    with interruptible(lambda: kept_work):
        data, options = inputs.opened(run, execution, cluster, output.columns)
        options |= {
            **given(output, without=("out", "keep", "masks")),
            "say": lambda text: echo(text, err=prints),
        }
        paid = asked_models(run, data, execution.models, live, out)
        if paid is not None:
            _check_paid(live, output, cluster)
            if paid.paced:
                echo(paid.paced, err=prints)
            workers = (inputs.workers or 1) if cluster.is_ray else 0
            options["make"] = partial(paid.job, spare=workers * paid.live.concurrency)
        if cluster.is_ray:
            from exeunt.jobs.predict import predict_folder

            summary = predict_folder(run, data, out, **options)
        else:
            from exeunt.jobs import predict_inputs

            into = sys.stdout if prints else Path(out)
            summary = predict_inputs(run, data, into, masks_into=output.masks, **options)
    echo(summary, err=prints)
    if paid is not None:
        echo(paid.paid, err=prints)
    if summary.n_answered == 0 and summary.first_error is not None:
        raise InputError(f"no input could be answered; the first: {summary.first_error[1]}")


def _check_paid(live: Total, output: _Predictions, cluster: _Workers) -> None:
    """Raise InputError where workers would not share a ledger, or answers that were paid for would be lost."""
    out = output.out
    if cluster.is_ray and "://" not in (live.ledger or ""):
        raise InputError(
            "the workers of a cluster share a ledger: name one with --ledger postgresql://user@host/database"
        )
    if not cluster.is_ray and out != STANDARD and not output.force and os.path.lexists(out):
        raise InputError(
            f"{out} holds answers that were paid for: name another file, or ask all inputs anew with --force"
        )


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

    max_spend: str | None = live_option("What all runs of this recording may cost together, such as '3 usd'.")
    concurrency: int = live_option("Inputs that are asked about at the same time.", default=64, min=1)
    repeat: bool = live_option(
        "Ask about each copy of an input; else once about the same content.", default=False
    )
    keep_texts: bool = live_option("Write the texts into the table, too.", default=False)
    id_column: str | None = live_option("A column of ids. Default: an HMAC of the content.")


@with_groups
def record(
    *,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN]",
            help="Run folder that `exeunt train` made; or leave it out and name services or functions by --models.",
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
        if other := changed(cluster, replace(output, force=False), replace(execution, models=None)):
            raise InputError(f"{other}: such options are about a RUN, and there is none")
        return _record_models(inputs, execution.models, output, live)
    if other := changed(live, replace(execution, executor=None, trusted=None)):
        raise InputError(f"{other}: such options are about services and functions in place of a RUN")
    from exeunt.jobs.record import record_inputs
    from exeunt.jobs.summary import recorded_text
    from exeunt.runs.folder import RunFolder

    out = output.out
    with interruptible(lambda: f"parts that were recorded are kept in {out}: the same command goes on"):
        run = RunFolder.open(path)
        data, options = inputs.opened(run, execution, cluster)
        options |= {**given(output, without=("out",)), "say": echo}
        total = record_inputs(run, data, out, **options)
    echo(recorded_text(total, out, run))
    if total.n_answered == 0 and total.first_error is not None:
        raise InputError(f"no input could be recorded; the first: {total.first_error[1]}")
    return None


def _record_models(inputs: _Inputs, models: Path | None, output: _Recording, live: _Live) -> None:
    from exeunt.costs.budget_text import amount_text
    from exeunt.data import open_inputs
    from exeunt.ledger import Ledger
    from exeunt.live.models_file import read_models
    from exeunt.live.recording import MONEY, record_models, recording_folder

    if models is None or live.max_spend is None:
        raise InputError(
            "name a RUN; or services and functions with --models models.yaml, and what they may cost with "
            "--max-spend '3 usd'"
        )
    keep = {} if live.id_column is None else {live.id_column: "--id-column"}
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
