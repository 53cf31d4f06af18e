"""Recorded outputs: what every exit says about every input, and what it costs."""

from exeunt.trace.combining import check_disjoint, concatenate
from exeunt.trace.exit_trace import ExitTrace
from exeunt.trace.members import Members
from exeunt.trace.stored_trace import StoredTrace

__all__ = ["ExitTrace", "Members", "StoredTrace", "check_disjoint", "concatenate"]
