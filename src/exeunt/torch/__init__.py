"""Cutting networks into stages, attaching and training heads, recording traces, measuring costs."""

from __future__ import annotations

from exeunt.errors import require

require("torch", extra="torch")

from exeunt.torch.cutting.cut import cut  # noqa: E402 - torch must be known to be there first
from exeunt.torch.cutting.cut_points import cut_points  # noqa: E402
from exeunt.torch.exits.attach import attach  # noqa: E402
from exeunt.torch.exits.heads import Head, HeadOptions  # noqa: E402
from exeunt.torch.exits.multiply_adds import count_macs, cumulative_macs  # noqa: E402
from exeunt.torch.exits.network import EarlyExitNetwork, record  # noqa: E402
from exeunt.torch.models.by_name import build_model  # noqa: E402
from exeunt.torch.timed_exits import exits_by_time  # noqa: E402
from exeunt.torch.training.checkpoint import EpochMetrics, History  # noqa: E402
from exeunt.torch.training.recipe import Recipe  # noqa: E402
from exeunt.torch.training.train import train  # noqa: E402

__all__ = [
    "EarlyExitNetwork",
    "EpochMetrics",
    "Head",
    "HeadOptions",
    "History",
    "Recipe",
    "attach",
    "build_model",
    "count_macs",
    "cumulative_macs",
    "cut",
    "cut_points",
    "exits_by_time",
    "record",
    "train",
]
