"""The manifest of an export, the folder `onnx/` of a run folder: what ONNX Runtime needs to run its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from exeunt._support.checked_types import of_kinds
from exeunt._support.files import check_file, is_inside
from exeunt._support.sealed_json import read_sealed, write_sealed
from exeunt._support.text import counted
from exeunt.errors import ArtefactError, InputError
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds.onnx import ONNX
from exeunt.runs.kinds.pytorch import WEIGHTS

FOLDER = "onnx"
_FILE = "manifest.json"
_FORM: dict[str, Any] = {"format_": "exeunt-onnx", "version": 2}
_REMEDY = "export it again"


@dataclass(frozen=True)
class OnnxTensor:
    """A tensor that stages take or give.

    `batch_dim`: the axis of the rows; None for a tensor that all rows share. `shape`: its sizes, None for the number
    of rows and for the length of texts. `pad`: the value that pads an input of tokens (n, t); None for other tensors.
    """

    dtype: str
    shape: tuple[int | None, ...]
    batch_dim: int | None
    pad: int | None = None


@dataclass(frozen=True)
class OnnxStage:
    """One stage with its head. `takes`, `gives`: names of tensors; `logits` is one of those it gives.

    `file`: within the folder. `sha256`: its digest. `max_difference`: largest difference from PyTorch, relative to the
    largest value if that is above 1; of a quantised stage, the difference before it was quantised.
    """

    file: str
    sha256: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    logits: str
    max_difference: float


@dataclass(frozen=True)
class OnnxManifest:
    """All stages, one per exit, and the tensors they pass on. `inputs`: names of the network's inputs.

    `gate`: the first stage is up to the network's gate, and its logits are what that tells.

    `weights`: digest of the exported weights. `longest_text`: most tokens that the network takes, None for no limit.
    `prepare`: how raw inputs become tensors, as in the manifest of the run. `provenance`: opset, versions of packages,
    batch sizes that were compared with PyTorch.
    """

    inputs: tuple[str, ...]
    tensors: Mapping[str, OnnxTensor]
    stages: tuple[OnnxStage, ...]
    weights: str
    longest_text: int | None = None
    prepare: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    gate: bool = False

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return len(self.stages) - self.gate

    def state_after(self, last: int) -> tuple[str, ...]:
        """Return the names of the tensors that exist after exit `last` and are needed later."""
        tensors = {*self.inputs, *(name for stage in self.stages[: last + 1] for name in stage.gives)}
        needed = [name for stage in self.stages[last + 1 :] for name in stage.takes]
        return tuple(dict.fromkeys(name for name in needed if name in tensors))

    def save(self, folder: Path) -> None:
        """Write the manifest to the folder of the stages' files."""
        write_sealed(folder / _FILE, "export", asdict(self), **_FORM)

    def check_exported_from(self, run: RunFolder) -> None:
        """Raise InputError if another network was exported than the run's."""
        if ONNX in run.files.digests:
            run.files.path(ONNX)
        elif self.weights != run.files.digests[WEIGHTS] or self.n_exits != run.n_exits:
            raise InputError(
                f"{run.path / FOLDER} was exported from another network than {run.path} holds: export it again"
            )

    @classmethod
    def load(cls, folder: Path) -> OnnxManifest:
        """Read the manifest and check the stages' files. Raises ArtefactError if one is damaged or missing."""
        path = folder / _FILE
        manifest = read_sealed(
            path, "export", _from_dict, kind="manifest", remedy=_REMEDY, oldest=_FORM["version"], **_FORM
        )
        for stage in manifest.stages:
            file = folder / stage.file
            if not is_inside(file, folder):
                raise ArtefactError(f"{path} names a file outside {folder}, {stage.file!r}: {_REMEDY}")
            check_file(file, stage.sha256, what="a stage of the exported network", remedy=_REMEDY)
        return manifest


def _from_dict(body: Mapping[str, Any]) -> OnnxManifest:
    tensors = {
        name: of_kinds(OnnxTensor(**{**tensor, "shape": tuple(tensor["shape"])}))
        for name, tensor in body["tensors"].items()
    }
    stages = tuple(
        of_kinds(OnnxStage(**{**stage, "takes": tuple(stage["takes"]), "gives": tuple(stage["gives"])}))
        for stage in body["stages"]
    )
    manifest = of_kinds(
        OnnxManifest(**{**body, "inputs": tuple(body["inputs"]), "tensors": tensors, "stages": stages})
    )
    _check(manifest)
    return manifest


def _check(manifest: OnnxManifest) -> None:
    """Raise InputError unless each stage takes what there is, and every tensor is described."""
    if not manifest.inputs or not manifest.stages:
        raise InputError("it has no inputs, or no stages")
    known = {*manifest.inputs}
    for stage in manifest.stages:
        if not {*stage.takes} <= known or stage.logits not in stage.gives:
            raise InputError(f"{stage.file} takes what no stage before it gives, or does not give its logits")
        known |= {*stage.gives}
    if unknown := sorted(known - manifest.tensors.keys()):
        raise InputError(f"it does not describe {', '.join(unknown)}")
    for name, tensor in manifest.tensors.items():
        axis = tensor.batch_dim
        if name in manifest.inputs and axis != 0:
            raise InputError(f"the rows of {name} must be on axis 0, got {axis}")
        if axis is not None and (axis < 0 or tensor.shape[axis : axis + 1] != (None,)):
            raise InputError(f"{name} of shape {tensor.shape} has no rows on axis {axis}")


def check_onnx(run: RunFolder) -> str:
    """Check the ONNX files of a run folder without ONNX Runtime; returns what there is.

    Raises ArtefactError if one is damaged, InputError if they were exported from another network.
    """
    manifest = OnnxManifest.load(run.path / FOLDER)
    manifest.check_exported_from(run)
    return counted(manifest.n_exits, "stage")
