"""Giving a trained classifier early exits: where they are, what they cost, and whether they save anything.

An encoder, which returns features, also gets a classifier: a head like the others on its last features.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from exeunt.costs import CostModel
from exeunt.errors import InputError, NotCuttable, NotExportable, RunsWhole
from exeunt.torch.calls import Inputs, as_call, evaluating, first_tensor, to_device
from exeunt.torch.cutting.cut import cut_graph
from exeunt.torch.cutting.cut_points import try_graph
from exeunt.torch.cutting.graph import ModelGraph
from exeunt.torch.devices import seeded
from exeunt.torch.exits.heads import (
    Head,
    HeadFactory,
    HeadOptions,
    Layout,
    complete_options,
    layout_of,
    make_head,
)
from exeunt.torch.exits.macs import count_macs, count_source
from exeunt.torch.exits.network import WHOLE, EarlyExitNetwork
from exeunt.torch.exits.own import OWN, open_own_exits, refuse_unasked
from exeunt.torch.exits.placement import ExitPoint, find_candidates, output_of, place_exits
from exeunt.torch.named_inputs import read_example

__all__ = ["attach"]

_CLASSIFIER = "classifier"


def attach(
    model: nn.Module,
    example: Inputs,
    exits: int | Sequence[str] = 7,
    *,
    head: str | HeadFactory | None = None,
    n_classes: int | None = None,
    new_classifier: str = "",
    seed: int = 0,
    check: bool = True,
    verbose: bool = True,
    **head_options: Any,
) -> EarlyExitNetwork:
    """Give a trained classifier early exits.

    `model`: a classifier that returns logits (n, k), or an object with `.logits`; it is not changed. Or an encoder,
    which returns features: it gets a new classifier, a head like the others on its last features.
    `example`: a batch of its inputs (a tensor, a tuple, or a dict of tensors), of the size it will be used with.
    `exits`: how many heads, placed evenly by cumulative cost; or the names of the modules that carry them. The
    network's own classifier is one more exit, the last. Or "own", for a network that brings its exits: it returns a
    list, tuple or mapping of logits (n, k), the first exit's first, and gets no heads.
    `head`, `head_options`: see `HeadOptions`; options that are not given are chosen by the features, see
    `complete_options`. Or `head` is a function (shape, n_classes) -> module.
    `n_classes`: checked against the model's own if given; an encoder needs it. `new_classifier`: name of the module
    that is the model's classifier, if that has random weights behind a trained network: it then learns as a head does.
    `seed`: of the heads' initial weights.
    `check`: cut the model after its exits, to know whether that is possible. If not, a warning `RunsWhole` says why
    and every exit costs as much as the last; heads can still be trained. Without the check, cutting is taken to be
    possible.
    `verbose`: print where the exits are and what they cost.

    Raises InputError for an unknown name (listing those that exist), a model that fails on the example, a new
    classifier whose output is not what the model returns, or outputs that are not those of own exits.
    """
    given = head_options if callable(head) else {"head": head, **head_options}
    if isinstance(exits, str) and exits != OWN:
        raise InputError(f"exits must be a number, {OWN!r} or a list of names: write exits=[{exits!r}]")
    device = _device(model)
    example = to_device(example, device)
    if OWN in (exits, head):
        _refuse_options(given)
        own, graph = open_own_exits(model, example, exits, n_classes=n_classes)
        return _finished(own, example, graph, check=check, verbose=verbose)
    encoder, bare = _open_encoder(model, example), model
    before = [] if encoder is None else [encoder.layout]
    options = head if callable(head) else complete_options(given, before)
    if encoder is not None:
        with seeded(seed, torch.device("cpu")):
            model, new_classifier = encoder.with_classifier(options, n_classes), _CLASSIFIER
    named = None if isinstance(exits, (int, np.integer)) else list(exits)
    found = find_candidates(model, example, named, n_classes=n_classes, new_classifier=new_classifier)
    points = found.points if named else place_exits(found.points, cast("int", exits), full=found.full)
    layouts = [layout_of(model.get_submodule(point.name), point.shape) for point in points]
    if not callable(head):
        whole = complete_options(given, [*before, *layouts])
        if (
            encoder is not None and whole != options
        ):  # its classifier is a head like the others: make all anew
            return attach(
                bare,
                example,
                exits,
                n_classes=n_classes,
                seed=seed,
                check=check,
                verbose=verbose,
                **whole.to_dict(),
            )
        options = whole
    heads = _heads(points, layouts, options, found.n_classes, seed)
    head_costs = [
        count_macs(one, torch.zeros(2, *point.shape)) for one, point in zip(heads, points, strict=True)
    ]
    # Each exit costs the backbone up to it, and all heads up to and including its own.
    cumulative = np.array([*(p.cost for p in points), found.full]) + np.cumsum([*head_costs, 0.0])
    source = count_source(read_example(model, example).n_tokens)
    network = EarlyExitNetwork(
        model,
        [module.to(device).train(model.training) for module in heads],
        points,
        cost=CostModel(cumulative, source=source, heads=[*head_costs, 0.0]),
        backbone_macs=found.full,
        options=options if isinstance(options, HeadOptions) else None,
        n_classes=found.n_classes,
        new_classifier=new_classifier,
    )
    if new_classifier:
        _check_new_classifier(network, example)
    return _finished(network, example, found.graph, check=check, verbose=verbose)


def _heads(
    points: Sequence[ExitPoint],
    layouts: Sequence[Layout],
    options: HeadOptions | HeadFactory,
    n_classes: int,
    seed: int,
) -> list[nn.Module]:
    """Return a new head for each point."""
    with seeded(seed, torch.device("cpu")):
        return [
            make_head(options, point.shape, n_classes, layout)
            for point, layout in zip(points, layouts, strict=True)
        ]


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _refuse_options(given: Mapping[str, Any]) -> None:
    """Raise InputError for options of heads where the exits are the network's own."""
    options = [name for name, value in given.items() if not (value is None or value is False or value == OWN)]
    if options:
        raise InputError(f"with exits={OWN!r} the network gets no heads, so leave out: {', '.join(options)}")


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


class _ClassifiedEncoder(nn.Module):
    """An encoder and a classifier of its features; returns logits (n, k). Arguments are the encoder's.

    The encoder's modules have the names that they have in the library's own classifiers: "bert.encoder.layer.0".
    """

    def __init__(self, encoder: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        prefix = getattr(encoder, "base_model_prefix", "")
        self._prefix = prefix if prefix and prefix != _CLASSIFIER else "encoder"
        self.add_module(self._prefix, encoder)
        self.classifier = classifier
        self.config = getattr(encoder, "config", None)
        self.training = encoder.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        features = first_tensor(self.get_submodule(self._prefix)(*args, **kwargs))
        if isinstance(self.classifier, Head):
            return self.classifier(features, kwargs.get("attention_mask"))  # type: ignore[no-any-return]
        return self.classifier(features)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Encoder:
    """A model whose output has neither logits nor their shape, (n, k). `shape`: of its features for one input."""

    model: nn.Module
    shape: tuple[int, ...]
    layout: Layout

    def with_classifier(self, head: HeadOptions | HeadFactory, n_classes: int | None) -> _ClassifiedEncoder:
        """Return the encoder with a new classifier behind it. Raises InputError without a number of classes."""
        if n_classes is None:
            raise InputError(
                f"the network returns features of shape {self.shape} for an input and no logits: say how many classes "
                "its new classifier shall have (n_classes)"
            )
        if isinstance(head, HeadOptions):
            head = replace(head, stacked=False)
        classifier = make_head(head, self.shape, n_classes, self.layout)
        return _ClassifiedEncoder(self.model, classifier.to(_device(self.model)).train(self.model.training))


def _open_encoder(model: nn.Module, example: Inputs) -> _Encoder | None:
    """Return a model as an encoder, None if it has a classifier.

    Raises InputError if it fails on the example, or brings exits of its own.
    """
    with evaluating(model):
        output = output_of(model, example)
    refuse_unasked(output)
    if getattr(output, "logits", None) is not None or (features := first_tensor(output)).ndim == 2:
        return None
    shape = tuple(features.shape[1:])
    return _Encoder(model, shape, layout_of(model, shape))
