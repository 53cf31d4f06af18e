"""Running an engine step by step, and looking at what waits in it."""

from __future__ import annotations


def advance(engine, segment, signature=None):
    """Run all that waits before a segment; what is left waits before the next."""

    def waits(queue):
        return queue.segment == segment and signature in (None, queue.signature)

    while queue := next(filter(waits, engine.scheduler), None):
        for left in engine._calls.run(*engine._taken(queue)):
            engine._push(*left)


def groups(engine):
    """Return the groups that wait."""
    return [entry.group for queue in engine.scheduler for entry in queue.heap]
