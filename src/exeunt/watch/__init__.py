"""The watch: whether inputs in use are still like those of calibration, from exits and scores alone."""

from exeunt.watch.alarm_report import Alarm
from exeunt.watch.watch import Watch

__all__ = ["Alarm", "Watch"]
