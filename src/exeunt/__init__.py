"""Exeunt: make a trained classifier answer within a compute budget."""

__version__ = "0.1.0.dev0"
