"""Cutting networks into stages, attaching and training heads, recording traces, measuring costs."""
