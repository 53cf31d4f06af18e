"""CamVid as Exeunt reads it, scaled: `python experiments/camvid.py FOLDER OUT WIDTH HEIGHT`.

FOLDER holds train.parquet, val.parquet and test.parquet with columns `name`, `image` and `mask` in the 12-class form of
SegNet. CamVid (Brostow, Fauqueur, Cipolla 2009) is under CC BY-NC 4.0: nothing made of it goes into the project.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def scaled(cell: dict, size: tuple[int, int], method: Image.Resampling) -> dict:
    """Return an encoded image at this width and height."""
    file = io.BytesIO()
    Image.open(io.BytesIO(cell["bytes"])).resize(size, method).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def main(folder: Path, out: Path, width: int, height: int) -> None:
    """Write the three tables."""
    out.mkdir(parents=True, exist_ok=True)
    for part in ("train", "val", "test"):
        table = pq.read_table(folder / f"{part}.parquet")
        columns = {
            "name": table["name"],
            "image": [
                scaled(cell, (width, height), Image.Resampling.BOX) for cell in table["image"].to_pylist()
            ],
            "mask": [
                scaled(cell, (width, height), Image.Resampling.NEAREST) for cell in table["mask"].to_pylist()
            ],
        }
        kept = {b"classes": table.schema.metadata[b"classes"]}
        pq.write_table(
            pa.table(columns).replace_schema_metadata(kept), out / f"{part}.parquet", row_group_size=64
        )


if __name__ == "__main__":
    source, target, *sides = sys.argv[1:]
    main(Path(source), Path(target), *map(int, sides))
