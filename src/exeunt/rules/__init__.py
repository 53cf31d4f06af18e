"""The policies to use, by name in `catalogue`. The literature's rules to compare with: `exeunt.rules.baselines`."""
