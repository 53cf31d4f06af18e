"""Recorded outputs: what every exit says about every input, and what it costs."""

from exeunt.trace.exit_trace import ExitTrace
from exeunt.trace.parts import check_disjoint, concatenate

__all__ = ["ExitTrace", "check_disjoint", "concatenate"]
