"""Policies against one another on the same recorded outputs: start with `compare`."""

from exeunt.arena.arena import Arena
from exeunt.arena.compare import compare
from exeunt.arena.result import TraceResult

__all__ = ["Arena", "TraceResult", "compare"]
