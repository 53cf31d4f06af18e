"""Answering inputs: the loop that runs a network segment by segment and drops what has been answered."""

from __future__ import annotations

from exeunt.runtime.answers import Answers
from exeunt.runtime.executor import Executor
from exeunt.runtime.loop import answer
from exeunt.runtime.plan import Plan
from exeunt.runtime.profile import Profile
from exeunt.runtime.runner import Runner, load

__all__ = ["Answers", "Executor", "Plan", "Profile", "Runner", "answer", "load"]
