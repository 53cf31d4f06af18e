"""Data: opening images and texts by name, preprocessing them, splitting them into parts that never overlap."""

from __future__ import annotations

from exeunt.data.by_name import open_inputs, open_lines, open_source
from exeunt.data.dataset import Dataset, Images, Texts
from exeunt.data.decode_all import default_cache
from exeunt.data.preprocess import Preprocess
from exeunt.data.read_image import read_rgb
from exeunt.data.source import DataSource
from exeunt.data.splits import PARTS, SplitPlan, plan_split

__all__ = [
    "PARTS",
    "DataSource",
    "Dataset",
    "Images",
    "Preprocess",
    "SplitPlan",
    "Texts",
    "default_cache",
    "open_inputs",
    "open_lines",
    "open_source",
    "plan_split",
    "read_rgb",
]
