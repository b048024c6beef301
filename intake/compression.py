"""Messages compressed by zlib at its fastest level.

gRPC's own compression has but zlib's default level, which takes five times as long for columns of counters and makes
them no smaller.
"""

from __future__ import annotations

import zlib

from ebpf_net.v1 import intake_pb2

from intake.limits import MOST_MESSAGE_BYTES, MalformedMessageError

LEVEL = 1
# What is smaller than a packet gains nothing.
LEAST_BYTES = 1_024


def compress(message: bytes) -> bytes:
    """Return a serialized FromCollector that holds *message*, another one; itself if that is small."""
    if len(message) < LEAST_BYTES:
        return message
    return intake_pb2.FromCollector(compressed=zlib.compress(message, LEVEL)).SerializeToString()


def parse(data: bytes) -> intake_pb2.FromCollector:
    """Return a serialized FromCollector, or the one in it.

    Raises:
        DecodeError: it is none.
        MalformedMessageError: what is compressed in it is not one whole zlib stream, or larger than a message may be.

    """
    message = intake_pb2.FromCollector.FromString(data)
    return intake_pb2.FromCollector.FromString(_decompress(message.compressed)) if message.compressed else message


def _decompress(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        message = stream.decompress(data, MOST_MESSAGE_BYTES)
    except zlib.error as error:
        raise MalformedMessageError(f"what is compressed is no zlib stream: {error}") from error
    if stream.unconsumed_tail:
        raise MalformedMessageError(f"decompressed it is larger than {MOST_MESSAGE_BYTES} bytes")
    if not stream.eof or stream.unused_data:
        raise MalformedMessageError("what is compressed is cut off, or something follows it")
    return message
