"""Servers that speak as Amazon's and Google's stores do, for tests of data in object stores."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKET = "bucket"


@contextmanager
def google_store(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of an empty bucket, as `object_store` does.

    The server is a process of its own: PyArrow keeps this one from answering while it opens a file.
    """
    pytest.importorskip("gcp_storage_emulator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen([*call, "--in-memory", "--default-bucket", BUCKET], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None
            time.sleep(0.1)
        patch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{port}")
        yield f"gs://anonymous@{BUCKET}"
    finally:
        server.kill()
        server.wait()


@contextmanager
def object_store(patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of an empty bucket. Processes that are started meanwhile find the server by its variables."""
    server_class = pytest.importorskip("moto.server").ThreadedMotoServer
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_class(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    place = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, **place, "AWS_EC2_METADATA_DISABLED": "true"}.items():
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
    from exeunt._support.paths import place, write_bytes

    for file in sorted(folder.rglob("*")):
        if file.is_file():
            write_bytes(place(f"{address}/{file.relative_to(folder).as_posix()}"), file.read_bytes())
    return address
