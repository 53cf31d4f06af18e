"""The exact law of what a calibrated policy spends on future inputs, in the long run and on a batch."""

from exeunt.law.spend_law import SpendLaw

__all__ = ["SpendLaw"]
