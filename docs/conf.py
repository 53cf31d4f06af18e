"""How the documentation site is built: `make docs` writes it to docs/_build/html."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import exeunt

HERE = Path(__file__).parent

project = "Exeunt"
version = release = exeunt.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"Exeunt {version}"
html_show_copyright = False

myst_heading_anchors = 3
default_role = "code"  # docstrings write `name`
add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True

# The command line documents itself: reference/command-line.md includes this file.
commands = HERE / "_build" / "command-line.md"
commands.parent.mkdir(exist_ok=True)
typer = [sys.executable, "-m", "typer", "exeunt.cli.app", "utils", "docs", "--name", "exeunt"]
commands.write_bytes(subprocess.run(typer, check=True, stdout=subprocess.PIPE).stdout)
