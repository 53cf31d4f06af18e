"""A run at another precision: a run of its own, whose network is quantised and whose traces are recorded anew."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from job_inputs import copied, made_anew, quiet

import exeunt as ex
from exeunt._support import limits
from exeunt.data import open_inputs
from exeunt.jobs import precision_run, predict_inputs
from exeunt.jobs.precision_run import make_precision
from exeunt.onnx import quantisation
from exeunt.onnx.executor import OnnxExecutor
from exeunt.onnx.one_file import RunInOneFile
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import part_data
from exeunt.runs.runner import load
from exeunt.runs.verification import verify
from exeunt.torch.open_run import check_computes_in
from exeunt.torch.to_onnx import export_run

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def quantised(exported, tmp_path_factory) -> RunFolder:
    run = copied(exported, tmp_path_factory.mktemp("int8") / "run")
    return make_precision(run, "int8", say=quiet)


def test_the_trace_is_what_the_executor_says(exported, quantised):
    """Answered one by one, from the raw images: the same classes at every exit."""
    runner = load(quantised, policy=ex.eero(*parts(quantised), budget="60%"))
    data = part_data(quantised, "test")
    inputs = runner.prepare([data.content(i) for i in range(12)])
    state, _ = runner.executor.start(inputs)
    for segment, (first, last) in enumerate(runner.executor.segments):
        logits, state = runner.executor.run(segment, state, range(first, last + 1))
        found = np.stack([one.argmax(axis=1) for one in logits], axis=1)
        np.testing.assert_array_equal(found, quantised.trace("test").prediction[:12, first : last + 1])
    np.testing.assert_array_equal(quantised.trace("test").id, exported.trace("test").id)


def parts(run):
    return run.trace("fit"), run.trace("calibrate")


def test_ranges_are_those_of_training_inputs_alone(exported, tmp_path, monkeypatch):
    class EnoughError(Exception):
        pass

    def take(source, target, batches, **_):
        drawn.extend(row.tobytes() for batch in batches for array in batch.values() for row in array)
        raise EnoughError

    drawn: list[bytes] = []
    run = copied(exported, tmp_path / "run")
    monkeypatch.setattr(precision_run, "quantise_export", take)
    with pytest.raises(EnoughError):
        make_precision(run, "int8", say=quiet)
    runner = load(run, policy=ex.eero(*parts(run), budget="60%"))

    def rows_of(part):
        data = part_data(run, part)
        inputs = runner.prepare([data.content(i) for i in range(len(data))])
        return {row.tobytes() for row in np.asarray(inputs)}

    assert len(drawn) == min(512, len(part_data(run, "train")))
    assert {*drawn} <= rows_of("train")
    for part in ("fit", "calibrate", "test"):
        assert not {*drawn} & rows_of(part)


def test_eight_bit_integers_cross_the_cuts(quantised):
    executor = OnnxExecutor(quantised.path / "onnx")
    assert executor.cut.optimised
    state, _ = executor.start(np.zeros((3, 3, 8, 8), dtype=np.float32))
    _, state = executor.run(0, state, [0])
    assert {array.dtype for array in state.values()} == {np.dtype(np.uint8)}


def graphs(run):
    return [onnx.load(file).graph for file in sorted((run.path / "onnx").glob("*.onnx"))]


def test_average_pools_are_no_longer_there(quantised):
    kinds = {node.op_type for graph in graphs(quantised) for node in graph.node}
    assert "Conv" in kinds
    assert "AveragePool" not in kinds


def test_empty_channels_of_an_image_change_no_answer(exported, quantised, monkeypatch, tmp_path):
    """Quantised with three channels of its images and with four: the same logits, to the last bit."""
    monkeypatch.setattr(quantisation, "_fill_channels", lambda *_: [])
    plain = make_precision(copied(exported, tmp_path / "run"), "int8", say=quiet)
    images = np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)
    assert (first_weights(quantised), first_weights(plain)) == ((16, 4, 3, 3), (16, 3, 3, 3))
    for ours, theirs in zip(logits(quantised, images), logits(plain, images), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def first_weights(run):
    graph = graphs(run)[0]
    dims = {one.name: tuple(one.dims) for one in graph.initializer if len(one.dims) > 1}
    sizes = {node.output[0]: dims[name] for node in graph.node for name in node.input if name in dims}
    return sizes[next(node for node in graph.node if node.op_type == "Conv").input[1]]


def logits(run, images):
    executor = OnnxExecutor(run.path / "onnx", segments=((0, run.cost.n_exits - 1),))
    state, _ = executor.start(images)
    return executor.run(0, state, range(run.cost.n_exits))[0]


def test_channels_are_filled_where_windows_overlap_and_weights_serve_one_convolution():
    from one_file.made_stages import session, stage

    rng, node = np.random.default_rng(0), onnx.helper.make_node
    weights = {"overlapping": (8, 3, 3, 3), "patches": (8, 3, 2, 2), "grouped": (6, 1, 3, 3)}
    weights |= {"twice": (3, 3, 3, 3), "enough": (2, 8, 3, 3)}

    def convolution(name, given="x", stride=1, groups=1):
        options = {"strides": [stride, stride], "group": groups}
        return node("Conv", [given, name], [f"{name}/y"], name, **options)

    nodes = [convolution("overlapping"), convolution("patches", stride=2), convolution("grouped", groups=3)]
    nodes += [convolution("twice"), node("Conv", ["twice/y", "twice"], ["again/y"], "again")]
    nodes.append(convolution("enough", "overlapping/y"))
    outputs = ["patches/y", "grouped/y", "again/y", "enough/y"]
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in weights.items()}
    gives = {name: (onnx.TensorProto.FLOAT, ["rows", *"chw"]) for name in outputs}
    model = stage(0, nodes, tensors, {"x": (onnx.TensorProto.FLOAT, ["rows", 3, 9, 9])}, gives)
    images = {"x": rng.normal(size=(2, 3, 9, 9)).astype(np.float32)}
    before = session(model).run(outputs, images)
    assert quantisation._fill_channels(onnx, model) == ["overlapping/y/filled"]
    sizes = {one.name: tuple(one.dims) for one in model.graph.initializer if one.name in weights}
    assert sizes == {**weights, "overlapping": (8, 4, 3, 3)}
    onnx.checker.check_model(model)
    for ours, theirs in zip(session(model).run(outputs, images), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_it_is_a_run_like_any_other(quantised, tmp_path):
    name = f"{quantised.path.parent}@int8"
    run = RunFolder.open(name)
    run.save_policy(ex.eero(*parts(run), budget="60%"))
    assert {part.state for part in verify(name)} == {"ok"}
    summary = predict_inputs(run, part_data(run, "test"), tmp_path / "out.parquet", say=quiet)
    assert summary.n_unanswered == 0
    assert summary.mean_cost < 1.1 * run.policy.budget
    expected = ex.evaluate(run.policy, run.trace("test")).accuracy
    assert summary.n_right / summary.n_labelled == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", [".@int8", "@int8", "./@int8", "../run@int8", "int8"])
def test_it_is_found_from_inside_the_run(quantised, monkeypatch, name):
    monkeypatch.chdir(quantised.path.parent)
    assert RunFolder.open(name).digest == quantised.digest


def test_a_policy_of_another_precision_is_refused(exported, quantised):
    policy = ex.eero(*parts(exported), budget="60%")
    exported.save_policy(policy)
    shutil.copy(exported.path / "policy.json", quantised.path / "policy.json")
    with pytest.raises(ex.ArtefactError, match="calibrated for another network"):
        load(quantised)
    (quantised.path / "policy.json").unlink()


def test_what_cannot_be_had_is_said(exported, quantised, trained, tmp_path):
    policy = ex.eero(*parts(quantised), budget="60%")
    already = "is a run at int8 already: export the run that it was made"
    for call, said in (
        (lambda: RunFolder.open(f"{quantised.path.parent}@int4"), "choose a precision, int8"),
        (lambda: RunFolder.open(f"{trained.path}@int8"), "no int8 yet: run `exeunt export .* --precision"),
        (lambda: make_precision(exported, "int4"), "precision must be one of int8, bf16, fp16, got 'int4'"),
        (lambda: make_precision(trained, "int8"), r"run `exeunt export .*` first"),
        (lambda: load(quantised, executor="eager", policy=policy), r"onnx/manifest\.json, which only 'on"),
        (lambda: make_precision(quantised, "int8"), already),
        (lambda: make_precision(quantised, "bf16"), already),
    ):
        with pytest.raises(ex.InputError, match=said):
            call()
    moved = copied(quantised, tmp_path / "moved")  # it needs nothing around it
    assert moved.trace("fit").n == quantised.trace("fit").n


def test_a_run_that_was_trained_again_has_no_use_for_it(exported, quantised, tmp_path):
    run = shutil.copytree(quantised.path.parent, tmp_path / "run")
    weights = run / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    made_anew(RunFolder.open(run))
    with pytest.raises(ex.ArtefactError, match="made from other weights"):
        RunFolder.open(f"{run}@int8")


def test_it_is_one_file_with_its_policy(quantised, tmp_path):
    quantised.save_policy(ex.eero(*parts(quantised), budget="60%"))
    RunInOneFile(quantised).save(tmp_path / "one.onnx")
    alone = onnxruntime.InferenceSession(tmp_path / "one.onnx", providers=["CPUExecutionProvider"])
    data = open_inputs("sklearn:digits")
    runner, keys = load(quantised), data.content_keys(range(100))
    prepared = runner.prepare([data.content(i) for i in range(100)])
    expected = runner(prepared, id=keys)
    for i in np.flatnonzero(~expected.borderline):
        found = alone.run(["label", "exit"], {"x": prepared[i : i + 1], "key": keys[i : i + 1]})
        assert tuple(found) == (expected.label[i], expected.exit[i])
    assert len(set(expected.exit.tolist())) > 1


# -- 16 bits -----------------------------------------------------------------------------------------------


def computes_in(precision):
    try:
        check_computes_in(precision)
    except ex.InputError:
        return False
    return True


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_16_bits_is_one_like_any_other_where_the_machine_has_them(exported, precision, tmp_path):
    outer = copied(exported, tmp_path / "run")
    if not computes_in(precision):
        with pytest.raises(ex.InputError, match=f"cpu has no arithmetic in {precision}"):
            make_precision(outer, precision, say=quiet)
        assert not (outer.path / precision).exists()
        return
    run = make_precision(outer, precision, say=quiet)
    before, after = exported.trace("test"), run.trace("test")
    np.testing.assert_array_equal(before.id, after.id)
    assert 0 < np.abs(before.scores["margin"] - after.scores["margin"]).max() < 0.5
    assert np.mean(before.prediction == after.prediction) > 0.98
    policy = ex.eero(*parts(run), budget="60%")
    run.save_policy(policy)
    assert {part.state for part in verify(f"{outer.path}@{precision}")} == {"ok"}
    runner = load(run)
    assert runner.executor.name == "eager"
    data = part_data(run, "test")
    answers = runner(runner.prepare([data.content(i) for i in range(40)]), id=after.id[:40])
    sure = ~answers.borderline
    np.testing.assert_array_equal(answers.exit[sure], policy.route(after)[:40][sure])
    with pytest.raises(ex.InputError, match=f"at {precision} already: export the run that it was made from"):
        export_run(run)
    with pytest.raises(ex.ArtefactError, match="calibrated for another"):
        load(outer, policy=run.policy)


def test_no_machine_makes_bits_that_it_lacks(exported, tmp_path, monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_amx_fp16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    monkeypatch.setattr("exeunt.torch.open_run.best_device", lambda: torch.device("cpu"))
    outer = copied(exported, tmp_path / "run")
    for precision in ("bf16", "fp16"):
        with pytest.raises(ex.InputError, match="which would only make the network slower here"):
            make_precision(outer, precision, say=quiet)
    assert [path.name for path in outer.path.iterdir() if "16" in path.name] == []


def processor(monkeypatch, file, machine="x86_64"):
    """Where Linux tells what the processor has."""
    monkeypatch.setattr(limits, "_PROCESSOR", file)
    monkeypatch.setattr(limits.platform, "machine", lambda: machine)


def made(exported, folder, monkeypatch, flags):
    """The int8 run and what is said, on a processor with these flags."""
    (folder / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\nbugs : none\n")
    processor(monkeypatch, folder / "cpuinfo")
    said = []
    return make_precision(copied(exported, folder / "run"), "int8", say=said.append), "\n".join(said)


def weights_of(graph):
    return [one for one in graph.initializer if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1]


def largest_weight(run):
    values = [onnx.numpy_helper.to_array(one) for graph in graphs(run) for one in weights_of(graph)]
    return max(int(np.abs(value.astype(int)).max()) for value in values)


@pytest.mark.parametrize(("flags", "bits"), [("avx2 avx512f", 7), ("avx_vnni", 8), ("avx512_vnni", 8)])
def test_weights_have_seven_bits_where_sums_would_overflow(exported, tmp_path, monkeypatch, flags, bits):
    run, said = made(exported, tmp_path, monkeypatch, flags)
    assert ("no VNNI: weights get 7 bits" in said) == ("VNNI" in said) == (bits == 7)
    assert "compared with fp32: exit " in said
    assert 2 ** (bits - 2) < largest_weight(run) <= 2 ** (bits - 1)
    assert np.mean(exported.trace("test").prediction == run.trace("test").prediction) > 0.95


def test_an_int8_network_that_answers_otherwise_is_refused(exported, tmp_path, monkeypatch):
    """As where sums overflow: here all weights are of the wrong sign."""
    by_ranges = quantisation._by_ranges

    def broken(*given):
        models = by_ranges(*given)
        for one in (weight for model in models for weight in weights_of(model.graph)):
            one.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(one), one.name))
        return models

    monkeypatch.setattr(quantisation, "_by_ranges", broken)
    said = r"int8 answers too differently from fp32: exit \d moves .*at most 20%"
    with pytest.raises(ex.InputError, match=said):
        made(exported, tmp_path, monkeypatch, "avx_vnni")


@pytest.mark.parametrize(("machine", "there"), [("aarch64", True), ("x86_64", False)])
def test_other_processors_and_systems_that_do_not_tell(tmp_path, monkeypatch, machine, there):
    (tmp_path / "cpuinfo").write_text("flags : fpu\n")
    processor(monkeypatch, tmp_path / ("cpuinfo" if there else "none"), machine)
    assert not limits.adds_products_in_16_bits()
