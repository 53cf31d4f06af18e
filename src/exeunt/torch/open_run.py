"""Opening a run folder in PyTorch: its network and its executor. A run folder cannot choose which code runs here."""

from __future__ import annotations

from typing import Any

import torch

from exeunt.engine.executor import CPU, Executor, Segments
from exeunt.errors import ArtefactError, InputError
from exeunt.runs.folder import RunFolder
from exeunt.runs.run_inputs import load_preparation
from exeunt.torch.calls import Inputs
from exeunt.torch.devices import best_device, device_name, limit_threads
from exeunt.torch.executor import make_executor
from exeunt.torch.exits.attach import attach
from exeunt.torch.exits.network import EarlyExitNetwork
from exeunt.torch.models.by_name import rebuild_model, runs_custom_code
from exeunt.torch.models.preparation import synthetic_inputs, to_channels_last
from exeunt.torch.models.weights import load_weights

_MOVED = 1e-3  # of the largest logit: rounding on another processor moves less, changed code more
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def load_network(run: RunFolder, *, trusted: str | None = None) -> EarlyExitNetwork:
    """Return the trained network of a run, in eval mode on the best device, at the run's precision.

    A network made by a user's function (`package.module:factory`) is built only if `trusted` names the same
    function: a run folder from elsewhere must not choose which code runs here.

    Raises InputError if `trusted` does not name it, ArtefactError if weights and network do not fit, or if its function
    makes a network that answers otherwise than when it was recorded.
    """
    limit_threads()
    about, weights = run.manifest["model"], run.weights
    spec = about["spec"]
    if runs_custom_code(spec) and trusted != spec:
        raise InputError(
            f"the network of {run.path} is made by {spec}, and loading it runs that code: "
            f"if you trust it, say so with --model {spec}"
        )
    run.files.check_folder("model")  # all files before the network is built, which takes longer
    cost, prepare = run.cost, load_preparation(run)
    config = run.manifest["network"]
    model = rebuild_model(
        spec, n_classes=about["n_classes"], folder=run.path, new_classifier="new_classifier" in config
    )
    model = to_channels_last(model, prepare)
    # Without a check: the manifest says whether the network could be cut, and cutting it fails if it cannot.
    network = attach(model, run_example(run, prepare), verbose=False, check=False, **config)
    if run.runs_whole:
        network.run_whole(run.runs_whole)
    load_weights(network, weights)
    if "sample" in about and "precision" not in about:
        _check_unchanged(run, network.sample(run_example(run, prepare)))
    if network.cost != cost:
        raise ArtefactError(
            f"the network of {run.path} costs {network.cost} when built here, but {cost} was recorded: "
            "it was made with another version of its library, which builds it differently"
        )
    return network.to(best_device(), _DTYPES.get(about.get("precision", ""))).eval()


def _check_unchanged(run: RunFolder, sample: torch.Tensor) -> None:
    """Raise ArtefactError if the network's code was changed since its outputs were recorded with these weights."""
    recorded = torch.tensor(run.manifest["model"]["sample"], dtype=sample.dtype)
    if recorded.shape != sample.shape or (sample - recorded).abs().max() > _MOVED * recorded.abs().max():
        raise ArtefactError(
            f"the network that {run.manifest['model']['spec']} makes answers otherwise than the one that {run.path} "
            "was calibrated for, with the same weights: its code was changed. Put the code back, or train the changed "
            "network into another --out and calibrate there"
        )


def check_computes_in(precision: str) -> None:
    """Raise InputError if the device that runs are opened on cannot compute in `precision`, "bf16" or "fp16"."""
    device = best_device()
    if device.type == CPU:
        cpu: Any = torch.cpu
        has = {
            "bf16": cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported(),
            "fp16": cpu._is_amx_fp16_supported(),
        }[precision]
    else:
        has = precision == "fp16" or device.type != "cuda" or torch.cuda.is_bf16_supported()
    if not has:
        raise InputError(
            f"{device_name(device)} has no arithmetic in {precision}, which would only make the network slower here: "
            "export it on a machine that has, or at another precision"
        )


def eager_device() -> str:
    """Return the device that runs are opened on here (see `Executor.device`)."""
    return device_name(best_device())


def open_eager(
    run: RunFolder,
    *,
    threads: int | None = None,
    trusted: str | None = None,
    segments: Segments | None = None,
) -> Executor:
    """Open a run folder's network as an executor (see `exeunt.engine.executor`).

    `threads`: how many to compute with, in the whole process; None takes PyTorch's number, within the limit of the
    container. Raises InputError if segments are given and the network can only run whole, and what `load_network`
    raises.
    """
    example = run_example(run, load_preparation(run))
    network = load_network(run, trusted=trusted)
    if threads is not None:
        torch.set_num_threads(threads)
    executor = make_executor(network, example, segments=segments)
    if segments is not None and executor.segments != segments:
        raise InputError(f"the network of {run.path} cannot be cut here: it runs as {executor.segments}")
    return executor


def run_example(run: RunFolder, prepare: Any) -> Inputs:
    """Return two inputs of the size for which a run's costs were counted. `prepare`: see `load_preparation`."""
    return synthetic_inputs(prepare, 2, length=run.manifest["inputs"].get("length"))
