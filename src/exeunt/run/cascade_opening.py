"""Opening a cascade: the executors of its models, one after the other."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from exeunt.engine.cascade_executor import CascadeExecutor, CascadeModel
from exeunt.engine.executor import Segments
from exeunt.errors import ArtefactError, InputError
from exeunt.run.cascade_file import CascadeEntry
from exeunt.run.executors import default_executor, open_executor
from exeunt.run.folder import RunFolder
from exeunt.run.preparation import InputPreparation

__all__ = ["check_cascade", "open_cascade", "open_model", "refuse_other_models"]


def open_cascade(
    run: RunFolder,
    *,
    threads: int | None = None,
    trusted: str | None = None,
    segments: Segments | None = None,
) -> CascadeExecutor:
    """Open the models of a cascade that `run.steps` names, by default all with all their exits.

    Each is run as `exeunt.run.load` runs it alone. Raises what opening a model raises, InputError for segments that go
    from one model into the next.
    """
    entries = {entry.name: entry for entry in run.cascade}
    models, first = [], 0
    for step in run.steps or tuple(entry.step for entry in run.cascade):
        model = replace(open_model(run, entries[step.model]), steps=(step,))
        executor = open_executor(
            model,
            default_executor(model),
            threads=threads,
            trusted=trusted,
            segments=_own(segments, first, step.n_exits),
        )
        models.append(CascadeModel(executor, InputPreparation(model)))
        first += step.n_exits
    return CascadeExecutor(models)


def open_model(run: RunFolder, entry: CascadeEntry) -> RunFolder:
    """Open the run of a model. Raises ArtefactError if it is another one than when the cascade was made."""
    model = replace(RunFolder.open(entry.folder(run.path)), objects=run.objects)
    if model.digest != entry.digest:
        raise ArtefactError(
            f"{model.path}, the model {entry.name!r} of {run.path}, was made anew since the cascade was: make the "
            "cascade anew with `exeunt cascade`"
        )
    return model


def refuse_other_models(run: RunFolder) -> None:
    """Raise ArtefactError if a model of a cascade is another one than when the cascade was made; it may be elsewhere."""
    for entry in run.cascade:
        with suppress(InputError):
            open_model(run, entry)


def check_cascade(run: RunFolder) -> str:
    """Check that every model is there and as it was; returns their names."""
    return ", ".join(f"{entry.name} ({open_model(run, entry).path})" for entry in run.cascade)


def _own(segments: Segments | None, first: int, n_exits: int) -> Segments | None:
    """Return those of the segments that are a model's, in its own exits that are run."""
    if segments is None:
        return None
    last = first + n_exits - 1
    own = tuple((a - first, b - first) for a, b in segments if b >= first and a <= last)
    if not own or (own[0][0], own[-1][1]) != (0, n_exits - 1):
        raise InputError(f"a segment of {segments} goes from one model of the cascade into the next")
    return own
