"""Answering many inputs from disk with a run folder, without PyTorch where its network was exported."""

from __future__ import annotations

from exeunt.predicting.answering import PredictionSummary, predict_inputs

__all__ = ["PredictionSummary", "predict_inputs"]
