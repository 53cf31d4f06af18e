"""Recorded outputs: what every exit says about every input, and what it costs."""

from exeunt.trace.cascade_trace import CascadeTrace
from exeunt.trace.combining import check_disjoint, concatenate
from exeunt.trace.exit_trace import ExitTrace
from exeunt.trace.groups import Groups
from exeunt.trace.stored_trace import StoredTrace

__all__ = ["CascadeTrace", "ExitTrace", "Groups", "StoredTrace", "check_disjoint", "concatenate"]
