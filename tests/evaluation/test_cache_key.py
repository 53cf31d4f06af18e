"""Results are found again only while the sources of the package stay the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import exeunt
from exeunt.evaluation.cache import code_digest


def test_a_change_of_any_source_changes_the_key_and_nothing_else_does(tmp_path):
    package = Path(exeunt.__file__).parent
    copy = Path(shutil.copytree(package, tmp_path / "exeunt", ignore=shutil.ignore_patterns("__pycache__")))
    before = code_digest(package)
    assert code_digest(copy) == before
    script = copy / "evaluation" / "report" / "controls.js"
    script.write_text(script.read_text() + "\n")
    code_digest.cache_clear()
    assert code_digest(copy) == before
    digests = {before}
    for name in ("rules/auto.py", "evaluation/one_split.py", "costs/cost_model.py"):
        (copy / name).write_text((copy / name).read_text() + "# changed\n")
        code_digest.cache_clear()
        digests.add(code_digest(copy))
    (copy / "costs" / "cost_model.py").rename(copy / "costs" / "prices.py")
    code_digest.cache_clear()
    assert len(digests | {code_digest(copy)}) == 5
    code_digest.cache_clear()
