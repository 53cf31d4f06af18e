"""Runs without PyTorch: those made from other runs, at another precision or as a cascade, and those of estimators."""
