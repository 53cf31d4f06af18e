"""Running the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def exeunt(*arguments: object, cwd: Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "exeunt", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False, env=environment(cwd),
    )  # fmt: skip
    if ok:
        assert done.returncode == 0, done.stderr
    return done


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
