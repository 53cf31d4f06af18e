"""Run folders: open one with `load`, then answer inputs."""

from __future__ import annotations

from exeunt.engine.answers import Answers
from exeunt.engine.executor import Executor
from exeunt.engine.plan import Plan
from exeunt.runs.runner import Runner, load
from exeunt.runs.streaming import Batch

__all__ = ["Answers", "Batch", "Executor", "Plan", "Runner", "load"]
