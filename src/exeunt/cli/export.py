"""`exeunt export RUN`: files that run without PyTorch, one per stage or one in all; or a run at another precision."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from exeunt._text import counted
from exeunt.cli.arguments import RunPath, TrustedModel, this_command
from exeunt.errors import InputError, require

if TYPE_CHECKING:
    from exeunt.run.folder import RunFolder

_MODULES = Path("node_modules")


def export(
    path: RunPath,
    to: Annotated[str, typer.Option(help="Format of the files: onnx.")] = "onnx",
    one_file: Annotated[
        bool,
        typer.Option(
            "--one-file",
            help="Write RUN/one-file.onnx, stages and policy as one model that exits early by itself, of stages that "
            "are there. It takes one input at a time.",
        ),
    ] = False,
    web: Annotated[
        bool,
        typer.Option(
            "--web",
            help="Write RUN/web, a folder for any static file server: a page that classifies pictures or texts in the "
            "browser, with that model.",
        ),
    ] = False,
    node_modules: Annotated[
        Path | None,
        typer.Option(
            help="Where `npm install onnxruntime-web @huggingface/tokenizers` left the files that --web copies.",
            show_default="node_modules",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            help="Version of the ONNX operators, for stages that are exported now: 18 if not given."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="int8: quantise the exported stages. bf16 or fp16, where this machine computes in it: run the network "
            "in PyTorch with 16 bits. What every exit then says is recorded, and both are kept as a run of its own, "
            "RUN/int8. Every command takes it as RUN@int8."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="With --precision: where the run's data are now, if they were moved.")
    ] = None,
    trusted: TrustedModel = None,
) -> None:
    """Write one ONNX file per stage to RUN/onnx and compare each with PyTorch.

    The run then answers without PyTorch: NumPy and ONNX Runtime are enough (the extra `onnx`).
    """
    _check_options(to, precision, data, node_modules, web=web)
    if precision is not None and (one_file or web):
        own = quote(f"{path}@int8")
        raise InputError(
            "--one-file and --web go without --precision: a run at int8 is exported once it has a policy of its own, "
            f"by `exeunt calibrate {own} --budget 50%` and `exeunt export {own} --one-file`"
        )
    from exeunt.run.executors import EXECUTORS
    from exeunt.run.folder import RunFolder
    from exeunt.run.run_path import INT8

    run = RunFolder.open(path)
    if one_file or web:
        _check_ready(run, (node_modules or _MODULES) if web else None)
    if run.cascade and not (one_file or web):
        models = " and ".join(str(entry.folder(run.path)) for entry in run.cascade)
        way = "or the cascade with --one-file or --web"
        if precision:
            way = f"with --precision {precision}, and make a cascade of what that writes"
        raise InputError(
            f"{path} is a cascade, which has no network of its own: export its models, {models}, {way}"
        )
    of_stages = one_file or web or precision == INT8
    from_weights = precision not in (None, INT8)
    if not from_weights and not (of_stages and (run.cascade or EXECUTORS["onnx"].exported(run))):
        _export_stages(run, 18 if opset is None else opset, trusted)
    elif opset is not None:
        raise InputError(
            "--opset is for stages that are exported now, and none are: run `exeunt export RUN --opset "
            f"{opset}` first, for each model of a cascade"
        )
    if precision is not None:
        _at_precision(run, precision, data, trusted)
    if one_file:
        _in_one_file(run)
    if web:
        _as_page(run, node_modules or _MODULES)


def _check_options(
    to: str, precision: str | None, data: str | None, node_modules: Path | None, *, web: bool
) -> None:
    """Raise InputError for options that are unknown, or go with others."""
    from exeunt.run.run_path import check_precision_name

    if to != "onnx":
        raise InputError(f"--to must be onnx, got {to!r}")
    if node_modules is not None and not web:
        raise InputError("--node-modules goes with --web, which copies files from there")
    if precision is not None:
        check_precision_name(precision)
    if data is not None and precision is None:
        raise InputError("--data goes with --precision, which records the run's data anew")


def _check_ready(run: RunFolder, node_modules: Path | None) -> None:
    """Raise what a run or its page lacks, before the stages are exported. `node_modules`: None without a page."""
    run.policy  # noqa: B018 - raises where there is none
    if node_modules is not None:
        from exeunt.onnx.web_page import packaged_files

        packaged_files(run, node_modules)


def _export_stages(run: RunFolder, opset: int, trusted: str | None) -> None:
    require("torch", extra="export")
    from exeunt.torch.export.to_onnx import export_run

    manifest = export_run(run, opset=opset, trusted=trusted, say=typer.echo)
    worst = max(stage.max_difference for stage in manifest.stages)
    typer.echo(
        f"{counted(manifest.n_exits, 'stage')} written to {run.path / 'onnx'}, opset {opset}; they differ from PyTorch "
        f"by at most {worst:.1g}"
    )


def _in_one_file(run: RunFolder) -> None:
    require("onnx", extra="export")
    from exeunt.onnx.one_file import RunInOneFile
    from exeunt.run.file_digests import ONE_FILE

    file = run.path / ONE_FILE
    RunInOneFile(run).save(file)
    typer.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB, {run.policy.name} inside")


def _as_page(run: RunFolder, node_modules: Path) -> None:
    require("onnx", extra="export")
    from exeunt.onnx.web_page import write_web_page

    folder = write_web_page(run, node_modules)
    typer.echo(f"{folder}: serve it with python -m http.server --directory {folder}")


def _at_precision(run: RunFolder, precision: str, data: str | None, trusted: str | None) -> None:
    from exeunt._limits import usable_cores
    from exeunt.confidence_intervals import mean_interval
    from exeunt.making.precision_run import make_precision

    made = make_precision(
        run,
        precision,
        data=data,
        trusted=trusted,
        workers=usable_cores(),
        command=this_command(),
        say=typer.echo,
    )
    before, after = run.trace("test"), made.trace("test")
    gone = before.correct[:, -1].astype(float) - after.correct[:, -1]
    lost, low, high = (100 * value for value in mean_interval(gone))
    typer.echo(
        f"written to {made.path}. The last exit is right on {1 - after.risk[-1]:.2%} of {after.n:,} test inputs, "
        f"before on {1 - before.risk[-1]:.2%}: {lost:.2f} points lost (95% interval {low:.2f} to {high:.2f})\n"
        f"give it a policy of its own: exeunt calibrate {quote(f'{run.path}@{precision}')} "
        f"--budget {made.cost.share_to_try(0.5):.0%}"
    )
