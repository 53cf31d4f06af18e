"""From a network with exits to ONNX files, one per stage, checked against PyTorch before any is kept."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exeunt._files import check_writable, file_digest
from exeunt.errors import InputError, require
from exeunt.onnx.manifest import FOLDER, OnnxManifest, OnnxStage, OnnxTensor
from exeunt.run.manifest import package_versions
from exeunt.torch.cutting.example import read_example
from exeunt.torch.export.check import BATCHES, check_stages, differences
from exeunt.torch.export.pieces import pieces_of
from exeunt.torch.models.inputs import synthetic_inputs
from exeunt.torch.open_run import load_network, load_prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from exeunt.run.folder import RunFolder
    from exeunt.torch.cutting.stage import StateTensor
    from exeunt.torch.exits.network import EarlyExitNetwork
    from exeunt.torch.export.pieces import Pieces
    from exeunt.torch.taps import Inputs

__all__ = ["export_network", "export_run"]

OPSET = 18
_OPSETS = range(18, 24)
_PACKAGES = ("exeunt", "torch", "onnx", "onnxscript", "onnxruntime")


def export_run(
    run: RunFolder,
    *,
    opset: int = OPSET,
    trusted: str | None = None,
    say: Callable[[str], None] = print,
) -> OnnxManifest:
    """Put the folder `onnx/` into a run folder: one file per stage and a manifest; an older one is replaced.

    Images keep the size that they are brought to, texts the length that the run folder's costs were counted on:
    shorter ones are filled up by the executor, longer ones refused.
    Raises InputError where the network cannot be cut or exported, or where ONNX Runtime computes other values.
    """
    check_writable(run.path, f"cannot export {run.path}")
    prepare = load_prepare(run)
    network = load_network(run, trusted=trusted).cpu()
    example = synthetic_inputs(prepare, 2, length=run.manifest["inputs"].get("length"))
    with _replaced_folder(run.path / FOLDER) as folder:
        return export_network(
            network,
            example,
            folder,
            opset=opset,
            prepare=run.manifest["inputs"],
            weights=run.manifest["files"][run.weights.name],
            padding=_padding(prepare),
            say=say,
        )


@contextmanager
def _replaced_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; when the block ends well it takes the place of `target`."""
    temporary, retired = (target.with_name(f".{target.name}.{os.getpid()}.{word}") for word in ("new", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rename(retired)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def export_network(
    network: EarlyExitNetwork,
    example: Inputs,
    folder: Path,
    *,
    opset: int = OPSET,
    prepare: Mapping[str, Any] | None = None,
    weights: str = "",
    padding: Mapping[str, int] | None = None,
    say: Callable[[str], None] = print,
) -> OnnxManifest:
    """Write a network's stages to `folder`, with a manifest, and check them against PyTorch.

    `example`: a batch of its inputs; every size but the number of rows is fixed. `prepare`, `weights`: kept in
    the manifest. `padding`: what fills up inputs of tokens (n, t), by name.
    Raises InputError (see `export_run`).
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, extra="export")
    if opset not in _OPSETS:
        raise InputError(f"opset must be one of {_OPSETS[0]} to {_OPSETS[-1]}, got {opset}")
    pieces = pieces_of(network, network.stages(example))
    read = read_example(network.backbone, example).at_least_two()
    named = dict(zip(read.names, read.tensors, strict=True))
    say(f"translating {len(pieces.pieces)} stages")
    stages = _stage_models(pieces, _translated(pieces, named, opset=opset))
    say(f"comparing each with PyTorch, in batches of {', '.join(map(str, BATCHES))}")
    found = check_stages(differences(network, pieces, stages, named))
    manifest = OnnxManifest(
        inputs=read.names,
        tensors={name: _described(name, kind, padding or {}) for name, kind in pieces.tensors.items()},
        stages=tuple(_write(folder, i, pieces, model, found[i]) for i, model in enumerate(stages)),
        weights=weights,
        prepare=prepare or {},
        provenance={"opset": opset, "batches": BATCHES, "packages": package_versions(_PACKAGES)},
    )
    manifest.save(folder)
    return manifest


def _translated(pieces: Pieces, named: Mapping[str, Tensor], *, opset: int) -> Any:
    """Return one ONNX model of all pieces side by side, each with inputs of its own."""
    with torch.no_grad():
        known = pieces.walk(named)
    arguments = []
    for i, piece in enumerate(pieces.pieces):
        rows = (
            torch.arange(i + 2) % 2
        )  # as many rows for each piece as for no other: sizes must not be mixed up
        arguments += [pieces.tensors[name].take(known[name], rows) for name in piece.takes]
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own, on its own code
            program = torch.onnx.export(
                pieces.eval(),
                tuple(arguments),
                dynamo=True,
                input_names=[_own(i, name) for i, piece in enumerate(pieces.pieces) for name in piece.takes],
                output_names=[name for piece in pieces.pieces for name in piece.gives],
                dynamic_shapes=pieces.dynamic_shapes(),
                opset_version=opset,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise InputError(f"PyTorch cannot translate this network to ONNX: {error}") from error
    finally:
        logger.setLevel(level)
    assert program is not None  # noqa: S101 - with dynamo=True it is always there
    return program.model_proto


def _own(i: int, name: str) -> str:
    """Return the name of a piece's input while all pieces share one model."""
    return f"piece{i}/{name}"


def _stage_models(pieces: Pieces, whole: Any) -> list[Any]:
    """Return each piece's part of the model, with the tensors' names in the network."""
    from onnx.checker import check_model
    from onnx.utils import Extractor

    extractor = Extractor(whole)
    models = []
    for i, piece in enumerate(pieces.pieces):
        own = {_own(i, name): name for name in piece.takes}
        model = extractor.extract_model(list(own), piece.gives)
        used = {name for node in model.graph.node for name in node.input}
        kept = [value for value in model.graph.input if value.name in used]
        _check_rows_open(i, kept, [own[value.name] for value in kept], pieces)
        del model.graph.input[:]
        model.graph.input.extend(kept)
        del model.graph.value_info[:]  # ONNX Runtime finds out itself
        for value in model.graph.input:
            value.name = own[value.name]
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = own.get(name, name)
        model.graph.name = f"stage{i}"
        check_model(model, full_check=True)
        models.append(model)
    return models


def _check_rows_open(i: int, values: Sequence[Any], names: Sequence[str], pieces: Pieces) -> None:
    """Raise InputError if the exporter, which does so without a word, has fixed the number of rows."""
    for value, name in zip(values, names, strict=True):
        axis = pieces.tensors[name].batch_dim
        if axis is not None and not value.type.tensor_type.shape.dim[axis].dim_param:
            raise InputError(
                f"exit {i} works for one number of rows only when it is exported (its code turns the number "
                "into a constant, as by len(x) instead of x.shape[0]): it cannot be exported"
            )


def _write(folder: Path, i: int, pieces: Pieces, model: Any, difference: float) -> OnnxStage:
    from onnx import save

    file = folder / f"stage-{i:02d}.onnx"
    save(model, str(file))
    return OnnxStage(
        file=file.name,
        sha256=file_digest(file),
        takes=tuple(value.name for value in model.graph.input),
        gives=tuple(pieces.pieces[i].gives),
        logits=pieces.pieces[i].logits,
        max_difference=difference,
    )


def _described(name: str, kind: StateTensor, padding: Mapping[str, int]) -> OnnxTensor:
    return OnnxTensor(
        dtype=str(kind.dtype).removeprefix("torch."),
        shape=kind.shape,
        batch_dim=kind.batch_dim,
        pad=padding.get(name),
    )


def _padding(prepare: Any) -> dict[str, int]:
    """Return what a tokeniser fills up each of its outputs with; nothing for images."""
    pad = getattr(prepare, "pad_token_id", None)
    if pad is None:
        return {}
    return {"input_ids": int(pad), "attention_mask": 0, "token_type_ids": int(prepare.pad_token_type_id)}
