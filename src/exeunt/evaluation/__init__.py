"""Policies against one another on the same recorded outputs: start with `compare`."""

from exeunt.evaluation.compare import compare
from exeunt.evaluation.comparison import Comparison
from exeunt.evaluation.results import TraceResult

__all__ = ["Comparison", "TraceResult", "compare"]
