"""`exeunt.load`: what a path holds, a run, a policy, or recorded outputs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from exeunt._support.files import read_json
from exeunt.errors import ArtefactError, InputError
from exeunt.policy import Policy, PolicySet
from exeunt.runs import runner
from exeunt.runs.folder import RunFolder
from exeunt.trace import ExitTrace, StoredTrace


def load(
    path: str | Path | RunFolder | Policy, **options: Any
) -> runner.Runner | Policy | PolicySet | ExitTrace | StoredTrace:
    """Open a run folder, or a file or folder that a policy or a trace was saved to.

    Returns the `Runner` of a run folder (also "RUN@int8" and "RUN@50%"), the `Policy` or `PolicySet` of a .json file,
    the `ExitTrace` of a .parquet file, and the `StoredTrace` of a folder, or of an address such as s3://bucket/folder,
    that `exeunt record` filled. `options`: of a run alone, those of `exeunt.runs.runner.load`.

    With `models`, classifiers by name, a policy of a cascade (an object or a file) gives the `Runner` that asks them:
    see `exeunt.runs.runner.with_classifiers`.

    Raises InputError if there is nothing of these kinds, ArtefactError if it is damaged.
    """
    if isinstance(path, Policy):
        return runner.with_classifiers(path, **options)
    if isinstance(path, RunFolder):
        return runner.load(path, **options)
    file = Path(path)
    if file.suffix == ".parquet" or "://" in str(path) or _holds_parts(file):
        opened: Any = ExitTrace.load if file.suffix == ".parquet" else StoredTrace.open
    elif file.suffix == ".json":
        opened = PolicySet.load if _is_set(file) else Policy.load
        if "models" in options and opened == Policy.load:
            return runner.with_classifiers(Policy.load(path), **options)
    else:
        return runner.load(path, **options)
    if options:
        raise InputError(
            f"{', '.join(options)}: such options are of a run, and {path} is none: leave them out"
        )
    return opened(path)  # type: ignore[no-any-return]


def _holds_parts(folder: Path) -> bool:
    """Return whether a folder that is no run holds recorded outputs."""
    return folder.is_dir() and not RunFolder.exists(folder) and any(folder.glob("*.parquet"))


def _is_set(file: Path) -> bool:
    with suppress(ArtefactError, InputError, OSError):
        document = read_json(file)
        return isinstance(document, dict) and document.get("format") == "exeunt-policy-set"
    return False
