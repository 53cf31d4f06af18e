"""Data by name: images and texts, their preprocessing, and the split into parts that never overlap."""

from __future__ import annotations

from exeunt.data.dataset import Dataset, Images, Texts
from exeunt.data.decoding import decode, default_cache, fits_in_memory, with_keys
from exeunt.data.opening import open_inputs, open_source
from exeunt.data.pictures import UnreadableImage, read_rgb
from exeunt.data.preprocess import Preprocess
from exeunt.data.source import Source
from exeunt.data.splits import PARTS, SplitPlan, plan_split

__all__ = [
    "PARTS",
    "Dataset",
    "Images",
    "Preprocess",
    "Source",
    "SplitPlan",
    "Texts",
    "UnreadableImage",
    "decode",
    "default_cache",
    "fits_in_memory",
    "open_inputs",
    "open_source",
    "plan_split",
    "read_rgb",
    "with_keys",
]
