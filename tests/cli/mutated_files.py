"""Files of runs and inputs, mutated by the hundred, under the commands that read them: a test, or a campaign.

    python tests/cli/mutated_files.py --seed 38

mutates one file after the other and prints what the commands made of it. A mutated file may be refused, with a line
that says why, or change nothing. It must not hang a command, end it with an unexpected error, run code, or change an
answer.

JSON and the headers of traces are mutated once more with digests that fit, as if somebody had edited a run and
computed them anew. That may change an answer; it must not end a command with an unexpected error.
"""

from __future__ import annotations

import argparse
import base64
import faulthandler
import json
import os
import pickle
import shutil
import socket
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # where it runs as a program

from command import called  # noqa: E402 - after the path
from damaged_runs import WORDS, image_run, text_run  # noqa: E402

from damaged_files import DEEP, Hangs, within  # noqa: E402
from exeunt._support.files import file_digest  # noqa: E402
from exeunt._support.sealed_json import DIGEST  # noqa: E402
from exeunt.errors import ExeuntError  # noqa: E402
from exeunt.runs.file_digests import FOLDERS  # noqa: E402
from mutated_json import is_another_value, mutated, resealed  # noqa: E402

KINDS = ("image", "text", "cascade")
COMMANDS = ("verify", "show", "predict", "serve", "evaluate", "calibrate")
OPTIONS = {"evaluate": ("--no-figures",), "calibrate": ("--budget", "100%")}
CONTENTS = ("flip",) * 7 + ("burst", "cut", "cut", "cut", "headless", "twice", "zeros", "empty", "noise")
CONTENTS += ("other run", "sibling", "deep", "header", "pickle")
PLACES = ("folder", "link", "loop", "pipe", "device", "socket", "gone")
LONGEST_S = 60
SEALED = 25
"""Mutations of each file whose digests fit again."""
UNSEALED = {"serving.json", "evaluation.json"}
"""Files of a run that change no answer, and have no digest."""


class _Bomb:
    """What runs code where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def content_of(how: str, content: bytes, rng: Any, other: bytes, sibling: bytes, marker: Path) -> bytes:
    """Return a file's content, mutated."""
    middle = int(rng.integers(len(content)))
    made: dict[str, Callable[[], bytes]] = {
        "flip": lambda: content[:middle] + flipped(content[middle], rng) + content[middle + 1 :],
        "burst": lambda: content[:middle] + rng.bytes(64) + content[middle + 64 :],
        "cut": lambda: content[:middle],
        "headless": lambda: content[middle + 1 :],
        "twice": lambda: content * 2,
        "zeros": lambda: bytes(len(content)),
        "empty": lambda: b"",
        "noise": lambda: rng.bytes(len(content)),
        "other run": lambda: other,
        "sibling": lambda: sibling,
        "deep": lambda: DEEP,
        "header": lambda: with_absurd_header(content),
        "pickle": lambda: pickle.dumps(_Bomb(marker)),
    }
    return made[how]()


def flipped(byte: int, rng: Any) -> bytes:
    return bytes([byte ^ (1 << int(rng.integers(8)))])


def with_absurd_header(content: bytes) -> bytes:
    """Return content that announces more than any machine holds."""
    if content.startswith(b"PAR1"):
        return content[:-8] + struct.pack("<I", 0x7FFFFFF0) + b"PAR1"
    if content.startswith(b"\x89PNG"):
        header = b"IHDR" + struct.pack(">II", 2**31 - 1, 2**31 - 1) + content[24:29]
        return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    if content.startswith(b"{"):
        return content.replace(b'"version": ', b'"version": ' + b"9" * 5000)
    return struct.pack("<Q", 2**62) + content[8:]


@contextmanager
def in_place_of(file: Path, how: str, content: bytes | None) -> Iterator[None]:
    """Put something else in the place of a file for a while."""
    whole, before = file.read_bytes(), file.stat()
    file.unlink()
    made: dict[str, Callable[[], Any]] = {
        "folder": file.mkdir,
        "link": lambda: file.symlink_to(file.parent / "nowhere"),
        "loop": lambda: file.symlink_to(file),
        "pipe": lambda: os.mkfifo(file),
        "device": lambda: file.symlink_to("/dev/zero"),
        "socket": lambda: _bind(file),
        "gone": lambda: None,
    }
    if content is None:
        made[how]()
    else:
        file.write_bytes(content)
    try:
        yield
    finally:
        with suppress(OSError):
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
        file.write_bytes(whole)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _bind(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # addresses of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(file.name)
    finally:
        os.chdir(here)


def made_network(path: Path, kind: str) -> None:
    """Make the run of an untrained network of images or texts, which ONNX Runtime answers."""
    from exeunt.torch.to_onnx import export_run

    export_run(image_run(path) if kind == "image" else text_run(path), say=lambda _: None)


def made_cascade(root: Path, seed: int) -> None:
    """Make the run of a cascade of two classifiers of texts."""
    from exeunt.jobs.cascade_run import make_cascade
    from exeunt.jobs.estimator_run import train_tfidf

    rng, source = np.random.default_rng(seed), root / "source"
    source.mkdir()
    for part, n in (("train", 300), ("test", 150)):
        drawn = [rng.choice(WORDS, 5).tolist() for _ in range(n)]
        lines = [f"{' '.join(words)} {i},{int('good' in words)}" for i, words in enumerate(drawn)]
        (source / f"{part}.csv").write_text("\n".join(["text,label", *lines]))
    quiet: dict[str, Any] = {"say": lambda _: None}
    models = {name: train_tfidf(str(source), root / name, **quiet) for name in ("first", "second")}
    make_cascade(root / "run", models, **quiet)
    assert called("calibrate --budget 100% --policy eero", root / "run").status == 0


class Case:
    """A run with inputs for it, another run of the same kind, and what the commands answer while all is whole."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.data = kind, folder, folder / "data"
        self.texts = ["good plot", "bad film"]
        self.data.mkdir(parents=True)
        self.root, self.other = folder / "run", folder / "other"
        self.path = self.root / "run"
        for seed, root in enumerate((self.root, self.other)):
            root.mkdir()
            made_cascade(root, seed) if kind == "cascade" else made_network(root / "run", kind)
            served = {"budget": "90%" if seed else "95%", "loads": 0}
            (root / "run" / "serving.json").write_text(json.dumps(served))
            (root / "run" / "evaluation.json").write_text('{"warning": ""}')
        self.inputs = self._write_inputs(np.random.default_rng(1))
        self.contents = {file: file.read_bytes() for file in self.files()}
        self.whole = {command: self.answer(command) for command in COMMANDS}
        assert all(status == 0 for status, _ in self.whole.values()), self.whole
        self.restore()

    def _write_inputs(self, rng: Any) -> list[Path]:
        if self.kind == "image":
            from PIL import Image

            self.png = []
            for i in range(3):
                file = self.folder / f"{i}.png"
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file)
                self.png.append(file.read_bytes())
                file.replace(self.data / file.name)
            return sorted(self.data.iterdir())
        file, table = self.data / "test.parquet", pa.table({"text": self.texts * 4})
        pq.write_table(table, file, write_page_checksum=True, compression="none", use_dictionary=False)
        return [file]

    def files(self) -> list[Path]:
        """What is mutated: files of the run, of the models of a cascade, and inputs."""
        made = [file for file in self.root.rglob("*") if file.is_file() and "source" not in file.parts]
        return sorted(made) + self.inputs

    def restore(self) -> None:
        """Let every file be whole again that something was put in the place of, or that a command has written."""
        for file, content in self.contents.items():
            if not file.exists() or file.read_bytes() != content:
                file.write_bytes(content)

    def answer(self, command: str) -> tuple[int, Any]:
        """Return a command's status, as the shell has it, and what it answered."""
        if command == "serve":
            return self._served()
        out = self.folder / "out.parquet"
        out.unlink(missing_ok=True)
        more = ("--data", self.data, "--out", out) if command == "predict" else OPTIONS.get(command, ())
        status, said, err = called(command, self.path, *more)
        if command == "predict" and out.exists():
            table = pq.read_table(out).drop_columns(["confidence", "score", "first_score", "tie"])
            return status, table.to_pylist()
        return status, said if status == 0 or command == "verify" else err

    def _served(self) -> tuple[int, Any]:
        from fastapi.testclient import TestClient

        from exeunt.serve.app import make_app
        from exeunt.serve.settings import Settings

        body = {"texts": self.texts}
        if self.kind == "image":
            body = {"images": [base64.b64encode(one).decode() for one in self.png]}
        try:
            with TestClient(make_app(Settings(run=self.path)), base_url="http://127.0.0.1:8000") as client:
                answered = client.post("/predict", json=body)
        except (ExeuntError, OSError) as error:
            return 2, f"exeunt: {error}"
        kept = ("label", "class_name", "exit", "cost", "policy", "error")
        found = answered.json()
        rows = [{name: row[name] for name in kept} for row in found.get("answers", ())]
        return (0, rows) if answered.status_code == 200 else (1, found)

    def outcome(self, command: str, *, may_change: bool) -> tuple[str, str]:
        """Return what a command made of files whose digests fit, and what is wrong with that, or "".

        `may_change`: whether another answer is right. `show` shows what files say.
        """
        status, answer = self.answer_in_time(command)
        if status in ("hung", "failed"):
            return str(status), str(answer)
        if status == 0 and answer == self.whole[command][1]:
            return "same", ""
        if status == 0:
            return "another answer", "" if may_change or command == "show" else str(answer)
        if command == "verify":
            return ("refused", "") if "exeunt: unexpected" not in answer else ("failed", answer)
        if isinstance(answer, list):  # every input is refused, with the reason
            return "refused", ""
        *notes, last = answer.strip().splitlines()
        is_line = last.startswith("exeunt: ") and all(note.startswith("note: ") for note in notes)
        return "refused", "" if status == 2 and is_line else str(answer)

    def answer_in_time(self, command: str) -> tuple[int | str, Any]:
        """Return what `answer` does; "hung" or "failed" and why where it does not."""
        try:
            with within(LONGEST_S):
                return self.answer(command)
        except Hangs as hangs:
            return "hung", str(hangs)
        except Exception as error:
            return "failed", repr(error)

    def problem(self, command: str, file: Path, *, is_whole: bool) -> tuple[str, str]:
        """Return what a command made of a mutated file, and what is wrong with that, or ""."""
        status, answer = self.answer_in_time(command)
        if status in ("hung", "failed"):
            return str(status), str(answer)
        if command == "verify":
            told = status in (1, 2) and "exeunt: unexpected" not in answer
            may_pass = is_whole or file in self.inputs or file.name in UNSEALED
            return ("refused", "") if told else ("same", "" if may_pass else "it was not noticed")
        if status == 2:
            return "refused", "" if answer.strip().splitlines()[-1].startswith("exeunt: ") else answer
        if status:
            return "failed", str(answer)
        if answer == self.whole[command][1]:
            return "same", ""
        if command == "predict" and file in self.inputs:
            return self._of_inputs(answer)
        if command == "show" and is_whole:  # it says that there is no policy
            return "another answer", ""
        return "another answer", str(answer)

    def _of_inputs(self, answer: list[dict[str, Any]]) -> tuple[str, str]:
        """Inputs that cannot be read are told, or left out if their file is gone."""
        whole = {row["name"]: row for row in self.whole["predict"][1]}
        wrong = [row for row in answer if row.get("error") is None and row != whole.get(row["name"])]
        return ("another answer", str(wrong)) if wrong else ("told in a row", "")


def mutations(case: Case, seed: int) -> Iterator[tuple[Path, str, bytes | None]]:
    """Yield files, what is done to each, and its new content; None where something else takes its place."""
    marker = case.folder / "code was run"
    rng = np.random.default_rng(seed)
    for file in case.files():
        content = file.read_bytes()
        siblings = [one for one in case.files() if one.parent == file.parent != file]
        others = [one for one in siblings if one.read_bytes() != content] or case.files()
        sibling = others[int(rng.integers(len(others)))].read_bytes()
        other = sibling if file in case.inputs else (case.other / file.relative_to(case.root)).read_bytes()
        for how in CONTENTS:
            yield file, how, content_of(how, content, rng, other, sibling, marker)
        for how in PLACES:
            yield file, how, None


def campaign(case: Case, seed: int, say: Callable[[str], None] = print) -> tuple[Counter[Any], list[str]]:
    """Return how often commands did what, and what was wrong."""
    counts, problems = Counter(), []
    for file, how, content in mutations(case, seed):
        may_lack = how == "gone" and file.stem.startswith(("plan-", "policy"))
        is_whole = content == file.read_bytes() or may_lack
        counts["mutations"] += 1
        with in_place_of(file, how, content):
            for command in COMMANDS:
                if command == "serve" and file in case.inputs:
                    continue
                # Where even a signal is not looked at.
                faulthandler.dump_traceback_later(3 * LONGEST_S, exit=True)
                what, wrong = case.problem(command, file, is_whole=is_whole)
                faulthandler.cancel_dump_traceback_later()
                counts[command, what] += 1
                if wrong:
                    name = file.relative_to(case.folder)
                    problems.append(f"{command}, {name}, {how}: {what}, {wrong[:300]}")
                    say(problems[-1])
        case.restore()
        if (case.folder / "code was run").exists():
            problems.append(f"{file.relative_to(case.folder)}, {how}: code was run")
            (case.folder / "code was run").unlink()
    after = {command: case.answer(command) for command in COMMANDS}
    case.restore()
    if after != case.whole:
        problems.append("the whole run answers otherwise at the end")
    return counts, problems


def sealed_again(root: Path, file: Path) -> None:
    """Let all digests fit again after a file of one of the runs in a folder was changed.

    They stand in the manifest of its run, which policies name, and of a model also in the file of its cascade.
    """
    run = next(folder for folder in file.parents if (folder / "bundle.json").exists())
    manifest, name = _read(run / "bundle.json"), file.relative_to(run).as_posix()
    files = manifest.get("files") if isinstance(manifest, dict) else None
    is_named = isinstance(files, dict) and name in files
    if is_named:
        files[name] = file_digest(file)
        _write(run / "bundle.json", manifest)
    if not isinstance(manifest, dict) or not (is_named or name == "bundle.json"):
        return
    digest = _read(run / "bundle.json").get(DIGEST)
    if (run / "policy.json").exists():
        policy = _read(run / "policy.json")
        policy["policy"]["run"] = digest
        _write(run / "policy.json", policy)
    for cascade in root.glob("*/cascade.json"):
        known = _read(cascade) if cascade.parent != run else {"models": []}
        used = [one for one in known["models"] if (cascade.parent / one["run"]).resolve() == run.resolve()]
        for one in used:
            one["digest"] = digest
        if used:
            _write(cascade, known)
            sealed_again(root, cascade)


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def _write(file: Path, document: Any) -> None:
    file.write_text(json.dumps(resealed(document)))


def mutate_value(file: Path, rng: Any) -> tuple[str, bool]:
    """Put something else in a place of the JSON in a file, or of the header of a trace.

    Returns what was done, and whether it is another value of the same kind.
    """
    if file.suffix == ".json":
        known = _read(file)
        how, made = mutated(known, rng)
        _write(file, made)
    else:
        table = pq.read_table(file)
        known = json.loads(table.schema.metadata[b"exeunt"])
        how, made = mutated(known, rng)
        pq.write_table(table.replace_schema_metadata({b"exeunt": json.dumps(made).encode()}), file)
    return how, is_another_value(known, made)


_NOT_USED = "not used: it was measured on another kind of machine"


def sealed_campaign(
    case: Case, seed: int, n: int, say: Callable[[str], None] = print, *, but: str = ""
) -> tuple[Counter[Any], list[str]]:
    """Return how often commands did what with files that were mutated n times each and whose digests fit, and what was
    wrong. `but`: the name of a run whose files are left alone.
    """
    counts, problems = Counter(), []
    # What transformers reads is not looked at: a size there that no memory holds is taken at its word.
    own = [file for file in case.contents if file not in case.inputs and file.parent.name not in FOLDERS]
    of_runs = [file for file in own if file.suffix == ".json" or file.parent.name == "traces"]
    for place, file in enumerate(file for file in of_runs if but not in file.relative_to(case.root).parts):
        rng = np.random.default_rng([seed, place])
        for _ in range(n):
            how, may_change = mutate_value(file, rng)
            of_another_machine = file.stem.startswith("plan-") and how.startswith("plan/machine")
            sealed_again(case.root, file)
            counts["mutations"] += 1
            # A single mutation is shown to half of the commands, others for each file.
            for command in COMMANDS if n > 1 else ("verify", *COMMANDS[1 + place % 2 :: 2]):
                what, wrong = case.outcome(command, may_change=may_change)
                if command == "verify" and of_another_machine and _NOT_USED in wrong:
                    wrong = ""
                counts[command, what] += 1
                if wrong:
                    problems.append(f"{command}, {file.relative_to(case.root)}, {how}: {what}, {wrong[:300]}")
                    say(problems[-1])
            case.restore()
    return counts, problems


def main() -> int:
    """Mutate the files of a run of images and of a run of texts. Returns how many commands did something wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=38)
    seed, total, problems = parser.parse_args().seed, Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            case = Case(kind, Path(folder) / kind)
            for counts, wrong in (campaign(case, seed), sealed_campaign(case, seed, SEALED)):
                total += counts
                problems += wrong
    print(f"{total.pop('mutations')} mutations, {len(problems)} problems")
    for (command, what), n in sorted(total.items()):
        print(f"{command:8} {what:16} {n:5}")
    return len(problems)


if __name__ == "__main__":
    sys.exit(min(main(), 99))
