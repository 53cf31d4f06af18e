"""The loop that runs a network segment by segment and drops rows that have answered. No files, clocks or threads."""
