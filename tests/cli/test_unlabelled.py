"""`exeunt train --unlabelled` and every command after it: no input needs a label."""

from __future__ import annotations

import io
import json
import shutil
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import exeunt as ex
from cut_once import cut_once
from exeunt.runs.folder import RunFolder

from .command import exeunt

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")

HEADS = "--exits 3 --epochs 6 --size 8 --mean 0.3,0.3,0.3 --std 0.38,0.38,0.38"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained network, and with runs of labelled and of unlabelled heads on it."""
    made = tmp_path_factory.mktemp("unlabelled")
    save_trained(made / "digits.safetensors")
    exeunt(train("labelled"), cwd=made)
    done = exeunt(train("run", "--unlabelled --label-column none"), cwd=made)
    (made / "said.txt").write_text(done.stdout)
    return made


@pytest.fixture(autouse=True, scope="module")
def _cut_once():
    with cut_once(lambda run: run.weights.read_bytes()):
        yield


def train(out, options="", data="sklearn:digits"):
    model = "--model exeunt.zoo:digits --weights digits.safetensors"
    return f"train {model} --data {data} --out {out} {HEADS} {options}"


def pixels():
    from exeunt.data import open_source

    train = open_source("sklearn:digits").train
    return train.stored.pixels, train.labels


def save_trained(path):
    from safetensors.torch import save_file

    from exeunt.zoo import digits

    images, labels = pixels()
    x, y = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.3) / 0.38, torch.from_numpy(labels)
    torch.manual_seed(0)
    network = digits()
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(10):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimiser.step()
    save_file(network.state_dict(), path)


def accuracies(folder, name):
    """The accuracy of each exit of a run on the test inputs, by the labels that the labelled run knows."""
    label, trace = (RunFolder.open(folder / one).labelled_trace("test") for one in ("labelled", name))
    assert np.array_equal(label.id, trace.id)
    return (trace.prediction == label.label[:, None]).mean(axis=0)


def test_heads_learn_as_much_without_labels(folder):
    labelled, unlabelled = accuracies(folder, "labelled"), accuracies(folder, "run")
    assert labelled[-1] == unlabelled[-1]  # the network's own
    assert (unlabelled > labelled - 0.02).all()
    assert unlabelled[0] > 0.9


def test_a_run_without_labels_is_measured_by_agreement(folder):
    run = RunFolder.open(folder / "run")
    assert run.labelled_trace("test").label is None
    assert "label" not in pq.read_schema(folder / "run" / "traces" / "test.parquet").names
    trace = run.trace("test")
    assert (trace.reference, trace.measure) == ("the full network", "agreement")
    assert np.array_equal(trace.label, trace.prediction[:, -1])
    agree = ", ".join(f"{1 - risk:.1%}" for risk in trace.risk)
    said = (folder / "said.txt").read_text()
    assert f"agreement of each exit with the full network on the test part: {agree}" in said
    assert "accuracy" not in said


def test_every_command_works_without_labels(folder):
    def said(arguments):
        return exeunt(arguments, cwd=folder).stdout

    certified = said("calibrate run --max-loss 8% --policy eero")
    assert "at most 8% of the answers differ from those of the full network" in certified
    assert said("calibrate run --agree 92% --policy eero") == certified
    said("calibrate run --budgets 50%,70% --delta none --policy eero")
    assert " agreement " in said("evaluate run --no-figures").splitlines()[1]
    said("calibrate run --budget 60%")
    told = said("evaluate run --no-figures")
    found, run = json.loads((folder / "run" / "evaluation.json").read_text()), RunFolder.open(folder / "run")
    accuracy = ex.evaluate(run.policy, run.trace("test")).accuracy
    assert f"agreement {accuracy:.2%}" in told
    assert f"answering early changes {1 - accuracy:.2%} of the answers of the full network" in told
    assert (found["measure"], found["accuracy"]) == ("agreement", accuracy)
    assert found["full_network_accuracy"] is None
    assert "right" not in told

    assert "disagreement" in said("show run")
    assert "agreement/accuracy" in said("diff run labelled")
    said("verify run")
    (folder / "pictures").mkdir()
    for i, image in enumerate(pixels()[0][:30]):
        Image.fromarray(image).save(folder / "pictures" / f"{i:02d}.png")
    assert len(said("predict run --data pictures").splitlines()) == 31
    said("record run --data pictures --out recorded")
    said("calibrate run --budget 60% --traces recorded --delta none --policy eero")
    for options, own in (("--traces recorded", False), ("", True), ("--budget 90%", True)):
        said(f"calibrate run --agree 60% --policy eero {options}")
        with patch.object(ex, "evaluate", wraps=ex.evaluate) as evaluated:
            said("evaluate run --no-figures")
        # Compared with the calibration inputs of the run only if it was made from these.
        assert (evaluated.call_args_list[0].kwargs["calibration"] is not None) == own
    said("compare run --budgets 60% --splits 1 --policies eero,auto --workers 0 --out report.html")


def test_the_accuracy_comes_beside_the_agreement_where_the_test_inputs_have_labels(folder, tmp_path):
    write_table(tmp_path / "train.parquet", slice(0, 700), labelled=20)
    write_table(tmp_path / "test.parquet", slice(700, 1200), labelled=500)
    shutil.copy(folder / "digits.safetensors", tmp_path)
    exeunt(train("run", "--unlabelled --unseen --epochs 2", data="."), cwd=tmp_path)
    exeunt("calibrate run --budget 60% --delta none --policy eero", cwd=tmp_path)
    said = exeunt("evaluate run --no-figures", cwd=tmp_path).stdout
    run = RunFolder.open(tmp_path / "run")
    lacks = [run.labelled_trace(part).label is None for part in ("fit", "calibrate", "test")]
    assert lacks == [True, True, False]
    assert f"the full network is {1 - run.labelled_trace('test').risk[-1]:.2%} right: answering early" in said
    assert "agreement " in said


def write_table(path, rows, *, labelled):
    """A table of digits of which the first so many have a label."""
    images, labels = pixels()
    cells = []
    for image in images[rows]:
        Image.fromarray(image).save(content := io.BytesIO(), "png")
        cells.append({"bytes": content.getvalue(), "path": None})
    known = [int(k) if i < labelled else None for i, k in enumerate(labels[rows])]
    pq.write_table(pa.table({"img": cells, "label": pa.array(known, pa.int64())}), path)


@pytest.mark.slow
def test_exports_cascades_and_servers_take_a_run_without_labels(folder):
    pytest.importorskip("onnxscript")
    from exeunt.serve.loaded_run import load_run
    from exeunt.serve.settings import Settings

    done = exeunt("export run --precision int8", cwd=folder)
    assert "The agreement of the last exit is " in done.stdout
    exeunt("calibrate run --budget 60%", cwd=folder)
    exeunt("export run --one-file", cwd=folder)
    loaded = load_run(Settings(run=folder / "run", executor="onnx"))
    assert list(loaded.accuracy.values()) == [pytest.approx(1.0, abs=0.1)]
    assert "agreement" in exeunt("bench run --batch-size 8 --repeats 2", cwd=folder).stdout
    # Of equally expensive models the last is the reference. The labels that one model knows are those of all.
    for name, models, shown in (
        ("same", "run@int8 run", ["agreement", "of the answers of run"]),
        ("mixed", "run labelled", ["accuracy", "run alone is"]),
    ):
        exeunt(f"cascade {models} --out {name}", cwd=folder)
        exeunt(f"calibrate {name} --budget 60%", cwd=folder)
        said = exeunt(f"evaluate {name} --no-figures", cwd=folder).stdout
        assert all(text in said for text in shown), said
