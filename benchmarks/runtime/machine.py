"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from exeunt._limits import usable_cores

CPUINFO = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """Return what is known of the machine, of the packages that do the work, and how busy it is."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
