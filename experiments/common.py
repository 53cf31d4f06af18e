"""What the experiments share: a finished run is opened, an unfinished one goes on, a new one starts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from exeunt.bundle import Bundle
from exeunt.data import default_cache
from exeunt.torch.project import Project, train_project


def trained(project: Project, out: Path) -> Bundle:
    if Bundle.exists(out):
        return Bundle.open(out)
    return train_project(project, out, command=shlex.join(["python", *sys.argv]), cache=default_cache())
