"""Scores: which inputs leave first. By Chow's rule (Prop. 3.2) an exit answers the inputs that it is surest of."""
