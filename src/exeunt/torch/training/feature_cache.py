"""The features that heads read, computed once by a frozen backbone and kept on disk."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exeunt._support.files import atomic_path, make_folder, open_regular, read_json, write_json
from exeunt._support.progress import Progress
from exeunt.errors import InputError
from exeunt.torch.batches import BatchShare, Loader, check_labels, length_of, unpack
from exeunt.torch.calls import as_call, to_device
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.training.checkpoint import digest

_FORMAT = 2
_HALF_LIMIT = 3e4  # float16 ends at 65504


@dataclass(frozen=True)
class FeatureCache:
    """Pooled features of n inputs, in a memory-mapped file.

    `features` (n, width) float16: the inputs of all heads side by side, so that reading a shuffled batch
    touches one stretch of disk per input. `shapes`: of each head's part, without the batch axis.
    `final` (n, k) float32: the last exit's logits. `label` (n,): -1 for an unknown one.
    """

    features: NDArray[np.float16]
    shapes: tuple[tuple[int, ...], ...]
    final: NDArray[np.float32]
    label: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)


class FeatureLoader(Loader):
    """Batches from a feature cache: inputs (logits of the last exit, input of each head), and labels (b,)."""

    def read(self, share: BatchShare) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return one batch."""
        cache, rows = self.dataset, share.positions
        features = torch.from_numpy(cache.features[rows]).float()
        widths = [math.prod(shape) for shape in cache.shapes]
        parts = [
            part.reshape(len(rows), *shape)
            for part, shape in zip(torch.split(features, widths, dim=1), cache.shapes, strict=True)
        ]
        return (torch.from_numpy(cache.final[rows]), *parts), torch.from_numpy(cache.label[rows])


def build_cache(
    network: EarlyExitNetwork,
    loader: Iterable[Any],
    folder: Path,
    *,
    device: torch.device,
    unlabelled: bool = False,
    show: bool = False,
) -> FeatureCache:
    """Run the backbone once over `loader` and keep what the heads read; or open what an earlier run kept.

    The content of the folder is used if it is complete and belongs to the same backbone, heads and data (see `_key`).
    `unlabelled`: inputs may lack labels. `show`: show the progress.
    Raises InputError for a loader without batches or labels, and for features too large for half precision or the disk.
    """
    make_folder(folder)
    batches = iter(loader)
    if (first := next(batches, None)) is None:
        raise InputError("the loader gave no batches: there is nothing to train on")
    if not unlabelled:
        check_labels(unpack(first)[1])
    marker = folder / "complete.json"
    key = _key(network, first, loader)
    if marker.exists() and (description := read_json(marker))["key"] == key:
        return _open(folder, description["shapes"])
    marker.unlink(missing_ok=True)
    _check_space(network, first, loader, folder, device)
    subject = f"batches of {folder.name} features extracted"
    counted = Progress(subject, chain([first], batches), total=length_of(loader), show=show)
    shapes = _write(network, counted, folder, device)
    write_json(marker, {"key": key, "shapes": shapes})
    return _open(folder, shapes)


def _key(network: EarlyExitNetwork, batch: Any, loader: Iterable[Any]) -> str:
    """Return a text that differs wherever the features would.

    It holds digests of the backbone and of the first batch, the number of batches, the sizes of the heads, and the
    `fingerprint` of the loader's `dataset` if there is one.
    """
    inputs, _, _ = unpack(batch)
    args, kwargs = as_call(inputs)
    named = {**{str(i): arg for i, arg in enumerate(args)}, **kwargs}
    parts = {
        "backbone": digest(network.backbone.state_dict()),
        "inputs": digest({name: tensor for name, tensor in named.items() if isinstance(tensor, Tensor)}),
    }
    data = getattr(getattr(loader, "dataset", None), "fingerprint", None)
    sizes = {name: list(weight.shape) for name, weight in network.heads.state_dict().items()}
    return json.dumps(
        [_FORMAT, parts, network.exit_names, repr(network.options), sizes, length_of(loader), data]
    )


def _check_space(
    network: EarlyExitNetwork, batch: Any, loader: Iterable[Any], folder: Path, device: torch.device
) -> None:
    """Raise InputError if the features would not fit on the disk, judged by the first batch."""
    reduced, logits, _ = next(_outputs(network, [batch], device))
    n = len(logits) * (length_of(loader) or 0)
    needed = n * sum(tensor[0].numel() for tensor in reduced) * np.dtype(np.float16).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the features of {n:,} inputs take {needed / 2**30:.3g} GiB, and {folder} has {free / 2**30:.3g} GiB "
            "free: take fewer exits or a smaller grid, or do not keep them (cache=False, or --augment crop-flip)"
        )


def _write(
    network: EarlyExitNetwork, batches: Iterable[Any], folder: Path, device: torch.device
) -> list[list[int]]:
    """Write the features, logits and labels of all batches; return the shapes of the heads' parts."""
    final: list[Tensor] = []
    label: list[Tensor] = []
    shapes: list[list[int]] = []
    with atomic_path(folder / "features.f16") as temporary, temporary.open("wb") as file:
        for reduced, logits, batch_label in _outputs(network, batches, device):
            shapes = [list(tensor.shape[1:]) for tensor in reduced]
            file.write(_half(reduced).numpy().data)
            final.append(logits)
            label.append(batch_label)
    with atomic_path(folder / "rest.npz") as temporary, temporary.open("wb") as file:
        np.savez(
            file, final=torch.cat(final).float().numpy(), label=torch.cat(label).numpy().astype(np.int64)
        )
    return shapes


def _outputs(
    network: EarlyExitNetwork, loader: Iterable[Any], device: torch.device
) -> Iterator[tuple[list[Tensor], Tensor, Tensor]]:
    network.eval()
    for batch in loader:
        inputs, label, _ = unpack(batch)
        args, kwargs = as_call(to_device(inputs, device))
        with torch.inference_mode():
            reduced, logits = network.reduce(*args, **kwargs)
        label = logits.new_full((len(logits),), -1, dtype=torch.long) if label is None else label
        yield [tensor.cpu() for tensor in reduced], logits.cpu(), label.cpu()


def _half(reduced: list[Tensor]) -> Tensor:
    """Return the heads' inputs side by side, (n, width) in half precision."""
    rows = torch.cat([tensor.flatten(1).float() for tensor in reduced], dim=1)
    if not bool(rows.isfinite().all()):
        raise InputError("the network's features are not finite: its weights, or the inputs, are damaged")
    largest = float(rows.abs().max())
    if largest >= _HALF_LIMIT:
        raise InputError(
            f"features reach {largest:g}, too large for the cache's half precision: train with cache=False"
        )
    return rows.half()


def _open(folder: Path, shapes: Sequence[Sequence[int]]) -> FeatureCache:
    with open_regular(folder / "rest.npz") as file, np.load(file) as rest:
        final, label = rest["final"], rest["label"]
    width = sum(math.prod(shape) for shape in shapes)
    with open_regular(folder / "features.f16") as file:
        features = np.memmap(file, np.float16, "r", shape=(len(label), width))
    return FeatureCache(features, tuple(map(tuple, shapes)), final, label)
