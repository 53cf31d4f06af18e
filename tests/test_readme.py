"""The Python of the README runs as it stands, on outputs like those that the demo records."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import exeunt as ex

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


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
    example, shown = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", README, flags=re.DOTALL).groups()
    exec(example, {})
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
