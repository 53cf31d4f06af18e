"""Jobs with runs: making them, answering and recording many inputs from disk, on one machine or a cluster."""

from __future__ import annotations

from exeunt.jobs.predict import predict_inputs
from exeunt.jobs.summary import PredictionSummary

__all__ = ["PredictionSummary", "predict_inputs"]
