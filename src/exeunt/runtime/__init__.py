"""Answering inputs: the loop that runs a network stage by stage and drops what has been answered."""

from __future__ import annotations

from exeunt.runtime.loop import Answers, Executor, answer

__all__ = ["Answers", "Executor", "answer"]
