"""Whatever happens to a file of a run, a command answers rightly or says in one line which file and what to do.

Every file is damaged in every way for every command that reads it. Files that a command does not read are all taken
away at once, and its answer must stay the same.
"""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

import pyarrow.parquet as pq  # noqa: E402 - after the skips

import exeunt.runs  # noqa: E402
from exeunt.errors import ExeuntError  # noqa: E402
from exeunt.runs.file_digests import TRACED  # noqa: E402
from exeunt.runs.folder import RunFolder  # noqa: E402

from .command import called  # noqa: E402
from .damaged_runs import DAMAGE, damaged, image_run  # noqa: E402

FIT, CALIBRATE, TEST = TRACES = [f"traces/{part}.parquet" for part in TRACED]
ANSWERING = {"weights.safetensors", "costs.json", "policy.json", "plan-eager.json"}
READS = {
    "show": {"costs.json", FIT, "policy.json"},
    "calibrate": {"costs.json", FIT, CALIBRATE},
    "evaluate": {CALIBRATE, TEST, "policy.json"},
    "predict": ANSWERING,
    "export": {"weights.safetensors", "costs.json"},
    "bench": {*TRACES, *ANSWERING, "timing.json"},
    "verify": {*TRACES, *ANSWERING, "plan-onnx.json"},
    "load": ANSWERING,
    "diff": {"costs.json", TEST, "policy.json"},
}
"""Which files a command reads besides the manifest, which all read; on PyTorch."""

MAY_LACK = {"plan-eager.json", "plan-onnx.json"}
"""Files that no command needs."""
REMEDIES = "again|restore it|`exeunt train`|`exeunt calibrate|move it away|change its permissions"


class Case:
    """A run with inputs for it, and what each command answers while it is whole."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.path = folder, folder / "data", folder / "run"
        image_run(self.path)
        self.data.mkdir()
        rng = np.random.default_rng(0)
        for i in range(3):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.data / f"{i}.png")
        self.policy = (self.path / "policy.json").read_bytes()

    def files(self) -> set[str]:
        found = (file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file())
        return set(found)

    def arguments(self, name: str) -> list[object]:
        more = {
            "calibrate": ["--budget", "70%", "--policy", "eero"],
            "evaluate": ["--no-figures"],
            "predict": ["--data", self.data, "--out", self.folder / "out.parquet"],
            "diff": [self.path],
            "bench": ["--batch-size", "2", "--repeats", "1", "--max-seconds", "0.01"],
        }
        return [name, self.path, *more.get(name, [])]

    def run(self, name: str) -> tuple[int, Any, str]:
        """Return a command's exit status, what it answers, and its error output; the run is then as before."""
        if name == "load":
            return self._load()
        status, answer, err = called(*self.arguments(name))
        out = self.folder / "out.parquet"
        if name == "predict":
            answer = pq.read_table(out).drop_columns(["confidence"]).to_pydict() if out.exists() else None
            out.unlink(missing_ok=True)
        elif name in ("export", "bench"):
            answer = None
            shutil.rmtree(self.path / "figures", ignore_errors=True)
            shutil.rmtree(self.path / "onnx", ignore_errors=True)
        elif name == "calibrate" and status == 0:
            answer = RunFolder.open(self.path).policy
            (self.path / "policy.json").write_bytes(self.policy)
        (self.path / "evaluation.json").unlink(missing_ok=True)
        return status, answer, err if status != 1 else f"exeunt: {answer}"

    def _load(self) -> tuple[int, Any, str]:
        inputs = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
        try:
            answers = exeunt.load(self.path)(inputs)
        except ExeuntError as error:
            return 2, None, f"exeunt: {error}\n"
        return 0, (answers.label.tolist(), answers.exit.tolist()), ""


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("damage"))


QUICK = ("show", "calibrate", "evaluate", "verify", "load", "diff")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in READS]
"""The others take minutes: they build, cut or time networks. `verify` of all files: tests/runs/test_verification.py."""


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_one_line_and_takes_nothing_else_along(case, name):
    status, whole, err = case.run(name)
    assert status == 0, err
    problems = []
    for file in sorted({"bundle.json", *READS[name]}):
        for harm in DAMAGE:
            with damaged(case.path / file, harm):
                status, _, err = case.run(name)
            if _may_be_missed(name, file, harm):
                sound = status == 0
            else:
                sound = status in ((1, 2) if name == "verify" else (2,)) and _helps(err, case.path / file)
            if not sound or "Traceback" in err:
                problems.append(f"{file}, {harm}: status {status}, {err!r}")
    assert not problems, "\n".join(problems)
    assert case.run(name)[:2] == (0, whole)


def _may_be_missed(name: str, file: str, harm: str) -> bool:
    """Return whether a command goes on without a file that is not there."""
    needs_policy = name in ("predict", "load", "evaluate")
    return harm == "remove" and (file in MAY_LACK or (file == "policy.json" and not needs_policy))


def _helps(err: str, file: Path) -> bool:
    """Return whether one line of the error output names the file, or its folder, and says what to do."""
    output = [line for line in err.splitlines() if not line.startswith("warning: other work keeps ")]
    lines = [line for line in output if file.name in line or str(file.parent) in line]
    begins = bool(output) and output[0].startswith("exeunt: ")
    return begins and len(lines) == 1 and re.search(REMEDIES, lines[0]) is not None


@pytest.mark.parametrize("name", [one for one in NAMES if one.values[0] != "verify"])
def test_files_that_are_not_read_do_not_matter(case, name):
    _, whole, _ = case.run(name)
    written = {"policy.json"} if name == "calibrate" else set()
    others = case.files() - READS[name] - {"bundle.json"} - written
    with ExitStack() as stack:
        for file in others:
            stack.enter_context(damaged(case.path / file, "folder"))
        status, answer, err = case.run(name)
    assert (status, answer) == (0, whole), err


def test_calibrate_says_that_a_folder_is_where_the_policy_belongs(case):
    with damaged(case.path / "policy.json", "folder"):
        status, _, err = case.run("calibrate")
    assert status == 2
    assert _helps(err, case.path / "policy.json")
    assert "move it away" in err
