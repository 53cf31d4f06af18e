"""The exact distribution of what a calibrated policy spends on future inputs, in the long run and on a batch."""

from exeunt.mean_cost.distribution import MeanCostDistribution

__all__ = ["MeanCostDistribution"]
