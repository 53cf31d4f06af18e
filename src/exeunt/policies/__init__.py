"""The policies to use, by name in `catalogue`. The rules of the literature to compare with are in `exeunt.baselines`."""
