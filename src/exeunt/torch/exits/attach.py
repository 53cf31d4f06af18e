"""Giving a trained classifier early exits: where they are, what they cost, and whether they save anything."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from exeunt.costs import CostModel
from exeunt.errors import InputError, NotCuttable, NotExportable, RunsWhole
from exeunt.torch.calls import Inputs, as_call, to_device
from exeunt.torch.cutting.cut import cut_graph
from exeunt.torch.cutting.cut_points import try_graph
from exeunt.torch.cutting.example import evaluating, read_example
from exeunt.torch.cutting.graph import ModelGraph
from exeunt.torch.exits.encoders import CLASSIFIER, open_encoder
from exeunt.torch.exits.heads import HeadFactory, HeadOptions, complete_options, make_head
from exeunt.torch.exits.layouts import layout_of
from exeunt.torch.exits.macs import count_macs
from exeunt.torch.exits.network import WHOLE, EarlyExitNetwork
from exeunt.torch.exits.own import OWN, open_own_exits
from exeunt.torch.exits.placement import ExitPoint, find_candidates, place_exits
from exeunt.torch.processes import seeded

__all__ = ["attach"]


def attach(
    model: nn.Module,
    example: Inputs,
    exits: int | Sequence[str] = 7,
    *,
    head: str | HeadFactory | None = None,
    n_classes: int | None = None,
    grid: int | None = None,
    hidden: int | None = None,
    norm: str | None = None,
    input_norm: str | None = None,
    dropout: float | None = None,
    bottleneck: int | None = None,
    stacked: bool | None = None,
    new_classifier: str = "",
    seed: int = 0,
    check: bool = True,
    verbose: bool = True,
) -> EarlyExitNetwork:
    """Give a trained classifier early exits.

    `model`: a classifier that returns logits (n, k), or an object with `.logits`; it is not changed. Or an encoder,
    which returns features: it gets a new classifier, a head like the others on its last features.
    `example`: a batch of its inputs (a tensor, a tuple, or a dict of tensors), of the size it will be used with.
    `exits`: how many heads, placed evenly by cumulative cost; or the names of the modules that carry them. The
    network's own classifier is one more exit, the last. Or "own", for a network that brings its exits: it returns a
    list, tuple or mapping of logits (n, k), the first exit's first, and is taken as it is, without new heads.
    `head`: its kind, with the options after it as in `HeadOptions`; or a function (shape, n_classes) -> module. What is
    not given is chosen by the features, see `complete_options`.
    `n_classes`: checked against the model's own if given; an encoder needs it. `new_classifier`: name of the module
    that is the model's classifier, if that has random weights behind a trained network: it then learns as a head does.
    `seed`: of the heads' initial weights.
    `check`: cut the model after its exits, to know whether that is possible. If not, a warning `RunsWhole` says why
    and every exit costs as much as the last; heads can still be trained. Without, it is taken to be possible.
    `verbose`: print where the exits are and what they cost.

    Raises InputError for an unknown name (listing those that exist), a model that fails on the example, a new
    classifier whose output is not what the model returns, or outputs that are not those of own exits.
    """
    given = {
        "kind": head, "grid": grid, "hidden": hidden, "norm": norm, "input_norm": input_norm, "dropout": dropout,
        "bottleneck": bottleneck, "stacked": stacked,
    }  # fmt: skip
    if isinstance(exits, str) and exits != OWN:
        raise InputError(f"exits must be a number, {OWN!r} or a list of names: write exits=[{exits!r}]")
    device, bare = next((p.device for p in model.parameters()), torch.device("cpu")), model
    example = to_device(example, device)
    if OWN in (exits, head):
        _refuse_options(given)
        own, graph = open_own_exits(model, example, exits, n_classes=n_classes)
        return _finished(own, example, graph, check=check, verbose=verbose)
    encoder = open_encoder(model, example)
    options: HeadOptions | HeadFactory | None = head if callable(head) else None
    if encoder is not None:
        options = complete_options(given, [encoder.layout]) if options is None else options
        with seeded(seed, torch.device("cpu")):
            model, new_classifier = encoder.with_classifier(options, n_classes), CLASSIFIER
    found = find_candidates(model, example, exits, n_classes=n_classes, new_classifier=new_classifier)
    points = place_exits(found.points, exits, full=found.full)
    layouts = [layout_of(model.get_submodule(point.name), point.shape) for point in points]
    if encoder is not None and not callable(head):
        whole = complete_options(given, [encoder.layout, *layouts])
        if whole != options:  # its classifier is a head like the others, of which some read feature maps
            named = {"head" if name == "kind" else name: value for name, value in whole.to_dict().items()}
            return attach(
                bare, example, exits, n_classes=n_classes, seed=seed, check=check, verbose=verbose, **named
            )
    options = complete_options(given, layouts) if options is None else options
    with seeded(seed, torch.device("cpu")):
        heads = [
            make_head(options, point.shape, found.n_classes, layout)
            for point, layout in zip(points, layouts, strict=True)
        ]
    head_costs = [count_macs(h, torch.zeros(2, *p.shape)) for h, p in zip(heads, points, strict=True)]
    network = EarlyExitNetwork(
        model,
        [module.to(device).train(model.training) for module in heads],
        points,
        calls=[found.calls[p.name] for p in points],
        cost=_cost_model(points, head_costs, found.full, tokens=read_example(model, example).n_tokens),
        backbone_macs=found.full,
        options=options if isinstance(options, HeadOptions) else None,
        n_classes=found.n_classes,
        new_classifier=new_classifier,
    )
    if new_classifier:
        _check_new_classifier(network, example)
    return _finished(network, example, found.graph, check=check, verbose=verbose)


def _finished(
    network: EarlyExitNetwork,
    example: Inputs,
    graph: ModelGraph | NotExportable | None,
    *,
    check: bool,
    verbose: bool,
) -> EarlyExitNetwork:
    """Return the network, with the costs of one that runs whole if it cannot be cut; see `attach`."""
    if check and (why := _why_whole(network, example, graph)):
        network.run_whole(why)
        warnings.warn(f"{WHOLE}. {why}", RunsWhole, stacklevel=3)
    if verbose:
        print(network.describe())
    return network


def _refuse_options(given: Mapping[str, Any]) -> None:
    """Raise InputError for options of heads where the exits are the network's own."""
    options = [name for name, value in given.items() if not (value is None or value is False or value == OWN)]
    if options:
        raise InputError(f"with exits={OWN!r} the network gets no heads, so leave out: {', '.join(options)}")


def _check_new_classifier(network: EarlyExitNetwork, example: Inputs) -> None:
    """Raise InputError unless the new classifier's output is what the network returns."""
    args, kwargs = as_call(example)
    with evaluating(network), torch.no_grad():
        reduced, final = network.reduce(*args, **kwargs)
        own = network.classify(reduced)[-1]
    if own.shape != final.shape or not torch.allclose(own, final, rtol=1e-3, atol=1e-4):
        raise InputError(
            f"{network.new_classifier!r} does not give the network's logits: name the module whose output they are"
        )


def _why_whole(network: EarlyExitNetwork, example: Inputs, graph: ModelGraph | NotExportable | None) -> str:
    """Return why the backbone cannot be cut after its exits, "" if it can. `graph`: its own, None if not known."""
    model = network.backbone
    batch = read_example(model, example).at_least_two()
    graph = try_graph(model, batch) if graph is None else graph
    if isinstance(graph, NotExportable):
        return str(graph)
    try:
        with evaluating(model):
            cut_graph(graph, model, batch, at=network.exit_names)
    except NotCuttable as error:
        return str(error)
    return ""


def _cost_model(
    points: Sequence[ExitPoint], heads: Sequence[float], full: float, *, tokens: int | None
) -> CostModel:
    """Return each exit's cost: the backbone up to it, and all heads up to and including its own."""
    heads_so_far = np.cumsum([*heads, 0.0])
    source = "flop counter" if tokens is None else f"flop counter, texts of {tokens} tokens"
    cumulative = np.array([*(p.cost for p in points), full]) + heads_so_far
    return CostModel(cumulative, source=source, heads=[*heads, 0.0])
