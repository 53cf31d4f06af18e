"""A folder with a page that classifies pictures or texts in the browser, with the model of `exeunt.onnx.nested_if`.

Any static file server can serve the folder, and the page loads nothing from elsewhere. JavaScript resizes pictures and
turns texts into tokens as `Runner.prepare` does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from exeunt._support.files import atomic_folder
from exeunt.data.preprocess import Preprocess
from exeunt.errors import InputError
from exeunt.onnx.one_file import Preparation, RunInOneFile
from exeunt.runs.file_digests import WEB
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import text_columns

_EVERY_PAGE = ("page.css", "page.js")
_OF_KIND = {"image": ("image.js", "resize.js"), "text": ("text.js",)}
_RUNTIME = ("onnxruntime-web", ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"))
_TOKENIZERS = ("@huggingface/tokenizers", ("tokenizers.min.mjs",))
_PACKAGES = {"image": (_RUNTIME,), "text": (_RUNTIME, _TOKENIZERS)}
"""npm packages that the page of each kind of input needs, and which files of them."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_PICTURE = (
    '<label class="drop"><img alt="" hidden><span>Drop a picture here, paste one, or <b>choose a file</b></span>'
    '<input type="file" accept="image/*"></label>'
)


def packaged_files(run: RunFolder, node_modules: Path) -> list[Path]:
    """Return the files of npm packages that a run's page needs. Raises InputError if one is missing."""
    kind = run.manifest["inputs"]["kind"]
    packaged: list[Path] = []
    for package, names in _PACKAGES[kind]:
        files = [node_modules / package / "dist" / name for name in names]
        if absent := [file for file in files if not file.is_file()]:
            raise InputError(
                f"the page needs the npm package {package}, and there is no {absent[0]}: run `npm install {package}` "
                "and give the folder node_modules by --node-modules"
            )
        packaged += files
    return packaged


def write_web_page(run: RunFolder, node_modules: Path) -> Path:
    """Write the folder `web` of a run that was exported and calibrated, and return it; it replaces the one before.

    `node_modules`: the folder into which npm installed what the page needs: onnxruntime-web, and for texts
    @huggingface/tokenizers. Their files are copied.

    Raises InputError for texts without a fast tokeniser, and what `packaged_files` and `RunInOneFile` raise.
    """
    kind, copied = run.manifest["inputs"]["kind"], packaged_files(run, node_modules)
    alone = RunInOneFile(run)
    program = files("exeunt.onnx") / "web"
    with atomic_folder(run.path / WEB) as folder:
        for name in (*_EVERY_PAGE, *_OF_KIND[kind]):
            (folder / name).write_bytes((program / name).read_bytes())
        for file in copied:
            shutil.copyfile(file, folder / file.name)
        ways = [
            _way(preparation, folder, f"tokenizer{place or ''}")
            for place, preparation in enumerate(alone.preparations)
        ]
        (folder / "about.json").write_text(json.dumps(_about(run, ways)), encoding="utf-8")
        page = (program / "page.html").read_text(encoding="utf-8")
        for slot, html in _slots(run).items():
            page = page.replace(f"<!--{slot}-->", html)
        (folder / "index.html").write_text(page, encoding="utf-8")
        alone.save(folder / "model.onnx")
    return run.path / WEB


def _way(preparation: Preparation, folder: Path, name: str) -> dict[str, Any]:
    """Return how the page prepares some of the model's inputs; a tokeniser is copied to `folder`/`name`."""
    run = preparation.run
    entry: Mapping[str, Any] = run.manifest["inputs"]
    if entry["kind"] == "image":
        way = Preprocess.from_dict(entry)
        values = {"scale": way.scale.tolist(), "shift": way.shift.tolist()}
        return {"inputs": preparation.inputs, **entry, **values}
    run.files.check_folder("tokenizer")
    (folder / name).mkdir()
    for file in _TOKENIZER_FILES:
        if not (run.path / "tokenizer" / file).is_file():
            raise InputError(
                f"the tokeniser of {run.path} has no {file}, which its page reads: take a fast one"
            )
        shutil.copyfile(run.path / "tokenizer" / file, folder / name / file)
    return {"inputs": preparation.inputs, "folder": name, "longest": entry.get("longest")}


def _about(run: RunFolder, ways: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the page shows of the model."""
    cost = run.policy.cost
    return {
        "kind": run.manifest["inputs"]["kind"],
        "class_names": run.manifest["class_names"],
        "prepare": ways,
        "cost": cost.cumulative.tolist(),
        "full": cost.reference,
        "unit": cost.unit,
    }


def _slots(run: RunFolder) -> dict[str, str]:
    """Return the HTML that fills the slots of the page."""
    policy = run.policy
    amount = "mean cost" if policy.limit is None else "budget"
    facts = (
        f"{policy.n_exits} exits; the {amount} is {policy.cost.share(policy.budget):.0%} of the full network's cost, "
        f"on average ({policy.name})."
    )
    names = text_columns(run) if run.manifest["inputs"]["kind"] == "text" else ()
    areas = "".join(f"<label>{escape(name)}<textarea required></textarea></label>" for name in names)
    return {
        "title": escape(run.path.resolve().name),
        "facts": escape(facts),
        "input": f"<form>{areas}<button>Classify</button></form>" if names else _PICTURE,
    }
