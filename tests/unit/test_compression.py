from __future__ import annotations

import zlib

import pytest
from ebpf_net.v1 import intake_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from intake.compression import LEAST_BYTES, compress, parse
from intake.limits import MOST_MESSAGE_BYTES, MalformedMessageError


def message_of(payload):
    columns = intake_pb2.TcpSockets(socket=payload)
    return intake_pb2.FromCollector(batch=intake_pb2.Batch(number=1, tcp=columns))


def compressed(data):
    return intake_pb2.FromCollector(compressed=data).SerializeToString()


@given(st.binary(max_size=3 * LEAST_BYTES))
def test_a_message_comes_back(payload):
    assert parse(compress(message_of(payload).SerializeToString())) == message_of(payload)


def test_large_messages_are_compressed_and_small_ones_not():
    small, large = message_of(b"").SerializeToString(), message_of(bytes(LEAST_BYTES)).SerializeToString()
    assert compress(small) == small
    assert len(compress(large)) < LEAST_BYTES / 10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no stream", "no zlib stream"),
        (zlib.compress(message_of(bytes(5000)).SerializeToString())[:-1], "cut off"),
        (zlib.compress(message_of(bytes(5000)).SerializeToString()) + b"more", "something follows"),
        (zlib.compress(bytes(MOST_MESSAGE_BYTES + 1)), "larger than"),
    ],
)
def test_hostile_streams_are_refused(data, reason):
    with pytest.raises(MalformedMessageError, match=reason):
        parse(compressed(data))


def test_what_is_decompressed_must_be_a_message():
    with pytest.raises(DecodeError):
        parse(compressed(zlib.compress(b"\xff" * 100)))
