"""`exeunt export RUN`: files that run without PyTorch, one per stage or one in all; or a run at another precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from exeunt._support.text import counted, echo
from exeunt.cli.options import RunPath, option, this_command, trusted_option, with_groups
from exeunt.errors import InputError, require

if TYPE_CHECKING:
    from exeunt.runs.folder import RunFolder

_MODULES = Path("node_modules")


@dataclass(frozen=True, kw_only=True)
class _Options:
    one_file: bool = option(
        "Write RUN/one-file.onnx: the exported stages and the policy as one model, which exits early by itself. It "
        "takes one input at a time.",
        default=False,
    )
    web: bool = option(
        "Write RUN/web, a folder for any static file server: a page that classifies pictures or texts in the browser, "
        "with that model.",
        default=False,
    )
    node_modules: Path | None = option(
        "Where `npm install onnxruntime-web @huggingface/tokenizers` left the files that --web copies.",
        show_default="node_modules",
    )
    precision: str | None = option(
        "int8: quantise the exported stages. bf16 or fp16, where this machine computes in it: run the network in "
        "PyTorch with 16 bits. The network and its recorded outputs become a run of its own, RUN/int8, which every "
        "command takes as RUN@int8."
    )
    data: str | None = option("With --precision: where the run's data are now, if they were moved.")
    trusted: str | None = trusted_option()

    def __post_init__(self) -> None:
        if self.node_modules is not None and not self.web:
            raise InputError("--node-modules goes with --web, which copies files from there")
        if self.data is not None and self.precision is None:
            raise InputError("--data goes with --precision, which records the run's data anew")


@with_groups
def export(path: RunPath, options: _Options) -> None:
    """Write one ONNX file per stage to RUN/onnx and compare each with PyTorch.

    The run then answers without PyTorch: NumPy and ONNX Runtime are enough (the extra `onnx`).
    """
    precision, holds_policy = options.precision, options.one_file or options.web
    if precision is not None and holds_policy:
        own = quote(f"{path}@int8")
        raise InputError(
            "--one-file and --web go without --precision: a run at int8 is exported once it has a policy of its own, "
            f"by `exeunt calibrate {own} --budget 50%` and `exeunt export {own} --one-file`"
        )
    from exeunt.runs.executors import EXECUTORS, is_exported
    from exeunt.runs.folder import RunFolder
    from exeunt.runs.run_path import INT8, refuse_masks

    run, node_modules = RunFolder.open(path), options.node_modules or _MODULES
    run.refuse("run")
    if holds_policy:
        refuse_masks(run.path, run.manifest)
        run.policy  # noqa: B018 - raises where there is none
        if options.web:
            from exeunt.onnx.web_page import packaged_files

            packaged_files(run, node_modules)  # raises where files are missing
    elif run.cascade:
        models = " and ".join(str(entry.folder(run.path)) for entry in run.cascade)
        way = "or the cascade with --one-file or --web"
        if precision:
            way = f"with --precision {precision}, and make a cascade of what that writes"
        raise InputError(
            f"{path} is a cascade, which has no network of its own: export its models, {models}, {way}"
        )
    keeps_stages = (holds_policy or precision == INT8) and (
        run.cascade or is_exported(run, EXECUTORS["onnx"])
    )
    if not keeps_stages and precision in (None, INT8):
        _export_stages(run, options.trusted)
    if precision is not None:
        _at_precision(run, precision, options)
    if holds_policy:
        _with_policy(run, options, node_modules)


def _export_stages(run: RunFolder, trusted: str | None) -> None:
    require("torch", extra="export")
    from exeunt.torch.to_onnx import OPSET, export_run

    manifest = export_run(run, trusted=trusted, say=echo)
    worst = max(stage.max_difference for stage in manifest.stages)
    echo(
        f"{counted(manifest.n_exits, 'stage')} written to {run.path / 'onnx'}, opset {OPSET}; they differ from PyTorch "
        f"by at most {worst:.1g}"
    )


def _with_policy(run: RunFolder, options: _Options, node_modules: Path) -> None:
    """Write the files that have the policy inside: one file, a page, or both."""
    require("onnx", extra="export")
    from exeunt._support.files import locked, remove_half_written
    from exeunt.onnx.one_file import RunInOneFile
    from exeunt.onnx.web_page import write_web_page
    from exeunt.runs.file_digests import ONE_FILE

    if options.one_file:
        file = run.path / ONE_FILE
        with locked(run.path / f".{ONE_FILE}.lock", file):
            remove_half_written(run.path, ONE_FILE)
            RunInOneFile(run).save(file)
        echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB, {run.policy.name} inside")
    if options.web:
        folder = write_web_page(run, node_modules)
        echo(f"{folder}: serve it with python -m http.server --directory {folder}")


def _at_precision(run: RunFolder, precision: str, options: _Options) -> None:
    from exeunt._support.limits import usable_cores
    from exeunt.guarantees.confidence_intervals import mean_interval
    from exeunt.jobs.precision_run import make_precision

    made_run = make_precision(
        run,
        precision,
        data=options.data,
        trusted=options.trusted,
        workers=usable_cores(),
        command=this_command(),
        say=echo,
    )
    before, how = run.trace("test"), f"written to {made_run.path}"
    next_ = (
        f"give it a policy of its own: exeunt calibrate {quote(f'{run.path}@{precision}')} "
        f"--budget {made_run.cost.share_to_try(0.5):.0%}"
    )
    if run.masks and before.reference:  # how masks differ from those of the other network is in neither trace
        echo(f"{how}\n{next_}")
        return
    after = replace(made_run.labelled_trace("test"), label=before.label, reference=before.reference)
    gone = before.quality[:, -1] - after.quality[:, -1]
    lost, low, high = (100 * bound for bound in mean_interval(gone))
    echo(
        f"{how}. The {after.measure} of the last exit is {1 - after.risk[-1]:.2%} on {after.n:,} test "
        f"inputs, before {1 - before.risk[-1]:.2%}: {lost:.2f} points lost (95% interval {low:.2f} to {high:.2f})\n"
        f"{next_}"
    )
