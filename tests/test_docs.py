"""Every snippet of the documentation runs, page by page, in a folder of the page's own.

Python blocks share one namespace per page. Console blocks hold commands after `$`; `exeunt` commands run in this
process, and every line of output shown must have the form of a line that was printed: numbers may differ. A line `...`
stands for lines left out. Blocks of `sh` are to be pasted: commands without `$`, and comments. The tutorial runs first,
and long pages start with the run folder that it made.

`<!-- skip: reason -->` before a block: it is not run, but its Python must compile and call what there is with options
that there are, and the options of its commands must exist. The diffs of CONTRIBUTING.md are applied to a copy of the
package, where its Python runs.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [ROOT / "README.md", CONTRIBUTING, *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("[!_]*/*.md"))]
PAGES = [page for page in PAGES if page.parent.name != "results"]
# These train networks, use that of the tutorial, or take some ten seconds each: `make docs` runs them.
LONG = (
    "cascades deployment own-data own-model paid-models policies regression routers run-folder scikit-learn "
    "segmentation tables texts without-labels"
)
BLOCK = re.compile(
    r"(?:<!-- skip: (?P<skip>.+?) -->\n+)?^```(?P<language>\S*).*?\n(?P<body>.*?)^```$", re.M | re.S
)
SHOWN = {"text", "diff", "{toctree}", "{eval-rst}", "{include}", "{literalinclude}"}  # nothing to run


def blocks(page):
    """(language, source on its own lines of the page, whether it is skipped) of each block, in order."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("body"))
        yield found["language"], "\n" * line + found["body"], found["skip"] is not None


def has_snippets(page):
    return any(language in ("python", "console", "sh") for language, *_ in blocks(page))


def run_page(page, folder):
    names = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for language, source, skipped in blocks(page):
            if language == "console":
                run_console(source, skipped)
            elif language == "sh":
                commands = re.sub(r"^#.*\n", "", source.replace("\\\n", " "), flags=re.M)
                run_console(re.sub(r"^(?=\S)", "$ ", commands, flags=re.M), skipped)
            elif language == "python":
                code = compile(source, str(page), "exec")
                if skipped:
                    check_calls(source)
                    continue
                if named := re.match(r"\n*# (\w+\.py)\n", source):
                    Path(named[1]).write_text(source, encoding="utf-8")
                exec(code, names)


def run_console(source, skipped):
    parts = re.split(r"^\$ ", source.replace("\\\n", " "), flags=re.M)
    for command, _, shown in (part.partition("\n") for part in parts[1:]):
        words = shlex.split(command, comments=True)
        if skipped and "exeunt" not in words:
            continue
        assert "exeunt" in words, f"a block that runs {words[0]} needs a skip comment"
        arguments = [*map(shortened, words[words.index("exeunt") :], words[words.index("exeunt") + 1 :])]
        if skipped:
            check_options(arguments)
        else:
            from cli.command import printed

            check_output(shown, printed(*arguments))


def shortened(option, value):
    """A training of thirty epochs shows no more than one of eight: the numbers of the output may differ."""
    return "8" if option == "--epochs" and int(value) > 8 else value


def check_options(arguments):
    """The command line takes these arguments."""
    import typer

    from exeunt.cli.app import app

    verb, *rest = arguments
    typer.main.get_command(app).commands[verb].make_context(verb, list(rest))


def check_output(shown, printed):
    def form(line):
        return " ".join(re.sub(r"[-+]?\d[\d.,]*(?:e[-+]\d+)?|█+", "#", line).replace("-", "").split())

    forms = {form(line) for line in printed.splitlines()}
    for line in shown.splitlines():
        assert line.strip() in ("", "...") or form(line) in forms, f"not printed: {line}\n{printed}"


def check_calls(source):
    """What the snippet calls in the package exists and takes these keywords."""
    import exeunt.runs
    import exeunt.torch as ext

    known = {"ex": exeunt, "ext": ext, "exeunt": exeunt}
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        root, *path = ast.unparse(call.func).split(".")
        if root in known and all(name.isidentifier() for name in path):
            function = known[root]
            for name in path:
                function = getattr(function, name)
            taken, given = inspect.signature(function).parameters, {keyword.arg for keyword in call.keywords}
            takes_any = any(one.kind is one.VAR_KEYWORD for one in taken.values())
            assert takes_any or given <= set(taken), ast.unparse(call)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory):
    for package in ("torch", "sklearn", "typer", "matplotlib", "onnx", "onnxruntime", "transformers"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("tutorial")
    # The networks are so small that threads and processes of their own would take more time than they save.
    import threadpoolctl
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpoolctl.threadpool_limits(1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        run_page(TUTORIAL, folder)
        yield folder
    torch.set_num_threads(before)


@pytest.mark.slow
def test_tutorial(tutorial):
    assert (tutorial / "runs" / "digits" / "policy.json").is_file()


def pages(*, long):
    """Pages with snippets, as parameters."""
    rest = [page for page in PAGES if has_snippets(page) and page not in (TUTORIAL, CONTRIBUTING)]
    chosen = [page for page in rest if (page.stem in LONG.split()) == long]
    return pytest.mark.parametrize("page", chosen, ids=lambda page: page.stem)


@pages(long=False)
def test_page(page, tmp_path):
    for package in ("torch", "typer"):  # to check calls and options
        pytest.importorskip(package)
    run_page(page, tmp_path)


@pytest.mark.slow
@pages(long=True)
def test_long_page(page, tutorial, tmp_path):
    shutil.copytree(tutorial / "runs", tmp_path / "runs")
    run_page(page, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git applies the diffs")
def test_the_diffs_of_contributing_apply_and_work(tmp_path):
    for part in ("src", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    script, patch = "", ["git", "apply", "--recount", "-C1", "-"]
    for language, source, _ in blocks(CONTRIBUTING):
        if language == "diff":
            subprocess.run(patch, input=source.lstrip(), text=True, cwd=tmp_path, check=True)
        elif language == "python":
            script += source.lstrip()
    # In one process, which imports once.
    script += """
import sys, pytest
sys.exit(pytest.main(["-q", "tests/engine/test_contract.py", "-k", "functions"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_map_names_what_there_is():
    text = CONTRIBUTING.read_text(encoding="utf-8")
    folders, places = re.findall(r"\n\n(\|.+?)\n\n", text, re.S)[:2]
    names = re.findall(r"`([\w/.]+)`", re.sub(r"^(\|[^|]+\|).*", r"\1", folders, flags=re.M) + places)
    package = ROOT / "src" / "exeunt"
    missing = [name for name in names if not ((package / name).exists() or (package / f"{name}.py").exists())]
    assert missing == ["src/exeunt/"]  # the heading


def test_each_guarantee_names_tests_that_there_are():
    page = (DOCS / "explanation" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", page)
    assert len(named) > 10
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"


def test_the_table_of_policies_is_whole():
    from exeunt.rules.catalogue import PRESETS, WITH_A_GATE

    text = (DOCS / "howto" / "policies.md").read_text(encoding="utf-8")
    table = text[text.index("| `--policy` |") :]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == {*PRESETS, *WITH_A_GATE}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run_or_says_what_it_is(page):
    assert {language for language, *_ in blocks(page)} <= {"python", "console", "sh", *SHOWN}
