"""What the experiments share: a finished run is opened, an unfinished one goes on, a new one starts."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import exeunt as ex
from exeunt._files import read_json, write_json
from exeunt.data import default_cache
from exeunt.run.file_digests import TRACED
from exeunt.run.folder import RunFolder
from exeunt.torch.devices import is_first_process
from exeunt.torch.training.checkpoint import History
from exeunt.torch.training.run import run_training
from exeunt.trace import concatenate

if TYPE_CHECKING:
    from collections.abc import Callable

    from exeunt.torch.training.job import TrainingJob

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
_RECORDING = "recording"  # how run_training announces that training is over
MOST_LOGS = 5_000_000  # log-probabilities that a trace of the repository may hold: 10 MB before compression


class Measurements:
    """Measurements kept in a file, a line each: the same command goes on where it was interrupted."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self.known = {tuple(key): value for key, value in map(json.loads, lines)}
        self._path = path

    def of(self, *key: Any, measure: Callable[[], Any]) -> Any:
        """Return the measurement of this key, measured now if the file does not hold it."""
        if key not in self.known:
            self.known[key] = measure()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self.known[key]]) + "\n")
        return self.known[key]


class Stopwatch:
    """Prints what `run_training` says, and takes the time between its steps."""

    def __init__(self) -> None:
        self.said: list[tuple[float, str]] = []

    def __call__(self, text: str) -> None:
        self.said.append((time.monotonic(), text))
        print(text, flush=True)

    @property
    def training_s(self) -> float:
        """Seconds from the description of the network to the recording: caches and epochs."""
        end = next(i for i, (_, text) in enumerate(self.said) if text.startswith(_RECORDING))
        return self.said[end][0] - self.said[end - 1][0]


def trained(job: TrainingJob, out: Path, *, more: bool = False) -> RunFolder:
    """Return the run folder in `out`, trained if need be. An unbroken training leaves its time in timing.json.

    Under `torchrun` the first process alone returns; with `more` trainings to come the others do as well, once it has
    written the run.
    """
    unbroken = not (out / "training").is_dir()
    if not RunFolder.exists(out):
        watch = Stopwatch()
        command = shlex.join(["python", *sys.argv])
        made = run_training(job, out, command=command, say=watch, cache=default_cache())
        if made is not None and unbroken:
            write_json(out / "timing.json", {"training_s": watch.training_s})
    if not more and not is_first_process():
        sys.exit()  # the first process goes on
    while not RunFolder.exists(out):  # which it writes
        time.sleep(1)
    return RunFolder.open(out)


def whole_trace(run: RunFolder) -> ex.ExitTrace:
    """Return a run's traces, fit, calibrate and test in one; of identical images (CIFAR-100 has some) one is kept."""
    everything = concatenate([run.trace(part) for part in TRACED])
    return everything.take(np.sort(np.unique(everything.id, return_index=True)[1]))


def kept_trace(run: RunFolder, path: Path) -> ex.ExitTrace:
    """Write what the results need of a run's whole trace, and read it back.

    Margins in single precision, and log-probabilities in half where there are any and they are not too many, so that
    the file is small. The results are made from this file, so that they can be checked without the training.
    """
    whole = whole_trace(run)
    margin = whole.scores["margin"].astype(np.float32).astype(np.float64)
    logs = whole.log_probability
    half = None if logs is None or logs.size > MOST_LOGS else logs.astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(whole, scores={"margin": margin}, log_probability=half).save(path)
    return ex.ExitTrace.load(path)


def parts_of(run: RunFolder) -> dict[str, float]:
    """Return the shares of fit, calibrate and test among the inputs that were recorded."""
    sizes = {part: run.trace(part).n for part in TRACED}
    return {part: size / sum(sizes.values()) for part, size in sizes.items()}


def training_facts(run: RunFolder) -> dict[str, Any]:
    """Return what was trained and how long it took: `training_s` is None where the run was broken off."""
    history = history_of(run)
    timing = run.path / "timing.json"
    manifest = run.manifest
    return {
        "model": manifest["model"]["spec"],
        "exits": manifest["network"]["exits"],
        "head": manifest["network"]["head"],
        "recipe": manifest["training"],
        "parts": {part: len_of(rows) for part, rows in manifest["split"]["parts"].items()},
        "epochs_s": [epoch.seconds for epoch in history.epochs],
        "training_s": read_json(timing)["training_s"] if timing.is_file() else None,
        "provenance": manifest["provenance"],
    }


def history_of(run: RunFolder) -> History:
    """Return what each epoch of a bundle's training gave."""
    lines = (run.path / "training" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return History.from_list(json.loads(line) for line in lines)


def len_of(rows: dict[str, Any]) -> int:
    """Return the number of inputs of a part as a split plan writes it."""
    listed = len(rows["listed"])
    return rows["n_file"] - listed if rows["rest"] else listed


def arguments(
    description: str | None, *, data: str, run: str, out: str, splits: int
) -> argparse.ArgumentParser:
    """Return the options that all experiments have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=f"../shared/data/{data}")
    parser.add_argument("--run", type=Path, default=Path("runs") / run, help="where the training goes")
    parser.add_argument("--out", type=Path, default=RESULTS / out, help="where the results go")
    parser.add_argument("--splits", type=int, default=splits)
    return parser
