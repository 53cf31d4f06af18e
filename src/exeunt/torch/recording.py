"""Recording the outputs of every exit on data, to fit policies to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exeunt._arrays import Keys
from exeunt._progress import Progress
from exeunt.engine.inputs import input_keys
from exeunt.errors import InputError
from exeunt.torch.batches import rows_of, unpack
from exeunt.torch.calls import as_call, evaluating, to_device
from exeunt.torch.devices import limit_threads
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.trace import ExitTrace
from exeunt.trace.combining import GrowingTrace


def record(
    network: EarlyExitNetwork,
    loader: Iterable[Any],
    *,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> ExitTrace:
    """Run a network in eval mode over a loader's data and record the outputs of every exit.

    `loader`: an iterable of batches (inputs, label) or (inputs, label, id), where label may be None. If it has an
    attribute `positions`, the places of the latest batch in its data set, the trace is in the order of the data set.
    Ids are 64-bit keys; by default they are the keys from which a runner breaks ties (see `exeunt.engine.inputs`).
    `device`: where to run the network, which stays there; by default its present device.
    Probabilities are the softmax of the logits in double precision. Costs are `network.cost`.

    Raises InputError for a loader without batches, or with labels in some batches only.
    """
    limit_threads()
    if device is not None:
        network.to(device)
    where = next((p.device for p in network.parameters()), torch.device("cpu"))
    recorded = GrowingTrace()
    positions: list[Any] = []
    with evaluating(network), torch.inference_mode():
        for batch in Progress("batches recorded", loader, show=progress):
            recorded.add(_recorded(network, batch, where))
            positions.append(getattr(loader, "positions", None))
    trace = recorded.whole()
    if any(place is None for place in positions):
        return trace
    return trace.take(np.argsort(np.concatenate(positions), kind="stable"))


def _recorded(network: EarlyExitNetwork, batch: Any, device: torch.device) -> ExitTrace:
    inputs, label, id_ = unpack(batch)
    args, kwargs = as_call(to_device(inputs, device))
    logits = torch.stack([x.float() for x in network(*args, **kwargs)], dim=1)
    return ExitTrace.from_logits(
        logits.cpu().numpy(),
        cost=network.cost,
        label=None if label is None else label.cpu().numpy(),
        id=input_keys(inputs, rows_of(inputs)) if id_ is None else _keys(id_),
    )


def _keys(id_: Any) -> Keys:
    """Return ids as unsigned 64-bit keys. Signed ids, as torch has them, keep their bits."""
    values = id_.cpu().numpy() if isinstance(id_, Tensor) else np.asarray(id_)
    if values.dtype.kind not in "iu":
        raise InputError(f"ids must be integers (64-bit keys), got {values.dtype}")
    return values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64)
