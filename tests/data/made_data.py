"""Small data sets on disk, in the forms that Exeunt reads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from exeunt.data import DataSource, Images
from exeunt.data.stored_inputs import PixelArray


def noise(n: int, *, seed: int = 0, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, ending: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, ending, **({"lossless": True} if ending == "webp" else {}))
    return stream.getvalue()


def write_image_table(
    path: Path,
    pixels: np.ndarray,
    labels: list | None,
    *,
    names: list[str] | None = None,
    image: str = "img",
    label: str = "label",
    ending: str = "png",
    row_group_size: int = 3,
) -> Path:
    cells = [{"bytes": encoded(p, ending), "path": None} for p in pixels]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {image: pa.array(cells, kind)}
    if labels is not None:
        columns[label] = pa.array(labels)
    table = pa.table(columns)
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        meta = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": meta})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def array_images(pixels: np.ndarray, labels: list[int] | None = None, k: int = 2) -> Images:
    coded = None if labels is None else np.array(labels, dtype=np.int64)
    classes = None if labels is None else tuple(str(c) for c in range(k))
    return Images(PixelArray(pixels, name="row {}".format), labels=coded, class_names=classes)


def array_source(train: np.ndarray | None, test: np.ndarray | None) -> DataSource:
    made = [None if p is None else array_images(p, [i % 2 for i in range(len(p))]) for p in (train, test)]
    return DataSource(name="made", kind="image", train=made[0], test=made[1], class_names=("0", "1"))
