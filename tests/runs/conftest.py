"""A small trained and calibrated run, exported too."""

from __future__ import annotations

from digits_run import exported, trained

__all__ = ["exported", "trained"]
