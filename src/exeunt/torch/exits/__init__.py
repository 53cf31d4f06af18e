"""Exits of a network: where they are, their heads, what they cost."""
