"""Policies against one another on the same recorded outputs: start with `compare`."""

from exeunt.arena.comparing import compare
from exeunt.arena.result import Arena, TraceResult

__all__ = ["Arena", "TraceResult", "compare"]
