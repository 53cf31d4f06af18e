"""From a bundle back to a network. No code of the bundle's choosing is run."""

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
    from exeunt.run.folder import Bundle
    from exeunt.torch.exits.network import EarlyExitNetwork
    from exeunt.torch.taps import Inputs

__all__ = ["load_network", "load_prepare", "open_eager"]


def load_prepare(bundle: Bundle) -> Any:
    """Return what turns raw inputs into tensors: a Preprocess or a tokeniser."""
    return restore_inputs(bundle.manifest["inputs"], bundle.path)


def load_network(bundle: Bundle, *, trusted: str | None = None) -> EarlyExitNetwork:
    """Return the trained network of a bundle, in eval mode on the best device, rebuilt on inputs of the recorded size.

    A network that a function of somebody's own makes (`package.module:factory`) is built only if `trusted`
    names that function too: a bundle from elsewhere must not choose what code runs here.

    Raises InputError without that trust, ArtefactError if weights and network do not fit.
    """
    about = bundle.manifest["model"]
    spec = about["spec"].replace("exeunt.torch.zoo:", "exeunt.zoo:")  # runs written before 0.1
    if is_own_code(spec) and trusted != spec:
        raise InputError(
            f"the network of {bundle.path} is made by {spec}, and loading it runs that code: "
            f"if you trust it, say so with --model {spec}"
        )
    prepare = load_prepare(bundle)
    model = fast_layout(rebuild_model(spec, n_classes=about["n_classes"], folder=bundle.path), prepare)
    network = attach(model, _inputs(bundle, prepare, 2), verbose=False, **bundle.manifest["network"])
    load_weights(network, bundle.weights)
    if network.cost != bundle.cost:
        raise ArtefactError(
            f"the network of {bundle.path} costs {network.cost} as built here, but {bundle.cost} was "
            "recorded: another version of its library builds it differently"
        )
    return network.to(best_device()).eval()


def open_eager(
    bundle: Bundle,
    *,
    threads: int | None = None,
    trusted: str | None = None,
    segments: Segments | None = None,
) -> Executor:
    """Open a bundle's network for the answering loop (see `exeunt.engine.executor`).

    `threads`: to compute with, for the whole process. Raises InputError for segments of a network that can only
    be run whole, and what `load_network` raises.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    example = _inputs(bundle, load_prepare(bundle), 2)
    executor = make_executor(load_network(bundle, trusted=trusted), example, segments=segments)
    if segments is not None and executor.segments != segments:
        raise InputError(f"the network of {bundle.path} cannot be cut here: it runs as {executor.segments}")
    return executor


def _inputs(bundle: Bundle, prepare: Any, n: int) -> Inputs:
    """Return n inputs of the size that the bundle's costs were counted at."""
    return synthetic_inputs(prepare, n, length=bundle.manifest["inputs"].get("length"))
