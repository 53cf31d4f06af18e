"""The artefact on disk: one folder with a network's weights, costs, traces, policy and provenance.

    bundle.json             manifest: format, version, digests of itself and the files below, everything JSON
    weights.safetensors     backbone and heads
    costs.json              what an answer costs at each exit
    policy.json             the calibrated policy, once there is one
    policies.json           policies for a grid of budgets, once there are some
    traces/PART.parquet     recorded outputs on fit, calibrate and test
    figures/, training/     what `evaluate` drew, how training went

Every file is written under a temporary name and renamed; the manifest comes last, so that a folder with a
manifest is whole. Nothing in a run folder is code, and reading one runs none.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exeunt._files import file_digest, read_json, write_json
from exeunt._sealed import DIGEST, check_digest, content_digest, read_document
from exeunt.costs import CostModel
from exeunt.errors import ArtefactError, InputError
from exeunt.policy import Policy, PolicySet
from exeunt.trace import ExitTrace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["RunFolder", "package_versions", "provenance", "read_manifest", "sealed"]

_FORMAT, _VERSION = "exeunt-bundle", 1
_SHAPE: dict[str, type] = {
    "model": dict,
    "model.spec": str,
    "model.n_classes": int,
    "network": dict,
    "network.exits": list,
    "inputs": dict,
    "inputs.kind": str,
    "class_names": list,
    "data": dict,
    "data.name": str,
    "split": dict,
    "training": dict,
    "provenance": dict,
    "files": dict,
}


def sealed(about: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Return a manifest, as JSON makes of it: format, version, digest, `files` (name: digest) and `about`."""
    body = {"format": _FORMAT, "version": _VERSION, "files": files, **about}
    plain = json.loads(json.dumps(body))
    return {**plain, DIGEST: content_digest(plain)}


def read_manifest(path: Path, *, files: Iterable[str]) -> dict[str, Any]:
    """Read a manifest that names `files` at least.

    Raises ArtefactError if it is foreign, newer, edited, or lacks something.
    """
    manifest = read_document(path, kind="manifest", format_=_FORMAT, version=_VERSION)
    body = {name: value for name, value in manifest.items() if name != DIGEST}
    check_digest(path, manifest, body, remedy="train it again")
    _check_shape(path, manifest)
    missing = sorted(set(files) - set(manifest["files"]))
    if missing:
        raise ArtefactError(f"{path} does not name the files {', '.join(missing)}: it is damaged")
    return manifest


def _check_shape(path: Path, manifest: Mapping[str, Any]) -> None:
    for name, kind in _SHAPE.items():
        value: Any = manifest
        for key in name.split("."):
            value = value.get(key)
        if not isinstance(value, kind):
            found = "nothing" if value is None else type(value).__name__
            raise ArtefactError(f"{path} is damaged: {name!r} should be a {kind.__name__}, found {found}")
    lists = {"class_names": manifest["class_names"], "network.exits": manifest["network"]["exits"]}
    for name, values in {**lists, "files": manifest["files"].values()}.items():
        if not all(isinstance(value, str) for value in values):
            raise ArtefactError(f"{path} is damaged: {name!r} should hold texts alone")


_MANIFEST, _COSTS, _WEIGHTS = "bundle.json", "costs.json", "weights.safetensors"
_POLICY, _POLICIES = "policy.json", "policies.json"
TRACED = ("fit", "calibrate", "test")


@dataclass(frozen=True)
class RunFolder:
    """A run folder at `path` with its `manifest`. Make one with `create`, read one with `open`."""

    path: Path
    manifest: Mapping[str, Any]

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether a whole run folder lies there."""
        return (Path(path) / _MANIFEST).is_file()

    @classmethod
    def create(
        cls, path: str | Path, *, cost: CostModel, traces: Mapping[str, ExitTrace], about: Mapping[str, Any]
    ) -> RunFolder:
        """Finish the folder `path`, whose weights are written already, as a run folder.

        `about`: whatever else is known of it, JSON-able: model, heads, data, split, training, provenance.
        """
        root = Path(path)
        if not (root / _WEIGHTS).is_file():
            raise InputError(f"{root} has no {_WEIGHTS}: write the weights before the run folder is made")
        (root / "traces").mkdir(parents=True, exist_ok=True)
        for part, trace in traces.items():
            trace.save(root / _trace_file(part))
        write_json(root / _COSTS, cost.to_dict())
        names = [_WEIGHTS, _COSTS, *(_trace_file(part) for part in traces)]
        manifest = sealed(about, {name: file_digest(root / name) for name in names})
        write_json(root / _MANIFEST, manifest)
        return cls(root, manifest)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Read a run folder and check every file against its digest.

        Raises InputError if there is none, ArtefactError if it is damaged, foreign or newer.
        """
        root = Path(path)
        if not cls.exists(root):
            state = "is not a run folder" if root.is_dir() else "does not exist"
            unfinished = (root / "training").is_dir()
            mend = "run the same command again to finish it" if unfinished else "make one with `exeunt train`"
            raise InputError(f"{root} {state} (it has no {_MANIFEST}): {mend}")
        needed = (_WEIGHTS, _COSTS, *(_trace_file(part) for part in TRACED))
        run = cls(root, read_manifest(root / _MANIFEST, files=needed))
        run._check_files(run.manifest["files"])
        return run

    @property
    def weights(self) -> Path:
        """The safetensors file of backbone and heads."""
        return self.path / _WEIGHTS

    @property
    def cost(self) -> CostModel:
        """Cumulative cost per exit."""
        return CostModel.from_dict(read_json(self.path / _COSTS))

    def trace(self, part: str) -> ExitTrace:
        """Return the recorded outputs on "fit", "calibrate" or "test"."""
        if part not in TRACED:
            raise InputError(f"a run folder has traces of {', '.join(TRACED)}, not of {part!r}")
        return ExitTrace.load(self.path / _trace_file(part))

    @property
    def policy(self) -> Policy:
        """The calibrated policy. Raises InputError before `exeunt calibrate`."""
        if not (self.path / _POLICY).is_file():
            raise InputError(
                f"{self.path} has no policy yet: run `exeunt calibrate {self.path} --budget 50%` first"
            )
        policy = Policy.load(self.path / _POLICY)
        self._check_own(policy)
        return policy

    @property
    def has_policy(self) -> bool:
        """Whether `exeunt calibrate` has run."""
        return (self.path / _POLICY).is_file()

    def save_policy(self, policy: Policy) -> None:
        """Put the policy into the run folder in place of the one before."""
        policy.save(self.path / _POLICY)

    @property
    def policy_set(self) -> PolicySet:
        """The policies for a grid of budgets. Raises InputError before `exeunt calibrate --budgets`."""
        if not self.has_policy_set:
            raise InputError(
                f"{self.path} has no policies for several budgets yet: run `exeunt calibrate {self.path} "
                "--budgets 20%:95%:5%` first"
            )
        policies = PolicySet.load(self.path / _POLICIES)
        self._check_own(policies.policies[0])
        return policies

    @property
    def has_policy_set(self) -> bool:
        """Whether `exeunt calibrate --budgets` has run."""
        return (self.path / _POLICIES).is_file()

    def save_policy_set(self, policies: PolicySet) -> None:
        """Put policies for a grid of budgets into the run folder in place of those before."""
        policies.save(self.path / _POLICIES)

    def folder(self, name: str) -> Path:
        """Return a folder of the run folder for figures and the like, made if need be."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _check_own(self, policy: Policy) -> None:
        if policy.cost.n_exits != self.cost.n_exits:
            raise ArtefactError(f"the policy in {self.path} is of another network: calibrate again")

    def _check_files(self, digests: Mapping[str, str]) -> None:
        for name, digest in digests.items():
            file = self.path / name
            if not file.resolve().is_relative_to(self.path.resolve()):
                raise ArtefactError(f"the manifest of {self.path} names a file outside it: {name}")
            if not file.is_file():
                raise ArtefactError(f"{file} is missing: the run folder is damaged, train it again")
            if file_digest(file) != digest:
                raise ArtefactError(
                    f"{file} is not the file that the run folder was made with: damaged or edited"
                )


def provenance(packages: Iterable[str], *, command: str, seed: int) -> dict[str, Any]:
    """Return what made a run folder: command, seed, versions of Python and these packages."""
    return {
        "command": command,
        "seed": seed,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "packages": package_versions(packages),
    }


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    return {name: found for name in packages if (found := _version(name)) is not None}


def _trace_file(part: str) -> str:
    return f"traces/{part}.parquet"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
