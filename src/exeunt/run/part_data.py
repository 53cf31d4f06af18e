"""The inputs of a run's parts, from the data that it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exeunt.data import Dataset, SplitPlan, open_source

if TYPE_CHECKING:
    from exeunt.run.folder import RunFolder

__all__ = ["part_data"]


def part_data(run: RunFolder, part: str, *, moved_to: str | None = None) -> Dataset:
    """Return the inputs of "train", "fit", "calibrate" or "test".

    `moved_to`: where the data are now, by default where they were. Raises InputError if they are not there or have
    changed.
    """
    about = run.manifest["data"]
    source = open_source(moved_to or about["name"], label=about["label"], text=about.get("text") or ())
    if about.get("unreadable"):
        source, _ = source.without_unreadable()
    return SplitPlan.from_dict(run.manifest["split"]).select(source, part)
