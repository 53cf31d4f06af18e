"""The files of a run folder: their names, what each holds, and whether it is as it was written.

A file is hashed when it is first needed. `exeunt verify` reads them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from exeunt._support.files import check_file, file_digest, is_inside
from exeunt.errors import ArtefactError
from exeunt.runs.kinds import KINDS, RunKind

MANIFEST, COSTS = "bundle.json", "costs.json"
CONFIG = "config.yaml"
"""The options of the `exeunt train` that made a run, without its folder."""
EVALUATION = "evaluation.json"
TIMING = "timing.json"
"""How long the policy of a run took beside the original model, as `exeunt bench` measured it."""
EVALUATED = (
    EVALUATION,
    *(
        f"figures/{name}.{kind}"
        for name in (
            "accuracy_against_budget",
            "cost_against_budget",
            "rates_and_shares",
            "risk_per_exit",
            "watch",
        )
        for kind in ("png", "svg")
    ),
)
"""Files that `exeunt evaluate` writes about the policy."""
ONE_FILE, WEB = "one-file.onnx", "web"
POLICY_INSIDE = (ONE_FILE, f"{WEB}/model.onnx")
"""Files that `exeunt export` writes with the policy inside."""
TRACED = ("fit", "calibrate", "test")
FOLDERS = ("model", "tokenizer")
"""Subfolders all of whose files have a digest."""
_HOLDS = {
    **{file: kind.holds for file, kind in KINDS.items()},
    COSTS: "what an answer costs at each exit",
    "traces": "the recorded outputs of every exit",
    "model": "the configuration of the Hugging Face model",
    "tokenizer": "the tokeniser",
}


def trace_file(part: str) -> str:
    """Return the name of the trace of "fit", "calibrate" or "test"."""
    return f"traces/{part}.parquet"


def digests_of(root: Path, parts: Iterable[str], network: str) -> dict[str, str]:
    """Return the digests by name of all files that can change an answer; `parts` have traces.

    `network`: the file of its kind. The exported stages have their digests in the manifest that is named here.
    """
    names = [
        network,
        COSTS,
        *map(trace_file, parts),
        *(name for folder in FOLDERS for name in _files_below(root, folder)),
    ]
    return {name: file_digest(root / name) for name in names}


@dataclass(frozen=True)
class RunFiles:
    """The files below `root` with their `digests` by name, from the manifest."""

    root: Path
    digests: Mapping[str, str]
    _checked: set[str] = field(default_factory=set, init=False, repr=False)

    def path(self, name: str) -> Path:
        """Return the path of a file that the manifest names; the first time, after checking its digest.

        Raises ArtefactError that says what the file is and how to get it back, FileError if it may not be read.
        """
        file = self.root / name
        if name not in self._checked:
            if not is_inside(file, self.root):
                raise ArtefactError(f"{file} lies outside the run {self.root}: put the file itself there")
            content = _HOLDS.get(name) or _HOLDS.get(name.partition("/")[0], "a part of the run")
            check_file(file, self.digests[name], what=content, remedy=self._remedy)
            self._checked.add(name)
        return file

    def check_all(self) -> None:
        """Raise as `path` and `check_folder` do for the first file that is not as it was written."""
        for name in self.digests:
            self.path(name)
        for name in FOLDERS:
            self.check_folder(name)

    def names_below(self, folder: str) -> list[str]:
        """Return the names of those files that lie in a subfolder."""
        return [name for name in self.digests if name.startswith(f"{folder}/")]

    def check_folder(self, name: str) -> None:
        """Raise as `path` does unless the subfolder `name` holds the files that it was written with, and no others."""
        known = self.names_below(name)
        for file in known:
            self.path(file)
        if added := sorted(set(_files_below(self.root, name)) - set(known)):
            raise ArtefactError(
                f"{self.root / added[0]} was added to {_HOLDS[name]} after training: move it away"
            )

    @cached_property
    def kind(self) -> RunKind:
        """The kind of the run, by the file that its network is in."""
        return next(kind for file, kind in KINDS.items() if file in self.digests)

    @property
    def _remedy(self) -> str:
        made_by = self.kind.made_by or (
            f"remove {self.root / MANIFEST} and repeat the run's `exeunt train`, which goes on from its checkpoint"
        )
        return f"restore it from a copy of the run, or {made_by}"


def _files_below(root: Path, folder: str) -> list[str]:
    """Return the names of the files below a subfolder, as the manifest has them, without hidden ones."""
    files = (file.relative_to(root) for file in sorted((root / folder).rglob("*")) if not file.is_dir())
    return [file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts)]
