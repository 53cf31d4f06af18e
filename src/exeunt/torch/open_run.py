"""From a run folder back to a network. No code of the run folder's choosing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from exeunt.errors import ArtefactError, InputError
from exeunt.torch.executor import make_executor
from exeunt.torch.exits.network import attach
from exeunt.torch.models.by_name import is_own_code, rebuild_model
from exeunt.torch.models.inputs import fast_layout, restore_inputs, synthetic_inputs
from exeunt.torch.models.weights import load_weights
from exeunt.torch.processes import best_device

if TYPE_CHECKING:
    from exeunt.engine.executor import Executor, Segments
    from exeunt.run.folder import RunFolder
    from exeunt.torch.calls import Inputs
    from exeunt.torch.exits.network import EarlyExitNetwork

__all__ = ["load_network", "load_prepare", "open_eager"]


def load_prepare(run: RunFolder) -> Any:
    """Return what turns raw inputs into tensors: a Preprocess or a tokeniser."""
    return restore_inputs(run.manifest["inputs"], run.path)


def load_network(run: RunFolder, *, trusted: str | None = None) -> EarlyExitNetwork:
    """Return the trained network of a run, in eval mode on the best device, rebuilt on inputs of the recorded size.

    A network that a function of somebody's own makes (`package.module:factory`) is built only if `trusted`
    names that function too: a run folder from elsewhere must not choose what code runs here.

    Raises InputError without that trust, ArtefactError if weights and network do not fit.
    """
    about = run.manifest["model"]
    spec = about["spec"].replace("exeunt.zoo:", "exeunt.zoo:")  # runs written before 0.1
    if is_own_code(spec) and trusted != spec:
        raise InputError(
            f"the network of {run.path} is made by {spec}, and loading it runs that code: "
            f"if you trust it, say so with --model {spec}"
        )
    prepare = load_prepare(run)
    model = fast_layout(rebuild_model(spec, n_classes=about["n_classes"], folder=run.path), prepare)
    config = dict(run.manifest["network"])
    if "chain" in config:  # the name of `cascade` in runs written before 0.1
        config["cascade"] = config.pop("chain")
    network = attach(model, _inputs(run, prepare, 2), verbose=False, **config)
    load_weights(network, run.weights)
    if network.cost != run.cost:
        raise ArtefactError(
            f"the network of {run.path} costs {network.cost} as built here, but {run.cost} was "
            "recorded: another version of its library builds it differently"
        )
    return network.to(best_device()).eval()


def open_eager(
    run: RunFolder,
    *,
    threads: int | None = None,
    trusted: str | None = None,
    segments: Segments | None = None,
) -> Executor:
    """Open a run folder's network for the answering loop (see `exeunt.engine.executor`).

    `threads`: to compute with, for the whole process. Raises InputError for segments of a network that can only
    be run whole, and what `load_network` raises.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    example = _inputs(run, load_prepare(run), 2)
    executor = make_executor(load_network(run, trusted=trusted), example, segments=segments)
    if segments is not None and executor.segments != segments:
        raise InputError(f"the network of {run.path} cannot be cut here: it runs as {executor.segments}")
    return executor


def _inputs(run: RunFolder, prepare: Any, n: int) -> Inputs:
    """Return n inputs of the size that the run folder's costs were counted at."""
    return synthetic_inputs(prepare, n, length=run.manifest["inputs"].get("length"))
