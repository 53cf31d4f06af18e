"""What `exeunt train` does: from a model's name and data to a run folder with a trained network and its traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exeunt._files import check_writable, write_text
from exeunt._sealed import content_digest
from exeunt._text import counted
from exeunt.data import Dataset, DataSource, Images, SplitPlan, open_source, plan_split
from exeunt.errors import InputError
from exeunt.run.file_digests import CONFIG
from exeunt.run.folder import TRACED, RunFolder
from exeunt.run.manifest import provenance
from exeunt.torch.exits.own import OWN
from exeunt.torch.loaders import ImageLoader, TextLoader, make_loader
from exeunt.torch.models.by_name import (
    check_model,
    save_model_config,
)
from exeunt.torch.models.inputs import (
    image_preparation,
    save_preparation,
    summarise_inputs,
)
from exeunt.torch.models.spec import runs_custom_code
from exeunt.torch.models.weights import save_weights
from exeunt.torch.processes import best_device, is_first_process
from exeunt.torch.progress import periodic_lines
from exeunt.torch.recording import record
from exeunt.torch.training.job import JOB_FILE, TrainingJob, begin_run, refuse_other_run
from exeunt.torch.training.job_network import JobNetwork, library_of, make_network
from exeunt.torch.training.skip_unreadable import unreadable_may_be_skipped, without_unreadable
from exeunt.torch.training.teacher import check_can_teach, check_teacher, teacher_digest
from exeunt.torch.training.tensorboard import check_tensorboard
from exeunt.torch.training.train import train
from exeunt.trace import ExitTrace

__all__ = ["run_training"]

PACKAGES = ("exeunt", "torch", "torchvision", "timm", "transformers", "lightning-fabric", "numpy", "scipy")


@unreadable_may_be_skipped()
def run_training(
    job: TrainingJob,
    out: Path,
    *,
    command: str,
    config: str = "",
    say: Callable[[str], None] = print,
    cache: Path | None = None,
    tensorboard: Path | None = None,
    progress: bool = True,
) -> RunFolder | None:
    """Train a job into the folder `out`; killed and called again, it resumes where it was.

    `config`: options of `exeunt train` as YAML, which the run keeps. `cache`: folder of decoded images. `tensorboard`:
    folder for the scalars of TensorBoard.

    A run that has finished is opened and returned as it is. Under `torchrun` the processes train together;
    the first one records and writes, the others return None.

    Raises InputError if `out` holds another run, or the same on data that have changed since it began.
    """
    say = say if is_first_process() else lambda _: None
    job.check()
    check_writable(out, f"cannot make the run folder {out}")
    if cache is not None:
        check_writable(cache, f"cannot keep decoded images in {cache} (XDG_CACHE_HOME says where)")
    if tensorboard is not None:
        check_tensorboard(tensorboard)
    refuse_other_run(out, job)
    finished = _finished(out, say) if RunFolder.exists(out) else None
    if finished is not None and not finished.runs_whole:
        return finished if is_first_process() else None
    check_model(job.model, job.weights)
    source = open_source(job.data, label=job.label, text=job.text)
    asked, job = job, job.on_texts() if source.kind == "text" else job
    # A network that can be cut now may offer other places for exits than those that were trained.
    placed = None if finished is None or job.exits == OWN else finished.manifest["network"]["exits"]
    made = make_network(job, source, placed or job.exits)  # before the data are read, which can take long
    if finished is not None and made.network.runs_whole:
        return finished if is_first_process() else None
    teacher = made.settings.recipe.get("teacher", "self")
    check_can_teach(teacher, made.network, made.example, source.class_names)
    unreadable: list[str] = []
    if source.kind == "image":
        if job.skip_unreadable:
            source, unreadable = without_unreadable(source, say)
        source = source.decoded(made.sizing, cache=cache, progress=periodic_lines(say, "images decoded"))
    plan = _planned(job, source, say)
    prepare = _prepared(job, source, plan, made.sizing)
    check_teacher(teacher, plan, prepare, say=say)
    say(summarise_inputs(prepare, made.example))
    say(made.network.describe() + "\n")
    if job.is_frozen and job.weights is None and runs_custom_code(job.model):
        say(f"heads alone learn: {job.model} must return a trained network\n")
    data = {"data_fingerprint": source.fingerprint, "split_digest": content_digest(plan.to_dict())}
    begin_run(out, asked, data)
    if config and is_first_process():
        write_text(out / CONFIG, config)
    _train(job, made, source, plan, prepare, out, say=say, tensorboard=tensorboard, progress=progress)
    if not is_first_process():
        return None
    say("recording what every exit says about fit, calibrate and test inputs")
    traces = _traces(job, made, source, plan, prepare, say=say, progress=progress)
    made.network.to("cpu")
    save_weights(made.network, out / "weights.safetensors")
    save_model_config(job.model, made.network.backbone, out)
    about = {
        **_about(job, made, source, plan, unreadable),
        "inputs": save_preparation(prepare, out, made.example),
        "provenance": provenance(PACKAGES, command=command, seed=job.seed),
    }
    return RunFolder.create(out, cost=made.network.cost, traces=traces, about=about)


def _finished(out: Path, say: Callable[[str], None]) -> RunFolder:
    """Return the run that `out` holds; refuse one that does not say which options it had."""
    if not (out / JOB_FILE).is_file():
        raise InputError(
            f"{out} holds a finished run without the file {JOB_FILE}, which says what its options were: restore it, "
            "choose another --out, or remove the folder"
        )
    run = RunFolder.open(out)
    if is_first_process():
        run.files.check_all()
    say(f"{out} holds this run, finished already")
    if run.runs_whole:
        say("its network could not be cut: trying again, in case its code was mended")
    return run


def _planned(job: TrainingJob, source: DataSource, say: Callable[[str], None]) -> SplitPlan:
    plan = plan_split(
        source, fit=job.fit, calibrate=job.calibrate, test=job.test, seed=job.seed,
        pretrained=job.has_seen_training_data,
    )  # fmt: skip
    say(f"data: {job.data} ({source.n_classes} classes)\n{plan.describe()}\n")
    plan.check_every_part()
    return plan


def _traces(
    job: TrainingJob,
    made: JobNetwork,
    source: DataSource,
    plan: SplitPlan,
    prepare: Any,
    *,
    say: Callable[[str], None],
    progress: bool,
) -> dict[str, ExitTrace]:
    """Record the parts that a run keeps, and say how many of their texts were cut."""
    traces = {}
    for part in TRACED:
        loader = _loader(job, made, plan.select(source, part), prepare)
        traces[part] = record(made.network, loader, device=best_device(), progress=progress)
        if isinstance(loader, TextLoader) and loader.n_cut:
            say(
                f"{counted(loader.n_cut, 'text was', 'texts were')} longer than the network takes and cut, of "
                f"{plan.size(part):,} in {part}"
            )
    return traces


def _about(
    job: TrainingJob, made: JobNetwork, source: DataSource, plan: SplitPlan, unreadable: Sequence[str]
) -> dict[str, Any]:
    """Return the manifest's entries on model, data and training."""
    network = made.network
    return {
        "model": {
            "spec": job.model,
            "weights": job.weights,
            "n_classes": network.n_classes,
            "macs": network.backbone_macs,
            **({"runs_whole": network.runs_whole} if network.runs_whole else {}),
        },
        "network": network.config(),
        "class_names": list(source.class_names or ()),
        "data": {
            "name": job.data,
            "label": job.label,
            "text": list(job.text),
            "fingerprint": source.fingerprint,
            **({"unreadable": unreadable} if unreadable else {}),
        },
        "split": plan.to_dict(),
        "training": {
            "network": made.settings.network,
            **made.settings.recipe,
            **teacher_digest(made.settings.recipe.get("teacher", "self")),
            "heads_first": made.settings.heads_first,
            "batch_size": made.settings.batch_size,
            "augment": job.augment,
        },
    }


def _prepared(job: TrainingJob, source: DataSource, plan: SplitPlan, sizing: Any) -> Any:
    """Return how inputs are prepared: resized and normalised, or by the tokeniser."""
    if source.kind == "text":
        return sizing
    train_part = plan.select(source, "train")
    return image_preparation(train_part, size=job.size, mean=job.mean, std=job.std, library=library_of(job))


def _loader(
    job: TrainingJob, made: JobNetwork, data: Dataset, prepare: Any, **options: Any
) -> ImageLoader | TextLoader:
    if isinstance(data, Images):
        options["workers"] = job.workers
    else:
        options["by_length"] = True
    return make_loader(data, prepare, batch_size=made.settings.run_size, **options)


def _train(
    job: TrainingJob,
    made: JobNetwork,
    source: DataSource,
    plan: SplitPlan,
    prepare: Any,
    out: Path,
    *,
    say: Callable[[str], None],
    tensorboard: Path | None,
    progress: bool,
) -> None:
    options = {"augment": job.augment} if source.kind == "image" else {}
    data = plan.select(source, "train")
    shared: dict[str, Any] = {
        "validation": _loader(job, made, plan.select(source, "fit"), prepare),
        "seed": job.seed,
        "progress": progress,
    }
    settings = made.settings
    if job.is_frozen and not made.network.learning_heads:
        say(
            "nothing to train: the exits are the network's own, and mode 'frozen' leaves the network as it is\n"
        )
        return
    say(f"training of a network with {settings.describe()}\n")
    if settings.heads_first:
        say("heads first, on the features of the network as it is")
        folder = out / "training" / "heads"
        plain = _loader(job, made, data, prepare)
        scalars = None if tensorboard is None else tensorboard / "heads"
        first: dict[str, Any] = {**shared, "checkpoint_dir": folder, "tensorboard": scalars}
        train(made.network, plain, **{**settings.heads_recipe, "epochs": settings.heads_first}, **first)
    loader = _loader(job, made, data, prepare, shuffle=True, seed=job.seed, **options)
    # Images that change have features that change: there is nothing to keep.
    shared |= {"cache": job.augment == "none", "batch_size": settings.batch_size, "tensorboard": tensorboard}
    shared |= settings.recipe
    train(made.network, loader, checkpoint_dir=out / "training", **shared)
