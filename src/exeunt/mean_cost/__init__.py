"""The exact distribution of the mean cost of a calibrated policy on future inputs, in the long run and on a batch."""

from exeunt.mean_cost.distribution import MeanCostDistribution

__all__ = ["MeanCostDistribution"]
