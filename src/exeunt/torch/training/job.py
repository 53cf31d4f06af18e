"""What `exeunt train` is asked for, and `project.json`, which says in a run folder what job began there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from exeunt._support import files
from exeunt._support.sealed_json import flattened
from exeunt._support.text import listed
from exeunt.errors import ArtefactError, InputError, require
from exeunt.runs.folder import RunFolder
from exeunt.timing.exit_placement import PlacedExits
from exeunt.torch.devices import is_first_process
from exeunt.torch.exits.heads import HeadOptions
from exeunt.torch.exits.own import OWN
from exeunt.torch.loaders import AUGMENTS
from exeunt.torch.models.by_name import brings_weights
from exeunt.torch.timed_exits import AUTO
from exeunt.torch.training.recipe import make_recipe

JOB_FILE = "project.json"

_DATA = ("data_fingerprint", "split_digest")
_REMEDY = "choose another --out, or remove the folder"
_OPTIONS = {
    "label": "label-column",
    "text": "text-column",
    "pretrained": "seen",
    "masks": "task segment",
    "ignored": "ignore-class",
    "balanced": "balance-classes",
}
"""Names on the command line that are not those of the fields."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What `exeunt train` is asked for. All fields but `workers` decide the result.

    With `unlabelled` in `recipe`, inputs may lack labels: the network must be trained, and its classes are its own.
    `weights`: a file of trained weights, or "pretrained" for those the library offers. `pretrained`: the
    network has seen all training data, so that fit and calibrate come from the test data; by default true
    whenever weights are given, or the model brings its own (`hf:`).
    `label`, `text`: columns, see `open_source`. `exits`: see `attach`, or "auto" for exits placed by
    time, for batches of the sizes `exit_batch` (see `exits_by_time`). `head`: options of `attach`.
    `recipe`: options of `train`. `heads_first`: in the modes joint and distill, epochs in which the heads learn alone
    before (on cached features, without random changes); 0 for none. `batch_size`: inputs per batch. Where one of
    these is not given, it is chosen by the network, see `settings_for`.
    `gate`, `gate_features`: see `attach`.
    `masks`: images with masks, and a network that answers with masks. `ignored`: the class of their pixels that does
    not count. `balanced`: the pixels of rare classes count more in training.
    `workers`: processes that decode images; the batches are the same for any number.
    `calibration_data`: other data to fit and calibrate on, see `open_source`.
    `fit`, `calibrate`, `test`: counts or shares, see `plan_split`. `skip_unreadable`: leave out images that cannot be
    read; else the first of them is an error.
    """

    model: str
    data: str
    weights: str | None = None
    pretrained: bool | None = None
    label: str | None = None
    text: tuple[str, ...] = ()
    exits: int | str | tuple[str, ...] = 7
    exit_batch: tuple[int, ...] | None = None
    head: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    heads_first: int | None = None
    batch_size: int | None = None
    augment: str = "none"
    workers: int = 0
    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    calibration_data: str | None = None
    fit: float | None = None
    calibrate: float | None = None
    test: float | None = None
    skip_unreadable: bool = False
    gate: str | None = None
    gate_features: str | None = None
    masks: bool = False
    ignored: str | None = None
    balanced: bool = False
    seed: int = 0

    @property
    def unlabelled(self) -> bool:
        """Whether some or all inputs have no label."""
        return bool(self.recipe.get("unlabelled"))

    @property
    def of_masks(self) -> dict[str, Any]:
        """The options of `open_source` for images with masks."""
        return {"masks": True, "ignored": self.ignored} if self.masks else {}

    @property
    def has_seen_training_data(self) -> bool:
        """Whether fit and calibrate must come from the test data."""
        return self.brings_weights if self.pretrained is None else self.pretrained

    @property
    def is_frozen(self) -> bool:
        """Whether the heads alone are trained."""
        return bool(self.recipe.get("mode", "frozen") == "frozen")

    @property
    def brings_weights(self) -> bool:
        """Whether the network begins with trained weights."""
        return self.weights is not None or brings_weights(self.model)

    def on_texts(self) -> TrainingJob:
        """Return the job for texts: without augmentation. Raises InputError for other options that are for images."""
        options = {
            "size": self.size is not None,
            "mean, std": self.mean is not None,
            "skip_unreadable": self.skip_unreadable,
            "augment": self.is_frozen and self.augment != "none",
        }
        if any(options.values()):
            names = ", ".join(name for name, is_given in options.items() if is_given)
            raise InputError(f"{self.data} holds texts: leave out what is for images ({names})")
        return replace(self, augment="none")

    def check(self) -> None:
        """Raise InputError for fields that are wrong with any data, MissingExtra for missing packages."""
        for package in ("lightning_fabric", "safetensors"):
            require(package, extra="torch")
        teacher = {"teacher": "original"} if self.unlabelled else {}  # as `settings_for` chooses
        make_recipe(**{**teacher, **self.recipe})
        if self.heads_first is not None and (self.heads_first < 0 or self.is_frozen or self.exits == OWN):
            raise InputError(
                f"heads_first must be 0 or more, and none with mode='frozen' (heads are all that learns there) or "
                f"exits={OWN!r} (there are no heads), got {self.heads_first}"
            )
        if self.exit_batch is not None and self.exits != AUTO:
            raise InputError(
                f"exit_batch is for exits={AUTO!r}, which are placed by time, got exits={self.exits}: give these, or "
                "leave exit_batch out"
            )
        if self.gate_features is not None and self.gate is None:
            raise InputError(
                "gate_features are those of a gate: name its module (gate, --gate), or leave them out"
            )
        if self.masks and self.exits == AUTO:
            raise InputError("exits of masks are not placed by time: give their number, or name modules")
        HeadOptions(**self.head)
        if (self.mean is None) != (self.std is None):
            raise InputError("give both mean and std, or neither")
        if self.size is not None and self.size < 1:
            raise InputError(f"size must be at least 1 pixel, got {self.size}")
        if self.augment not in AUGMENTS:
            raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, got {self.augment!r}")
        if self.masks and self.augment == "resized-crop":
            raise InputError(
                "augment resized-crop changes images and not their masks: choose crop-flip or none"
            )


def refuse_other_run(out: Path, job: TrainingJob, data: Mapping[str, str] | None = None) -> None:
    """Raise InputError if a run with other options, or on other data, was begun in `out`, or no run and it has files.

    `data`: `data_fingerprint` and `split_digest`, where they are known already.
    """
    if not (out / JOB_FILE).is_file():
        names = sorted(file.name for file in out.glob("[!.]*")) if is_first_process() else []
        if names and not RunFolder.exists(out):
            raise InputError(f"{out} holds other files ({listed(names, 3)}): choose a new folder for --out")
        return
    before, now = flattened(_read_job(out / JOB_FILE)), flattened(_as_json(job, data))
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if others := [name for name in changed if name not in _DATA]:
        shown = "; ".join(
            f"{_option(name)} was {_shown(before.get(name))}, now {_shown(now.get(name))}" for name in others
        )
        raise InputError(
            f"{out} holds a run with other options, as its {JOB_FILE} says ({shown}): repeat its command to finish it, "
            f"{_REMEDY}"
        )
    if any(name in before and name in now for name in changed):
        raise InputError(
            f"the data, or how it is split, has changed since the run in {out} began, so inputs that it has "
            f"trained on could be among those that it is measured on: bring the data back, {_REMEDY}"
        )


def begin_run(out: Path, job: TrainingJob, data: Mapping[str, str]) -> None:
    """Make `out` the folder of this run. Raises InputError if it belongs to another run or cannot be made."""
    files.make_folder(out)
    refuse_other_run(out, job, data)
    files.write_json(out / JOB_FILE, _as_json(job, data))


def _option(name: str) -> str:
    """Return the name of a field on the command line: "--learning-rate" for "recipe.learning_rate"."""
    plain = name.removeprefix("recipe.").removeprefix("head.")
    return "--" + _OPTIONS.get(plain, plain.replace("_", "-"))


def _shown(option: Any) -> str:
    """Return the value of an option as it is typed."""
    if isinstance(option, bool):
        return "on" if option else "off"
    if option is None or option == []:
        return "not given"
    return ",".join(map(str, option)) if isinstance(option, list) else str(option)


def _as_json(job: TrainingJob, data: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the job as JSON gives it back (lists for tuples), without what does not change the result."""
    document: dict[str, Any] = json.loads(json.dumps({**asdict(job), **(data or {})}))
    del document["workers"]
    return document


def _read_job(file: Path) -> dict[str, Any]:
    """Return the job in a file."""
    document = files.read_json(file, remedy=_REMEDY)
    if (
        not isinstance(document, dict)
        or not isinstance(document.get("head"), dict)
        or "model" not in document
    ):
        raise ArtefactError(f"{file} does not say what was trained: it is damaged; {_REMEDY}")
    return document


_FILE = "exits.json"


def with_kept_exits(job: TrainingJob, out: Path) -> TrainingJob:
    """Return the job with the exits that were placed for it before, if they were.

    Times differ from one measurement to the next, and a resumed training needs the same exits.
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
