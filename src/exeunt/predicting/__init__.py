"""Answering many inputs from disk with a run folder, without PyTorch where its network was exported."""

from __future__ import annotations

from exeunt.predicting.predict import predict_inputs
from exeunt.predicting.summary import PredictionSummary

__all__ = ["PredictionSummary", "predict_inputs"]
