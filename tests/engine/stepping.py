"""Running an engine step by step, and looking at what waits in it."""

from __future__ import annotations


def advance(engine, segment, signature=None):
    """Run all that waits before a segment; what is left waits before the next."""
    while queue := next(
        (q for q in engine.scheduler if q.segment == segment and signature in (None, q.signature)), None
    ):
        for left in engine._calls.run(*engine._taken(queue)):
            engine._push(*left)


def groups(engine):
    """Return the groups that wait."""
    return [entry.group for queue in engine.scheduler for entry in queue.heap]
