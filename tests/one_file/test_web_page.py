"""The page for the browser: its folder, its pixels, and its answers in Chromium."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_stages import WIDTH, K, image_stages, logits_of, text_stages
from onnx import TensorProto, compose, helper, numpy_helper, save

import exeunt as ex
from exeunt._support.files import file_digest
from exeunt.data.preprocess import Preprocess
from exeunt.onnx.manifest import OnnxManifest, OnnxStage, OnnxTensor
from exeunt.onnx.one_file import Preparation
from exeunt.onnx.web_page import write_web_page
from exeunt.rules import baselines
from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import load
from made_runs import ABOUT

Image = pytest.importorskip("PIL.Image")

SIDE, M = 6, 3


def stages_on_pictures():
    """Three stages; the first reads "x" (n, 3, 6, 6)."""
    first, *others = image_stages(M)
    graph = first.model.graph
    weight = np.random.default_rng(9).normal(size=(3 * SIDE**2, WIDTH)).astype(np.float32) / 9
    multiply = helper.make_node("MatMul", ["flat", "reads"], ["pixels"])
    reads = [helper.make_node("Flatten", ["x"], ["flat"]), multiply, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(reads)
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE]))
    graph.initializer.append(numpy_helper.from_array(weight, "reads"))
    return [first, *others]


def made_web_run(folder, way: Preprocess | None = None):
    way = way or Preprocess(size=(SIDE, SIDE))
    stages = stages_on_pictures()
    noise = np.random.default_rng(0).integers(0, 256, (400, SIDE, SIDE, 3), dtype=np.uint8)
    logits = logits_of(stages, [{"x": way.normalise(noise)}])
    row = OnnxTensor("float32", (None, WIDTH), 0)
    tensors = {"x": OnnxTensor("float32", (None, 3, SIDE, SIDE), 0), "state0": row, "state1": row}
    return _made(folder, stages, logits, tensors, {"kind": "image", **way.to_dict()})


WORDS = ("good", "bad", "the", "film")
LONGEST = 12


def made_text_run(folder, transformers):
    """A run on texts, with a tokeniser of four words."""
    stages = text_stages()
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=LONGEST)
    tokenizer.save_pretrained(folder / "tokenizer")
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 9, (1, length)) for length in rng.integers(2, LONGEST, 400)]
    logits = logits_of(stages, [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in rows])
    tokens = OnnxTensor("int64", (None, None), 0, pad=0)
    words = OnnxTensor("float32", (None, None, WIDTH), 0)
    tensors = {"input_ids": tokens, "attention_mask": tokens, "words": words}
    inputs = {"kind": "text", "folder": "tokenizer", "length": 6, "longest": LONGEST}
    return _made(folder, stages, logits, tensors, inputs)


def _made(folder, stages, logits, tensors, inputs):
    m = len(stages)
    cost = ex.CostModel(1e6 * np.arange(1.0, m + 1), unit="MACs")
    trace = ex.ExitTrace.from_logits(logits, cost=cost, label=logits[:, -1].argmax(axis=1))
    parts = dict(zip(("fit", "calibrate", "test"), trace.split(), strict=True))
    (folder / "onnx").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    about = ABOUT | {
        "model": {**ABOUT["model"], "n_classes": 5},
        "network": {"exits": [f"layer{i}" for i in range(m - 1)]},
        "inputs": inputs,
        "class_names": ["<i>ant</i>", "bee", "cow", "dog", "emu"],
        "data": {"name": "texts", "text": ["text"]},
    }
    run = RunFolder.create(folder, cost=cost, traces=parts, about=about)
    run.save_policy(baselines.msdnet(parts["fit"], parts["calibrate"], budget="60%" if m > 2 else "75%"))
    _export(run, stages, tensors)
    return run


def _export(run, stages, tensors):
    folder, written = run.path / "onnx", []
    for i, (model, logits) in enumerate(stages):
        file = folder / f"stage-{i:02d}.onnx"
        compose.add_prefix_graph(  # as an exporter does: no two stages share a name inside
            model.graph, f"own{i}/", rename_inputs=False, rename_outputs=False, rename_value_infos=False, inplace=True
        )  # fmt: skip
        save(model, str(file))
        takes, gives = (tuple(value.name for value in of) for of in (model.graph.input, model.graph.output))
        written.append(OnnxStage(file.name, file_digest(file), takes, gives, logits, 0.0))
    inputs = tuple(name for name, tensor in tensors.items() if name in written[0].takes)
    tensors |= {f"logits{i}": OnnxTensor("float32", (None, K), 0) for i in range(len(stages))}
    weights = run.files.digests["weights.safetensors"]
    OnnxManifest(inputs, tensors, tuple(written), weights, LONGEST).save(folder)


PROGRAM = Path(ex.__file__).parent / "onnx" / "web"
WAYS = [
    Preprocess(size=(24, 20), mode=mode, crop_share=share, interpolation=interpolation)
    for mode, share, interpolation in (
        ("crop", 0.875, "bilinear"), ("crop", 1.0, "bicubic"), ("stretch", 1.0, "lanczos"),
        ("pad", 1.0, "bicubic"), ("crop", 0.9, "nearest"), ("stretch", 1.0, "bilinear"),
    )
]  # fmt: skip


def pictures():
    """Noise, whose extremes show every rounding, of sizes around that of the network."""
    rng = np.random.default_rng(0)
    sizes = ((24, 20), (24, 61), (7, 5), (100, 33), (25, 21), (1, 1), (48, 40))
    return [rng.choice(np.array([0, 1, 127, 254, 255], np.uint8), (h, w, 3)) for h, w in sizes]


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_pictures_are_resized_as_in_python_to_the_last_bit(tmp_path):
    ways = [{**way.to_dict(), "scale": way.scale.tolist(), "shift": way.shift.tolist()} for way in WAYS]
    given = [{"height": p.shape[0], "width": p.shape[1], "data": p.ravel().tolist()} for p in pictures()]
    (tmp_path / "given.json").write_text(json.dumps({"ways": ways, "pictures": given}))
    (tmp_path / "run.mjs").write_text(
        f"""
        import {{ readFileSync }} from "node:fs";
        import {{ normalise, resize }} from {json.dumps((tmp_path / "resize.mjs").as_uri())};
        const {{ ways, pictures }} = JSON.parse(readFileSync({json.dumps(str(tmp_path / "given.json"))}));
        for (const picture of pictures) picture.data = Uint8ClampedArray.from(picture.data);
        console.log(JSON.stringify(ways.map((way) => pictures.map((picture) =>
          Array.from(normalise(resize(picture, way), way.scale, way.shift))))));
        """
    )
    shutil.copy(PROGRAM / "resize.js", tmp_path / "resize.mjs")
    done = subprocess.run(["node", tmp_path / "run.mjs"], capture_output=True, text=True, check=True)
    for way, row in zip(WAYS, json.loads(done.stdout), strict=True):
        for picture, found in zip(pictures(), row, strict=True):
            np.testing.assert_array_equal(np.float32(found), way.normalise(way.resize(picture)).ravel())


RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


def fake_packages(folder, package="onnxruntime-web", files=RUNTIME):
    (folder / package / "dist").mkdir(parents=True)
    for file in files:
        (folder / package / "dist" / file).write_bytes(b"")
    return folder


def test_the_folder_holds_all_that_the_page_loads(tmp_path):
    run = made_web_run(tmp_path / "<run>")
    with pytest.raises(ex.InputError, match=r"npm install onnxruntime-web.*--node-modules"):
        write_web_page(run, tmp_path / "nowhere")
    assert not (run.path / "web").exists()
    folder = write_web_page(run, fake_packages(tmp_path / "node_modules"))
    page = (folder / "index.html").read_text()
    assert "&lt;run&gt;" in page
    assert "60% of the full network" in page
    assert "<!--" not in page
    there = {file.name for file in folder.iterdir()}
    page = {"index.html", "page.css", "page.js", "image.js", "resize.js", "about.json", "model.onnx"}
    assert there == page | set(RUNTIME)
    run.save_policy(run.policy)
    assert not (folder / "model.onnx").exists()  # its policy is another


def test_tokenisers_lie_in_the_page_whatever_the_models_are_called(tmp_path, monkeypatch):
    """A name may lead to another folder, or mean something in an address."""
    run = made_text_run(tmp_path / "run", pytest.importorskip("transformers"))
    names = [f"{model}/{one}" for model in ("../../../out", "a#b") for one in ("input_ids", "attention_mask")]
    ways = [Preparation(tuple(names[:2]), run), Preparation(tuple(names[2:]), run)]
    made = SimpleNamespace(preparations=ways, save=lambda file: file.write_bytes(b""))
    monkeypatch.setattr("exeunt.onnx.web_page.RunInOneFile", lambda _: made)
    packages = fake_packages(tmp_path / "node_modules")
    folder = write_web_page(run, fake_packages(packages, "@huggingface/tokenizers", ["tokenizers.min.mjs"]))
    about = json.loads((folder / "about.json").read_text())
    assert [way["inputs"] for way in about["prepare"]] == [names[:2], names[2:]]
    assert [way["folder"] for way in about["prepare"]] == ["tokenizer", "tokenizer1"]
    assert all((folder / way["folder"] / "tokenizer.json").is_file() for way in about["prepare"])


# -- in the browser ------------------------------------------------------------------------------------------


class _Files(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *_):
        pass


@pytest.fixture
def served(browser):
    """Open a folder's page at a width; at the end, no error was logged."""
    servers = []

    def opened(folder, width=1200):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=folder))
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        servers.append(server)
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.set_script_timeout(60)
        browser.get(f"http://127.0.0.1:{server.server_port}/")
        browser.execute_async_script(
            "const done = arguments[0]; import('./page.js').then(() => done(), (error) => done(String(error)))"
        )
        return browser

    yield opened
    for server in servers:
        server.shutdown()
        server.server_close()
    assert browser.get_log("browser") == []


ANSWERS = """
const [files, done] = arguments;
import("./page.js").then(async (page) => {
  const found = [];
  for (const text of files) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const file = new File([bytes], "picture");
    const [tensor] = Object.values(await page.prepared(file));
    const answer = await page.answer(file);
    found.push({ ...answer, probabilities: Array.from(answer.probabilities), values: Array.from(tensor.data) });
  }
  return found;
}).then(done, (error) => done(String(error)));
"""


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.slow
def test_the_browser_answers_as_python_does(served, node_modules, tmp_path):
    run = made_web_run(tmp_path / "run", Preprocess(size=(SIDE, SIDE), interpolation="bicubic"))
    browser = served(write_web_page(run, node_modules))
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 40, (100, 2))
    some = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in sizes]
    turned = Image.Exif()
    turned[274] = 6  # a quarter turn
    files = [encoded(picture, "PNG") for picture in some]
    files += [encoded(some[0], "PNG", exif=turned), encoded(some[1].convert("L"), "PNG")]
    files += [encoded(some[2].convert("P"), "PNG"), encoded(some[3], "BMP"), encoded(some[4], "GIF")]
    runner = load(run, probabilities=True)
    expected_values = runner.prepare(files)
    expected = runner(expected_values)
    found = browser.execute_async_script(ANSWERS, [base64.b64encode(file).decode() for file in files])
    assert len(set(expected.exit.tolist())) > 1
    for i, one in enumerate(found):
        np.testing.assert_array_equal(np.float32(one["values"]), expected_values[i].ravel())
        if not expected.borderline[i]:
            for name in ("label", "exit", "cost"):
                assert one[name] == getattr(expected, name)[i]
            np.testing.assert_allclose(one["probabilities"], expected.probabilities[i], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 400])
def test_a_chosen_picture_is_answered_on_the_page(served, node_modules, tmp_path, width):
    run = made_web_run(tmp_path / "run")
    browser = served(write_web_page(run, node_modules), width)
    picture = tmp_path / "picture.png"
    picture.write_bytes(encoded(Image.new("RGB", (50, 30), (200, 20, 90)), "PNG"))
    expected = load(run)(load(run).prepare([picture]))
    browser.find_element("css selector", "input[type=file]").send_keys(str(picture))
    shown = _waited_for(browser, "answer")
    assert run.manifest["class_names"][expected.label[0]] in shown
    assert f"Answered at exit {expected.exit[0]}" in shown
    assert "3 MMACs" in shown
    assert "1 input so far" in shown
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    browser.find_element("css selector", "input[type=file]").send_keys(str(broken))
    assert "The browser cannot read this picture" in _waited_for(browser, "problem")


def _waited_for(browser, part):
    """The text of a part of the page, once it shows."""
    return browser.execute_async_script(
        """
        const [part, done] = arguments, element = document.getElementById(part);
        const look = () => (element.hidden ? setTimeout(look, 20) : done(element.innerText));
        look();
        """,
        part,
    )


@pytest.mark.slow
def test_typed_texts_are_answered_as_in_python(served, node_modules, tmp_path):
    run = made_text_run(tmp_path / "run", pytest.importorskip("transformers"))
    browser = served(write_web_page(run, node_modules))
    rng = np.random.default_rng(0)
    words = [*WORDS, "Good,", "BAD!", "plot", "film\u00e9"]
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(1, 5, 60)]
    runner = load(run)
    expected = runner(runner.prepare(texts))
    found = browser.execute_async_script(
        """
        const [texts, done] = arguments;
        import("./page.js").then(async (page) => {
          const found = [];
          for (const text of texts) found.push(await page.answer([text]));
          return found.map(({ label, exit }) => [label, exit]);
        }).then(done, (error) => done(String(error)));
        """,
        texts,
    )
    sure = ~expected.borderline
    np.testing.assert_array_equal(np.array(found)[sure], np.stack([expected.label, expected.exit], 1)[sure])
    assert set(expected.exit.tolist()) == {0, 1}
    browser.find_element("css selector", "textarea").send_keys("the good film")
    browser.find_element("css selector", "button").click()
    assert "1 input so far" in _waited_for(browser, "answer")
    area = browser.find_element("css selector", "textarea")
    area.clear()
    area.send_keys("good " * LONGEST)
    browser.find_element("css selector", "button").click()
    assert f"the network takes {LONGEST}: shorten it" in _waited_for(browser, "problem")
