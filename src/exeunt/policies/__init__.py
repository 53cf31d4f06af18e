"""Policies beyond the paper's, and the literature's to compare with: one idea per file.

Each is a score, an allocation and a calibration, made by `exeunt.compose`; import them from `exeunt`.
"""
