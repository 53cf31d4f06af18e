"""A small trained and calibrated run."""

from __future__ import annotations

from digits_run import _cut_once, exported, run, trained

__all__ = ["_cut_once", "exported", "run", "trained"]
