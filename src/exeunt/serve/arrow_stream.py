"""Reading Arrow streams that strangers send: whole, checked, and no larger than they came."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

from exeunt.errors import InputError

__all__ = ["read_table"]

_SCHEMA, _RECORDS = 1, 3  # kinds of messages
_HEADER_TYPE, _HEADER, _COMPRESSION = 1, 2, 3  # fields of a message, and of a batch of records


def read_table(body: bytes) -> Any:
    """Return the table of a stream. Raises InputError for anything else, compressed columns and dictionaries.

    Both may be far larger in memory than on the wire.
    """
    try:
        for message in pa.ipc.MessageReader.open_stream(body):
            metadata = message.metadata.to_pybytes()
            kind = metadata[_place(metadata, _root(metadata), _HEADER_TYPE)]
            if kind not in (_SCHEMA, _RECORDS):
                raise InputError("an Arrow stream must hold plain columns, not dictionaries")
            if kind == _RECORDS and _is_compressed(metadata):
                raise InputError("the columns of an Arrow stream must not be compressed")
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error, IndexError) as error:
        raise InputError(f"the body is no whole Arrow stream: {error}") from error
    return table


def _is_compressed(metadata: bytes) -> bool:
    at = _place(metadata, _root(metadata), _HEADER)
    (offset,) = struct.unpack_from("<I", metadata, at)
    return _place(metadata, at + offset, _COMPRESSION) != 0


def _root(metadata: bytes) -> int:
    return int(struct.unpack_from("<I", metadata)[0])


def _place(metadata: bytes, table: int, field: int) -> int:
    """Return where a field of a table of FlatBuffers is, 0 if it is left out."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    (size,) = struct.unpack_from("<H", metadata, vtable)
    slot = 4 + 2 * field
    (offset,) = struct.unpack_from("<H", metadata, vtable + slot) if slot < size else (0,)
    return table + offset if offset else 0
