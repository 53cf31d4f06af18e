"""Training runs: a finished run is opened, an unfinished one goes on, a new one starts."""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import exeunt as ex
from exeunt.data.decode_all import default_cache
from exeunt.runs.file_digests import TRACED
from exeunt.runs.folder import RunFolder
from exeunt.torch.devices import is_first_process
from exeunt.torch.training.run import run_training
from exeunt.trace import concatenate

if TYPE_CHECKING:
    from pathlib import Path

    from exeunt.torch.training.job import TrainingJob

MOST_LOGS = 5_000_000  # log-probabilities that a trace of the repository may hold: 10 MB before compression


def trained(job: TrainingJob, out: Path, *, more: bool = False) -> RunFolder:
    """Return the run folder in `out`, trained if need be.

    Under `torchrun` only the first process returns. With `more` trainings to come the others return too, once the
    first has written the run.
    """
    if not RunFolder.exists(out):
        run_training(job, out, command=shlex.join(["python", *sys.argv]), say=print, cache=default_cache())
    if not more and not is_first_process():
        sys.exit()
    while not RunFolder.exists(out):
        time.sleep(1)
    return RunFolder.open(out)


def kept_trace(run: RunFolder, path: Path) -> ex.ExitTrace:
    """Write the trace of all of a run's recorded inputs, and read it back. Of identical inputs one is kept.

    The file is small: margins in single precision, log-probabilities in half precision unless there are too many.
    Results are made from this file, so that anyone can check them without the training.
    """
    whole = concatenate([run.trace(part) for part in TRACED])
    whole = whole.take(np.sort(np.unique(whole.id, return_index=True)[1]))
    margin = whole.scores["margin"].astype(np.float32).astype(np.float64)
    logs = whole.log_probability
    half = None if logs is None or logs.size > MOST_LOGS else logs.astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(whole, scores={"margin": margin}, log_probability=half).save(path)
    return ex.ExitTrace.load(path)


def training_facts(run: RunFolder) -> dict[str, Any]:
    """Return what was trained, on how many inputs, and the seconds of each epoch."""
    manifest = run.manifest
    history = (run.path / "training" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "model": manifest["model"]["spec"],
        "exits": manifest["network"]["exits"],
        "head": manifest["network"]["head"],
        "recipe": manifest["training"],
        "parts": {part: _size(rows) for part, rows in manifest["split"]["parts"].items()},
        "epochs_s": [json.loads(epoch)["seconds"] for epoch in history],
        "provenance": manifest["provenance"],
    }


def _size(rows: dict[str, Any]) -> int:
    """Return the number of inputs of a part as a split plan writes it."""
    listed = len(rows["listed"])
    return rows["n_file"] - listed if rows["rest"] else listed
