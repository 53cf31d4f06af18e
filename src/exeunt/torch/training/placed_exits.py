"""Exits that a job places by time: measured once, and kept in the run folder, since times differ from one measurement
to the next and a resumed training needs the same exits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exeunt._support import files
from exeunt.errors import ArtefactError, InputError
from exeunt.timing.exit_placement import PlacedExits
from exeunt.torch.timed_exits import AUTO
from exeunt.torch.training.job import TrainingJob

_FILE = "exits.json"


def with_kept_exits(job: TrainingJob, out: Path) -> TrainingJob:
    """Return the job with the exits that were placed for it before, if they were.

    Raises ArtefactError for a damaged file, InputError if several processes would have to place them: each would find
    others.
    """
    if job.exits != AUTO:
        return job
    if (out / _FILE).is_file():
        placed = files.read_json(
            out / _FILE, remedy="remove it, and the folder training/ with what was learned so far"
        )
        if not isinstance(placed, dict) or not {"exits", "hidden"} <= set(placed):
            raise ArtefactError(f"{out / _FILE} does not say where the exits are: choose another --out")
        return replace(job, exits=tuple(placed["exits"]), head={**job.head, "hidden": placed["hidden"]})
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "--exits auto times the network in one process: run this command without torchrun until it trains, end it "
            "with Ctrl+C, and run it again with torchrun"
        )
    return job


def keep_exits(placed: PlacedExits | None, out: Path, say: Callable[[str], None]) -> None:
    """Say where exits were placed, and keep it; None if nothing was placed now."""
    if placed is not None:
        say(placed.describe() + "\n")
        files.write_json(out / _FILE, {"exits": placed.names, "hidden": placed.hidden})
