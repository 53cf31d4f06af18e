"""Runs without PyTorch: those made from other runs, at another precision or as a chain, and those of estimators."""
