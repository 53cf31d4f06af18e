"""A run folder without a network, for what the command line does with recorded outputs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import exeunt as ex
from exeunt.runs.folder import RunFolder
from exeunt.runs.manifest import provenance

from .command import exeunt

SPLIT = {"source": "mine", "fingerprint": "0", "seed": 0, "pretrained": True, "matched_by": "content"}
ABOUT = {
    "model": {"spec": "mine:net", "weights": None, "n_classes": 5, "macs": 8.0},
    "network": {"exits": ("a", "b"), "head": "grid"},
    "inputs": {"kind": "text"},
    "class_names": [],
    "data": {"name": "mine", "label": None, "fingerprint": "0"},
    "split": {**SPLIT, "dropped": 0, "parts": {}},
    "training": {"mode": "frozen"},
    "provenance": provenance([], command="test", seed=0),
}


@pytest.fixture(scope="session")
def _whole(tmp_path_factory):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 5000)
    logits = rng.normal(size=(5000, 3, 5))
    logits[np.arange(5000), :, y] += [2.0, 4.0, 4.2]
    trace = ex.ExitTrace.from_logits(logits, cost=ex.CostModel([1e6, 2e6, 4e6]), label=y)
    parts = dict(
        zip(("fit", "calibrate", "test"), trace.split(fit=0.2, calibrate=0.4, test=0.4), strict=True)
    )
    folder = tmp_path_factory.mktemp("whole")
    (folder / "weights.safetensors").write_bytes(b"weights")
    return RunFolder.create(folder, cost=trace.cost, traces=parts, about=ABOUT).path


@pytest.fixture
def run(_whole, tmp_path):
    """A run folder of 3 exits, the last of which is hardly better than the second."""
    return RunFolder.open(shutil.copytree(_whole, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def not_drawn(monkeypatch):
    """Figures are made, and not drawn, which takes a second: test_end_to_end.py and tests/figures do."""

    def saved(drawn, path):
        files = [path.with_suffix(f".{kind}") for kind in ("png", "svg")]
        for file in files:
            file.touch()
        return files

    for module in ("exeunt.evaluation.figures", "exeunt.evaluation.figures.style"):
        monkeypatch.setattr(f"{module}.save_figure", saved)


WORDS = ("balance", "card", "transfer", "refund")
TFIDF = "train --model tfidf --data data"


def written(folder, part, n, seed):
    """Write texts with a word of their class, and a third of them with another one, too."""
    rng = np.random.default_rng(seed)
    rows = ["text,label"]
    for label in rng.integers(0, 4, n):
        words = [WORDS[label], *rng.choice(["my", "is", "late", "please", "where", "the"], 5)]
        words += [str(rng.choice(WORDS))] if rng.random() < 0.3 else []
        rows.append(f"{' '.join(rng.permutation(words))} {rng.integers(10**6)},{WORDS[label]}")
    (folder / f"{part}.csv").write_text("\n".join(rows))


@pytest.fixture(scope="session")
def tfidf(tmp_path_factory):
    """A folder with a run of tf-idf and its data, and what was said when it was trained."""
    for package in ("sklearn", "skops"):
        pytest.importorskip(package)
    made = tmp_path_factory.mktemp("tfidf")
    (made / "data").mkdir()
    written(made / "data", "train", 700, 0)
    written(made / "data", "test", 300, 1)
    said = exeunt(f"{TFIDF} --out run", cwd=made).stdout
    exeunt("calibrate run --budget 100% --policy eero", cwd=made)
    return made, said
