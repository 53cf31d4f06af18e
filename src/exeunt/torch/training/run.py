"""What `exeunt train` does: from a model's name and data to a run folder with a trained network and its traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exeunt._support.files import check_writable, locked, remove_half_written, write_text
from exeunt._support.progress import Progress
from exeunt._support.sealed_json import content_digest
from exeunt._support.text import counted
from exeunt.data import DataSource, Images, SplitPlan, open_source, plan_split
from exeunt.errors import InputError, UnreadableImage
from exeunt.runs.file_digests import CONFIG, TRACED
from exeunt.runs.folder import RunFolder
from exeunt.runs.manifest import provenance
from exeunt.torch.devices import best_device, is_first_process
from exeunt.torch.exits.network import record
from exeunt.torch.exits.own import OWN
from exeunt.torch.loaders import ImageLoader, TextLoader, make_loader
from exeunt.torch.models.by_name import check_model, runs_custom_code, save_model_config
from exeunt.torch.models.preparation import (
    image_preparation,
    save_preparation,
    summarise_inputs,
    synthetic_inputs,
)
from exeunt.torch.models.weights import save_weights
from exeunt.torch.training.job import (
    JOB_FILE,
    TrainingJob,
    begin_run,
    keep_exits,
    refuse_other_run,
    with_kept_exits,
)
from exeunt.torch.training.job_network import JobNetwork, class_weights, library_of, make_network
from exeunt.torch.training.teacher import check_can_teach, check_teacher, teacher_digest
from exeunt.torch.training.train import train
from exeunt.trace import ExitTrace

PACKAGES = ("exeunt", "torch", "torchvision", "timm", "transformers", "lightning-fabric", "numpy", "scipy")
_SHOWN = 20  # unreadable images; the manifest names all


@dataclass(frozen=True)
class JobData:
    """The data of a job, split into parts.

    `made`: its network. `prepare`: how inputs are resized and normalised, or the tokeniser. `unreadable`: names of the
    images left out.
    """

    job: TrainingJob
    made: JobNetwork
    source: DataSource
    plan: SplitPlan
    prepare: Any
    unreadable: Sequence[str]

    def loader(self, part: str, **options: Any) -> ImageLoader | TextLoader:
        """Return the loader of one part."""
        data = self.plan.select(self.source, part)
        if part in TRACED:
            data = data.without_some_labels()
        kind = {"workers": self.job.workers} if isinstance(data, Images) else {"by_length": True}
        return make_loader(data, self.prepare, batch_size=self.made.settings.run_size, **kind, **options)


def read_data(
    job: TrainingJob, made: JobNetwork, source: DataSource, *, cache: Path | None, say: Callable[[str], None]
) -> JobData:
    """Read the data of a job and split them; say what was left out, and the split.

    `cache`: folder of decoded images.
    """
    unreadable: list[str] = []
    if source.kind == "image":
        if job.skip_unreadable:
            source, unreadable = _without_unreadable(source, say)
        source = source.decoded(made.sizing, cache=cache, progress=Progress("images decoded", say=say).report)
    plan = plan_split(
        source,
        fit=job.fit,
        calibrate=job.calibrate,
        test=job.test,
        seed=job.seed,
        pretrained=job.has_seen_training_data,
    )
    say(f"data: {job.data} ({source.n_classes} classes)\n{plan.describe()}\n")
    plan.check_every_part()
    prepare = made.sizing
    if source.kind == "image":
        learned = plan.select(source, "train")
        prepare = image_preparation(
            learned, size=job.size, mean=job.mean, std=job.std, library=library_of(job)
        )
    return JobData(job, made, source, plan, prepare, unreadable)


def _without_unreadable(source: DataSource, say: Callable[[str], None]) -> tuple[DataSource, list[str]]:
    """Return the source without images that cannot be read, and the names of these; say how many, and why."""
    rest, refused = source.without_unreadable(progress=Progress("images looked at", say=say).report)
    for part, errors in refused.items():
        if errors:
            n = len(source.dataset(part))
            left_out = "is left out" if len(errors) == 1 else "are left out"
            lines = [f"{len(errors):,} of {counted(n, f'{part} image')} cannot be read and {left_out}:"]
            lines += [f"  {error.name}: {error.reason}" for error in errors[:_SHOWN]]
            lines += [f"  and {len(errors) - _SHOWN:,} more"] if len(errors) > _SHOWN else []
            say("\n".join(lines))
    return rest, [error.name for errors in refused.values() for error in errors]


@contextmanager
def _says_how_to_skip() -> Iterator[None]:
    """Turn the error for an unreadable image into one that names the option to skip it."""
    try:
        yield
    except UnreadableImage as error:
        raise InputError(f"{error}. Mend it, or leave out what cannot be read: --skip-unreadable") from error


@_says_how_to_skip()
def run_training(job: TrainingJob, out: Path, **options: Any) -> RunFolder | None:
    """Train a job into the folder `out`. After a kill, the same call resumes the training.

    `options`: `command`, the command line; `config`, the options of `exeunt train` as YAML, kept in the run; `say`,
    which gets the messages; `cache`, a folder of decoded images; `progress`, whether it is shown.

    A finished run is opened and returned as it is. Under `torchrun` the processes train together;
    the first one records and writes, the others return None.

    Raises InputError if `out` holds another run, if another process trains one there, or if the data have changed since
    the run began.
    """
    check_writable(out, f"cannot make the run folder {out}")
    writes = is_first_process() and not RunFolder.exists(out)
    with locked(out / ".lock", out) if writes else nullcontext():
        return _run_training(job, out, **options)


def _run_training(
    job: TrainingJob,
    out: Path,
    *,
    command: str,
    config: str = "",
    say: Callable[[str], None] = print,
    cache: Path | None = None,
    progress: bool = True,
) -> RunFolder | None:
    say = say if is_first_process() else lambda _: None
    job.check()
    if cache is not None:
        check_writable(cache, f"cannot keep decoded images in {cache} (XDG_CACHE_HOME says where)")
    refuse_other_run(out, job)
    finished = finished_run(out, say) if RunFolder.exists(out) else None
    if finished is not None and not finished.runs_whole:
        return finished if is_first_process() else None
    check_model(job.model, job.weights)
    source = _data_of(job)
    asked, job = job, job.on_texts() if source.kind == "text" else job
    if job.unlabelled:
        job = _without_labels(job, source, say)
    # A network that can be cut now may offer other places for exits than those that were trained.
    placed = None if finished is None or job.exits == OWN else finished.manifest["network"]["exits"]
    job = with_kept_exits(job if placed is None else replace(job, exits=tuple(placed)), out)
    made = make_network(job, source, say).with_class_weights(class_weights(job, source, say))
    if finished is not None and made.network.runs_whole:
        return finished if is_first_process() else None
    teacher = made.settings.recipe.get("teacher", "self")
    source = source.with_classes(made.class_names)
    check_can_teach(teacher, made.network, made.example, source.class_names)
    data = read_data(job, made, source, cache=cache, say=say)
    check_teacher(teacher, data.plan, data.prepare, say=say)
    say(summarise_inputs(data.prepare, made.example))
    say(made.network.describe() + "\n")
    if job.is_frozen and job.weights is None and runs_custom_code(job.model):
        say(f"the heads alone learn: {job.model} must return a trained network\n")
    split = content_digest(data.plan.to_dict())
    begin_run(out, asked, {"data_fingerprint": data.plan.fingerprint, "split_digest": split})
    keep_exits(made.placed, out, say)
    if is_first_process():
        remove_half_written(out)
        if config:
            write_text(out / CONFIG, config)
    _train(data, out, say=say, progress=progress)
    if not is_first_process():
        return None
    say("recording the outputs of every exit for the fit, calibrate and test inputs")
    traces = {part: _trace(data, part, say=say, progress=progress) for part in TRACED}
    made.network.to("cpu")
    save_weights(made.network, out / "weights.safetensors")
    save_model_config(job.model, made.network.backbone, out)
    about = {
        **_about(data, traces),
        "inputs": save_preparation(data.prepare, out, made.example),
        "provenance": provenance(PACKAGES, command=command, seed=job.seed),
    }
    return RunFolder.create(out, cost=made.network.cost, traces=traces, about=about)


def _data_of(job: TrainingJob) -> DataSource:
    """Open the data of a job. Raises InputError for data without inputs."""
    source = open_source(
        job.data,
        label=job.label,
        text=job.text,
        calibration_data=job.calibration_data,
        unlabelled=job.unlabelled,
        **job.of_masks,
    )
    if not any(map(len, source.datasets.values())):
        raise InputError(f"{job.data} holds no inputs: give data with some")
    return source


def _without_labels(job: TrainingJob, source: DataSource, say: Callable[[str], None]) -> TrainingJob:
    """Return the job for data of which some or all inputs have no label.

    Raises InputError for options that are about labels, if there is none at all.
    """
    about_labels = [name for name in ("smoothing", "distill_weight") if job.recipe.get(name)]
    if about_labels and source.class_names is None:
        option = about_labels[0].replace("_", "-")
        raise InputError(f"--{option} is about labels, and {source.name} has none: leave it out")
    if job.has_seen_training_data and job.pretrained is None and source.test is None:
        say(
            f"the network is taken not to have learned from {source.name}, on parts of which policies are calibrated "
            "and tested; if it has, give --seen and test data of their own\n"
        )
        return replace(job, pretrained=False)
    return job


def finished_run(out: Path, say: Callable[[str], None]) -> RunFolder:
    """Return the finished run in `out`. Raises InputError if the file with its options is missing."""
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


def _train(data: JobData, out: Path, *, say: Callable[[str], None], progress: bool) -> None:
    """Train the network; where the settings say so, its heads alone first."""
    job, made, settings = data.job, data.made, data.made.settings
    if job.is_frozen and not made.network.learning_heads:
        say("nothing to train: the exits are the network's own, and mode 'frozen' does not change it\n")
        return
    say(f"training of a network with {settings.describe()}\n")
    shared: dict[str, Any] = {"validation": data.loader("fit"), "seed": job.seed, "progress": progress}
    if settings.heads_first:
        say("heads first, on the features of the network as it is")
        heads_recipe = {**settings.heads_recipe, "epochs": settings.heads_first}
        folder = out / "training" / "heads"
        train(made.network, data.loader("train"), checkpoint_dir=folder, **shared, **heads_recipe)
    options = {"augment": job.augment} if data.source.kind == "image" else {}
    loader = data.loader("train", shuffle=True, seed=job.seed, **options)
    train(
        made.network,
        loader,
        checkpoint_dir=out / "training",
        batch_size=settings.batch_size,
        cache=job.augment == "none",  # the features of images that change cannot be kept
        **{**shared, **settings.recipe},
    )


def _trace(data: JobData, part: str, *, say: Callable[[str], None], progress: bool) -> ExitTrace:
    """Record one part, and say how many of its texts were cut."""
    loader = data.loader(part)
    trace = record(data.made.network, loader, device=best_device(), progress=progress)
    if isinstance(loader, TextLoader) and loader.n_cut:
        say(
            f"{counted(loader.n_cut, 'text was', 'texts were')} longer than the network takes and cut, of "
            f"{data.plan.size(part):,} in {part}"
        )
    return trace


def _sample(data: JobData) -> list[list[float]]:
    """Return outputs of the network on inputs that can be made again, see `load_network`."""
    return data.made.network.sample(synthetic_inputs(data.prepare, 2)).tolist()  # type: ignore[no-any-return]


def _about(data: JobData, traces: Mapping[str, ExitTrace]) -> dict[str, Any]:
    """Return the manifest's entries on model, data and training."""
    labelled = all(trace.has_loss for trace in traces.values())
    job, network, settings = data.job, data.made.network, data.made.settings
    return {
        "model": {
            "spec": job.model,
            "weights": job.weights,
            "n_classes": network.n_classes,
            "macs": network.backbone_macs,
            **({"runs_whole": network.runs_whole} if network.runs_whole else {}),
            **({"sample": _sample(data)} if runs_custom_code(job.model) else {}),
        },
        "network": network.config(),
        "class_names": list(data.source.class_names or ()),
        "data": {
            "name": job.data,
            "label": job.label,
            "text": list(job.text),
            "calibration_data": job.calibration_data,
            "fingerprint": data.plan.fingerprint,
            **({"unreadable": data.unreadable} if data.unreadable else {}),
            **({"unlabelled": True} if job.unlabelled else {}),
            **({"masks": job.of_masks} if job.masks else {}),
            **({} if labelled else {"reference": {"exit": network.n_exits - 1, "name": "the full network"}}),
        },
        "split": data.plan.to_dict(),
        "training": {
            "network": settings.network,
            **settings.recipe,
            **teacher_digest(settings.recipe.get("teacher", "self")),
            "heads_first": settings.heads_first,
            "batch_size": settings.batch_size,
            "augment": job.augment,
        },
    }
