"""Data: opening images and texts by name, preprocessing them, splitting them into parts that never overlap."""

from __future__ import annotations

from exeunt.data.by_name import open_inputs, open_lines, open_source
from exeunt.data.dataset import Dataset, Images, Texts
from exeunt.data.preprocess import Preprocess
from exeunt.data.source import DataSource
from exeunt.data.splits import SplitPlan, plan_split

__all__ = [
    "DataSource",
    "Dataset",
    "Images",
    "Preprocess",
    "SplitPlan",
    "Texts",
    "open_inputs",
    "open_lines",
    "open_source",
    "plan_split",
]
