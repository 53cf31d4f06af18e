"""Policies against one another on the same recorded outputs: start with `compare`."""

from exeunt.comparison.compare import compare
from exeunt.comparison.comparison import Comparison
from exeunt.comparison.results import TraceResult

__all__ = ["Comparison", "TraceResult", "compare"]
