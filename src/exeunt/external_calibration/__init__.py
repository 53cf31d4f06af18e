"""Calibration on recorded outputs that do not fit in memory."""

from exeunt.external_calibration.ranked_in_files import ranked

__all__ = ["ranked"]
