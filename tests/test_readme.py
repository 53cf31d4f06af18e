"""The Python of the README runs as it stands, on outputs like those that the demo records."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import exeunt as ex

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def example(marked: str) -> tuple[str, str]:
    """Return the Python of the README in which a text occurs, and the output that is shown below it."""
    pairs = re.findall(r"```python\n((?:(?!```).)*?)```\n+```text\n(.*?)```", README, flags=re.DOTALL)
    return next(pair for pair in pairs if marked in pair[0])


def form(text: str) -> str:
    """Return a text without its numbers, bars and line ends."""
    return " ".join(re.sub(r"[\d.,-]+|█+", "#", text).split())


def test_the_cascade_of_two_classifiers_is_certified(capsys):
    linear_model, svm = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.svm")
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    train_x, x, train_y, y = train_test_split(*load_digits(return_X_y=True), train_size=250, random_state=0)
    every_other = FunctionTransformer(lambda pixels: pixels[:, ::2])
    small = make_pipeline(every_other, linear_model.LogisticRegression(max_iter=500)).fit(train_x, train_y)
    large = CalibratedClassifierCV(svm.SVC(), ensemble=False).fit(train_x, train_y)
    code, shown = example("said(small")
    exec(code, {"x": x, "y": y, "small": small, "large": large, "new_x": x[:5]})
    assert form(capsys.readouterr().out) == form(shown)


def test_the_example_keeps_its_budgets(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, 3000)
    logits = rng.normal(size=(3000, 4, 10))
    logits[np.arange(3000), :, label] += [1.0, 2.0, 3.0, 4.0]
    cost = ex.CostModel([1.0, 3.0, 6.0, 10.0], unit="MMACs")
    folder = tmp_path / "demo-out" / "run" / "traces"
    folder.mkdir(parents=True)
    ex.ExitTrace.from_logits(logits, cost=cost, label=label).save(folder / "test.parquet")
    monkeypatch.chdir(tmp_path)
    code, shown = example("demo-out/run")
    exec(code, {})
    *printed, guarantee = capsys.readouterr().out.splitlines()
    results, _, wrapped = shown.partition("Guarantee")
    shown_lines = [*results.splitlines(), " ".join(("Guarantee" + wrapped).split())]
    for pair in zip([*printed, guarantee], shown_lines, strict=True):
        line, of_readme = (re.sub(r"[\d.,]+", "#", text) for text in pair)  # the same form; numbers differ
        assert line == of_readme
    lines = [re.fullmatch(r"(\d+)%: accuracy ([\d.]+)% for ([\d.]+)% of the cost", line) for line in printed]
    shares = [(float(budget), float(used)) for budget, _, used in (line.groups() for line in lines)]
    assert [budget for budget, _ in shares] == [30, 50, 70]
    assert all(used <= 1.05 * budget for budget, used in shares)  # of a test part, not in the long run
