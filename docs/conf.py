"""How the documentation site is built: `make docs` writes it to docs/_build/html."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import exeunt

HERE = Path(__file__).parent

project = "Exeunt"
version = release = exeunt.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

smartquotes = False  # or --option loses a dash
html_theme = "furo"
html_title = f"Exeunt {version}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_heading_anchors = 3
default_role = "code"  # docstrings write `name`
add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource"}

# The command line documents itself: reference/command-line.md includes this file.
commands = HERE / "_build" / "command-line.md"
commands.parent.mkdir(exist_ok=True)
typer = [sys.executable, "-m", "typer", "exeunt.cli.app", "utils", "docs", "--name", "exeunt"]
typer += ["--title", "Command line"]
text = subprocess.run(typer, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8").stdout
# The list of commands shows half a sentence of each: show the whole one.
about = dict(re.findall(r"^#+ `exeunt ([\w ]+)`\n\n(.+?)\n\n", text, re.M | re.S))
lines, group = text.split("\n"), ""
for i, line in enumerate(lines):
    if heading := re.match(r"#+ `exeunt ?([\w ]*)`", line):
        group = heading[1]
    elif command := re.match(r"\* `(\w+)`:", line):
        name = f"{group} {command[1]}".strip()
        lines[i] = f"* [{command[1]}](#exeunt-{name.replace(' ', '-')}): {about[name]}"
text = "\n".join(lines)
commands.write_text(text, encoding="utf-8")

ARGUMENT = re.compile(r"(?:^|(?<=[.;] ))(?=`\w+`(?: \([^)]*\))*(?:, `\w+`(?: \([^)]*\))*)*: )")


def list_arguments(app, what, name, obj, options, lines):  # noqa: ARG001 - as Sphinx calls it
    """Make a list of a paragraph that says of one argument after the other: `name` (shape): what it is."""
    paragraphs = "\n".join(lines).split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        arguments = ARGUMENT.split(" ".join(paragraph.split()))
        if paragraph.startswith("`") and arguments[0] == "":
            paragraphs[i] = "\n".join(f"- {argument.strip()}" for argument in arguments[1:])
    lines[:] = "\n\n".join(paragraphs).split("\n")


def setup(app):
    app.connect("autodoc-process-docstring", list_arguments)
