"""Runs that are made from other runs, without training: a run at another precision."""
