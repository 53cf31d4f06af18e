"""The main job: from a model's name and data to a run folder with a trained early-exit network and its traces."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from exeunt._files import check_writable
from exeunt._sealed import content_digest
from exeunt.data import Images, open_source, plan_split
from exeunt.errors import InputError, require
from exeunt.run.folder import TRACED, RunFolder
from exeunt.run.manifest import provenance
from exeunt.torch.augment import AUGMENTS
from exeunt.torch.claim import claim, refuse_other
from exeunt.torch.exits.network import attach
from exeunt.torch.loading import make_loader
from exeunt.torch.models.by_name import (
    PRETRAINED,
    brings_weights,
    build_model_and_report,
    runs_custom_code,
    save_model_config,
)
from exeunt.torch.models.inputs import (
    example_inputs,
    image_preparation,
    image_resizing,
    save_preparation,
    summarise_inputs,
    text_preparation,
    to_channels_last,
)
from exeunt.torch.models.pretrained import check_class_order, known_class_names, library_preprocess
from exeunt.torch.models.weights import save_weights
from exeunt.torch.processes import best_device, is_first_process
from exeunt.torch.progress import sparse
from exeunt.torch.recording import record
from exeunt.torch.training import check_options, train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from exeunt.data import Dataset, Preprocess, Source, SplitPlan
    from exeunt.torch.exits.network import EarlyExitNetwork
    from exeunt.torch.loading import ImageLoader, TextLoader
    from exeunt.torch.taps import Inputs

__all__ = ["Project", "train_project"]

HEADS_FIRST = 10
FINE_TUNING = {"backbone_rate": 0.05, "teacher": "original"}  # measured: docs/results/exit-ingredients.md
PACKAGES = ("exeunt", "torch", "torchvision", "timm", "transformers", "lightning-fabric", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class Project:
    """Everything that decides what comes out: model, data, exits, recipe.

    `weights`: a file of trained weights, or "pretrained" for those the library offers. `pretrained`: the
    network has seen all training data, so that fit and calibrate come from the test data; by default true
    whenever weights are given, or the model brings its own (`hf:`). `exits`: a number, or names of modules.
    `head`: options of `attach`.
    `recipe`: options of `train`; where a trained network is trained on, `backbone_rate` and `teacher` have
    defaults of their own, see `FINE_TUNING`.
    `heads_first`: in the modes joint and distill, epochs in which the heads learn alone before (on cached
    features, without random changes, with the defaults of `train`); 0 for none. By default 10 where the network
    comes with weights, else 0.
    `fit`, `calibrate`, `test`: counts or shares, see `plan_split`.
    """

    model: str
    data: str
    weights: str | None = None
    pretrained: bool | None = None
    label: str | None = None
    exits: int | tuple[str, ...] = 7
    head: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    heads_first: int | None = None
    batch_size: int = 128
    augment: str = "none"
    workers: int = 0
    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    fit: float | None = None
    calibrate: float | None = None
    test: float | None = None
    seed: int = 0

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

    def recipe_for(self, random: str) -> dict[str, Any]:
        """Return the options of `train`. `random`: the part of the network that has random weights, if any."""
        if self.is_frozen or random or not self.brings_weights:
            return dict(self.recipe)
        return {**FINE_TUNING, **self.recipe}

    @property
    def warm_up_epochs(self) -> int:
        """How many epochs the heads learn alone before everything learns."""
        if self.is_frozen:
            return 0
        if self.heads_first is not None:
            return self.heads_first
        return HEADS_FIRST if self.brings_weights else 0


def train_project(
    project: Project,
    out: Path,
    *,
    command: str,
    say: Callable[[str], None] = print,
    cache: Path | None = None,
    progress: bool = True,
) -> RunFolder | None:
    """Train a project into the folder `out`; broken off and called again, it goes on where it was.

    A run that has finished is opened and returned as it is. Under `torchrun` the processes train together;
    the first one records and writes, the others return None.

    Raises InputError if `out` holds another project, or the same on data that have changed since it began.
    """
    say = say if is_first_process() else _silent
    _check_options(project)
    check_writable(out, f"cannot make the run folder {out}")
    if cache is not None:
        check_writable(cache, f"cannot keep decoded images in {cache} (XDG_CACHE_HOME says where)")
    refuse_other(out, asdict(project))
    if RunFolder.exists(out):
        return _finished(out, say)
    source = _decoded(project, open_source(project.data, label=project.label), cache, say)
    plan = plan_split(
        source, fit=project.fit, calibrate=project.calibrate, test=project.test, seed=project.seed,
        pretrained=project.has_seen_training_data,
    )  # fmt: skip
    say(f"data: {project.data} ({source.n_classes} classes)\n{plan.describe()}\n")
    _refuse_empty(plan)
    prepare = _prepare(project, source, plan)
    example = example_inputs(source, prepare)
    say(summarise_inputs(prepare, example))
    made = build_model_and_report(
        project.model, n_classes=source.n_classes, weights=project.weights, trained=project.is_frozen,
        seed=project.seed,
    )  # fmt: skip
    network = _network(project, made.model, source, prepare, example)
    recipe = project.recipe_for(made.random)
    say(network.describe() + "\n")
    if project.is_frozen and project.weights is None and runs_custom_code(project.model):
        say(f"heads alone learn: {project.model} must return a trained network\n")
    data = {"data_fingerprint": source.fingerprint, "split_digest": content_digest(plan.to_dict())}
    claim(out, {**asdict(project), **data})
    _train(project, network, recipe, source, plan, prepare, out, say=say, progress=progress)
    if not is_first_process():
        return None
    say("recording what every exit says about fit, calibrate and test inputs")
    traces = {
        part: record(
            network,
            _loader(project, plan.select(source, part), prepare),
            device=best_device(),
            progress=progress,
        )
        for part in TRACED
    }
    network.to("cpu")
    save_weights(network, out / "weights.safetensors")
    save_model_config(project.model, network.backbone, out)
    return RunFolder.create(
        out,
        cost=network.cost,
        traces=traces,
        about={
            "model": {"spec": project.model, "weights": project.weights, "n_classes": network.n_classes},
            "network": network.config(),
            "inputs": save_preparation(prepare, out, example),
            "class_names": list(source.class_names or ()),
            "data": {"name": project.data, "label": project.label, "fingerprint": source.fingerprint},
            "split": plan.to_dict(),
            "training": {
                **recipe,
                "heads_first": project.warm_up_epochs,
                "batch_size": project.batch_size,
                "augment": project.augment,
            },
            "provenance": provenance(PACKAGES, command=command, seed=project.seed),
        },
    )


def _silent(_: str) -> None:
    pass


def _finished(out: Path, say: Callable[[str], None]) -> RunFolder | None:
    """Return the run that `out` holds, to the first process; refuse one that does not say of what it is."""
    if not (out / "project.json").is_file():
        raise InputError(f"{out} holds a finished run: choose another --out, or remove the folder first")
    say(f"{out} holds this run, finished already")
    return RunFolder.open(out) if is_first_process() else None


def _refuse_empty(plan: SplitPlan) -> None:
    """Raise InputError for a part without inputs: recording would find it out only after the training."""
    empty = [part for part in plan.parts if plan.size(part) == 0]
    if empty:
        raise InputError(
            f"there are no inputs for {' and '.join(empty)}: every part needs some. Parts as planned:\n"
            f"{plan.describe()}\ngive more data, or other counts or shares (fit, calibrate, test)"
        )


def _decoded(project: Project, source: Source, cache: Path | None, say: Callable[[str], None]) -> Source:
    """Return images as arrays of the size they will have: keys, split and statistics are then instant."""
    if source.kind == "text":
        return source
    arranged = image_resizing(source.file("train"), size=project.size, library=_library(project))
    return source.decoded(arranged, cache=cache, progress=sparse(say, "images decoded"))


def _prepare(project: Project, source: Source, plan: SplitPlan) -> Any:
    if source.kind == "text":
        return text_preparation(project.model)
    train_part = plan.select(source, "train")
    return image_preparation(
        train_part, size=project.size, mean=project.mean, std=project.std, library=_library(project)
    )


def _library(project: Project) -> Preprocess | None:
    return library_preprocess(project.model) if project.weights == PRETRAINED else None


def _network(
    project: Project, model: nn.Module, source: Source, prepare: Any, example: Inputs
) -> EarlyExitNetwork:
    if project.brings_weights:
        names = known_class_names(project.model, model, pretrained=project.weights == PRETRAINED)
        check_class_order(names, source.class_names)
    exits = project.exits if isinstance(project.exits, int) else list(project.exits)
    return attach(
        to_channels_last(model, prepare), example, exits, seed=project.seed, verbose=False, **project.head
    )


def _check_options(project: Project) -> None:
    """Raise InputError for what can be known to be wrong without reading any data, MissingExtra for packages."""
    for package in ("lightning_fabric", "safetensors"):
        require(package, extra="torch")
    n_heads = project.exits if isinstance(project.exits, int) else len(project.exits)
    check_options(project.recipe, n_exits=n_heads + 1)
    if project.heads_first is not None and (project.heads_first < 0 or project.is_frozen):
        raise InputError(
            f"heads_first must be 0 or more, and none with mode='frozen' (heads are all that learns there), "
            f"got {project.heads_first}"
        )
    if project.augment not in AUGMENTS:
        raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, got {project.augment!r}")


def _loader(project: Project, data: Dataset, prepare: Any, **options: Any) -> ImageLoader | TextLoader:
    if isinstance(data, Images):
        options["workers"] = project.workers
    return make_loader(data, prepare, batch_size=project.batch_size, **options)


def _train(
    project: Project,
    network: EarlyExitNetwork,
    recipe: Mapping[str, Any],
    source: Source,
    plan: SplitPlan,
    prepare: Any,
    out: Path,
    *,
    say: Callable[[str], None],
    progress: bool,
) -> None:
    options = {"augment": project.augment} if source.kind == "image" else {}
    data = plan.select(source, "train")
    shared: dict[str, Any] = {
        "validation": _loader(project, plan.select(source, "fit"), prepare),
        "seed": project.seed,
        "progress": progress,
    }
    if project.warm_up_epochs:
        say(f"heads first: {project.warm_up_epochs} epochs on the features of the network as it is")
        folder = out / "training" / "heads"
        plain = _loader(project, data, prepare)
        train(network, plain, epochs=project.warm_up_epochs, checkpoint_dir=folder, **shared)
    loader = _loader(project, data, prepare, shuffle=True, seed=project.seed, **options)
    # Images that change have features that change: there is nothing to keep.
    shared |= {"cache": project.augment == "none", **recipe}
    train(network, loader, checkpoint_dir=out / "training", **shared)
