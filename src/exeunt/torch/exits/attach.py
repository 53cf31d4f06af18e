"""Giving a trained classifier early exits: where they are, what they cost, and whether they save anything.

An encoder, which returns features, also gets a classifier: a head like the others on its last features.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError, NotCuttable, NotExportable, RunsWhole
from exeunt.torch.calls import Inputs, as_call, evaluating, first_tensor, to_device
from exeunt.torch.cutting.cut import cut_graph
from exeunt.torch.cutting.cut_points import try_graph
from exeunt.torch.cutting.graph import ModelGraph
from exeunt.torch.devices import seeded
from exeunt.torch.exits import heads, multiply_adds, placement
from exeunt.torch.exits.network import WHOLE, EarlyExitNetwork, head_logits
from exeunt.torch.exits.own import OWN, open_own_exits, refuse_unasked
from exeunt.torch.exits.pixel_heads import make_pixel_head
from exeunt.torch.exits.placement import mask_scale_of
from exeunt.torch.named_inputs import read_example

_CLASSIFIER = "classifier"


def attach(
    model: nn.Module,
    example: Inputs,
    exits: int | Sequence[str] = 7,
    *,
    head: str | heads.HeadFactory | None = None,
    n_classes: int | None = None,
    new_classifier: str = "",
    masks: bool = False,
    gate: str = "",
    gate_features: str = "mean",
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
    `masks`: the network answers with masks, and so do all exits: logits (n, k, h, w) of the size of its input, or of a
    half, a quarter, ... of its height and width. Then those of an answer are scaled up, and the others never are, which
    saves time. Heads are each a `PixelHead`, on feature maps or on tokens that cover the image.
    `gate`: name of a module before the first exit, whose output tells features of the input to policies that look once
    (`one_look`); "" for no gate. `gate_features`: the "mean" of each channel over positions or tokens, or also its
    "spread".
    `seed`: of the heads' initial weights.
    `check`: cut the model after its exits, to know whether that is possible. If not, a warning `RunsWhole` says why
    and every exit costs as much as the last; heads can still be trained. Without the check, cutting is taken to be
    possible.
    `verbose`: print where the exits are and what they cost.

    Raises InputError for an unknown name (listing those that exist), a model that fails on the example, a new
    classifier whose output is not what the model returns, or outputs that are not those of own exits.
    """
    options_given = head_options if callable(head) else {"head": head, **head_options}
    if isinstance(exits, str) and exits != OWN:
        raise InputError(f"exits must be a number, {OWN!r} or a list of names: write exits=[{exits!r}]")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    example = to_device(example, device)
    if OWN in (exits, head):
        _refuse_head_options(options_given)
        own, its_graph = open_own_exits(model, example, exits, n_classes=n_classes, masks=masks)
        name = gate if not gate or gate.startswith("network.") else f"network.{gate}"
        looks_at = _gate_point(own.backbone, example, name, gate_features, masks=masks)
        if looks_at is not None and isinstance(
            its_graph, ModelGraph
        ):  # where nothing runs that exit 0 does not need
            batch = read_example(own.backbone, example).at_least_two()
            looks_at = replace(looks_at, cost=float(multiply_adds.graph_macs(its_graph, batch, [name])[0]))
        _give_gate(own, looks_at, gate_features)
        return _finished(own, example, its_graph, check=check, verbose=verbose)

    def options_for(layouts: Sequence[heads.Layout]) -> heads.HeadOptions | heads.HeadFactory:
        return head if callable(head) else heads.complete_options(options_given, layouts, masks=masks)

    bare, layouts = model, list[heads.Layout]()
    shape = None if masks else encoder_features(model, example)
    if shape is not None:
        layouts = [heads.layout_of(model, shape)]
        classifier = _classifier(options_for(layouts), shape, layouts[0], n_classes, seed).to(device)
        model, new_classifier = _ClassifiedEncoder(model, classifier), _CLASSIFIER
    named = None if isinstance(exits, (int, np.integer)) else list(exits)
    offered, full, (width, *size), graph = placement.find_candidates(
        model, example, named, n_classes=n_classes, new_classifier=new_classifier, masks=masks
    )
    looks_at = _gate_point(model, example, gate, gate_features, masks=masks)
    if not named:
        after_gate = [point for point in offered if looks_at is None or point.cost > looks_at.cost]
        offered = placement.place_exits(after_gate, cast("int", exits), full=full)
    points = offered
    of_points = [heads.layout_of(model.get_submodule(point.name), point.shape) for point in points]
    made_of = options_for([*layouts, *of_points])
    make_head: Any = partial(make_pixel_head, size=(size[0], size[1])) if masks else heads.make_head
    if shape is not None and made_of != options_for(layouts):
        again = asdict(cast("heads.HeadOptions", made_of))  # the classifier is a head too: make all anew
        settings: dict[str, Any] = {"n_classes": n_classes, "seed": seed, "check": check, "verbose": verbose}
        settings |= {"gate": gate, "gate_features": gate_features}
        return attach(bare, example, exits, **again, **settings)
    with seeded(seed, torch.device("cpu")):
        new_heads = [
            make_head(made_of, point.shape, width, layout)
            for point, layout in zip(points, of_points, strict=True)
        ]
    network = EarlyExitNetwork(
        model,
        [module.to(device).train(model.training) for module in new_heads],
        points,
        cost=_costs(new_heads, points, full, read_example(model, example).n_tokens),
        backbone_macs=full,
        options=made_of if isinstance(made_of, heads.HeadOptions) else None,
        n_classes=width,
        new_classifier=new_classifier,
        masks=masks,
        mask_scale=mask_scale_of((size[0], size[1]), example) if masks else 1,
    )
    if new_classifier:
        _check_new_classifier(network, example)
    _give_gate(network, looks_at, gate_features)
    return _finished(network, example, graph, check=check, verbose=verbose)


def _gate_point(
    model: nn.Module, example: Inputs, name: str, kind: str, *, masks: bool
) -> placement.ExitPoint | None:
    """Return the module that is the gate which `attach` is asked for, None without one.

    Raises InputError for a module that is not there or has no features, and unknown kinds of features.
    """
    if kind not in heads.GATE_FEATURES:
        raise InputError(f"gate_features must be one of {', '.join(heads.GATE_FEATURES)}, got {kind!r}")
    if not name:
        return None
    (point,), *_ = placement.find_candidates(model, example, [name], masks=masks)
    return point


def _give_gate(network: EarlyExitNetwork, point: placement.ExitPoint | None, kind: str) -> None:
    """Give a network its gate. Raises InputError for one that does not run before the first exit."""
    if point is None:
        return
    if point.cost >= network.points[0].cost:
        raise InputError(
            f"the gate {point.name!r} does not run before the first exit, which is at {network.exit_names[0]!r}: name "
            "a module before that, or leave early exits out (exits=[...], --exits)"
        )
    layout = heads.layout_of(network.backbone.get_submodule(point.name), point.shape)
    network.look_at(point, heads.GateFeatures(point.shape, layout, kind))


def _refuse_head_options(options: Mapping[str, Any]) -> None:
    """Raise InputError for options of heads, where a network brings its own exits."""
    chosen = [
        name for name, option in options.items() if not (option is None or option is False or option == OWN)
    ]
    if chosen:
        raise InputError(f"with exits={OWN!r} there are no heads to add, leave out: {', '.join(chosen)}")


def _costs(
    new_heads: Sequence[nn.Module], points: Sequence[placement.ExitPoint], full: float, n_tokens: int | None
) -> CostModel:
    """Return what each exit costs: the backbone up to it, and all heads up to and including its own."""
    heads_alone = [
        multiply_adds.count_macs(head, torch.zeros(2, *point.shape))
        for head, point in zip(new_heads, points, strict=True)
    ]
    cumulative = np.array([*(point.cost for point in points), full]) + np.cumsum([*heads_alone, 0.0])
    return CostModel(cumulative, source=multiply_adds.count_source(n_tokens), heads=[*heads_alone, 0.0])


def _finished(
    network: EarlyExitNetwork,
    example: Inputs,
    graph: ModelGraph | NotExportable | None,
    *,
    check: bool,
    verbose: bool,
) -> EarlyExitNetwork:
    """Return the network, with the costs of one that runs whole if it cannot be cut; see `attach`.

    `graph`: of its backbone, or why there is none; None if neither is known.
    """
    if check:
        model = network.backbone
        batch = read_example(model, example).at_least_two()
        graph = try_graph(model, batch) if graph is None else graph
        try:
            if isinstance(graph, NotExportable):
                raise graph
            with evaluating(model):
                cut_graph(graph, model, batch, at=network.stage_names)
        except NotCuttable as error:
            network.run_whole(str(error))
            warnings.warn(f"{WHOLE}. {error}", RunsWhole, stacklevel=3)
    if verbose:
        print(network.describe())
    return network


def _check_new_classifier(network: EarlyExitNetwork, example: Inputs) -> None:
    """Raise InputError unless the new classifier's output is what the network returns."""
    args, kwargs = as_call(example)
    with evaluating(network), torch.no_grad():
        reduced, final = network.reduce(*args, **kwargs)
        own = network.classify(reduced, final)[-1]
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
        self.classifier = classifier.train(encoder.training)
        self.config = getattr(encoder, "config", None)
        self.training = encoder.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        features = first_tensor(self.get_submodule(self._prefix)(*args, **kwargs))
        return head_logits(self.classifier, features, kwargs.get("attention_mask"))


def encoder_features(model: nn.Module, example: Inputs) -> tuple[int, ...] | None:
    """Return the shape of an encoder's features for one input; None for a model that returns logits (n, k).

    Raises InputError if it fails on the example, or brings exits of its own.
    """
    with evaluating(model):
        output = multiply_adds.output_of(model, example)
    refuse_unasked(output)
    if getattr(output, "logits", None) is not None or (features := first_tensor(output)).ndim == 2:
        return None
    return tuple(features.shape[1:])


def _classifier(
    head: heads.HeadOptions | heads.HeadFactory,
    shape: tuple[int, ...],
    layout: heads.Layout,
    n_classes: int | None,
    seed: int,
) -> nn.Module:
    """Return a new classifier of an encoder's features. Raises InputError without a number of classes."""
    if n_classes is None:
        raise InputError(
            f"the network returns features of shape {shape} for an input and no logits: say how many classes its new "
            "classifier shall have (n_classes), or that it answers with masks (masks=True)"
        )
    with seeded(seed, torch.device("cpu")):
        return heads.make_head(head, shape, n_classes, layout)
