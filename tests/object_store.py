"""A server that speaks as Amazon S3 does, for tests of data in object stores."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKET = "bucket"


@contextmanager
def object_store(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of an empty bucket. Processes that are started meanwhile find the server by its variables."""
    server_class = pytest.importorskip("moto.server").ThreadedMotoServer
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_class(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        patch.setenv(name, value)
    from pyarrow.fs import S3FileSystem

    made = S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
    made.create_dir(BUCKET)
    try:
        yield f"s3://{BUCKET}"
    finally:
        server.stop()


def put_folder(folder: Path, address: str) -> str:
    """Copy the files of a folder to the store, at any depth; returns the address."""
    from exeunt._places import place, write_bytes

    for file in sorted(folder.rglob("*")):
        if file.is_file():
            write_bytes(place(f"{address}/{file.relative_to(folder).as_posix()}"), file.read_bytes())
    return address
