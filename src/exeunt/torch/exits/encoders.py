"""A classifier behind an encoder that has none: a head that reads the encoder's last features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from exeunt.errors import InputError
from exeunt.torch.calls import Inputs, first_tensor
from exeunt.torch.cutting.example import evaluating
from exeunt.torch.exits.heads import Head, HeadFactory, HeadOptions, make_head
from exeunt.torch.exits.layouts import Layout, layout_of
from exeunt.torch.exits.own import refuse_unasked
from exeunt.torch.exits.placement import output_of

__all__ = ["CLASSIFIER", "ClassifiedEncoder", "Encoder", "open_encoder"]

CLASSIFIER = "classifier"
"""The module of a `ClassifiedEncoder` that is its classifier."""


class ClassifiedEncoder(nn.Module):
    """An encoder and a classifier of its features; returns logits (n, k). Arguments are the encoder's.

    The encoder's modules have the names that they have in the library's own classifiers: "bert.encoder.layer.0".
    """

    def __init__(self, encoder: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        prefix = getattr(encoder, "base_model_prefix", "")
        self._prefix = prefix if prefix and prefix != CLASSIFIER else "encoder"
        self.add_module(self._prefix, encoder)
        self.classifier = classifier
        self.config = getattr(encoder, "config", None)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits (n, k)."""
        features = first_tensor(self.get_submodule(self._prefix)(*args, **kwargs))
        if isinstance(self.classifier, Head):
            return self.classifier(features, kwargs.get("attention_mask"))  # type: ignore[no-any-return]
        return self.classifier(features)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Encoder:
    """A model whose output has neither logits nor the shape of such, (n, k).

    `shape`: of its features for one input. `layout`: what the axes are.
    """

    model: nn.Module
    shape: tuple[int, ...]
    layout: Layout

    def with_classifier(self, head: HeadOptions | HeadFactory, n_classes: int | None) -> ClassifiedEncoder:
        """Return the encoder with a new classifier behind it. Raises InputError without a number of classes."""
        if n_classes is None:
            raise InputError(
                f"the network returns features of shape {self.shape} for an input and no logits: say how many classes "
                "its new classifier shall have (n_classes)"
            )
        if isinstance(head, HeadOptions):
            head = replace(head, stacked=False)
        classifier = make_head(head, self.shape, n_classes, self.layout)
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        classified = ClassifiedEncoder(self.model, classifier.to(device).train(self.model.training))
        classified.training = self.model.training
        return classified


def open_encoder(model: nn.Module, example: Inputs) -> Encoder | None:
    """Return a model as an encoder, None if it has a classifier.

    Raises InputError if it fails on the example, or brings exits of its own.
    """
    with evaluating(model):
        output = output_of(model, example)
    refuse_unasked(output)
    if getattr(output, "logits", None) is not None or (features := first_tensor(output)).ndim == 2:
        return None
    shape = tuple(features.shape[1:])
    return Encoder(model, shape, layout_of(model, shape))
