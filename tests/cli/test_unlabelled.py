"""`exeunt train --unlabelled` and every command after it: no input needs a label."""

from __future__ import annotations

import json
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

CLASSES = 10
HEADS = ["--exits", "3", "--epochs", "10", "--size", "8", "--mean", "0.3,0.3,0.3", "--std", "0.38,0.38,0.38"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a trained network, and with runs of labelled and of unlabelled heads on it."""
    made = tmp_path_factory.mktemp("unlabelled")
    save_trained(made / "digits.safetensors")
    exeunt(*train("labelled"), cwd=made)
    done = exeunt(*train("run", "--unlabelled", "--label-column", "none"), cwd=made)
    (made / "said.txt").write_text(done.stdout)
    return made


@pytest.fixture(autouse=True, scope="module")
def _cut_once():
    with cut_once(lambda run: run.weights.read_bytes()):
        yield


def train(out, *options, data="sklearn:digits"):
    model = ["--model", "exeunt.zoo:digits", "--weights", "digits.safetensors"]
    return ["train", *model, "--data", data, "--out", out, *HEADS, *options]


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
    cwd = folder
    certified = exeunt("calibrate", "run", "--max-loss", "8%", cwd=cwd).stdout
    assert "at most 8% of the answers differ from those of the full network" in certified
    assert exeunt("calibrate", "run", "--agree", "92%", cwd=cwd).stdout == certified
    exeunt("calibrate", "run", "--budgets", "50%,70%", "--delta", "none", cwd=cwd)
    table = exeunt("evaluate", "run", "--no-figures", cwd=cwd).stdout
    assert " agreement " in table.splitlines()[1]
    exeunt("calibrate", "run", "--budget", "60%", cwd=cwd)
    done = exeunt("evaluate", "run", "--no-figures", cwd=cwd)
    found = json.loads((cwd / "run" / "evaluation.json").read_text())
    test = RunFolder.open(cwd / "run").trace("test")
    expected = ex.evaluate(RunFolder.open(cwd / "run").policy, test)
    assert f"agreement {expected.accuracy:.2%}" in done.stdout
    assert (
        f"answering early changes {1 - expected.accuracy:.2%} of the answers of the full network"
        in done.stdout
    )
    assert (found["measure"], found["accuracy"]) == ("agreement", expected.accuracy)
    assert found["full_network_accuracy"] is None
    assert "right" not in done.stdout

    assert "disagreement" in exeunt("show", "run", cwd=cwd).stdout
    assert "agreement/accuracy" in exeunt("diff", "run", "labelled", cwd=cwd).stdout
    exeunt("verify", "run", cwd=cwd)
    (cwd / "pictures").mkdir()
    for i, image in enumerate(pixels()[0][:30]):
        Image.fromarray(image).save(cwd / "pictures" / f"{i:02d}.png")
    answers = exeunt("predict", "run", "--data", "pictures", cwd=cwd).stdout.splitlines()
    assert len(answers) == 31
    exeunt("record", "run", "--data", "pictures", "--out", "recorded", cwd=cwd)
    exeunt("calibrate", "run", "--budget", "60%", "--traces", "recorded", "--delta", "none", cwd=cwd)
    for options, own in ((["--traces", "recorded"], False), ([], True), (["--budget", "90%"], True)):
        exeunt("calibrate", "run", "--agree", "60%", "--policy", "eero", *options, cwd=cwd)
        with patch.object(ex, "evaluate", wraps=ex.evaluate) as evaluated:
            exeunt("evaluate", "run", "--no-figures", cwd=cwd)
        # Compared with the calibration inputs of the run only if it was made from these.
        assert (evaluated.call_args_list[0].kwargs["calibration"] is not None) == own
    budgets = ["--budgets", "60%", "--splits", "2", "--policies", "eero,auto", "--workers", "0"]
    exeunt("compare", "run", *budgets, "--out", "report.html", cwd=cwd)


def test_the_accuracy_comes_beside_the_agreement_where_the_test_inputs_have_labels(folder, tmp_path):
    parts = {"train": slice(0, 700), "test": slice(700, 1200)}
    for part, rows in parts.items():
        write_table(tmp_path / f"{part}.parquet", rows, labelled=500 if part == "test" else 20)
    (tmp_path / "digits.safetensors").write_bytes((folder / "digits.safetensors").read_bytes())
    exeunt(*train("run", "--unlabelled", "--unseen", data="."), cwd=tmp_path)
    exeunt("calibrate", "run", "--budget", "60%", "--delta", "none", cwd=tmp_path)
    said = exeunt("evaluate", "run", "--no-figures", cwd=tmp_path).stdout
    run = RunFolder.open(tmp_path / "run")
    assert [run.labelled_trace(part).label is None for part in ("fit", "calibrate", "test")] == [
        True,
        True,
        False,
    ]
    assert f"the full network is {1 - run.labelled_trace('test').risk[-1]:.2%} right: answering early" in said
    assert "agreement " in said


def write_table(path, rows, *, labelled):
    """A table of digits of which the first so many have a label."""
    import io

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

    done = exeunt("export", "run", "--precision", "int8", cwd=folder)
    assert "The agreement of the last exit is " in done.stdout
    exeunt("calibrate", "run", "--budget", "60%", cwd=folder)
    exeunt("export", "run", "--one-file", cwd=folder)
    loaded = load_run(Settings(run=folder / "run", executor="onnx"))
    assert list(loaded.accuracy.values()) == [pytest.approx(1.0, abs=0.1)]
    assert "agreement" in exeunt("bench", "run", "--batch-size", "8", "--repeats", "2", cwd=folder).stdout
    # Of equally expensive models the last is the reference. The labels that one model knows are those of all.
    for name, models, shown in (
        ("same", ["run@int8", "run"], ["agreement", "of the answers of run"]),
        ("mixed", ["run", "labelled"], ["accuracy", "run alone is"]),
    ):
        exeunt("cascade", *models, "--out", name, cwd=folder)
        exeunt("calibrate", name, "--budget", "60%", cwd=folder)
        said = exeunt("evaluate", name, "--no-figures", cwd=folder).stdout
        assert all(text in said for text in shown), said
