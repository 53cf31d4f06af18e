"""What a router looks at in a request."""

from __future__ import annotations

import math

from exeunt.gateway.chat_request import ChatRequest
from exeunt.gateway.config import Features
from exeunt.live.function_model import FeatureModel
from exeunt.live.text_encoder import TextEncoder


class RequestFeatures:
    """Tells features of a request: the embedding of the user's last message, and three numbers of its length."""

    def __init__(self, features: Features) -> None:
        self._encoder = None if features.encoder is None else TextEncoder(features.encoder)
        if self._encoder is not None:
            self._encoder.open()
        self.identity = "features of requests" if self._encoder is None else self._encoder.identity

    def __call__(self, request: ChatRequest) -> list[float]:
        """Return the features."""
        lengths = [
            math.log1p(len(request.text)),
            math.log1p(request.n_bytes),
            math.log1p(len(request.messages)),
        ]
        return lengths if self._encoder is None else [*self._encoder(request.text).tolist(), *lengths]


def feature_model(features: Features) -> FeatureModel:
    """Return the model that tells these features."""
    return FeatureModel(RequestFeatures(features), price=features.price)
