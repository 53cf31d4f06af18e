"""Recorded outputs: what every exit says about every input, and what it costs."""

from exeunt.trace.exit_trace import ExitTrace
from exeunt.trace.members import Members
from exeunt.trace.parts import check_disjoint, concatenate

__all__ = ["ExitTrace", "Members", "check_disjoint", "concatenate"]
