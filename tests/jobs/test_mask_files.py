"""Masks as PNG files: their names, which never leave the folder and never meet."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from exeunt.jobs.prediction_files import write_mask_files
from exeunt.score.mask_confidence import runs_of

MASKS = [np.full((2, 3), k, np.uint8) for k in range(8)]


def test_every_mask_has_a_file_of_its_own_below_the_folder(tmp_path):
    parts = [
        ["a/1.jpg", "a/1.webp", "a/2.tar.jpg"],
        ["b/1.png", "../../c.png", "/etc/d.png", "test.parquet#17", "none.png"],
    ]
    files, left = [], [*map(runs_of, MASKS[:-1]), None]
    for number, names in enumerate(parts):
        masks, left = left[: len(names)], left[len(names) :]
        files.append(tmp_path / f"{number}.parquet")
        pq.write_table(pa.table({"name": names, "mask": pa.array(masks, pa.string())}), files[-1])
    folder = tmp_path / "masks"
    write_mask_files(files, folder)
    found = {str(file.relative_to(folder)): np.array(Image.open(file)) for file in folder.rglob("*.png")}
    expected = [
        "a/1.jpg.png", "a/1.webp.png", "a/2.tar.png", "b/1.png", "c.png", "etc/d.png", "test.parquet#17.png",
    ]  # fmt: skip
    assert sorted(found) == sorted(expected)
    assert all(np.array_equal(found[name], MASKS[k]) for k, name in enumerate(expected))
