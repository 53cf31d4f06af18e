"""Checking a whole run folder: every digest, every format, and that its parts belong together.

Opening a run checks what it reads, each file once. This reads everything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exeunt._support.text import counted
from exeunt.engine.executor import CPU
from exeunt.errors import ArtefactError, ExeuntError
from exeunt.policy import Policy
from exeunt.runs.executors import EXECUTORS, executor_device, is_ready
from exeunt.runs.file_digests import COSTS, FOLDERS, TRACED, trace_file
from exeunt.runs.folder import RunFolder
from exeunt.runs.kinds import ExecutorKind, imported
from exeunt.runs.saved_policies import POLICIES, POLICY


@dataclass(frozen=True)
class CheckedPart:
    """A part of a run folder: what is in it, or what is wrong with it and how to mend it.

    `state`: "ok" or "FAILED".
    """

    part: str
    text: str
    state: str = "ok"


def verify(path: str | Path) -> list[CheckedPart]:
    """Check every part of a run folder that can change an answer.

    Raises InputError if there is no run folder. Nothing else can be checked where the manifest is damaged.
    """
    try:
        run = RunFolder.open(path)
    except ArtefactError as error:
        return [CheckedPart("manifest", str(error), "FAILED")]
    manifest = CheckedPart("manifest", f"format {run.manifest['version']}, {counted(run.n_exits, 'exit')}")
    return [manifest, *(_checked(part, check) for part, check in _parts(run))]


def _checked(part: str, check: Callable[[], str]) -> CheckedPart:
    try:
        return CheckedPart(part, check())
    except (ExeuntError, OSError) as error:
        return CheckedPart(part, str(error), "FAILED")


def _parts(run: RunFolder) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "network", lambda: f"{run.network_file(run.kind.file).stat().st_size / 1e6:.1f} MB"
    yield "costs", partial(_costs, run)
    for part in TRACED:
        yield f"{part} trace", partial(_trace, run, part)
    for name in FOLDERS:
        if os.path.lexists(run.path / name) or run.files.names_below(name):
            yield name, partial(_folder, run, name)
    if run.has_policy:
        file = POLICIES if run.has_policy_set else POLICY
        yield file.removesuffix(".json"), lambda: _policies(run, file, run.policies)
    for name, kind in EXECUTORS.items():
        if kind.checker and os.path.lexists(run.path / kind.needs.partition("/")[0]):
            yield name, partial(_executor, run, kind)
        for plan_file in sorted(run.path.glob(f"plan-{name}*.json")):
            device = plan_file.stem.removeprefix(f"plan-{name}").lstrip("-") or CPU
            yield plan_file.stem.replace("-", " "), partial(_plan, run, name, device, plan_file.name)


def _executor(run: RunFolder, kind: ExecutorKind) -> str:
    """Check the files of an executor; of a cascade also its models, but not their policies."""
    text = str(imported(kind.checker)(run))
    for entry in run.cascade:
        for part in verify(entry.folder(run.path)):
            if part.state == "FAILED" and part.part not in ("policy", "policies"):
                raise ArtefactError(f"{part.part} of the model {entry.name!r}: {part.text}")
    return text


def _costs(run: RunFolder) -> str:
    cost = run.cost
    run.check_exits(COSTS, cost.n_exits)
    return f"{cost.show(cost.first)} to {cost.show(cost.full)}"


def _trace(run: RunFolder, part: str) -> str:
    trace = run.trace(part)
    try:
        cost = run.cost
    except ExeuntError:
        cost = trace.cost  # the line of the costs says why
    if trace.cost != cost:
        raise ArtefactError(f"{run.path / trace_file(part)} has other costs than {COSTS}: train again")
    return counted(trace.n, "input")


def _folder(run: RunFolder, name: str) -> str:
    run.files.check_folder(name)
    return counted(len(run.files.names_below(name)), "file")


def _policies(run: RunFolder, file: str, policies: Sequence[Policy]) -> str:
    """Replay the policies on the calibration inputs; reading them has checked that they are this run's."""
    names = f"{', '.join(dict.fromkeys(policy.name for policy in policies))}, of this run"
    try:
        calibrate = run.recorded("calibrate")
    except ExeuntError:
        return f"{names}, not replayed without the calibrate trace"  # whose own line says why
    if all(policy.calibration == "generation" for policy in policies):
        return f"{names}, calibrated by generating, which is not repeated here"
    replayed = [
        policy for policy in policies if policy.calibration != "generation" and policy.counts is not None
    ]
    same_inputs = [policy for policy in replayed if policy.n_calibration == calibrate.n]
    if not all(policy.was_calibrated_on(calibrate) for policy in same_inputs):
        raise ArtefactError(
            f"{run.path / file} answers other calibration inputs than it counted: calibrate again"
        )
    if not same_inputs:
        return f"{names}, calibrated on a part of the calibration inputs, or on others"
    return f"{names}, replayed on the calibration inputs"


def _plan(run: RunFolder, name: str, device: str, file: str) -> str:
    here = CPU if device == CPU or not is_ready(run, EXECUTORS[name]) else executor_device(name)
    plan = run.plan(name, here if here.startswith(device) else device)
    if plan is None:
        return "not used: it was measured on another kind of machine or device"
    run.check_exits(file, plan.n_exits)
    return counted(len(plan.segments), "segment")
