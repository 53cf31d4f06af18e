"""What a router looks at in a request."""

from __future__ import annotations

import math

from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import Features
from exeunt.live.function_model import FeatureModel
from exeunt.live.text_encoder import TextEncoder


class RequestFeatures:
    """The features of a request: the embedding of the user's last message, and the logarithms of three lengths."""

    def __init__(self, features: Features) -> None:
        self._encoder, self.identity = None, "features of requests"
        if features.encoder is not None:
            self._encoder = TextEncoder(features.encoder)
            self._encoder.open()
            self.identity = self._encoder.identity

    def __call__(self, request: ChatRequest) -> list[float]:
        """Return the features."""
        sizes = (len(request.text), request.n_bytes, len(request.messages))
        lengths = [math.log1p(size) for size in sizes]
        return lengths if self._encoder is None else [*self._encoder(request.text).tolist(), *lengths]


def feature_model(features: Features) -> FeatureModel:
    """Return the model that gives these features."""
    return FeatureModel(RequestFeatures(features), price=features.price)
