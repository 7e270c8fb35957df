"""What a finished shard needs to be known by when its conversion goes on: one small file a shard."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from trainables.data.shards.format import ShardFile
from trainables.data.shards.write import Written

_DIGEST_SIZE = 16


def pack_record(written: Written) -> bytes:
    """The record of a shard, with a checksum of its own in front."""
    schema = pa.schema([("offset", pa.int64()), ("length", pa.int64())], {"file": written.file.model_dump_json()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(written.offset), pa.array(written.length)], schema=schema))
    content: bytes = sink.getvalue().to_pybytes()
    return hashlib.blake2b(content, digest_size=_DIGEST_SIZE).digest() + content


def unpack_record(record: bytes) -> Written | None:
    """Read a record; None where it is damaged."""
    content = record[_DIGEST_SIZE:]
    if hashlib.blake2b(content, digest_size=_DIGEST_SIZE).digest() != record[:_DIGEST_SIZE]:
        return None
    table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
    file = ShardFile.model_validate_json(table.schema.metadata[b"file"])
    return Written(file, table["offset"].to_numpy(), table["length"].to_numpy())
