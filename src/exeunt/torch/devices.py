"""Devices, processes, threads and random numbers of PyTorch; several processes run through Lightning Fabric."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from exeunt._support.limits import usable_cores
from exeunt.engine.executor import CPU
from exeunt.errors import require

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}


def make_fabric(precision: str, device: str | None) -> Any:
    """Return a launched Fabric for this process: alone, or one of those that torchrun started.

    `device`: "cpu", "cuda" or "mps"; None takes the best there is.
    Raises MissingExtra when lightning-fabric is not installed.
    """
    limit_threads()
    fabric_module = require("lightning_fabric", extra="torch")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = fabric_module.Fabric(
        accelerator="auto" if device is None else device,
        devices=local if world > 1 else 1,
        num_nodes=world // local if world > 1 else 1,
        strategy="ddp" if world > 1 else "auto",
        precision=_PRECISION[precision],
    )
    fabric.launch()
    return fabric


def limit_threads() -> None:
    """Limit PyTorch's threads to the cores that this process may use: PyTorch ignores the limit of a container."""
    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def best_device() -> torch.device:
    """Return the accelerator of this machine, or the processor where there is none."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator


def device_name(device: torch.device) -> str:
    """Return the device as timings name it: "cpu", or kind and name, as "cuda (NVIDIA H100)"."""
    if device.type == CPU:
        return CPU
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return device.type if name is None else f"{device.type} ({name(device)})"


def wait_for(device: torch.device) -> None:
    """Wait until the device has computed everything that was begun."""
    if device.type != CPU:
        torch.accelerator.synchronize(device)


def is_first_process() -> bool:
    """Whether this is the one process of several that prints and writes files; true without torchrun."""
    return os.environ.get("RANK", "0") == "0"


def epoch_seed(seed: int, epoch: int) -> int:
    """Mix a run's seed and an epoch into one seed, distinct for each pair in any practical run."""
    return (seed * 1_000_003 + epoch * 7_919 + 1) % 2**63


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators inside the block, and restore them afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
