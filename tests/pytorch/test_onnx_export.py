"""Run folders open in PyTorch if they may, and exported they answer as PyTorch does, cut anywhere, without PyTorch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import transformers
from onnx_stages import check_logits

import exeunt as ex
from exeunt._support.sealed_json import DIGEST, content_digest
from exeunt.cli.bench import bench
from exeunt.cli.export import export
from exeunt.data import Preprocess
from exeunt.engine.engine import Engine
from exeunt.engine.inputs import input_keys
from exeunt.engine.plan import Plan
from exeunt.errors import ArtefactError, InputError
from exeunt.onnx.executor import OnnxExecutor, open_onnx
from exeunt.onnx.manifest import OnnxManifest
from exeunt.runs.folder import RunFolder
from exeunt.runs.runner import load
from exeunt.timing.timing_tools import describe_machine
from exeunt.torch import attach, record
from exeunt.torch.models.by_name import build_model
from exeunt.torch.models.preparation import save_preparation
from exeunt.torch.models.weights import save_weights
from exeunt.torch.open_run import load_network, open_eager
from exeunt.torch.to_onnx import _distance, export_network, export_run, refuse_differences
from exeunt.zoo import digits

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("onnxscript")

ABSENT = {
    "torch", "torchvision", "timm", "transformers", "safetensors", "onnx", "onnxscript", "PIL", "matplotlib", "typer",
    "rich", "sklearn", "pandas",
}  # fmt: skip
SEGMENTS = (None, ((0, 3),), ((0, 1), (2, 3)), ((0, 0), (1, 3)))


def silent(_: str) -> None:
    pass


def noise(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def run_of_noise(
    folder: Path, spec: str = "exeunt.zoo:digits", n: int = 30, cost_factor: float = 1.0
) -> tuple[RunFolder, list[torch.Tensor]]:
    """A run folder whose manifest says that `spec` makes its network, and the network's logits."""
    torch.manual_seed(0)
    images = noise(n)
    network = attach(digits(), images[:2], 3, verbose=False).eval()
    save_weights(network, folder / "weights.safetensors")
    trace = record(network, [(images, torch.zeros(n, dtype=torch.int64), torch.arange(n))])
    about = {
        "model": {"spec": spec, "n_classes": 10, "macs": network.backbone_macs},
        "network": network.config(),
        "inputs": save_preparation(Preprocess(size=(8, 8)), folder, images[:2]),
        "class_names": list("0123456789"),
        "data": {"name": "noise"}, "split": {}, "training": {}, "provenance": {},
    }  # fmt: skip
    parts = dict(zip(("fit", "calibrate", "test"), trace.split(), strict=True))
    cost = type(network.cost)(network.cost.cumulative * cost_factor, unit=network.cost.unit)
    RunFolder.create(folder, cost=cost, traces=parts, about=about)
    with torch.no_grad():
        return RunFolder.open(folder), network(images)


@pytest.fixture(scope="module")
def images():
    return noise(60)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with a policy, exported."""
    made, _ = run_of_noise(tmp_path_factory.mktemp("made"), n=60)
    made.save_policy(ex.eero(made.trace("fit"), made.trace("calibrate"), budget="70%"))
    export_run(made, say=silent)
    return made.path


@pytest.mark.parametrize("optimised", [True, False])
@pytest.mark.parametrize("segments", SEGMENTS)
def test_logits_are_those_of_pytorch_wherever_it_is_cut(run, images, segments, optimised):
    executor = OnnxExecutor(run / "onnx", segments=segments, threads=1, optimised=optimised)
    assert executor.cut.optimised is optimised
    check_logits(executor, load_network(RunFolder.open(run)), images[:7])


def test_one_file_answers_as_the_stages_do(run, images):
    export(run, one_file=True)  # of the stages that are there
    folder = RunFolder.open(run)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    alone = onnxruntime.InferenceSession(run / "one-file.onnx", options, providers=["CPUExecutionProvider"])
    expected = Engine(open_onnx(folder, threads=1), folder.policy, probabilities=True).answer(images.numpy())
    keys = input_keys(images.numpy(), len(images))
    for i in np.flatnonzero(~expected.borderline):
        given = {"x": images[i : i + 1].numpy(), "key": keys[i : i + 1]}
        label, probabilities, exit_, cost = alone.run(["label", "probabilities", "exit", "cost"], given)
        assert (label, exit_, cost) == (expected.label[i], expected.exit[i], expected.cost[i])
        np.testing.assert_allclose(probabilities[0], expected.probabilities[i], atol=1e-5)
    assert len(set(expected.exit.tolist())) > 1
    folder.save_policy(folder.policy)
    assert not (run / "one-file.onnx").exists()  # its policy is another


def test_it_runs_without_torch_and_onnx(run, images, tmp_path):
    np.save(tmp_path / "images.npy", images.numpy())
    code = f"""
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import numpy as np
from exeunt.runs import load
runner = load({str(run)!r}, threads=1)
assert runner.executor.name == "onnx"
found = runner(np.load({str(tmp_path / "images.npy")!r}))
print(json.dumps([found.label.tolist(), found.exit.tolist()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = RunFolder.open(run)
    here = Engine(open_onnx(folder, threads=1), folder.policy).answer(images.numpy())
    assert json.loads(done.stdout) == [here.label.tolist(), here.exit.tolist()]


@pytest.mark.parametrize(("threads", "machine", "expected"), [(None, 8, 2), (None, 2, 0), (3, 8, 3)])
def test_sessions_keep_within_the_limit_of_a_container(run, monkeypatch, threads, machine, expected):
    monkeypatch.setattr("exeunt.onnx.executor.usable_cores", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: machine)
    executor = OnnxExecutor(run / "onnx", threads=threads)
    session, _ = executor._session(range(1), (executor.manifest.stages[0].logits,))
    assert session.get_session_options().intra_op_num_threads == expected


def test_heads_that_nobody_wants_are_not_in_the_session(run):
    executor = OnnxExecutor(run / "onnx", segments=((0, 3),), threads=1)
    graph, logits = executor.cut.graphs[0], [f"exit{i}/logits" for i in range(4)]
    few, all_ = graph.needed(logits[3:]), graph.needed(logits)
    assert len(few) < len(all_) == len(graph.nodes)
    state, _ = executor.start(np.zeros((2, 3, 8, 8), np.float32))
    found, _ = executor.run(0, state, [1, 3])
    assert [values.shape for values in found] == [(2, 10)] * 2


def test_rows_of_several_states_are_joined_in_order(run, images):
    executor, inputs = OnnxExecutor(run / "onnx", threads=1), images[:9].numpy()
    parts = (inputs[:3], inputs[3:6], inputs[6:], inputs)
    *states, whole = (executor.run(0, executor.start(part)[0], [])[1] for part in parts)
    rows = (np.array([0, 2]), slice(1, 3), None)
    for name, value in executor.gather([*zip(states, rows, strict=True)]).items():
        np.testing.assert_allclose(value, whole[name][[0, 2, 4, 5, 6, 7, 8]], atol=1e-6)


def test_nan_is_flagged_and_other_sizes_are_refused(run, images):
    executor = OnnxExecutor(run / "onnx", threads=1)
    spoilt = images[:3].numpy().copy()
    spoilt[1, 0, 0, 0] = np.inf
    assert executor.start(spoilt)[1].tolist() == [True, False, True]
    with pytest.raises(ex.InputError, match=r"x must have shape \(n, 3, 8, 8\).*use the eager executor"):
        executor.start(np.zeros((2, 3, 9, 8), np.float32))


def test_a_difference_is_refused_with_its_exit():
    with pytest.raises(ex.InputError, match=r"exit 1 computes other values .* differ by 0\.01"):
        refuse_differences([0.0, 0.01])
    with pytest.raises(ex.InputError, match="exit 0"):
        refuse_differences([float("nan")])


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1, 2], 0), ([1, 2.5], 0.25), ([np.nan, 2], np.inf), ([np.inf, 2], np.inf), ([1], np.inf)],
)
def test_nan_and_other_shapes_are_infinitely_far_from_what_pytorch_computes(value, expected):
    assert _distance(np.array(value, np.float32), torch.tensor([1.0, 2.0])) == expected


def test_an_export_of_other_weights_is_refused(run, tmp_path):
    run = RunFolder.open(shutil.copytree(run, tmp_path / "run"))
    files = {**run.manifest["files"], "weights.safetensors": "0" * 64}
    trained_anew = RunFolder(run.path, {**run.manifest, "files": files})
    with pytest.raises(ex.InputError, match=r"exported from another network than .*holds: export it again"):
        load(trained_anew)


def test_the_plan_of_this_machine_is_used_and_that_of_another_is_not(run, tmp_path):
    run = RunFolder.open(shutil.copytree(run, tmp_path / "run"))
    fused = Plan("onnx", ((0, 1), (2, 3)), (7, 9), machine=describe_machine() | {"node": "a sister"})
    run.save_plan(fused)
    assert load(run).plan == fused
    assert load(run).executor.segments == fused.segments
    elsewhere = replace(fused, machine=describe_machine() | {"processor": "another"})
    run.save_plan(elsewhere)
    assert len(load(run).plan.segments) == 4
    assert load(run, plan=elsewhere).plan == elsewhere  # asked for


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["eager", "onnx"])
def test_bench_measures_plans_and_draws(run, tmp_path, capsys, executor):
    folder = shutil.copytree(run, tmp_path / "run")
    once = {"executor": executor, "repeats": 1, "max_seconds": 0.0, "trusted": None}
    if executor == "onnx":
        bench(folder, profile=False, batch_size="2", **once)
        assert f"exeunt bench {folder} --profile" in capsys.readouterr().out
    bench(folder, profile=True, batch_size="3,1", **once)
    text = capsys.readouterr().out
    assert f"{executor}, original model = 100%" in text
    assert "budget 60%, by the plan" in text
    efficiency = [line.split("  ")[0] for line in text.splitlines() if "efficiency" in line]
    assert efficiency == ["batch 1", "batch 3"]
    plan = RunFolder.open(folder).plan(executor)
    assert plan is not None
    assert load(folder, executor=executor).plan == plan
    assert (folder / "figures" / f"accuracy_against_time-{executor}.svg").is_file()
    with pytest.raises(ex.InputError, match="batch sizes must be whole numbers of at least 1"):
        bench(folder, profile=False, batch_size="0,x", **once)


@pytest.mark.slow
def test_export_tells_how_far_it_is_from_pytorch(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    export(folder, trusted=None)
    assert "4 stages written to" in (printed := capsys.readouterr().out)
    assert "opset 18; they differ from PyTorch by at most" in printed


def test_what_was_damaged_is_refused(run, tmp_path):
    for name in ("manifest.json", "stage-01.onnx"):
        copy = shutil.copytree(run / "onnx", tmp_path / name / "onnx")
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(ex.ArtefactError):
            OnnxManifest.load(copy)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("shape", [3, 8, 8], "has no rows on axis 0"),
        ("shape", [None, 8, 8], "describes x as float32 of shape .None, 8, 8., its stage as"),
        ("shape", [None, "3", 8, 8], "must be a whole number"),
        ("dtype", "float64", "describes x as float64"),
        ("batch_dim", 1, "must be on axis 0"),
    ],
)
def test_a_manifest_that_describes_other_inputs_is_refused(run, tmp_path, name, value, reason):
    copy = shutil.copytree(run / "onnx", tmp_path / "onnx")
    document = json.loads((copy / "manifest.json").read_text())
    (input_,) = document["export"]["inputs"]
    document["export"]["tensors"][input_][name] = value
    (copy / "manifest.json").write_text(json.dumps({**document, DIGEST: content_digest(document["export"])}))
    with pytest.raises(ex.ArtefactError, match=reason):
        OnnxExecutor(copy)


def test_a_manifest_of_stages_that_take_other_tensors_is_refused(run, tmp_path):
    copy = shutil.copytree(run / "onnx", tmp_path / "onnx")
    document = json.loads((copy / "manifest.json").read_text())
    document["export"]["stages"][1]["takes"] += document["export"]["inputs"]
    (copy / "manifest.json").write_text(json.dumps({**document, DIGEST: content_digest(document["export"])}))
    with pytest.raises(
        ex.ArtefactError, match=r"says that stage-01.onnx takes .*, x, but it takes .*: export it"
    ):
        OnnxExecutor(copy)


@pytest.mark.slow
def test_a_failed_export_leaves_the_one_before(run, monkeypatch):
    before = sorted(path.name for path in run.rglob("*"))
    monkeypatch.setattr("exeunt.torch.to_onnx.TOLERANCE", -1.0)
    with pytest.raises(ex.InputError, match="computes other values in ONNX Runtime"):
        export_run(RunFolder.open(run), say=silent)
    assert sorted(path.name for path in run.rglob("*")) == before
    provenance = OnnxManifest.load(run / "onnx").provenance
    assert provenance["opset"] == 18
    assert provenance["packages"]["torch"] == torch.__version__
    assert all(provenance["packages"][name] for name in ("exeunt", "onnx", "onnxscript", "onnxruntime"))


def test_one_that_fixes_the_number_of_rows_is_refused(tmp_path, images):
    class Counting(torch.nn.Linear):
        def forward(self, features):
            return super().forward(features.mean((2, 3))) / len(features)

    head = Counting(32, 10)
    network = attach(digits(), images[:2], ["blocks.3"], head=lambda *_: head, verbose=False).eval()
    with pytest.raises(ex.InputError, match="exit 0 works for one number of rows only"):
        export_network(network, images[:2], tmp_path, say=silent)


def test_a_network_opens_with_its_weights_in_the_segments_asked_for(tmp_path):
    run, expected = run_of_noise(tmp_path)
    network = load_network(run).cpu()
    assert not network.training
    with torch.no_grad():
        for logits, before in zip(network(noise(30)), expected, strict=True):
            torch.testing.assert_close(logits, before)
    assert open_eager(run).segments == ((0, 0), (1, 1), (2, 2), (3, 3))
    assert open_eager(run, segments=((0, 1), (2, 3))).segments == ((0, 1), (2, 3))


def test_code_of_the_run_folders_choice_is_not_run_unless_it_is_trusted(tmp_path):
    run, _ = run_of_noise(tmp_path, "no_such_module:network")
    with pytest.raises(InputError, match="if you trust it, say so with --model no_such_module:network"):
        load_network(run)
    with pytest.raises(InputError, match="no module 'no_such_module'"):
        load_network(run, trusted="no_such_module:network")


def test_a_network_that_is_built_differently_here_is_refused(tmp_path):
    run, _ = run_of_noise(tmp_path, cost_factor=2.0)
    with pytest.raises(ArtefactError, match="another version of its library"):
        load_network(run)


SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {"image_size": 32, "num_labels": 5}


VIT = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
SWIN = {"patch_size": 2, "embed_dim": 12, "depths": (1, 2), "num_heads": (2, 2), "window_size": 4}


def of_timm(name, sizes):
    return lambda: timm.create_model(name, img_size=32, num_classes=5, **sizes)


def by_name(name):
    return lambda: build_model(name, n_classes=5, weights=None)


def of_hugging_face(kind, **sizes):
    config = getattr(transformers, f"{kind}Config")
    return lambda: getattr(transformers, f"{kind}ForImageClassification")(config(**IMAGE, **sizes))


NETWORKS = {
    "timm vit": of_timm("vit_tiny_patch16_224", VIT),
    "timm deit": of_timm("deit_tiny_distilled_patch16_224", VIT),
    "timm swin": of_timm("swin_tiny_patch4_window7_224", SWIN),
    "vit": of_hugging_face("ViT", **SMALL, patch_size=8),
    "deit": of_hugging_face("DeiT", **SMALL, patch_size=8),
    # PyTorch's exporter refuses it as it is: it takes attention for one that is laid out otherwise.
    "swin": of_hugging_face("Swin", **SWIN),
    **{
        name: by_name(name) for name in ("torchvision:resnet18", "timm:convnext_atto", "timm:efficientnet_b0")
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_cut_at_every_block_and_exported(name, tmp_path):
    torch.manual_seed(0)
    images = torch.randn(5, 3, 32, 32)
    network = attach(NETWORKS[name](), images[:2], 2, verbose=False).eval()
    assert network.n_exits == 3
    manifest = export_network(network, images[:2], tmp_path, say=lambda _: None)
    assert max(stage.max_difference for stage in manifest.stages) < 1e-5
    executor = OnnxExecutor(tmp_path, threads=1)
    assert executor.cut.optimised
    check_logits(executor, network, images, rtol=1e-4)
